"""The only door to the C library: turns a failed call into `KernelCallError`.

Runs in every process of the fence. `Any` stays in this file.

The return value is tested first and `errno` only then: `errno` keeps the code of some earlier failure
after a call that succeeded (errno(3)).
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from fence_core.errors import FenceUnavailable, KernelCallError
from fence_core.kernel import arch

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

# Sources: include/uapi/linux/prctl.h.
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38

_long = ctypes.c_long


class _Real:
    """As in `fence_core.untouched`, out of the reach of what tests replace; without the dozen modules which that needs
    for other things."""

    get_errno = staticmethod(ctypes.get_errno)


# Absent elsewhere than on Linux, so that importing this module never fails.
_dll: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
# Keeps the interpreter's lock during the call; wanted for forks only, see `process.clone_parent`.
_dll_locked: Any = ctypes.PyDLL(None, use_errno=True) if sys.platform == "linux" else None


def function(name: str, result: Any, *arguments: Any) -> Callable[..., int]:
    """Return libc's function `name`, typed; a stand-in that raises `FenceUnavailable` if libc lacks it.

    For hot paths. The caller tests the result and calls `fail` when it is negative.
    """
    try:
        found = _dll[name]
    except (AttributeError, TypeError):

        def missing(*_: object) -> int:
            raise FenceUnavailable(name, "this C library does not have it", "The fence needs Linux.")

        return missing
    found.restype = result
    found.argtypes = arguments
    return found  # type: ignore[no-any-return]


def fail(call: str, detail: str = "") -> NoReturn:
    """Raise `KernelCallError` for the call that has just failed in this thread."""
    raise KernelCallError(call, _Real.get_errno(), detail)


if _dll is not None:
    _syscall: Any = _dll["syscall"]
    _syscall.restype = _long
    # Every argument as a full register: an int without a declared type would be cut to 32 bits.
    _syscall.argtypes = (_long,) * 7
    _syscall_locked: Any = _dll_locked["syscall"]
    _syscall_locked.restype = _long
    _syscall_locked.argtypes = (_long,) * 7
else:

    def _no_linux(*_: object) -> int:
        raise FenceUnavailable("system calls", f"this is {sys.platform}", "The fence needs Linux.")

    _syscall = _syscall_locked = _no_linux

_prctl = function("prctl", ctypes.c_int, ctypes.c_int, _long, _long, _long, _long)
_exit = function("_exit", None, ctypes.c_int)


def syscall(
    nr: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0, *, call: str = "syscall"
) -> int:
    """Make system call `nr`; pointers are passed as addresses. Source: syscall(2).

    Raises `KernelCallError` (with `call` as its name) when the kernel answers with an error.
    """
    result: int = _syscall(nr, a, b, c, d, e, f)
    if result == -1:
        raise KernelCallError(call, _Real.get_errno())
    return result


def call(name: str, *arguments: int) -> int:
    """`syscall` by the name that this machine's table has it under. Raises `KernelCallError`, `FenceUnavailable`."""
    return syscall(arch.current().calls[name], *arguments, call=name)


def syscall_locked(
    nr: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0, *, call: str = "syscall"
) -> int:
    """As `syscall`, but the interpreter's lock is held throughout: for calls that return twice."""
    result: int = _syscall_locked(nr, a, b, c, d, e, f)
    if result == -1:
        raise KernelCallError(call, _Real.get_errno())
    return result


def bare_fork() -> int:
    """fork(2) without any at-fork handler, the interpreter's lock held throughout: 0 in the child.

    Source: _Fork(3), POSIX.1-2024. Raises `FenceUnavailable` where libc has it not yet (glibc before 2.34),
    `KernelCallError`.
    """
    try:
        fork = _dll_locked["_Fork"]
    except (AttributeError, TypeError):
        raise FenceUnavailable("_Fork", "this C library does not have it", "Use os.fork.") from None
    fork.restype, fork.argtypes = ctypes.c_int, ()
    pid: int = fork()
    if pid < 0:
        raise KernelCallError("fork", _Real.get_errno())
    return pid


def variable_names() -> set[bytes]:
    """The names in the C library's environment, those that Python knows nothing of included. Source: environ(7)."""
    if _dll is None or ctypes.c_void_p.in_dll(_dll, "environ").value is None:  # after clearenv(3)
        return set()
    names = set()
    at = ctypes.POINTER(ctypes.c_char_p).in_dll(_dll, "environ")
    place = 0
    while (entry := at[place]) is not None:
        names.add(entry.partition(b"=")[0])
        place += 1
    return names - {b""}


def exit_now(status: int) -> NoReturn:
    """End this process at once with `status` (0 to 255): no atexit handlers, no flushing.

    libc's `_exit` and not `os._exit`, which coverage and multiprocessing patches replace. Source: _exit(2).
    """
    _exit(status)
    raise AssertionError("_exit returned")


def _prctl_set(option: int, value: int, call: str) -> None:
    if _prctl(option, value, 0, 0, 0) < 0:
        fail(call)


def set_no_new_privs() -> None:
    """Give up gaining rights by exec (setuid), for ever and for all descendants.

    Source: PR_SET_NO_NEW_PRIVS(2const).
    """
    _prctl_set(PR_SET_NO_NEW_PRIVS, 1, "prctl(PR_SET_NO_NEW_PRIVS)")


def set_parent_death_signal(signal: int) -> None:
    """Have `signal` (0: none) sent to this process when the *thread* that forked it ends.

    Not inherited by fork. A parent that is already gone sends nothing: compare `os.getppid()` afterwards.
    Source: PR_SET_PDEATHSIG(2const).
    """
    _prctl_set(PR_SET_PDEATHSIG, signal, "prctl(PR_SET_PDEATHSIG)")


def set_dumpable(dumpable: bool) -> None:
    """Allow or forbid others of the same user to inspect this process. Inherited by fork, reset by exec.

    Source: PR_SET_DUMPABLE(2const).
    """
    _prctl_set(PR_SET_DUMPABLE, int(dumpable), "prctl(PR_SET_DUMPABLE)")


def set_name(name: str) -> None:
    """Have `ps` show this thread by another name, of 15 characters at most.

    Not by /proc/self/comm, which belongs to root where the process is not dumpable. Source: PR_SET_NAME(2const).
    """
    text = ctypes.create_string_buffer(name.encode("ascii"))
    _prctl_set(PR_SET_NAME, ctypes.addressof(text), "prctl(PR_SET_NAME)")
