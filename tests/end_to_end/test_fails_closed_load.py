"""Storms and shortages: none of them makes a call hang, none of them opens the fence."""

from __future__ import annotations

import os
import resource
import textwrap

import pytest

from tests.end_to_end.support import Runs, until, without

HELPERS = """
    import ctypes, errno, os, resource, signal, socket, subprocess, sys, threading, time
    import pytest

    def refused():
        '''Whether the fence stands: neither call may ever succeed.'''
        with socket.socket() as client:
            number = client.connect_ex(("192.0.2.1", 80))
        with pytest.raises(PermissionError):
            os.mkdir("forbidden")
        return number == errno.EACCES
"""


def write(runs: Runs, text: str) -> None:
    (runs.directory / "test_it.py").write_text(textwrap.dedent(HELPERS) + textwrap.dedent(text), encoding="utf-8")
    (runs.directory / "pyproject.toml").write_text('[tool.fence]\ndeny_write = ["forbidden"]\n')


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 10_100, reason="elsewhere: a low hard limit")
def test_many_descriptors(runs: Runs) -> None:
    """10,000 in the test process: calls work and are refused as ever; so in a process that has none free."""
    write(
        runs,
        """
        def test_many(tmp_path):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            opened = [os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT) for _ in range(10_000)]
            server = socket.create_server(("127.0.0.1", 0))
            clients = [socket.create_connection(server.getsockname()) for _ in range(20)]
            subprocess.run(["true"], check=True)
            assert refused()
            os.closerange(opened[0], opened[-1] + 1)

        def test_none_free(tmp_path):
            resource.setrlimit(resource.RLIMIT_NOFILE, (60, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            opened = []
            with pytest.raises(OSError) as caught:
                while True:
                    opened.append(os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT))
            assert caught.value.errno == errno.EMFILE
            with pytest.raises(PermissionError):
                os.mkdir("forbidden")
            os.close(opened.pop())
            with socket.socket() as last:
                assert last.connect_ex(("192.0.2.1", 80)) == errno.EACCES
            for fd in opened:
                os.close(fd)
        """,
    )
    ended = runs.pytest("-q", "-p", "no:cacheprovider")
    assert ended.status == 1, ended
    ended.has(r"^FAILED test_it.py::test_many - fence: ", r"^FAILED test_it.py::test_none_free - fence: ", "^2 failed")


def test_no_descriptors_in_the_broker(runs: Runs) -> None:
    """More processes at once than the broker may have descriptors for: refused and reported, without a hang."""
    write(
        runs,
        """
        def test_processes():
            children = []
            for n in range(80):
                try:
                    children.append(subprocess.Popen(["sh", "-c", "mkdir forbidden; exec sleep 60"],
                                                     stderr=subprocess.DEVNULL))
                except OSError:
                    break
            for child in children:
                child.kill()
                child.wait()
            assert not os.path.exists("forbidden")
        """,
    )
    words = runs.argv(["-q", "-p", "no:cacheprovider"], fenced=True)
    ended = runs.command("sh", "-c", 'ulimit -n 48; exec "$@"', "sh", *words)
    assert ended.status in (1, 3), ended
    assert not (runs.directory / "forbidden").exists()
    assert "fence" in ended.out + ended.err
    until(lambda: not runs.alive(), "the end of every process", 10)


STORM = """
    def again(call, *args):
        '''A signal that comes before the broker has taken the call ends it with EINTR (docs/known-limitations.md).'''
        while True:
            try:
                return call(*args)
            except InterruptedError:
                pass

    twice = []

    @pytest.fixture(autouse=True)
    def done_once():
        '''Each call once, but for the answers that the kernel itself loses (Delivery.deliver).'''
        twice.clear()
        yield
        assert len(twice) <= LOST, twice

    def once(number, call, *args):
        '''What cannot be done twice: the second time is that error.'''
        try:
            again(call, *args)
        except OSError as error:
            if error.errno != number:
                raise
            twice.append(call)

    @pytest.fixture
    def storm():
        '''SIGALRM a thousand times a second, with a handler in Python and without SA_RESTART.'''
        count = [0]
        before = signal.signal(signal.SIGALRM, lambda *_: count.__setitem__(0, count[0] + 1))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        yield count
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    def test_storm(tmp_path, storm):
        deadline = time.monotonic() + 60
        done = 0
        while done < 1000 or storm[0] < 200:
            assert time.monotonic() < deadline
            path = str(tmp_path / str(done % 7))
            os.close(os.open(path, os.O_RDWR | os.O_CREAT))
            once(errno.ENOENT, os.rename, path, path + "x")
            once(errno.ENOENT, os.unlink, path + "x")
            once(errno.EEXIST, os.mkdir, path)
            once(errno.ENOENT, os.rmdir, path)
            with again(socket.socket) as server, again(socket.socket) as client:
                once(errno.EINVAL, server.bind, ("127.0.0.1", 0))
                again(server.listen)
                client.settimeout(10)
                once(errno.EISCONN, client.connect, server.getsockname())
            done += 1

    def test_sends_once(storm):
        '''What is interrupted and made again is not sent twice.'''
        with again(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as a, \\
             again(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as b:
            again(a.bind, ("127.0.0.1", 0))
            for n in range(2000):
                b.sendto(b"%d" % n, a.getsockname())
                while (got := a.recv(99)) != b"%d" % n:
                    assert got == b"%d" % (n - 1)
                    twice.append(n)
            a.setblocking(False)
            with pytest.raises(BlockingIOError):
                a.recv(99)
        assert storm[0] > 20

    def test_refused_in_a_storm(storm):
        refusals = 0
        while refusals < 200:
            with again(socket.socket) as client, pytest.raises(OSError) as caught:
                client.connect(("192.0.2.1", 80))
                client.getpeername()
            assert caught.value.errno in (errno.EACCES, errno.EINTR, errno.ENOTCONN)
            with pytest.raises(PermissionError):
                again(os.mkdir, "forbidden")
            refusals += caught.value.errno == errno.EACCES
"""


