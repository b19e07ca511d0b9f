"""Ask the kernel which socket is bound to a name or an address. Sources: sock_diag(7), net/unix/diag.c.

The kernel's facts:
- It lists the sockets of the asker's own network namespace; one in another namespace is not found.
- It has no look-up by name, only a list of all: 40 us, and 1.3 more for each UNIX socket there is.
- Of the inode a path is bound to it tells the low 32 bits and the file system's device in its own encoding.
  On a file system that shows other devices in stat(2) (btrfs subvolumes, some overlays) nothing is found.
- An abstract name belongs to one socket of each type: a stream and a datagram socket may share it.
- The answer is the inode of the *socket* (what fstat of the descriptor and /proc/net/unix show), not that of
  the file.
- Of Internet sockets it has a look-up: it tells which one gets what is sent to an address (net/ipv4/inet_diag.c).
"""

from __future__ import annotations

import functools
import os
import struct
from errno import EACCES, EINVAL, ENOENT, EOPNOTSUPP, EPERM, EPROTONOSUPPORT
from typing import TYPE_CHECKING

from fence_core.errors import FenceUnavailable, KernelCallError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator

    _Socket = tuple[int, int, int, dict[int, bytes]]  # inode, type, state, attributes

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_AF_UNIX = 1
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x001
_NLM_F_DUMP_INTR = 0x010
_NLM_F_DUMP = 0x300
_SHOW_NAME = 1 << 0
_SHOW_VFS = 1 << 1
_TCP_ESTABLISHED = 1  # include/net/tcp_states.h; UNIX sockets use the same numbers
_TCP_LISTEN = 10
_ATTR_NAME = 0
_ATTR_VFS = 1

_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBHIIIII")  # struct unix_diag_req: family, protocol, pad, states, ino, show, cookie
_MESSAGE = struct.Struct("=BBBBIII")  # struct unix_diag_msg: family, type, state, pad, ino, cookie
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length with header, type
_VFS = struct.Struct("=II")  # struct unix_diag_vfs: inode, device
_ERROR = struct.Struct("=i")

_BUFFER = 1 << 16  # the kernel makes messages of at most 32 KiB
_ATTEMPTS = 8


class _InterruptedError(Exception):
    """The list of sockets changed while the kernel wrote it."""


def _unavailable(reason: str) -> FenceUnavailable:
    return FenceUnavailable("unix_diag", reason, "The kernel needs CONFIG_UNIX_DIAG, as a loaded module or built in.")


def _refused(errno: int) -> FenceUnavailable | KernelCallError:
    if errno in (ENOENT, EINVAL, EOPNOTSUPP, EPROTONOSUPPORT):
        return _unavailable(f"this kernel does not list UNIX sockets ({os.strerror(errno)})")
    if errno in (EACCES, EPERM):
        return _unavailable(f"asking for UNIX sockets is not permitted here ({os.strerror(errno)})")
    return KernelCallError("sock_diag", errno)


def _padded(length: int) -> int:
    return (length + 3) & ~3


def _attributes(payload: bytes) -> Iterator[tuple[int, bytes]]:
    at = _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, payload[at + _ATTRIBUTE.size : at + length]
        at += _padded(length)


def _netlink() -> socket.socket:
    import socket  # 2 ms that a run without UNIX sockets need not pay

    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)


def _dump(show: int, inode: int = 0) -> list[_Socket]:
    """Return every UNIX socket; or the one of this inode."""
    try:
        netlink = _netlink()
    except OSError as error:
        raise _refused(error.errno or 0) from None
    any_cookie = 0xFFFFFFFF if inode else 0
    body = _REQUEST.pack(_AF_UNIX, 0, 0, 0xFFFFFFFF, inode, show, any_cookie, any_cookie)
    flags = _NLM_F_REQUEST if inode else _NLM_F_REQUEST | _NLM_F_DUMP
    request = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body
    found: list[_Socket] = []
    interrupted = False
    with netlink:
        try:
            netlink.send(request)
            while True:
                data = netlink.recv(_BUFFER)
                at = 0
                while at + _NLMSGHDR.size <= len(data):
                    length, kind, flags, _, _ = _NLMSGHDR.unpack_from(data, at)
                    payload = data[at + _NLMSGHDR.size : at + length]
                    interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                    if kind == _NLMSG_ERROR or (kind == _NLMSG_DONE and len(payload) >= _ERROR.size):
                        errno = -_ERROR.unpack_from(payload)[0]
                        if errno:
                            raise _refused(errno)
                    if kind == _NLMSG_DONE:
                        if interrupted:
                            raise _InterruptedError
                        return found
                    if kind == _SOCK_DIAG_BY_FAMILY:
                        _, kind_of_socket, state, _, number, _, _ = _MESSAGE.unpack_from(payload)
                        found.append((number, kind_of_socket, state, dict(_attributes(payload))))
                        if inode:
                            return found
                    at += _padded(max(length, _NLMSGHDR.size))
        except KernelCallError:
            raise
        except OSError as error:
            raise _refused(error.errno or 0) from None


def _sockets(show: int) -> list[_Socket]:
    for _ in range(_ATTEMPTS):
        try:
            return _dump(show)
        except _InterruptedError:
            continue
    raise _unavailable("the list of UNIX sockets changes faster than it can be read")


def _bound(sockets: Iterable[_Socket]) -> dict[int, int]:
    """Return, for each type among sockets with one name, the inode of the one that is bound to it.

    A socket that was accepted shows the name, and the file, of the listening one: that one comes first, and
    a connected one only where there is no other.
    """
    best: dict[int, tuple[int, int]] = {}
    for inode, kind, state, _ in sockets:
        rank = 0 if state == _TCP_LISTEN else 2 if state == _TCP_ESTABLISHED else 1
        if kind not in best or (rank, inode) < best[kind]:
            best[kind] = (rank, inode)
    return {kind: inode for kind, (_, inode) in best.items()}


