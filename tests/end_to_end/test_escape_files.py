"""Ways out found by attacking the file half of the fence, each beside what goes on working."""

from __future__ import annotations

import os
import shlex

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import Runs

STRICT = '[tool.fence]\nextends = "strict"\nallow_write = ["./*"]\n'


@pytest.mark.needs("user:root")
def test_privileges_given_up_without_a_new_user(fenced: Fenced) -> None:
    """By prctl(2), or in a user namespace made by clone3(2): what the broker carries out is done without them, too."""
    run = fenced.run(
        """
        import ctypes, errno, os, subprocess, sys
        import pytest

        CAPBSET_DROP, SECUREBITS, NOROOT = 24, 28, 0x3
        LIBC = ctypes.CDLL(None, use_errno=True)
        CHANGE = "import os, sys\\ntry: os.chmod(sys.argv[1], 0o777)\\nexcept OSError as e: sys.exit(e.errno)"

        def drop():
            for number in range(41):
                LIBC.prctl(CAPBSET_DROP, number, 0, 0, 0)

        def no_root():
            assert LIBC.prctl(SECUREBITS, NOROOT, 0, 0, 0) == 0

        @pytest.fixture
        def theirs(tmp_path):
            path = tmp_path / "theirs"
            path.touch(0o600)
            os.chown(path, 65534, 65534)
            return path

        @pytest.mark.parametrize("give_up", [drop, no_root])
        def test_given_up(theirs, give_up):
            done = subprocess.run([sys.executable, "-c", CHANGE, theirs], preexec_fn=give_up)
            assert done.returncode == errno.EPERM
            assert theirs.stat().st_mode & 0o777 == 0o600

        def test_kept(theirs):
            subprocess.run([sys.executable, "-c", CHANGE, theirs], check=True)
            assert theirs.stat().st_mode & 0o777 == 0o777
        """
    )
    run.clean("test_given_up[drop]", "test_given_up[no_root]", "test_kept")


def test_whoever_asks_behind_a_link(fenced: Fenced) -> None:
    """``/proc/self`` is a link like any other: behind one of the test's own it must not lead to the broker."""
    run = fenced.run(
        """
        import os

        def test_link(tmp_path):
            os.symlink("/proc/self/comm", tmp_path / "link")
            (tmp_path / "link").write_text("behind")
            assert open("/proc/self/comm").read() == "behind\\n"

        def test_directory():
            comm = os.open("self/comm", os.O_WRONLY, dir_fd=os.open("/proc", os.O_PATH))
            os.write(comm, b"below")
            assert open("/proc/self/comm").read() == "below\\n"
        """
    )
    run.clean("test_link", "test_directory")


@pytest.mark.needs("user:root", "capability:SYS_ADMIN", "program:unshare")
def test_a_second_procfs(runs: Runs) -> None:
    """Mounted elsewhere it shows the same processes: with reads watched the broker opens nothing of it for a test."""
    mount = runs.directory / "second"
    mount.mkdir()
    (runs.directory / "pyproject.toml").write_text('[tool.fence]\ndeny_read = ["/nowhere"]\n')
    (runs.directory / "test_it.py").write_text(
        f"""
import os
import pytest

@pytest.mark.parametrize("name", ["environ", "mem", "maps"])
def test_outside(name):
    with pytest.raises(PermissionError):
        open(f"{mount}/{{os.getppid()}}/{{name}}")

def test_own():
    open("/proc/self/environ").close()
"""
    )
    command = shlex.join(runs.argv(["test_it.py"], fenced=True))
    ended = runs.command("unshare", "--mount", "sh", "-c", f"mount -t proc proc {mount} && exec {command}")
    assert ended.status == 0, ended


def test_git_is_led_elsewhere(fenced: Fenced) -> None:
    for name in ".git/HEAD", "sub/.git":
        fenced.write(name, "")
    run = fenced.run(
        """
        import os
        import pytest

        HERE = os.path.dirname(os.path.abspath(__file__))

        @pytest.mark.parametrize("name", [".git/commondir", ".git/modules/x", "sub/.git", "other/.git"])
        def test_led(name):
            os.makedirs(os.path.dirname(f"{HERE}/{name}"), exist_ok=True)
            with pytest.raises(PermissionError):
                open(f"{HERE}/{name}", "w")

        def test_head():
            open(f"{HERE}/.git/HEAD", "w").close()

        def test_scratch(tmp_path):
            os.mkdir(tmp_path / ".git")
            (tmp_path / ".git/commondir").touch()
        """,
        files={},
        policy=STRICT,
    )
    blamed = {attempt.nodeid.partition("::")[2] for attempt in run.ledger}
    assert blamed == {f"test_led[{name}]" for name in (".git/commondir", ".git/modules/x", "sub/.git", "other/.git")}, (
        run
    )


def test_processes_outside_are_not_scheduled(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import os
        import pytest

        @pytest.mark.parametrize("call", [
            lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
            lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(0)),
            lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
        ], ids=["scheduler", "affinity", "priority"])
        def test_outside(call):
            with pytest.raises(PermissionError):
                call(os.getppid())
            child = os.fork()
            if not child:
                os._exit(0)
            call(child)
            os.waitpid(child, 0)
        """
    )
    run.clean("test_outside[scheduler]", "test_outside[affinity]", "test_outside[priority]")
    assert os.sched_getscheduler(0) != os.SCHED_IDLE


def test_a_refusal_is_kept_off_the_screen(fenced: Fenced) -> None:
    """Whoever says that all was shown, and ends the session as if all were well, has it told by the supervisor."""
    run = fenced.run(
        """
        import os, socket
        from here import AWAY

        def test_it():
            socket.socket().connect_ex((AWAY, 443))
            line = os.open("/proc/fence/control", os.O_RDWR | os.O_CREAT)
            os.write(line, b'{"op": "settle", "upto": 1000}\\n')
            os.read(line, 100)
            os._exit(0)
        """
    )
    assert run.status == 1
    assert "connect 198.51.100.7:443/tcp" in run.err
