"""A program that ends in the middle of a call has done nothing that the kernel would not have refused it.

The engine is changed so that the program is killed, and has ended, the moment before the broker reads anything of it:
first the first thing that it reads, then the second, and so on until it reads nothing more.
"""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.faults import faulty
from tests.end_to_end.support import Runs

KILLER = r"""
import builtins, re, signal, time
from fence_core.broker.paths import native_errno
from fence_core.kernel import memory

PLACE = re.compile(r"/proc/(\d+)/")
READ = {}
originals = os.open, os.readlink, os.stat, builtins.open, memory.read, memory.read_string

def words(pid):
    try:
        fd = originals[0](f"/proc/{pid}/cmdline", os.O_RDONLY)
        try:
            return os.read(fd, 4096).split(b"\0")
        finally:
            os.close(fd)
    except OSError:
        return []

def about_to_read(pid):
    if pid == os.getpid():
        return
    said = words(pid)
    if b"victim.py" not in said or b"now" not in said:
        return
    READ[pid] = READ.get(pid, 0) + 1
    if READ[pid] == int(said[said.index(b"victim.py") + 2]):
        os.kill(pid, signal.SIGKILL)
        while words(pid):  # a process that has ended has no command line
            time.sleep(0.0002)

def by_path(original):
    def wrapped(path, *args, **kwargs):
        found = PLACE.match(os.fsdecode(path)) if isinstance(path, (str, bytes)) else None
        if found:
            about_to_read(int(found[1]))
        return original(path, *args, **kwargs)
    return wrapped

def by_number(original):
    def wrapped(pid, *args, **kwargs):
        about_to_read(pid)
        return original(pid, *args, **kwargs)
    return wrapped

started = loop.Loop.run
def run(self, *args):
    os.open, os.readlink, os.stat, builtins.open = map(by_path, originals[:4])
    memory.read, memory.read_string = map(by_number, originals[4:])
    started(self, *args)
loop.Loop.run = run
"""

CALLS = {
    "mkdir": "os.mkdir('/usr')",  # EEXIST
    "rename": "os.rename('/usr/nothing', '/usr/other')",  # ENOENT
    "link": "os.link('/usr/nothing', '/usr/other')",
    "rmdir": "os.rmdir('/proc')",
    "open": "os.open('/usr', os.O_WRONLY)",  # EISDIR
    "relative": "os.chdir('/usr'); os.mkdir('bin')",
    "descriptor": "fd = os.open('/usr', os.O_RDONLY); os.mkdir('bin', dir_fd=fd)",
    "chmod": "os.chmod('/usr/nothing', 0)",
    "execve": "os.execv('/usr/nothing', ['x'])",
    "bind": "socket.socket().bind(('192.0.2.9', 7))",  # EADDRNOTAVAIL
    "connect": "socket.socket(socket.AF_UNIX).connect('/usr/nothing')",
    "setpriority": "os.setpriority(os.PRIO_PROCESS, 4_000_000, 0)",  # ESRCH
    "setns": "ctypes.CDLL(None).setns(999, 0)",  # EBADF
    "credentials": """
pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
pair[0].sendmsg([b'x'], [(socket.SOL_SOCKET, 2, struct.pack('iii', os.getpid(), os.getuid(), os.getgid()))])""",
    "another user namespace": "ctypes.CDLL(None).unshare(0x10000000); os.mkdir('/usr')",
}

VICTIM = f"""
import ctypes, os, socket, struct, sys

CALLS = {CALLS!r}
try:
    exec(CALLS[sys.argv[1]])
except OSError:
    pass
"""


def test_killed_before_each_thing_that_is_read_of_it(runs: Runs) -> None:
    (runs.directory / "victim.py").write_text(VICTIM, encoding="utf-8")
    ended = faulty(
        runs,
        KILLER,
        f"""
        import os, pytest, subprocess, sys

        @pytest.mark.parametrize("call", {list(CALLS)!r})
        def test_killed(call):
            for number in range(1, 40):
                code = subprocess.run([sys.executable, "-S", "victim.py", call, str(number), "now"]).returncode
                if code != -9:
                    break
            assert code == 0
            assert number > 1, "it was never killed"
            print(call, number)

        def test_control():
            # Who is not killed is told what the kernel says, and what he tries for real is reported.
            assert subprocess.run([sys.executable, "-S", "victim.py", "mkdir", "99", "now"]).returncode == 0
        """,
        "-rP",
    )
    assert ended.status == 0, ended
    assert "fence error" not in ended.out + ended.err, ended
    ended.has(rf"{len(CALLS) + 1} passed")


@pytest.mark.parametrize("how", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.execv('/bin/true', ['true'])"])
def test_threads_that_are_ended_with_their_process(fenced: Fenced, how: str) -> None:
    """Nobody plans the moment here. The kernel refuses the calls itself; before, some of the runs blamed the test."""
    run = fenced.run(
        f"""
        import subprocess, sys

        CODE = '''
        import os, threading

        begun = threading.Semaphore(0)

        def loop():
            told = False
            while True:
                try:
                    os.mkdir("/usr")
                except OSError:
                    pass
                if not told:
                    told = True
                    begun.release()

        for _ in range(8):
            threading.Thread(target=loop, daemon=True).start()
        for _ in range(8):
            begun.acquire()
        {how}
        '''

        def test_it():
            import textwrap
            for _ in range(25):
                subprocess.run([sys.executable, "-S", "-c", textwrap.dedent(CODE)])

        def test_control():
            try:
                open("/usr/new", "w").close()
            except OSError:
                pass
        """
    )
    run.clean("test_it")
    assert run.status in (0, 1), run  # an ordinary user is refused by the kernel


def test_main_thread_that_has_ended_before_the_others(fenced: Fenced) -> None:
    """Of a process whose first thread is gone the kernel shows little under its number: its threads are asked."""
    run = fenced.run(
        """
        import subprocess, sys

        CODE = '''
        import ctypes, os, socket, threading

        libc = ctypes.CDLL(None)
        main = threading.get_native_id()

        def work():
            while open(f"/proc/{os.getpid()}/task/{main}/stat").read().rpartition(") ")[2][0] != "Z":
                pass
            os.makedirs("made/deep")
            open("made/deep/file", "w").close()
            os.rename("made/deep/file", "made/other")
            os.chmod("made/other", 0o600)
            server = socket.socket()
            server.bind(("127.0.0.1", 0))
            server.listen()
            client = socket.socket()
            client.connect(server.getsockname())
            one, two = socket.socketpair()
            one.sendmsg([b"x"])
            os.write(1, b"done")
            os._exit(0)

        threading.Thread(target=work).start()
        libc.syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2): of this thread alone
        '''

        def test_it():
            import textwrap
            ended = subprocess.run([sys.executable, "-S", "-c", textwrap.dedent(CODE)], capture_output=True, text=True)
            assert ended.stdout == "done", ended
        """
    )
    run.clean("test_it")
    assert run.status == 0, run
