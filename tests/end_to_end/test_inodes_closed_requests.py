"""Requests (ioctl) that change the disk through a descriptor open for reading, and calls about whole file systems, are
refused whatever the file is; those beside them are not."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_requests(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import errno, fcntl, os, termios
        import pytest
        from fence_core.broker.calls import registers
        from tests.end_to_end.inode_calls import CALLS, call

        @pytest.mark.parametrize("request_", [*registers.REFUSED, *registers.REFUSED_PLAIN], ids=hex)
        def test_refused(request_, tmp_path):
            fd = os.open(tmp_path, os.O_RDONLY)
            # Where it is not refused, the kernel cannot read what it is given, or does not know it.
            assert call("ioctl", fd, request_, 1) == (-1, errno.EPERM)

        @pytest.mark.parametrize("name", ["quotactl", "quotactl_fd", "vhangup"])
        def test_calls_refused(name):
            assert call(name, -1, -1, -1, -1) == (-1, errno.EPERM)

        def test_others(tmp_path):
            (tmp_path / "file").write_bytes(b"x" * 4096)
            fd = os.open(tmp_path / "file", os.O_RDONLY)
            copy = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
            assert not os.isatty(fd)
            ours, theirs = os.pipe()
            os.write(theirs, b"abc")
            assert fcntl.ioctl(ours, termios.FIONREAD, bytes(4)) == b"\\3\\0\\0\\0"
            # What these answer depends on the file system.
            assert call("ioctl", copy, 0x40049409, fd)[1] != errno.EPERM  # FICLONE
            assert call("ioctl", fd, 0x80086601, bytes(8))[1] != errno.EPERM  # FS_IOC_GETFLAGS
        """,
        policy=ONLY_HERE,
    )
    assert {attempt.what for attempt in run.ledger} <= {"hang up the terminal (vhangup)"}  # as root
    assert run.out.count("FAILED") == len(run.ledger), run
    run.clean("test_others")
