"""The report names the line of the user's own code that did it, whoever else stands in between."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.end_to_end.caught import Fenced


def test_exact_line(fenced: Fenced) -> None:
    """Of a statement over several lines, in a loop, in a comprehension, behind a decorator, from a thread."""
    run = fenced.run(
        """
        import contextlib, functools, socket, threading, urllib.request
        import pytest
        from here import AWAY

        def test_swallowed():
            try:
                socket.create_connection(
                    (AWAY, 1),
                    timeout=5,
                )
            except Exception:
                pass

        def test_swallowed_far_below():
            deep(20)

        def deep(n):
            with contextlib.suppress(OSError):
                return deep(n - 1) if n else socket.create_connection((AWAY, 2), timeout=5)  # far below

        def test_library_in_between():
            with pytest.raises(OSError):
                urllib.request.urlopen(f"http://{AWAY}:3/", timeout=5)  # library

        def test_comprehension():
            assert [s.connect_ex((AWAY, port)) for s in [socket.socket()] for port in (4,)] == [13]  # comprehension

        def test_lambda():
            go = lambda: socket.socket().connect_ex((AWAY, 5))  # lambda
            assert go() == 13

        def swallowing(function):
            @functools.wraps(function)
            def wrapper():
                try:
                    function()
                except OSError:
                    pass
            return wrapper

        @swallowing
        def test_decorated():
            socket.create_connection((AWAY, 6), timeout=5)  # decorated

        class Client:
            def __del__(self):
                socket.socket().connect_ex((AWAY, 7))  # finalizer

        def test_finalizer():
            client = Client()
            del client  # here it runs

        def test_thread():
            thread = threading.Thread(target=in_thread)
            thread.start()
            thread.join()

        def in_thread():
            try:
                socket.create_connection((AWAY, 8), timeout=5)  # thread
            except OSError:
                pass

        def test_generator():
            def ports():
                yield 9
                socket.socket().connect_ex((AWAY, 9))  # generator
            assert list(ports()) == [9]

        def test_exec():
            exec("import socket\\nsocket.socket().connect_ex((AWAY, 10))")  # exec
        """
    )
    for test, port, comment in (
        ("test_swallowed_far_below", 2, "far below"),
        ("test_library_in_between", 3, "library"),
        ("test_comprehension", 4, "comprehension"),
        ("test_lambda", 5, "lambda"),
        ("test_decorated", 6, "decorated"),
        ("test_finalizer", 7, "finalizer"),
        ("test_thread", 8, "thread"),
        ("test_generator", 9, "generator"),
        ("test_exec", 10, "exec"),
    ):
        found = run.refused(test, f"connect 198.51.100.7:{port}/tcp")
        assert run.line_of(found).endswith(f"# {comment}"), f"{test}: {run.line_of(found)}\n{run!r}"
        shown = run.report(test)["text"]
        assert f"# {comment}" in shown, shown
    # Of a call over several lines any of them may be named: which one is up to the version of Python.
    found = run.refused("test_swallowed", "connect 198.51.100.7:1/tcp")
    assert run.line_of(found) in ("socket.create_connection(", "(AWAY, 1),", "timeout=5,", ")")


def test_many_threads_at_once(fenced: Fenced) -> None:
    """Each is told with its own line, if it is told a line at all: stacks of two threads are never mixed up."""
    lines = "\n".join(f"def go{n}(): return socket.socket().connect_ex((AWAY, {1000 + n}))" for n in range(16))
    run = fenced.run(
        f"""
import socket, threading
from here import AWAY

{lines}

def test_it():
    barrier = threading.Barrier(16)
    def work(go):
        barrier.wait()
        assert go() == 13
    threads = [threading.Thread(target=work, args=(globals()[f"go{{n}}"],)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
    )
    found = run.attempts("test_it")
    assert sorted(v.what for v in found) == sorted(f"connect 198.51.100.7:{1000 + n}/tcp" for n in range(16))
    with_line = [v for v in found if v.stack]
    assert len(with_line) >= 12, run
    for attempt in with_line:
        port = attempt.what.rpartition(":")[2].partition("/")[0]
        assert run.line_of(attempt).endswith(f"connect_ex((AWAY, {port}))"), run


def test_no_line_where_signals_are_blocked(fenced: Fenced) -> None:
    """And nothing else is lost: the call is refused and reported, the signal never arrives later."""
    run = fenced.run(
        """
        import signal, socket
        from here import AWAY

        def test_blocked():
            old = signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
            try:
                assert socket.socket().connect_ex((AWAY, 443)) == 13
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, old)
            assert not signal.sigpending()

        def test_next():
            assert socket.socket().connect_ex((AWAY, 444)) == 13  # next
        """
    )
    blocked = run.refused("test_blocked", "connect 198.51.100.7:443/tcp")
    assert blocked.stack == []
    run.refused(
        "test_next", "connect 198.51.100.7:444/tcp", line="assert socket.socket().connect_ex((AWAY, 444)) == 13  # next"
    )


def test_own_handlers_and_programs_are_not_hit(fenced: Fenced) -> None:
    """The signal that asks for a stack would kill whoever does not expect it."""
    run = fenced.run(
        """
        import faulthandler, os, signal, socket, subprocess, sys
        from here import AWAY

        CODE = "import socket, sys; sys.exit(socket.socket().connect_ex((sys.argv[1], 443)))"

        def test_program():
            assert subprocess.run([sys.executable, "-c", CODE, AWAY]).returncode == 13

        def test_default_action():
            for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
                old = signal.signal(number, signal.SIG_DFL)
                assert socket.socket().connect_ex((AWAY, 443)) == 13
                signal.signal(number, old)

        def test_closed_descriptors():
            pid = os.fork()
            if pid == 0:
                os.closerange(3, 4096)
                with open("mine", "w+b") as mine:
                    copies = [os.dup(mine.fileno()) for _ in range(200)]
                    socket.socket().connect_ex((AWAY, 443))
                    mine.seek(0)
                    os._exit(len(mine.read()))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        """
    )
    run.refused("test_program", "connect 198.51.100.7:443/tcp", by=[Path(sys.executable).name])
    run.refused("test_default_action", "connect 198.51.100.7:443/tcp", count=None)
    run.refused("test_closed_descriptors", "connect 198.51.100.7:443/tcp", by=[Path(sys.executable).name])
