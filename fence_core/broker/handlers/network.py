"""Calls that reach other sockets.

* ``connect`` is always performed by the broker, on the caller's own socket (`pidfd_getfd`) with a copied address, so
  that no other thread can change the address, or the descriptor, between the verdict and the call.
* An internet socket is made by the broker and tied to the loopback interface (SO_BINDTODEVICE) before the program
  gets it, unless the policy lists addresses outside. This is the floor below everything that has no other: UDP,
  MPTCP, TCP fast open, and races for calls that are continued.
* What carries data is next door, in `messages`; options in `options`; ties in `ties`.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import stat
import struct
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from fence_core.broker import judging
from fence_core.broker.handlers.acting import perform, refusal
from fence_core.broker.handlers.ancillary import own_number
from fence_core.broker.handlers.arguments import signed
from fence_core.broker.handlers.ties import (
    is_exposed,
    shut_to_others,
    tie_again,
    tie_late,
    tie_new,
    tie_server,
    tied_to,
)
from fence_core.broker.reply import CONTINUE, HandOver, Reply, Value, Wait
from fence_core.broker.resolve import ASK_KERNEL, AT_FDCWD, Located
from fence_core.broker.sinks import Sunk
from fence_core.broker.sockets import (
    AF_UNSPEC,
    RESOLVER_PORTS,
    SOCKADDR_MAX,
    Address,
    Borrowed,
    is_loopback,
    is_wildcard,
    parse_address,
)
from fence_core.broker.tunnels import Tunnel
from fence_core.errors import KernelCallError
from fence_core.kernel import credentials, libc, memory, timers
from fence_core.kernel.credentials import CAP_NET_BIND_SERVICE, CAP_NET_RAW, Credentials
from fence_core.policy.requests import Bind, Connect, OpenSocket, SocketOption, UnixConnect

if TYPE_CHECKING:
    from collections.abc import Callable

    from fence_core.broker.call import Call

IPPROTO_MPTCP = 262
_SOCK_TYPE_MASK = 0xF

_connect = libc.function("connect", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_bind = libc.function("bind", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_socket = libc.function("socket", ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)
_listen = libc.function("listen", ctypes.c_int, ctypes.c_int, ctypes.c_int)


def _errno_of(result: int) -> int:
    return ctypes.get_errno() if result < 0 else 0


# ---------------------------------------------------------------- making sockets


def socket_(call: Call) -> Reply:
    """socket(2) for every family but AF_UNIX and AF_NETLINK, which the filter lets through."""
    family, type_, protocol = signed(call.args[0]), signed(call.args[1]), signed(call.args[2])
    kind = type_ & _SOCK_TYPE_MASK
    request = OpenSocket(family, kind, protocol)
    ordinary = call.allowed(request)
    if ordinary and not call.same_network():
        call.services.inside.others_make_sockets = True
        return CONTINUE  # a namespace of the test's own: the socket has to be made there
    fd = _socket(family, type_, protocol)
    if fd < 0:
        return ctypes.get_errno()  # the kernel's own refusal is no violation
    try:
        if not ordinary:
            if not _may_open_raw(call.tid, family, kind):
                return errno.EPERM
            return call.refuse(request, errno.EPERM)
        tie_new(call, fd, kind)
        reply = HandOver(fd, cloexec=bool(type_ & socket.SOCK_CLOEXEC))
        fd = -1
        return reply
    finally:
        if fd >= 0:
            os.close(fd)


def _may_open_raw(tid: int, family: int, kind: int) -> bool:
    """Whether the kernel would let the caller, which may have fewer rights than the broker, make a raw socket."""
    needs = kind == socket.SOCK_RAW or family == socket.AF_PACKET
    if not needs or os.geteuid() != 0:
        return True
    return credentials.of(tid).may(CAP_NET_RAW)


# ---------------------------------------------------------------- connect


def on_socket(
    judge: Callable[[Call, Borrowed], Reply],
) -> Callable[[Call], Reply]:
    """A handler whose first argument is a socket: borrowed, known by what it is, and closed again."""

    @functools.wraps(judge)
    def handler(call: Call) -> Reply:
        try:
            fd = call.borrow(signed(call.args[0]))
        except KernelCallError as error:
            return error.errno or errno.EBADF
        try:
            borrowed = Borrowed(fd)
        except OSError as error:
            os.close(fd)
            return error.errno or errno.ENOTSOCK
        reply: Reply = CONTINUE
        try:
            if call.waits():
                reply = judge(call, borrowed)
            return reply
        finally:
            if not isinstance(reply, Wait):  # which closes it when the wait is over
                borrowed.close()

    return handler


def _address(tid: int, at: int, size: int) -> Address | None:
    """A copy of the address argument; None where the kernel answers EINVAL."""
    size &= 0xFFFF_FFFF
    if not 0 < size <= SOCKADDR_MAX:
        return None
    return parse_address(memory.read(tid, at, size))


class Elsewhere:
    """The verdict that a socket is to be connected to one of ours."""

    __slots__ = ("arrived", "raw")

    def __init__(self, raw: bytes, arrived: Callable[[Borrowed], None]) -> None:
        self.raw = raw
        self.arrived = arrived
        """Called when it is: by the address of its own end, ours knows who is there."""


class Unsent:
    """The verdict that a datagram socket may be connected, as that sends nothing, but not to where it is to be."""

    __slots__ = ("address", "request")

    def __init__(self, request: Connect, address: Address) -> None:
        self.request = request
        self.address = address


class Anywhere(bytes):
    """The address to use where the kernel may as well carry the call out, whatever its own turns into: the policy
    allows every one of the kind."""


Verdict = int | bytes | Elsewhere | Unsent

_SOCKADDR_UN = 110
"""sizeof(struct sockaddr_un): more than that is EINVAL (unix_validate_addr, net/unix/af_unix.c)."""


@on_socket
def connect(call: Call, borrowed: Borrowed) -> Reply:
    if call.process.fork_servers:
        call.services.processes.asks_fork_servers(call.process)
    address = _address(call.tid, call.args[1], call.args[2])
    if address is None:
        return errno.EINVAL
    verdict = judge_destination(call, borrowed, address)
    if isinstance(verdict, Anywhere):
        return CONTINUE
    if isinstance(verdict, int):
        if verdict:
            return verdict
        verdict = address.raw
    if isinstance(verdict, Unsent):
        return _connect_to_sink(call, borrowed, signed(call.args[0]), verdict)
    tie_late(call, borrowed)
    call.services.sinks.leave(borrowed)
    if isinstance(verdict, bytes):
        dissolves = address.family == AF_UNSPEC and borrowed.is_inet and borrowed.type == socket.SOCK_DGRAM
        tied = tied_to(borrowed.socket) if dissolves else 0
        answer = perform_connect(borrowed, verdict, _other_ids(call.tid, borrowed))
        if tied:
            tie_again(call, borrowed, tied)
        if answer.__class__ is Value:
            remember_own_end(call, borrowed)
        return answer
    begins = is_closed(borrowed)
    reply = perform_connect(borrowed, verdict.raw)
    if not begins:
        return reply  # it asks how an earlier connect has ended, or should not ask at all
    if not isinstance(reply, int) or reply == errno.EINPROGRESS:
        verdict.arrived(borrowed)
    return reply


def _connect_to_sink(call: Call, borrowed: Borrowed, number: int, verdict: Unsent) -> Reply:
    address, request = verdict.address, verdict.request
    refused = _native_refusal(borrowed, address)
    if refused:
        return refused
    sunk = Sunk(call.process, call.tid, number, request, address.raw)
    if not call.same_network() or call.services.sinks.lead(borrowed, sunk, address):
        return call.refuse(request, errno.EACCES)
    return Value(0)


def _native_refusal(borrowed: Borrowed, address: Address) -> int:
    """What the kernel says to such an address on any machine; whether there is a way to it is another question."""
    with socket.socket(borrowed.domain, socket.SOCK_DGRAM) as probe:
        options = [(socket.SOL_SOCKET, socket.SO_BROADCAST)]
        if borrowed.domain == socket.AF_INET6:
            options.append((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        for level, name in options:
            probe.setsockopt(level, name, borrowed.socket.getsockopt(level, name))
        failed = _errno_of(_connect(probe.fileno(), address.raw, len(address.raw)))
        if failed == errno.ENETUNREACH and borrowed.domain == socket.AF_INET6 and "." in address.host:
            return failed if probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) else 0
        return failed if failed in (errno.EACCES, errno.EINVAL, errno.EAFNOSUPPORT) else 0


_TCP_CLOSE = 7  # include/net/tcp_states.h


def is_closed(borrowed: Borrowed) -> bool:
    """Whether a connect now would be a new one: for any other nobody may be announced."""
    if borrowed.type != socket.SOCK_STREAM:
        return True
    try:
        return borrowed.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    except OSError:
        return True


def _where_it_leads(borrowed: Borrowed, address: Address) -> Address:
    """The unspecified address as a destination, spelled out: the one that the socket is bound to, or loopback's.

    `ip_route_output_key_hash` and `tcp_v6_connect` have it so. What is judged is then what is connected to.
    """
    if not is_wildcard(address.host):
        return address
    own = str(borrowed.socket.getsockname()[0])
    own4 = own.removeprefix("::ffff:")
    if "." not in own4 or own4 == "0.0.0.0":
        own4 = ""
    if address.host == "::":
        host = "127.0.0.1" if own4 else "::1"
    else:
        host = own4 or "127.0.0.1"
    raw = address.raw
    if address.family == socket.AF_INET6:
        packed = socket.inet_pton(socket.AF_INET6, host if ":" in host else f"::ffff:{host}")
        raw = raw[:8] + packed + raw[24:]
    else:
        raw = raw[:4] + socket.inet_aton(host) + raw[8:]
    return Address(raw, address.family, host=host, port=address.port)


def judge_destination(call: Call, borrowed: Borrowed, address: Address, *, sends: bool = False) -> Verdict:
    """0 to go on with the address as it is, an error number, or the address to use instead."""
    if address.family == AF_UNSPEC and borrowed.domain != socket.AF_INET:
        return 0  # dissolves the association
    if borrowed.domain == socket.AF_UNIX:
        if address.family != socket.AF_UNIX or address.path is None or len(address.raw) > _SOCKADDR_UN:
            return errno.EINVAL
        return _judge_unix(call, borrowed, address.path, address.raw)
    if not borrowed.is_inet:
        return 0  # netlink
    given = address.raw
    if address.family == AF_UNSPEC:
        if borrowed.type == socket.SOCK_STREAM or len(address.raw) < 16 or not sends:
            return 0
        # udp_connect dissolves too, but sendto reads AF_UNSPEC on an AF_INET socket as AF_INET (net/ipv4/udp.c)
        address = parse_address(struct.pack("=H", socket.AF_INET) + address.raw[2:]) or address
        if is_wildcard(address.host) and address.port == 0:
            return 0
    if address.family not in (socket.AF_INET, socket.AF_INET6):
        return errno.EAFNOSUPPORT
    address = _where_it_leads(borrowed, address)
    proto = borrowed.proto
    port = address.port
    loopback = is_loopback(address.host)
    inside = (
        loopback
        and port in RESOLVER_PORTS
        and call.services.inside.has_name_server(address.host, port, proto, borrowed.socket)
    )
    enforcing = call.enforcing()
    ours = loopback and call.services.names.serves(borrowed, address.host, port)
    if (port == 53 or ours) and not inside and enforcing and borrowed.type in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        # Somebody's resolver. Its socket is connected to ours, which answers for every name server.
        listed = not loopback and call.allowed(Connect(address.host, port, proto))
        redirect = None if listed else call.services.names.address(borrowed.domain, borrowed.type)
        if redirect is not None:
            process, tid = call.process, call.tid
            return Elsewhere(redirect, lambda asker: call.services.names.expect(asker, process, address, tid))
    name = None if loopback else call.services.names.name_of(address.host)
    request = Connect(name or address.host, port, proto, inside)
    if not loopback and port == 0 and proto == "udp" and not call.allowed(request):
        # libc sorts addresses by connecting a UDP socket to port 0 (RFC 6724): sends nothing, tells nobody.
        return call.refuse(request, errno.EACCES, quietly=errno.ENETUNREACH)
    if name is not None:
        return _judge_name(call, borrowed, address, name, sends=sends)
    if loopback and call.services.tunnels.is_filter(address.host, port):
        return _judge_filter(call, address, Connect(address.host, port, proto, way="filter"))
    if loopback and call.services.ties.points_elsewhere(borrowed.fd):
        refused = call.ask(SocketOption("interface"), errno.EPERM)
        if refused:
            return refused
    if loopback and port not in RESOLVER_PORTS and _loopback_is_open(call):
        return given[:2] + address.raw[2:]
    if not (loopback and _is_inside(call, borrowed, address.host, port)) and not call.allowed(request):
        if not sends and _sends_later(call, borrowed, request):
            return Unsent(request, address)
        refused = call.refuse(request, errno.EACCES)
        if refused:
            return refused
    return given[:2] + address.raw[2:]  # with the family as it came: AF_UNSPEC dissolves


def _loopback_is_open(call: Call) -> bool:
    """Whether every policy in force surely lets this process reach any port of loopback: what most do."""
    return all(judge.loopback_is_open for _, judge in call.process.account().judges)


def _sends_later(call: Call, borrowed: Borrowed, request: Connect) -> bool:
    """Whether a connect that is to be refused sends nothing by itself."""
    datagrams = borrowed.type == socket.SOCK_DGRAM and borrowed.proto == "udp"
    return datagrams and judging.would_refuse(call.process.account(), request)


def _is_inside(call: Call, borrowed: Borrowed, host: str, port: int) -> bool:
    """Whether whoever answers at this loopback address is one of ours. Asked only where not all of loopback is open: it
    costs a question to the kernel."""
    return port not in RESOLVER_PORTS and call.services.inside.has_port(host, port, borrowed.proto, borrowed.socket)


def _judge_name(
    call: Call,
    borrowed: Borrowed,
    address: Address,
    name: str,
    *,
    sends: bool,
) -> Verdict:
    """A connection to a synthetic address: the program's socket is led to the filter."""
    port = address.port
    if borrowed.type != socket.SOCK_STREAM:
        # Nothing but TCP is carried. QUIC is tried beside it or falls back to it: no violation where TCP would be none.
        request = Connect(name, port, borrowed.proto)
        if call.allowed(Connect(name, port)):
            return call.refuse(request, errno.EACCES, quietly=errno.ECONNREFUSED)
        if not sends and _sends_later(call, borrowed, request):
            return Unsent(request, address)
        return call.refuse(request, errno.EACCES)
    if not call.waits():
        return errno.EACCES
    route = call.services.route(call.process, call.tid, name, port)
    if route.refusal is not None:
        return errno.EHOSTUNREACH if route.absent else errno.EACCES
    tunnel = Tunnel(call.process, call.tid, name, port, route.to, judging.upstream_proxy(call.process.account()))
    tunnels = call.services.tunnels
    return Elsewhere(tunnels.raw_address(borrowed.domain), lambda opener: tunnels.announce(opener, tunnel))


