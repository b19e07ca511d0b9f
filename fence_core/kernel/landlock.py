"""Landlock rulesets: what the kernel itself refuses, whatever the broker says.

Sources: landlock(7), Documentation/userspace-api/landlock.rst, include/uapi/linux/landlock.h.

The kernel's facts:
- A ruleset refuses what it handles and no rule allows; what it does not handle stays as it was.
- It binds the calling thread and what that forks later, for ever. At most 16 of them stack up.
- Path rules bind inodes, not names. Without ACCESS_FS_REFER handled *and* allowed, moving or linking a file
  to another directory fails with EXDEV in every ruleset.
- The kernel refuses an attribute that is longer than it knows if the surplus is not zero.
"""

from __future__ import annotations

import ctypes
import struct
from errno import E2BIG, ENOSYS, EOPNOTSUPP, EPERM

from fence_core.errors import KernelCallError
from fence_core.kernel import libc

CREATE_RULESET_VERSION = 1 << 0
_RULE_PATH_BENEATH = 1

# Access to files. The ABI that brought it stands behind; ABI 1 is Linux 5.13.
ACCESS_FS_EXECUTE = 1 << 0
ACCESS_FS_WRITE_FILE = 1 << 1
ACCESS_FS_READ_FILE = 1 << 2
ACCESS_FS_READ_DIR = 1 << 3
ACCESS_FS_REMOVE_DIR = 1 << 4
ACCESS_FS_REMOVE_FILE = 1 << 5
ACCESS_FS_MAKE_CHAR = 1 << 6
ACCESS_FS_MAKE_DIR = 1 << 7
ACCESS_FS_MAKE_REG = 1 << 8
ACCESS_FS_MAKE_SOCK = 1 << 9
ACCESS_FS_MAKE_FIFO = 1 << 10
ACCESS_FS_MAKE_BLOCK = 1 << 11
ACCESS_FS_MAKE_SYM = 1 << 12
ACCESS_FS_REFER = 1 << 13  # ABI 2, Linux 5.19
ACCESS_FS_TRUNCATE = 1 << 14  # ABI 3, Linux 6.2
ACCESS_FS_IOCTL_DEV = 1 << 15  # ABI 5, Linux 6.10

# Access to the network: ABI 4, Linux 6.7.
ACCESS_NET_BIND_TCP = 1 << 0
ACCESS_NET_CONNECT_TCP = 1 << 1

# Reaching what is not in the same domain: ABI 6, Linux 6.12.
SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
SCOPE_SIGNAL = 1 << 1

ABI_REFER = 2
ABI_NETWORK = 4
ABI_SCOPES = 6

# struct landlock_ruleset_attr { u64 handled_access_fs, handled_access_net, scoped; };
_RULESET_ATTR = struct.Struct("=QQQ")
# struct landlock_path_beneath_attr { u64 allowed_access; s32 parent_fd; }, packed
_PATH_BENEATH_ATTR = struct.Struct("=Qi")


def abi_version() -> int:
    """Return the kernel's Landlock ABI; 0 where it is not built in or switched off at boot.

    Raises `KernelCallError` for an answer that means neither (a container's filter: EPERM).
    """
    try:
        return libc.call("landlock_create_ruleset", 0, 0, CREATE_RULESET_VERSION)
    except KernelCallError as error:
        if error.errno in (ENOSYS, EOPNOTSUPP):
            return 0
        raise


def attribute_size(abi: int) -> int:
    """Return how many bytes of `landlock_ruleset_attr` a kernel with this ABI knows."""
    if abi >= ABI_SCOPES:
        return 24
    return 16 if abi >= ABI_NETWORK else 8


def create_ruleset(handled_fs: int = 0, handled_net: int = 0, scoped: int = 0) -> int:
    """Return a descriptor (close-on-exec) of a new ruleset that handles these accesses and scopes.

    Raises `KernelCallError`: EINVAL for an access this kernel does not know, ENOMSG when nothing is handled,
    E2BIG when the kernel's ABI lacks a whole part (network before 4, scopes before 6), ENOSYS and EOPNOTSUPP
    without Landlock.
    """
    size = attribute_size(abi_version())
    whole = _RULESET_ATTR.pack(handled_fs, handled_net, scoped)
    if any(whole[size:]):
        size = len(whole)  # what cannot be handled must not be dropped: let the kernel refuse it
    attr = ctypes.create_string_buffer(whole, len(whole))
    return libc.call("landlock_create_ruleset", ctypes.addressof(attr), size, 0)


def add_path_rule(ruleset: int, path_fd: int, access: int) -> None:
    """Allow `access` on the file or the tree that `path_fd` (O_PATH will do) stands for.

    Raises `KernelCallError`: EINVAL for an access that is not handled, or that only directories have,
    EBADFD for a descriptor of no file system (socket, pipe), ENOMSG for no access.
    """
    attr = ctypes.create_string_buffer(_PATH_BENEATH_ATTR.pack(access, path_fd), _PATH_BENEATH_ATTR.size)
    libc.call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, ctypes.addressof(attr), 0)


def restrict_self(ruleset: int) -> None:
    """Bind this thread, and all that it forks from now on, by `ruleset`, for ever.

    Raises `KernelCallError`: EPERM without no_new_privs, E2BIG when 16 rulesets are stacked already.
    """
    try:
        libc.call("landlock_restrict_self", ruleset, 0)
    except KernelCallError as error:
        if error.errno == E2BIG:
            detail = "this process is already bound by 16 Landlock rulesets, the most the kernel stacks"
        elif error.errno == EPERM:
            detail = "call libc.set_no_new_privs() first"
        else:
            raise
        raise KernelCallError("landlock_restrict_self", error.errno, detail) from None
