"""Way out: a process of `multiprocessing`, by each of its start methods, and of `concurrent.futures`."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(fenced: Fenced, method: str) -> None:
    run = fenced.run(
        f"""
        import concurrent.futures, multiprocessing, socket
        import pytest
        from here import AWAY, HELLO, PORT

        context = multiprocessing.get_context("{method}")

        def fetch(host, port):
            with socket.socket() as s:
                s.settimeout(10)
                s.connect((host, port))
                return s.recv(99)

        def attempt(pipe, host, port):
            try:
                pipe.send(fetch(host, port))
            except OSError as error:
                pipe.send(error)

        def in_process(host, port):
            ours, theirs = context.Pipe()
            process = context.Process(target=attempt, args=(theirs, host, port))
            process.start()
            answer = ours.recv()
            process.join()
            return answer

        def test_loopback_first():
            assert in_process("127.0.0.1", PORT) == HELLO

        def test_away():
            assert isinstance(in_process(AWAY, 443), PermissionError)

        def test_pool():
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                with pytest.raises(PermissionError):
                    pool.submit(fetch, AWAY, 4443).result()
                assert pool.submit(fetch, "127.0.0.1", PORT).result() == HELLO

        def test_loopback():
            assert in_process("127.0.0.1", PORT) == HELLO
        """,
        files={"helper.py": ""},
    )
    for test, port in ("test_away", 443), ("test_pool", 4443):
        assert len(run.attempts(test)) == 1, run
        (found,) = run.attempts(test)
        assert (found.what, found.phase) == (f"connect 198.51.100.7:{port}/tcp", "call"), run
        assert len(found.chain) == (3 if method == "forkserver" else 2), run
        if method == "fork":
            # The child carries the handler that says which line it was; a program started anew does not.
            assert run.line_of(found) == "s.connect((host, port))"
        run.blamed(test)
    run.clean("test_loopback_first", "test_loopback")
    run.nothing_else("test_away", "test_pool")