def _judge_filter(call: Call, address: Address, request: Connect) -> Verdict:
    """The filter by its own address: for programs that were told of a proxy (`proxy_env`), and for no others."""
    if not call.allowed(request):
        return call.refuse(request, errno.EACCES)
    tunnel = Tunnel(call.process, call.tid, "", 0, None, judging.upstream_proxy(call.process.account()))
    return Elsewhere(address.raw, lambda opener: call.services.tunnels.announce(opener, tunnel))


def _judge_unix(call: Call, borrowed: Borrowed, path: bytes, raw: bytes) -> Verdict:
    nameless = borrowed.type == socket.SOCK_DGRAM and not borrowed.socket.getsockname()
    if nameless or borrowed.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED):
        # The kernel gives it an abstract name (unix_autobind): now, or when it sends, as soon as the program asks to be
        # told who sends (SO_PASSCRED, SO_PASSPIDFD), which it may do later.
        call.services.unix.add(borrowed.fd)
    if path[:1] == b"\0":
        inside = call.services.unix.has_abstract(borrowed.socket, path, borrowed.type, call.tid)
        if inside is None:
            return errno.ECONNREFUSED  # nobody has that name: the kernel's own answer
        request = UnixConnect(os.fsdecode(path), inside)
        if call.allowed(request):
            # Outside, Landlock's scope would refuse the program what the policy allows it.
            return Anywhere(raw) if inside and any_unix(call) else 0
        return call.refuse(request, errno.EACCES)
    located = call.locate(AT_FDCWD, path, follow=True)
    if located.errno:
        return errno.ENOENT if located.errno == ASK_KERNEL else located.errno
    if located.handle < 0:
        return errno.ENOENT
    status = os.fstat(located.handle)
    if not stat.S_ISSOCK(status.st_mode):
        return errno.ECONNREFUSED if credentials.of(call.tid).may_write(status) else errno.EACCES
    inside = call.services.unix.has_file(located.handle, status, located.path)
    if inside is None:
        return errno.ECONNREFUSED  # made in here and closed: the kernel's own answer
    request = UnixConnect(located.path, inside)
    if not call.allowed(request):
        refused = call.refuse(request, errno.EACCES, quietly=errno.ECONNREFUSED)
        if refused:
            return refused
    # Through the descriptor that was judged: no name leads elsewhere by now.
    target = struct.pack("=H", socket.AF_UNIX) + b"/proc/self/fd/%d\0" % located.handle
    return Anywhere(target) if any_unix(call) else target


