"""Which namespaces a thread is in, beside ours. Source: namespaces(7).

Ours are looked up once, since no process of ours ever changes them.
"""

from __future__ import annotations

import functools
import os
from typing import Literal

Kind = Literal["ipc", "mnt", "net", "pid", "user"]


def of(tid: int, kind: Kind) -> str:
    """The name of that namespace, as `mnt:[4026531841]`. Raises `OSError`."""
    return os.readlink(f"/proc/{tid}/ns/{kind}")


@functools.cache
def _ours(kind: Kind) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


def is_ours(tid: int, kind: Kind) -> bool:
    """Whether a thread is in the same one as this process. Raises `OSError`."""
    return of(tid, kind) == _ours(kind)
