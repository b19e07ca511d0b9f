"""Import proxy.py, which brings all of itself with whatever one asks of it.

One of its classes has an event of `multiprocessing` as an attribute. From Python 3.14 on, where the default is not to
fork, that starts a process to look after the event's semaphores, which tells on stderr that they were left.
"""

from __future__ import annotations

import sys


def load() -> None:
    """Before the first import of proxy.py, in any process."""
    if "proxy" in sys.modules:
        return
    import multiprocessing

    method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)  # semaphores have no names then, and nobody to look after them
    try:
        import proxy  # noqa: F401
    finally:
        multiprocessing.set_start_method(method, force=True)