def any_unix(call: Call) -> bool:
    """Whether all UNIX sockets are allowed: then the program connects and sends itself, and its peer sees its pid
    (SO_PEERCRED, SO_PASSCRED) and not the broker's.

    Not where Internet sockets are not tied to this machine: by then the descriptor could be one of those.
    """
    return all(
        binding.worker.scope.mode == "audit"
        or (binding.rules().network.allow_all_unix_sockets and not judge.lists_addresses)
        for binding, judge in call.process.account().judges
    )


def _other_ids(tid: int, borrowed: Borrowed) -> Credentials | None:
    """The caller's ids where they are others than ours and count: a server on a UNIX socket sees whose client it has,
    and the socket's file has permissions."""
    if borrowed.domain != socket.AF_UNIX or os.geteuid() != 0:
        return None
    who = credentials.of(tid)
    return who if who.uid else None


def _connect_as(who: Credentials | None, fd: int, target: bytes) -> int:
    """The error number of connect(2), made with these ids."""
    if who is None:
        return _errno_of(_connect(fd, target, len(target)))
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups(who.groups)
    os.setresgid(-1, who.gid, -1)
    os.setresuid(-1, who.uid, -1)
    try:
        return _errno_of(_connect(fd, target, len(target)))
    finally:
        os.setresuid(-1, 0, -1)
        os.setresgid(-1, gid, -1)
        os.setgroups(groups)


