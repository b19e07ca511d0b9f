"""Way out: a thread of the test's own, a pool's, and one that outlives its test."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_thread(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import concurrent.futures, socket, threading
        from here import AWAY, HELLO, PORT

        failed = []

        def fetch(host, port):
            with socket.socket() as s:
                s.settimeout(10)
                s.connect((host, port))  # in the thread
                return s.recv(99)

        def quietly(host, port):
            try:
                fetch(host, port)
            except OSError as error:
                failed.append(error)

        def test_away():
            thread = threading.Thread(target=quietly, args=(AWAY, 443))
            thread.start()
            thread.join()
            assert isinstance(failed.pop(), PermissionError)

        def test_pool():
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                found = [pool.submit(fetch, AWAY, 1000 + n % 2) for n in range(8)]
            assert all(isinstance(each.exception(), PermissionError) for each in found)

        def test_loopback():
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                assert pool.submit(fetch, "127.0.0.1", PORT).result() == HELLO
        """
    )
    here = "s.connect((host, port))  # in the thread"
    run.refused("test_away", "connect 198.51.100.7:443/tcp", line=here)
    pool = run.attempts("test_pool")
    assert sorted(v.what for v in pool) == ["connect 198.51.100.7:1000/tcp", "connect 198.51.100.7:1001/tcp"]
    assert [v.count for v in pool] == [4, 4]
    run.blamed("test_pool")
    run.clean("test_loopback")


def test_a_thread_that_outlives_its_test_acts_on_the_running_one(fenced: Fenced) -> None:
    """Threads share their process's account: the kernel does not tell which test started one."""
    run = fenced.run(
        """
        import socket, threading
        from here import AWAY

        go, done = threading.Event(), threading.Event()

        def later():
            go.wait()
            with socket.socket() as s:
                s.connect_ex((AWAY, 443))  # later
            done.set()

        def test_first():
            threading.Thread(target=later).start()

        def test_second():
            go.set()
            assert done.wait(10)
        """
    )
    run.clean("test_first")
    run.refused("test_second", "connect 198.51.100.7:443/tcp", line="s.connect_ex((AWAY, 443))  # later")
