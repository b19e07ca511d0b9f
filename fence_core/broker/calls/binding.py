"""``bind`` and ``listen``: who may have a port or a name, and whether others may come to it."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from contextlib import nullcontext
from typing import TYPE_CHECKING

from fence_core.broker.calls.acting import perform, refusal
from fence_core.broker.calls.ancillary import own_number
from fence_core.broker.calls.arguments import signed
from fence_core.broker.calls.borrowing import address_argument, errno_of, on_socket, remember_port
from fence_core.broker.calls.ties import is_exposed, shut_to_others, tie_late, tie_server
from fence_core.broker.paths.resolve import AT_FDCWD, Located
from fence_core.broker.reply import CONTINUE, Reply, Value
from fence_core.broker.services.sockets import AF_UNSPEC, Address, Borrowed, is_wildcard, parse_address
from fence_core.kernel import credentials, libc
from fence_core.kernel.credentials import CAP_NET_BIND_SERVICE
from fence_core.policy.requests import Bind, SocketOption

if TYPE_CHECKING:
    from fence_core.broker.call import Call

_bind = libc.function("bind", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_listen = libc.function("listen", ctypes.c_int, ctypes.c_int, ctypes.c_int)


@on_socket
def bind(call: Call, borrowed: Borrowed) -> Reply:
    address = address_argument(call.tid, call.args[1], call.args[2])
    if address is None:
        return errno.EINVAL
    if not borrowed.is_inet and borrowed.domain != socket.AF_UNIX:
        return _bind_netlink(call, borrowed, address)
    if borrowed.domain == socket.AF_UNIX:
        return _bind_unix(call, borrowed.fd, address)
    if address.family not in (socket.AF_INET, socket.AF_INET6, AF_UNSPEC):
        return errno.EAFNOSUPPORT
    return _bind_inet(call, borrowed, address)


def _bind_inet(call: Call, borrowed: Borrowed, address: Address) -> Reply:
    if address.family == AF_UNSPEC and borrowed.domain == socket.AF_INET:
        # For old programs bind(2) reads it as AF_INET, port and all, if the address is the wildcard.
        address = parse_address(struct.pack("=H", socket.AF_INET) + address.raw[2:]) or address
        if not is_wildcard(address.host):
            return errno.EAFNOSUPPORT if address.host else errno.EINVAL
    request = Bind(address.host or "0.0.0.0", address.port, borrowed.proto)
    quiet: Bind | None = None
    if not call.allowed(request):
        if not _is_local(borrowed, address):
            return errno.EADDRNOTAVAIL
        if borrowed.type == socket.SOCK_STREAM:
            quiet = request  # nobody can reach it before it listens: programs bind to see whether they could
        elif address.port:
            refused = call.refuse(request, errno.EACCES)
            if refused or not call.learns():
                return refused
        # Else it is what the kernel does with any datagram socket when it is used first.
    privileged = 0 < address.port < 1024 and os.geteuid() == 0
    if privileged and not (credentials.of(call.tid).may(CAP_NET_BIND_SERVICE) or credentials.count_here(call.tid)):
        return CONTINUE  # rights in a network of its own, which we do not have
    if not is_exposed(call, address.port):
        tie_late(call, borrowed)
        if borrowed.type == socket.SOCK_DGRAM and call.services.inside.is_in_ours(borrowed.socket):
            shut_to_others(call, borrowed.fd)
    if address.port and _may_share(borrowed):
        call.services.inside.look_who_is_there(borrowed.socket, address.host, address.port, borrowed.proto)
    with call.services.identities.acting_as(call.tid) if privileged else nullcontext():
        failed = errno_of(_bind(borrowed.fd, address.raw, len(address.raw)))
    if failed:
        return failed
    if quiet is None:
        call.services.inside.forget_quiet_bind(os.fstat(borrowed.fd).st_ino)
        remember_port(call, borrowed)
    else:
        call.services.inside.note_quiet_bind(os.fstat(borrowed.fd).st_ino, quiet)
    return Value(0)


def _may_share(borrowed: Borrowed) -> bool:
    """Whether it can be bound where another socket is (socket(7); of UDP sockets SO_REUSEADDR is enough)."""
    options = (socket.SO_REUSEPORT, socket.SO_REUSEADDR)[: 1 + (borrowed.type == socket.SOCK_DGRAM)]
    return any(borrowed.socket.getsockopt(socket.SOL_SOCKET, option) for option in options)


def _is_local(borrowed: Borrowed, address: Address) -> bool:
    """Whether this host has the address at all: the kernel says EADDRNOTAVAIL otherwise."""
    try:
        with socket.socket(borrowed.domain, socket.SOCK_DGRAM) as probe:
            probe.bind((address.host, 0))
        return True
    except OSError:
        return False


def _bind_netlink(call: Call, borrowed: Borrowed, address: Address) -> Reply:
    """Without a number of its own the socket gets that of its process, where it is free (netlink_autobind)."""
    given = address.raw
    with call.services.identities.acting_as(call.tid):
        if address.family == socket.AF_NETLINK and len(given) >= 12 and given[4:8] == bytes(4):
            numbered = given[:4] + struct.pack("=I", own_number(call.tid)) + given[8:]
            if not errno_of(_bind(borrowed.fd, numbered, len(numbered))):
                return Value(0)
        return errno_of(_bind(borrowed.fd, given, len(given))) or Value(0)


def _bind_unix(call: Call, fd: int, address: Address) -> Reply:
    path = ""
    if address.path and address.path[:1] != b"\0":
        located = call.locate(AT_FDCWD, address.path, follow=False)
        if located.errno:
            return located.refusal(CONTINUE)
        path = located.path
        if not call.process.may_write(path, "bind"):
            refused = refusal(call, "bind", located)
            if refused != CONTINUE:
                return refused
        if not call.services.ceiling.covers(path):
            call.services.unix.add(fd, path)
            answer = perform(call, lambda: _bind_below(fd, located), creates=True)
            if answer.__class__ is Value:
                call.services.unix.bound(fd, located)
            return answer
        call.services.unix.add(fd, path)
        call.services.unix.expect(fd, located)
        return CONTINUE  # Landlock holds below the ceiling
    call.services.unix.add(fd)
    return errno_of(_bind(fd, address.raw, len(address.raw))) or Value(0)


def _bind_below(fd: int, located: Located) -> int:
    """bind(2) takes no descriptor of a directory, so the name is bound from inside of it: the error number."""
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.fchdir(located.directory)
        target = struct.pack("=H", socket.AF_UNIX) + located.name + b"\0"
        return errno_of(_bind(fd, target, len(target)))
    finally:
        os.fchdir(here)
        os.close(here)


@on_socket
def listen(call: Call, borrowed: Borrowed) -> Reply:
    """Opens the port that a TCP socket is bound to, or one of the kernel's choice."""
    if not borrowed.is_inet:
        return CONTINUE  # on a UNIX socket the kernel notes who listens: that is to be the caller
    host, port = borrowed.socket.getsockname()[:2]
    unbound = port == 0
    asked = call.services.inside.quiet_bind(os.fstat(borrowed.fd).st_ino)
    request = asked or Bind(host.removeprefix("::ffff:"), port, borrowed.proto)
    if borrowed.type == socket.SOCK_STREAM and not _listens(borrowed) and not call.allowed(request):
        refused = call.refuse(request, errno.EACCES)
        if refused:
            return refused
    if unbound:
        tie_late(call, borrowed)
    if tie_server(call, borrowed):
        refused = call.ask(SocketOption("serve", port=port), errno.EACCES)
        if refused:
            return refused
    failed = errno_of(_listen(borrowed.fd, signed(call.args[1])))
    if not failed and (unbound or asked is not None):
        remember_port(call, borrowed)
    return failed or Value(0)


def _listens(borrowed: Borrowed) -> bool:
    return bool(borrowed.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