def perform_connect(borrowed: Borrowed, target: bytes, who: Credentials | None = None) -> Reply:
    """connect(2) on the borrowed socket without ever blocking the loop.

    A blocking socket is made non-blocking for the microseconds of the call. EINPROGRESS (TCP) and EAGAIN (a full
    UNIX backlog) are waited for in the loop.
    """
    fd = borrowed.fd
    blocking = os.get_blocking(fd)
    if borrowed.type == socket.SOCK_DGRAM:
        return _connect_as(who, fd, target) or Value(0)
    failed = _connect_at_once(who, fd, target)
    if not blocking or failed not in _UNFINISHED:
        return failed or Value(0)
    deadline = send_deadline(borrowed)

    def poll() -> int | Value | None:
        # Asked by a further connect(2), which takes note of the end in the socket itself: SO_ERROR would leave a
        # connected socket in a state in which the next connect(2) succeeds once more, where it must say EISCONN.
        again = _connect_at_once(who, fd, target)
        if again not in _UNFINISHED:
            return Value(0) if again in (0, errno.EISCONN) else again
        if time.monotonic() >= deadline:
            return errno.EAGAIN if failed == errno.EAGAIN else errno.EINPROGRESS
        return None

    return Wait(fd, poll, borrowed.close, deadline)


