"""Our own errors, as the broker is told of them: whoever was judged without us must hear that.

Imported when one has happened.
"""

from __future__ import annotations

import os
import socket
import traceback

from fence_core.link import filter as link

__all__ = ["describe", "tell_last"]

_LONGEST = 1000
"""Characters of an error's text."""
_PATIENCE_S = 1.0
"""How long the broker may be busy before this process ends without a word."""


def describe(error: BaseException) -> dict[str, str]:
    """What it was, and in which line of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return {"what": f"{type(error).__name__}: {error}"[:_LONGEST], "at": at}


def tell_last(control: socket.socket, error: BaseException) -> None:
    """Of the error that ends this process. If the broker cannot hear it, it sees the line closed."""
    try:
        control.settimeout(_PATIENCE_S)
        control.send(link.question(0, link.FAULT, describe(error)))
    except OSError:
        pass
