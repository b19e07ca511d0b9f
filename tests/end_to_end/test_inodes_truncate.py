"""`truncate` by path has to wait for leases and to obey the caller's limit, while others are served."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_lease(fenced: Fenced) -> None:
    """Whoever has a lease on the file is told, and has time to give it up: the broker does not wait with the caller."""
    run = fenced.run(
        """
        import fcntl, os, signal, threading

        def test_it(tmp_path):
            path = tmp_path / "file"
            path.write_text("0123456789")
            asked = threading.Event()
            signal.signal(signal.SIGIO, lambda *_: asked.set())
            fd = os.open(path, os.O_RDONLY)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            thread = threading.Thread(target=os.truncate, args=(path, 4))
            thread.start()
            assert asked.wait(10)
            os.mkdir(tmp_path / "meanwhile")
            assert thread.is_alive()
            assert path.stat().st_size == 10
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            thread.join(10)
            assert path.read_text() == "0123"
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_it")


def test_file_size_limit(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import errno, os, resource, signal
        import pytest

        def test_it(tmp_path):
            path = tmp_path / "file"
            path.write_text("0123456789")
            told = []
            signal.signal(signal.SIGXFSZ, lambda *_: told.append(path.stat().st_size))
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            try:
                os.truncate(path, 100)
                assert told == []
                with pytest.raises(OSError) as caught:
                    os.truncate(path, 101)
                assert caught.value.errno == errno.EFBIG
                os.truncate(path, 4)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert told == [100]
            assert path.read_text() == "0123"
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_it")