def _connect_at_once(who: Credentials | None, fd: int, target: bytes) -> int:
    """The error number of a connect(2) that does not wait, on a socket that may be blocking.

    O_NONBLOCK belongs to the open file, which the program shares: it can take the flag away at the wrong moment. So a
    timer ends the call all the same.
    """
    blocking = os.get_blocking(fd)
    if blocking:
        os.set_blocking(fd, False)
    try:
        with _interruption():
            failed = _connect_as(who, fd, target)
    finally:
        if blocking:
            os.set_blocking(fd, True)
    return errno.EINPROGRESS if failed == errno.EINTR else failed


@functools.cache
def _interruption() -> timers.Interruption:
    return timers.Interruption(_CONNECT_S)


_CONNECT_S = 0.005
"""Longer than any connect(2) to loopback takes, which does all of the handshake at once."""
_UNFINISHED = (errno.EINPROGRESS, errno.EAGAIN, errno.EALREADY)


def send_deadline(borrowed: Borrowed) -> float:
    """When SO_SNDTIMEO is over."""
    seconds, micros = struct.unpack("@qq", borrowed.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))
    limit = seconds + micros / 1e6
    return time.monotonic() + limit if limit else float("inf")


# ---------------------------------------------------------------- bind, listen


@on_socket
def bind(call: Call, borrowed: Borrowed) -> Reply:
    address = _address(call.tid, call.args[1], call.args[2])
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
            return call.refuse(request, errno.EACCES)
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
        failed = _errno_of(_bind(borrowed.fd, address.raw, len(address.raw)))
    if failed:
        return failed
    if quiet is None:
        call.services.inside.forget_quiet_bind(os.fstat(borrowed.fd).st_ino)
        _remember_port(call, borrowed)
    else:
        call.services.inside.note_quiet_bind(os.fstat(borrowed.fd).st_ino, quiet)
    return Value(0)


