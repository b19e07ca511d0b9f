"""On whose account a process is, however it was made and however late it is first heard of: that of its own test.

In each run one test starts processes, and a later one, whose marker allows what they try, lets them go.
"""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced

POLICY = '[tool.pytest.ini_options]\nmarkers = ["fence"]\n' + ONLY_HERE

HELPERS = """
import ctypes, errno, os, platform, subprocess, sys, threading
from here import OUTSIDE

libc = ctypes.PyDLL(None, use_errno=True)  # a fork has the lock of the interpreter only if nobody could take it
CLONE, FORK = {"x86_64": (56, 57), "aarch64": (220, 0)}[platform.machine()]
CLONE_PARENT, SIGCHLD = 0x8000, 17

class Line:
    '''A process waits at it, acts when it is told to, and says how that went.'''

    def __init__(self):
        self.go, self.let_go = os.pipe()
        self.done, self.tell = os.pipe()

    def child(self, path):
        '''In a new process, which may have nothing of the interpreter but this thread.'''
        os.close(self.let_go)
        os.read(self.go, 1)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL))
            said = b"made"
        except OSError as error:
            said = errno.errorcode[error.errno].encode()
        os.write(self.tell, said)
        libc._exit(0)

    def ask(self):
        os.write(self.let_go, b"x")
        return os.read(self.done, 99).decode()

def by_libc(work):
    if libc.fork() == 0:
        work()

def by_clone(work):
    if libc.syscall(CLONE, SIGCHLD, 0, 0, 0, 0, 0) == 0:
        work()

def as_a_sibling(work):
    if libc.syscall(CLONE, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0, 0) == 0:
        work()

def by_the_call(work):
    if (libc.syscall(FORK) if FORK else libc.fork()) == 0:
        work()

def twice(work):
    first = libc.fork()
    if first == 0:
        libc.setsid()
        if libc.fork() == 0:
            work()
        libc._exit(0)
    os.waitpid(first, 0)

def twice_by_python(work):
    first = os.fork()
    if first == 0:
        if os.fork() == 0:
            work()
        libc._exit(0)
    os.waitpid(first, 0)

def in_a_thread(work):
    def fork():
        if libc.fork() == 0:
            work()
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()

WAYS = [by_libc, by_clone, as_a_sibling, by_the_call, twice, twice_by_python, in_a_thread]
"""


def test_forks_that_nobody_tells_of(fenced: Fenced) -> None:
    """By libc, by the system call itself, twice, in a thread: none of it passes Python's own hooks."""
    run = fenced.run(
        """
        import os
        import pytest
        from helpers import OUTSIDE, WAYS, Line

        lines = {way.__name__: Line() for way in WAYS}

        @pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
        def test_that_forks(way):
            way(lambda: lines[way.__name__].child(f"{OUTSIDE}/{way.__name__}"))

        def test_between():
            pass

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_with_marker():
            open(OUTSIDE + "/own", "x").close()
            for name, line in lines.items():
                assert line.ask() == "EACCES", name
        """,
        files={"helpers.py": HELPERS},
        policy=POLICY,
    )
    ways = ["by_libc", "by_clone", "as_a_sibling", "by_the_call", "twice", "twice_by_python", "in_a_thread"]
    run.clean("test_between", "test_with_marker")
    found = {attempt.what: attempt.nodeid for attempt in run.ledger}
    assert found == {f"write {fenced.outside}/{way}": f"test_it.py::test_that_forks[{way}]" for way in ways}, run
    assert all(attempt.late and attempt.phase == "call" for attempt in run.ledger), run
    assert fenced.untouched("own")


def test_a_marker_goes_with_the_fork(fenced: Fenced) -> None:
    """The other way round: what the test that forked may do its process may do later, when others may not."""
    run = fenced.run(
        """
        import pytest
        from helpers import OUTSIDE, WAYS, Line

        lines = {way.__name__: Line() for way in WAYS}

        @pytest.mark.fence(allow_write=[OUTSIDE])
        @pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
        def test_that_forks(way):
            way(lambda: lines[way.__name__].child(f"{OUTSIDE}/{way.__name__}"))

        def test_later():
            for name, line in lines.items():
                assert line.ask() == "made", name
        """,
        files={"helpers.py": HELPERS},
        policy=POLICY,
    )
    assert run.status == 0, run


@pytest.mark.parametrize("scope", ["session", "test"])
@pytest.mark.parametrize("blame", ["starter", "running"])
def test_forks_of_fixtures(fenced: Fenced, scope: str, blame: str) -> None:
    """A fixture of the module forks in the setup of the first test: its process stays with that, and with the setup,
    or is on account of whichever test runs."""
    said = "EACCES" if blame == "starter" else "made"
    run = fenced.run(
        """
        import pytest
        from helpers import OUTSIDE, SAID, Line, by_libc

        line = Line()

        @pytest.fixture(scope="module")
        def service():
            by_libc(lambda: line.child(OUTSIDE + "/fixture"))

        def test_first(service):
            pass

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_second(service):
            assert line.ask() == SAID
        """,
        f"--fence-scope={scope}",
        files={"helpers.py": f"{HELPERS}\nSAID = {said!r}\n"},
        policy=POLICY + f'blame = "{blame}"\n',
    )
    run.clean("test_second")
    if blame == "running":
        assert not run.ledger
        assert fenced.untouched(fixture="")
        return
    (found,) = run.ledger
    assert (found.nodeid, found.phase) == ("test_it.py::test_first", "setup"), run
    assert fenced.untouched()