def in_a_storm(missing: str) -> str:
    """No answer may be lost where no signal takes a call back; otherwise a few of the thousands."""
    return f"    LOST = {5 if missing else 0}\n" + STORM


@pytest.mark.parametrize("missing", ["", "wait_killable"])
def test_signal_storm(runs: Runs, missing: str) -> None:
    """Every call returns, done once; also before Linux 5.19, where a signal takes a call back from the broker."""
    write(runs, in_a_storm(missing))
    args = ["-rA", "-p", "no:cacheprovider"]
    ended = runs.command(*without(runs, missing, *args)) if missing else runs.pytest(*args)
    assert ended.outcomes() == [
        "FAILED test_it.py::test_refused_in_a_storm",
        "PASSED test_it.py::test_sends_once",
        "PASSED test_it.py::test_storm",
    ], ended
    ended.has(r"connect 192\.0\.2\.1:80/tcp", r"2\d\d times", "mkdir .*forbidden")
    assert "fence error" not in ended.out


NAMES = """
    @pytest.fixture
    def logged(there):
        '''A storm whose handler makes trapped calls of its own, in the middle of those of the test.'''
        lines, within = [0], []

        def log(*_):
            if within:
                return
            within.append(1)
            with open(there / "log", "ab") as file:
                file.write(b"!")
            lines[0] += 1
            within.clear()
        before = signal.signal(signal.SIGALRM, log)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        yield lines
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    @pytest.fixture
    def there():
        import pathlib
        return pathlib.Path("wide").resolve()

    def moved(path):
        '''Equal, and somewhere else in memory: as each attempt of a program in Python may be.'''
        return bytearray(os.fsencode(path)).decode()

    @pytest.mark.fence(allow_write=["wide"])
    def test_names(there, logged):
        deadline = time.monotonic() + 60
        done = 0
        while done < 600 or logged[0] < 200:
            assert time.monotonic() < deadline
            path = str(there / str(done % 7))
            fd = again(lambda: os.open(moved(path), os.O_RDWR | os.O_CREAT | os.O_EXCL))
            once(errno.EEXIST, lambda: os.link(moved(path), moved(path + "l")))
            once(errno.ENOENT, lambda: os.rename(moved(path), moved(path + "x")))
            once(errno.ENOENT, lambda: os.unlink(moved(path + "x")))
            once(errno.ENOENT, lambda: os.unlink(moved(path + "l")))
            once(errno.EEXIST, lambda: os.symlink("target", moved(path)))
            once(errno.ENOENT, lambda: os.unlink(moved(path)))
            once(errno.EEXIST, lambda: os.mkdir(moved(path)))
            with pytest.raises(FileExistsError):
                again(lambda: os.mkdir(moved(path)))
            once(errno.ENOENT, lambda: os.rmdir(moved(path)))
            os.close(fd)
            done += 1
"""


@pytest.mark.parametrize("missing", ["", "wait_killable"])
def test_signal_storm_on_names(runs: Runs, missing: str) -> None:
    """Where the broker makes and removes names itself: each time once, however often the program has to ask."""
    storm = in_a_storm(missing)
    write(runs, storm[: storm.index("    @pytest.fixture\n")] + NAMES)
    (runs.directory / "pyproject.toml").write_text(
        '[tool.fence]\nextends = "default-deny"\nallow_local_binding = true\n'
    )
    (runs.directory / "wide").mkdir()
    args = ["-q", "-p", "no:cacheprovider", "--capture=sys"]
    ended = runs.command(*without(runs, missing, *args)) if missing else runs.pytest(*args)
    assert ended.status == 0, ended