def _may_share(borrowed: Borrowed) -> bool:
    """Whether it can be bound where another socket is (socket(7); of UDP sockets SO_REUSEADDR is enough)."""
    options = (socket.SO_REUSEPORT, socket.SO_REUSEADDR)[: 1 + (borrowed.type == socket.SOCK_DGRAM)]
    return any(borrowed.socket.getsockopt(socket.SOL_SOCKET, option) for option in options)


def remember_own_end(call: Call, borrowed: Borrowed) -> None:
    """The port that the kernel has chosen for a datagram socket, as it has sent or may: answers come to that."""
    if borrowed.type == socket.SOCK_DGRAM and borrowed.is_inet and not _reaches_loopback(call):
        _remember_port(call, borrowed)


def _reaches_loopback(call: Call) -> bool:
    return all(judge.loopback_is_free for _, judge in call.process.account().judges)


def _remember_port(call: Call, borrowed: Borrowed) -> None:
    call.services.inside.add_port(borrowed.socket, borrowed.proto)


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
            if not _errno_of(_bind(borrowed.fd, numbered, len(numbered))):
                return Value(0)
        return _errno_of(_bind(borrowed.fd, given, len(given))) or Value(0)


def _bind_unix(call: Call, fd: int, address: Address) -> Reply:
    path = ""
    if address.path and address.path[:1] != b"\0":
        located = call.locate(AT_FDCWD, address.path, follow=False)
        if located.errno:
            return CONTINUE if located.errno == ASK_KERNEL else located.errno
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
    return _errno_of(_bind(fd, address.raw, len(address.raw))) or Value(0)


def _bind_below(fd: int, located: Located) -> int:
    """bind(2) takes no descriptor of a directory, so the name is bound from inside of it: the error number."""
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.fchdir(located.directory)
        target = struct.pack("=H", socket.AF_UNIX) + located.name + b"\0"
        return _errno_of(_bind(fd, target, len(target)))
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
    failed = _errno_of(_listen(borrowed.fd, signed(call.args[1])))
    if not failed and (unbound or asked is not None):
        _remember_port(call, borrowed)
    return failed or Value(0)


def _listens(borrowed: Borrowed) -> bool:
    return bool(borrowed.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