def test_fork_that_throws_away_what_it_knows(fenced: Fenced) -> None:
    """Who hides on whose account he is gets what every test may do, and no more."""
    run = fenced.run(
        """
        import ctypes
        import pytest
        from helpers import OUTSIDE, Line, by_libc, libc

        line, inside = Line(), Line()

        def test_that_forks(pytestconfig):
            note = pytestconfig.pluginmanager.get_plugin("fence-tests")._fence._note.address
            for each, path in (line, OUTSIDE + "/hidden"), (inside, "tmp/allowed"):
                def work():
                    assert libc.munmap(ctypes.c_void_p(note), ctypes.c_size_t(4096)) == 0
                    each.child(path)
                by_libc(work)

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_with_marker():
            assert line.ask() == "EACCES"
            assert inside.ask() == "made"
        """,
        files={"helpers.py": HELPERS},
        policy=POLICY,
    )
    run.clean("test_that_forks", "test_with_marker")
    (found,) = run.ledger
    assert found.nodeid == "", run
    assert run.status == 1
    assert fenced.untouched()


IMITATION = """
from multiprocessing.forkserver import main
import os, sys
for line in sys.stdin:
    if os.fork() == 0:
        try:
            os.close(os.open(line.strip(), os.O_CREAT | os.O_WRONLY))
        except OSError:
            pass
        os._exit(0)
    os.wait()
    print("done", flush=True)
"""


def test_imitated_fork_server(fenced: Fenced) -> None:
    """A program with the command line of one, which even listens where the tests connect to it, is none."""
    run = fenced.run(
        f"""
        import json, os, socket, subprocess, sys
        import pytest
        from here import OUTSIDE

        IMITATION = {IMITATION!r}
        TELLS = '''
        import json, os, sys
        line = os.open("/proc/fence/control", os.O_RDWR | os.O_CREAT)
        os.write(line, json.dumps(dict(op="fork_server", pid=os.getpid())).encode() + b"\\\\n")
        print(os.read(line, 999).decode(), flush=True)
        '''

        def ask(path):
            started.stdin.write(path + "\\n")
            started.stdin.flush()
            assert started.stdout.readline() == "done\\n"

        def test_a():
            global started
            import textwrap
            code = textwrap.dedent(TELLS) + IMITATION
            started = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
            assert "only a pytest process" in started.stdout.readline()
            started.stdout.readline()

        def test_b():
            ask(OUTSIDE + "/b")

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_c():
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname()).close()
            ask(OUTSIDE + "/c")

        def test_d():
            started.stdin.close()
            started.wait()
            assert os.listdir(OUTSIDE) == []
        """,
        policy=POLICY,
    )
    run.clean("test_b", "test_c", "test_d")
    assert {attempt.nodeid for attempt in run.ledger} == {"test_it.py::test_a"}, run
    assert {attempt.what for attempt in run.ledger} == {f"write {fenced.outside}/{name}" for name in "bc"}, run


def test_fork_server(fenced: Fenced) -> None:
    """What a real one forks is on the account of the test that asks it, and stays there."""
    run = fenced.run(
        """
        import concurrent.futures, multiprocessing, os
        import pytest
        from here import OUTSIDE
        from work import make, wait_and_make

        context = multiprocessing.get_context("forkserver")

        @pytest.fixture(scope="module")
        def running():
            pool = context.Pool(1)
            assert pool.map(abs, [-1]) == [1]
            yield
            pool.terminate()

        def test_first(running):
            pass

        def test_pool():
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                assert pool.submit(make, OUTSIDE + "/pool").result() == "EACCES"

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_with_marker():
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                assert pool.submit(make, OUTSIDE + "/marker").result() == "made"

        def test_that_leaves_one_behind():
            os.mkfifo("go")
            os.mkfifo("done")
            context.Process(target=wait_and_make, args=(OUTSIDE + "/late",), daemon=True).start()

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_during_which_it_acts():
            with open("go", "w"):
                pass
            with open("done") as done:
                assert done.read() == "EACCES"

        def test_after():
            pass
        """,
        files={
            "work.py": """
            import errno, os

            def make(path):
                try:
                    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL))
                    return "made"
                except OSError as error:
                    return errno.errorcode[error.errno]

            def wait_and_make(path):
                with open("go") as go:
                    go.read()
                said = make(path)
                with open("done", "w") as done:
                    done.write(said)
            """
        },
        policy=POLICY.replace('"/dev/null"', '"/dev/null", "/dev/shm"'),
    )
    run.clean("test_first", "test_with_marker", "test_during_which_it_acts", "test_after")
    found = {attempt.what: (attempt.nodeid, attempt.phase) for attempt in run.ledger}
    assert found == {
        f"write {fenced.outside}/pool": ("test_it.py::test_pool", "call"),
        f"write {fenced.outside}/late": ("test_it.py::test_that_leaves_one_behind", "call"),
    }, run
    assert fenced.untouched("marker")


def test_a_name_longer_than_fits(fenced: Fenced) -> None:
    """Its violations are its own."""
    run = fenced.run(
        """
        import pytest
        from here import OUTSIDE

        @pytest.mark.parametrize("called", ["x" * 70_000])
        def test_it(called):
            with pytest.raises(OSError):
                open(f"{OUTSIDE}/file", "w")
        """,
        policy=ONLY_HERE,
    )
    assert [report["outcome"] for report in run.reports if report["phase"] == "call"] == ["failed"]
    run.has("=+ 1 failed in ")
    assert fenced.untouched()
