"""A process whose descriptors the kernel does not let us borrow (no pidfd_getfd): of its sockets there are copies."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from fence_core.broker.processes import Process
from fence_core.errors import KernelCallError
from fence_core.kernel import process as kernel_process

if TYPE_CHECKING:
    from fence_core.broker.scopes import Binding
    from fence_core.broker.services.made_sockets import MadeSockets

__all__ = ["Unborrowed"]


class Unborrowed(Process):
    """What is known of it is what is known of any: `Process`."""

    __slots__ = ("_made",)

    def __init__(self, made: MadeSockets, pid: int, pidfd: int, parent: Process | None, binding: Binding) -> None:
        super().__init__(pid, pidfd, parent, binding)
        self._made = made

    def borrow(self, tid: int, fd: int) -> int:
        """Of sockets only. Raises KernelCallError; NotHeldError for what there is no copy of."""
        return self._made.borrow(tid, fd)

    def identify(self, tid: int, fd: int) -> tuple[int, bool]:
        try:
            handle = os.open(f"/proc/{tid}/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            gone = error.errno in (errno.ENOENT, errno.ESRCH)
            raise KernelCallError("open", errno.EBADF if gone else error.errno or errno.EBADF) from None
        try:
            shown = kernel_process.field(kernel_process.read_proc(f"/proc/{tid}/fdinfo/{fd}"), b"flags")
            if int(shown or b"0", 8) & os.O_PATH:
                raise KernelCallError("open", errno.EBADF)  # as it would be with it
        except ProcessLookupError:
            os.close(handle)
            raise KernelCallError("open", errno.EBADF) from None  # closed meanwhile
        except BaseException:
            os.close(handle)
            raise
        return handle, False
