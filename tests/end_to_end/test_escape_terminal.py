"""Way out: typing into the user's terminal (TIOCSTI), for the shell to run once pytest is done."""

from __future__ import annotations

import os

from fence_core.kernel import credentials
from fence_core.kernel.credentials import CAP_SYS_ADMIN
from tests.end_to_end.caught import Fenced


def test_tiocsti(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import errno, fcntl, pty, struct, termios
        import pytest

        def test_type():
            _, terminal = pty.openpty()
            with pytest.raises(OSError) as caught:
                fcntl.ioctl(terminal, termios.TIOCSTI, b"x")
            assert caught.value.errno == errno.EPERM

        def test_other_ioctls():
            _, terminal = pty.openpty()
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
            size = fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8))
            assert struct.unpack("4H", size)[:2] == (24, 80)
        """
    )
    run.clean("test_other_ioctls")
    if credentials.of(os.getpid()).may(CAP_SYS_ADMIN):
        # To others the kernel says so itself: it is not the terminal of their session.
        run.refused("test_type", "type into a terminal (TIOCSTI)")
    else:
        run.clean("test_type")
