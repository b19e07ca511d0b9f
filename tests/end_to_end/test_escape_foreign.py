"""Calls that reach files by the kernel's own hand: from outside of a foreign root, and by the events of fanotify."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced

IN_A_ROOT = """
    import ctypes, os, pathlib, sys
    import pytest

    LIBC = ctypes.CDLL(None, use_errno=True)
    HERE = pathlib.Path.cwd()

    def in_root(act):
        '''Whether `act` succeeds in a process whose root is this directory.'''
        pid = os.fork()
        if pid == 0:
            try:
                held = os.open("outside", os.O_RDONLY | os.O_DIRECTORY)
                if os.geteuid() and LIBC.unshare(0x10000000):  # CLONE_NEWUSER
                    os._exit(77)
                os.chroot(HERE)
                act(held)
            except PermissionError:
                os._exit(13)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 77:
            pytest.skip("kernel: no user namespaces for ordinary users")
        return status

    def open_by(name):
        return lambda held: os.close(os.open(name, os.O_WRONLY, dir_fd=held))
"""


def test_links_from_outside_of_a_root(fenced: Fenced) -> None:
    """The kernel begins at a descriptor outside of the caller's root, and follows an absolute link inside of it."""
    held = fenced.outside / "held"
    held.mkdir()
    (held / "plain").write_text("", encoding="utf-8")
    here = fenced.directory
    # One text, two files: seen from the real root a decoy that may be written, seen from the other what is locked.
    (here / "decoy").mkdir()
    (here / "decoy" / "pyproject.toml").write_text("", encoding="utf-8")
    (here / "outside").symlink_to(held)
    (held / "link").symlink_to(here / "decoy" / "pyproject.toml")
    inner = here / str(here / "decoy")[1:]
    inner.parent.mkdir(parents=True)
    inner.symlink_to("/")
    run = fenced.run(
        f"""{IN_A_ROOT}
    def test_link():
        assert in_root(open_by("link")) == 13

    @pytest.mark.fence(allow_write=[{str(held)!r}])
    def test_plain():
        assert in_root(open_by("plain")) == 0
        assert in_root(lambda held: os.close(os.open("/decoy/pyproject.toml", os.O_WRONLY))) == 0
    """,
        "test_it.py",
        policy=ONLY_HERE,
    )
    if run.report("test_plain")["outcome"] == "skipped":
        pytest.skip("kernel: no user namespaces for ordinary users")
    run.clean("test_link", "test_plain")


@pytest.mark.needs("user:root", "capability:SYS_ADMIN")
def test_descriptors_of_events(fenced: Fenced) -> None:
    """fanotify(7) opens the file of each event as it was asked to, without any call of the caller's."""
    run = fenced.run(
        """
    import ctypes, os, struct
    LIBC = ctypes.CDLL(None, use_errno=True)

    def watch(flags):
        group = LIBC.fanotify_init(0, flags)
        return group if group >= 0 else -ctypes.get_errno()

    def test_to_write():
        assert watch(os.O_RDWR) == watch(os.O_WRONLY) == -1

    def test_to_read():
        group = watch(os.O_RDONLY)
        assert LIBC.fanotify_mark(group, 1, ctypes.c_uint64(0x20), -100, b"pyproject.toml") == 0  # FAN_OPEN
        open("pyproject.toml").close()
        fd = struct.unpack_from("=IBBHQii", os.read(group, 4096))[5]
        assert os.read(fd, 10)
    """,
        policy=ONLY_HERE,
    )
    run.clean("test_to_write", "test_to_read")


def test_priority_of_many(fenced: Fenced) -> None:
    """Of a group or a user that processes outside belong to: refused, as for each of them."""
    run = fenced.run(
        """
    import os, subprocess, sys
    import pytest

    @pytest.mark.parametrize("kind", [os.PRIO_PGRP, os.PRIO_USER])
    def test_all(kind):
        before = os.getpriority(os.PRIO_PROCESS, os.getppid())
        with pytest.raises(PermissionError):
            os.setpriority(kind, 0, 15)
        assert os.getpriority(os.PRIO_PROCESS, os.getppid()) == before

    def test_own():
        before = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, before + 1)
        end = min(before + 3, 19)
        child = f"import os; os.setpgid(0, 0); os.setpriority(os.PRIO_PGRP, 0, {end}); print(os.nice(0))"
        done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
        assert int(done.stdout) == end
    """,
        policy=ONLY_HERE,
    )
    assert run.status == 0, run