def test_many_threads(runs: Runs) -> None:
    """200 threads of one process, all in trapped calls: each gets its own answer."""
    write(
        runs,
        """
        def test_threads(tmp_path):
            wrong = []
            gate = threading.Barrier(200)

            def work(n):
                gate.wait()
                for k in range(10):
                    path = tmp_path / f"{n}-{k}"
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                    os.write(fd, b"%d" % n)
                    if os.readlink(f"/proc/self/fd/{fd}") != str(path):
                        wrong.append(("open", n, k))
                    os.close(fd)
                    try:
                        os.mkdir("forbidden")
                        wrong.append(("mkdir", n, k))
                    except PermissionError:
                        pass
            threads = [threading.Thread(target=work, args=(n,)) for n in range(200)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            assert not wrong
            assert len(os.listdir(tmp_path)) == 2000
        """,
    )
    ended = runs.pytest("-q", "-p", "no:cacheprovider")
    assert ended.status == 1, ended
    ended.has("2000 times", "^1 failed")
    assert "fence error" not in ended.out
    assert "assert" not in ended.out


def test_many_processes(runs: Runs) -> None:
    """2,000 programs one after the other, each bound to its test; some of them try what is refused."""
    write(
        runs,
        """
        def test_processes():
            for n in range(2000):
                pid = os.posix_spawnp("true", ["true"], os.environ)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

        def test_refused():
            for n in range(20):
                assert subprocess.run(["mkdir", "forbidden"], stderr=subprocess.DEVNULL).returncode == 1
        """,
    )
    ended = runs.pytest("-rA", "-p", "no:cacheprovider")
    assert ended.outcomes() == ["FAILED test_it.py::test_refused", "PASSED test_it.py::test_processes"], ended
    ended.has("20 times")


def test_fork_bomb(runs: Runs) -> None:
    """200 processes that fork each other and try what is refused: all refused, all ended."""
    write(
        runs,
        """
        def test_bomb():
            read, write = os.pipe()
            def bomb(depth):
                while depth:
                    depth -= 1
                    if os.fork() == 0:
                        pass
                try:
                    os.mkdir("forbidden")
                    os.write(write, b"!")
                except PermissionError:
                    os.write(write, b".")
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                for _ in range(25):
                    if os.fork() == 0:
                        bomb(3)
                os._exit(0)
            os.waitpid(pid, 0)
            os.close(write)
            seen = b""
            while chunk := os.read(read, 4096):
                seen += chunk
            assert seen == b"." * 200
        """,
    )
    ended = runs.pytest("-q", "-p", "no:cacheprovider")
    assert ended.status == 1, ended
    ended.has("^1 failed", "200 times|forbidden")
    assert "assert seen" not in ended.out


def test_death_in_the_middle_of_a_call(runs: Runs) -> None:
    """Processes killed while the broker works for them, or waits for them: it goes on as if nothing was."""
    write(
        runs,
        """
        def test_killed(tmp_path):
            with socket.socket() as full:
                full.bind(("127.0.0.1", 0))
                full.listen(0)
                waiting = [socket.socket() for _ in range(3)]
                for client in waiting:
                    client.setblocking(False)
                    client.connect_ex(full.getsockname())
                children = []
                for n in range(40):
                    pid = os.fork()
                    if pid == 0:
                        if n % 2:
                            socket.socket().connect(full.getsockname())
                        while True:
                            try:
                                os.mkdir("forbidden")
                            except PermissionError:
                                pass
                            os.close(os.open(tmp_path / str(n), os.O_RDWR | os.O_CREAT))
                    children.append(pid)
                for n, pid in enumerate(children):
                    while n % 2 == 0 and not (tmp_path / str(n)).exists():
                        time.sleep(0.001)
                    os.kill(pid, signal.SIGKILL)
                for pid in children:
                    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
            for client in waiting:
                client.close()
            assert not os.path.exists("forbidden")

        def test_goes_on(tmp_path):
            (tmp_path / "x").touch()
        """,
    )
    ended = runs.pytest("-rA", "-p", "no:cacheprovider")
    assert ended.outcomes() == ["FAILED test_it.py::test_killed", "PASSED test_it.py::test_goes_on"], ended
    assert "fence error" not in ended.out, ended


def test_undumpable(runs: Runs) -> None:
    """A process that hides: as an ordinary user's it is refused everything, and the report says why; root sees it."""
    write(
        runs,
        """
        def test_hides(tmp_path):
            pid = os.fork()
            if pid == 0:
                ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
                code = 0
                for path, bit in ((str(tmp_path / "x"), 1), ("forbidden", 2)):
                    try:
                        os.mkdir(path)
                        code |= bit
                    except PermissionError:
                        pass
                os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert code == (1 if os.geteuid() == 0 else 0)
        """,
    )
    ended = runs.pytest("-q", "-p", "no:cacheprovider")
    assert ended.status == 1, ended
    ended.has("mkdir .*/forbidden" if os.geteuid() == 0 else "a process that the fence cannot inspect")
    assert "assert code" not in ended.out, ended