def unix_socket_at(dev: int, ino: int) -> int | None:
    """Return the inode of the socket bound to the file (st_dev, st_ino); None when there is none.

    Raises `FenceUnavailable` when this kernel cannot tell, else `KernelCallError`.
    """
    wanted = _file(dev, ino)
    bound = _bound(one for one in _sockets(_SHOW_VFS) if one[3].get(_ATTR_VFS) == wanted)
    return next(iter(bound.values()), None)  # one file, one socket


def _file(dev: int, ino: int) -> bytes:
    # The kernel's own dev_t has the minor in the low 20 bits (include/linux/kdev_t.h), libc's is scattered.
    return _VFS.pack(ino & 0xFFFFFFFF, os.major(dev) << 20 | os.minor(dev))


def is_bound_to(inode: int, dev: int, ino: int) -> bool:
    """Return whether the socket of this inode is bound to the file (st_dev, st_ino).

    Raises `FenceUnavailable` when this kernel cannot tell, or not of this socket; else `KernelCallError`.
    """
    return any(one[3].get(_ATTR_VFS) == _file(dev, ino) for one in _dump(_SHOW_VFS, inode))


def unix_socket_named(abstract: bytes, kind: int | None = None) -> int | None:
    """Return the inode of the socket with this abstract name; None when there is none.

    `abstract` is the name as in sun_path: with its leading NUL, and as long as the address said. A stream, a
    datagram and a packet socket may each have the same name: `kind` (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET)
    says which one is meant. Without it, and with several, the answer is 0, which is no socket's inode. Raises
    `FenceUnavailable` when this kernel cannot tell, else `KernelCallError`.
    """
    if not abstract.startswith(b"\0"):
        raise ValueError(f"{abstract!r} is not an abstract name: it has no leading NUL")
    bound = _bound(one for one in _sockets(_SHOW_NAME) if one[3].get(_ATTR_NAME) == abstract)
    if kind is not None:
        return bound.get(kind)
    if len(bound) > 1:
        return 0
    return next(iter(bound.values()), None)


# ---------------------------------------------------------------- Internet sockets

_AF_INET, _AF_INET6 = 2, 10
_TCP, _UDP = 6, 17
_LOOPBACK_IFINDEX = 1  # in every network namespace (include/net/net_namespace.h)
_INET_REQUEST_SIZE = 56
_INET_REQUEST = struct.Struct("=IHHIIBBBBI2s2s16s16sIII")
"""struct nlmsghdr; struct inet_diag_req_v2: family, protocol, extensions, padding, states; struct inet_diag_sockid:
source and destination port, source and destination address, interface, cookie in two halves."""
_ANY_COOKIE = 0xFFFFFFFF
_ANSWER = 4096
_INODE_AT = 68  # idiag_inode in struct inet_diag_msg, include/uapi/linux/inet_diag.h


@functools.cache
def _line() -> socket.socket:
    """To the kernel, kept open: a look-up takes 5 us, to make the socket for it as long again."""
    return _netlink()


@functools.cache
def _has_look_up(udp: bool) -> bool:
    """Without its module the kernel says of each socket that there is none: so it is asked about one of ours."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as known:
        known.bind(("127.0.0.1", 0))
        if not udp:
            known.listen(1)
        return _look_up(known.getsockname(), ("127.0.0.1", 0), udp=udp) is not None


def inet_receiver(receiver: tuple[str, int], sender: tuple[str, int], *, udp: bool) -> int | None:
    """Return the inode of the socket that gets what `sender` sends to `receiver` over loopback; None if there is none.

    Of several that share an address (SO_REUSEPORT) it is one of them. Hosts are numbers of one family; an IPv6 socket
    that takes IPv4 too is found. Raises `FenceUnavailable` when this kernel cannot tell.
    """
    found = _look_up(receiver, sender, udp=udp)
    if found is None and not _has_look_up(udp):
        raise FenceUnavailable(
            "inet_diag",
            "this kernel does not tell which socket is at an address",
            "The kernel needs CONFIG_INET_DIAG, as a loaded module or built in.",
        )
    return found


def _look_up(receiver: tuple[str, int], sender: tuple[str, int], *, udp: bool) -> int | None:
    import socket

    family = _AF_INET6 if ":" in receiver[0] else _AF_INET
    there, here = (
        (port.to_bytes(2, "big"), socket.inet_pton(family, host).ljust(16, b"\0")) for host, port in (receiver, sender)
    )
    if udp:  # whose look-up has the two the other way round (udp_dump_one, net/ipv4/udp_diag.c)
        there, here = here, there
    request = _INET_REQUEST.pack(
        _NLMSGHDR.size + _INET_REQUEST_SIZE, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0,
        family, _UDP if udp else _TCP, 0, 0, 0xFFFFFFFF,
        there[0], here[0], there[1], here[1], _LOOPBACK_IFINDEX, _ANY_COOKIE, _ANY_COOKIE,
    )  # fmt: skip
    try:
        line = _line()
        line.send(request)
        data = line.recv(_ANSWER)
    except OSError:
        return None
    if _NLMSGHDR.unpack_from(data)[1] != _SOCK_DIAG_BY_FAMILY:
        return None  # ENOENT
    at = _NLMSGHDR.size + _INODE_AT
    return int.from_bytes(data[at : at + 4], "little")
