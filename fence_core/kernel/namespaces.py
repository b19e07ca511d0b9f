"""Which namespaces a thread is in, beside ours. Source: namespaces(7).

Ours are looked up once, since no process of ours ever changes them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from typing import Literal

from fence_core.errors import KernelCallError
from fence_core.kernel import libc, process

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


_socket = libc.function("socket", ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)
_setns = libc.function("setns", ctypes.c_int, ctypes.c_int, ctypes.c_int)
_ANSWER = struct.Struct("@i")


def make_socket(tid: int, family: int, kind: int, protocol: int) -> int:
    """socket(2) in the network of a thread: a descriptor. Raises `KernelCallError`, `OSError`.

    A process enters that, and the user namespace that it belongs to, and shares our table of descriptors meanwhile.
    """
    kinds: list[Kind] = ["net"] if is_ours(tid, "user") else ["user", "net"]
    entered = [os.open(f"/proc/{tid}/ns/{each}", os.O_RDONLY | os.O_CLOEXEC) for each in kinds]
    reads, writes = os.pipe2(os.O_CLOEXEC)
    try:
        child = process.clone_with_our_files()
        if child == 0:
            try:
                failed = any(_setns(namespace, 0) < 0 for namespace in entered)
                made = -1 if failed else _socket(family, kind, protocol)
                os.write(writes, _ANSWER.pack(made if made >= 0 else -ctypes.get_errno()))
            finally:
                libc.exit_now(0)
        process.wait_for_clone(child)
        os.close(writes)
        writes = -1
        (answer,) = _ANSWER.unpack(os.read(reads, _ANSWER.size).ljust(_ANSWER.size, b"\xff"))
    finally:
        for fd in (*entered, reads, writes):
            if fd >= 0:
                os.close(fd)
    if answer < 0:
        raise KernelCallError("socket", -answer)
    return int(answer)
