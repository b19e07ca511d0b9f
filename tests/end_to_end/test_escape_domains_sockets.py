"""Ways around the names by what a socket can be told: reconnected, swapped, bound elsewhere, taken for another's."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.recorder import Recorder, agent, recording

TOLD = """
import contextlib, ctypes, errno, os, socket, struct, sys, threading
import pytest
from told import AGENT, ALLOWED, OTHER

libc = ctypes.CDLL(None, use_errno=True)

def raw(host, port, family=socket.AF_INET):
    return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)

def hear(s, name="allowed.test"):
    s.settimeout(10)
    s.sendall(f"GET / HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\n".encode())
    return s.recv(999).endswith(b"heard")

def allowed(port=80):
    return socket.getaddrinfo("allowed.test", port, type=socket.SOCK_STREAM)[0][4]
"""


@pytest.fixture
def other() -> Iterator[Recorder]:
    """A service of this machine that no rule speaks of."""
    with recording() as recorder:
        yield recorder


@pytest.fixture
def told(fenced: Fenced) -> Iterator[Recorder]:
    """The service that `allowed.test` is pinned to."""
    with recording() as recorder:
        yield recorder


def policy(told: Recorder, *ports: int, more: str = "") -> str:
    return f"""
[tool.fence.network]
allow_local_outbound = false
allow_local_outbound_ports = {list(ports)}
hosts = {{"allowed.test" = "127.0.0.1:{told.port}"}}
{more}
"""


def write_told(fenced: Fenced, told: Recorder, other: Recorder, port: int = 0) -> None:
    fenced.write("told.py", f"ALLOWED, OTHER, AGENT = {told.port}, {other.port}, {port}\n")


@pytest.mark.needs("kernel:pidfd_getfd")  # without it, a TCP connection is not taken apart
def test_reconnect(fenced: Fenced, told: Recorder, other: Recorder) -> None:
    """A tunnel's socket is judged anew each time it is connected."""
    write_told(fenced, told, other)
    run = fenced.run(
        TOLD
        + """
def test_unspec():
    with socket.socket() as s:
        s.connect(allowed())
        assert hear(s)
        assert libc.connect(s.fileno(), bytes(16), 16) == 0
        with pytest.raises(PermissionError):
            s.connect(("127.0.0.1", OTHER))

def test_unspec_and_back():
    with socket.socket() as s:
        s.connect(allowed())
        for _ in range(3):
            assert hear(s)
            assert libc.connect(s.fileno(), bytes(16), 16) == 0
            s.connect(allowed())
        assert hear(s)
""",
        policy=policy(told),
    )
    run.clean("test_unspec_and_back")
    run.refused("test_unspec", f"connect 127.0.0.1:{other.port}/tcp")
    assert other.heard == b""


def test_swapped(fenced: Fenced, told: Recorder, other: Recorder) -> None:
    """What a thread swaps during the call, the socket or the address, is not what is connected, or is judged, too."""
    write_told(fenced, told, other)
    run = fenced.run(
        TOLD
        + """
def test_control():
    with socket.create_connection(allowed()) as s:
        assert hear(s)

def test_swapped_socket():
    # One thread connects number n, another makes n alternate between two sockets. Neither may reach what it must not.
    over = threading.Event()
    spare = [socket.socket() for _ in range(2)]
    target = socket.socket()
    connected = []
    n = target.fileno()
    def swap():
        while not over.is_set():
            for one in spare:
                os.dup2(one.fileno(), n)
    thread = threading.Thread(target=swap)
    sys.setswitchinterval(1e-5)
    thread.start()
    good, bad = raw(allowed()[0], 80), raw("127.0.0.1", OTHER)
    seen = set()
    for _ in range(150):
        seen.add(libc.connect(n, bad, 16))
        libc.connect(n, good, 16)
        for number, one in enumerate(spare):
            with contextlib.suppress(OSError):
                one.getpeername()
                connected.append(one)
                spare[number] = socket.socket()
    over.set()
    thread.join()
    assert seen == {-1}
    assert connected
    for one in [*spare, *connected, target]:
        one.close()

def test_swapped_address():
    over = threading.Event()
    good, bad = raw(allowed()[0], 80), raw("127.0.0.1", OTHER)
    shared = ctypes.create_string_buffer(good, 16)
    def change():
        while not over.is_set():
            shared[2:8] = bad[2:8]
            shared[2:8] = good[2:8]
    thread = threading.Thread(target=change)
    sys.setswitchinterval(1e-5)
    thread.start()
    refused = tries = 0
    while tries < 300 or (not refused and tries < 30_000):  # until the thread was quick enough once
        tries += 1
        with socket.socket() as s:
            refused += libc.connect(s.fileno(), shared, 16) < 0
    over.set()
    thread.join()
""",
        policy=policy(told),
    )
    run.clean("test_control")
    what = f"connect 127.0.0.1:{other.port}/tcp"
    run.refused("test_swapped_socket", what, count=None)
    found = {v.what for v in run.attempts("test_swapped_address")}
    assert what in found, run
    assert other.heard == b""
    assert b"GET / " in told.heard


def test_many_messages_changed_by_a_thread(fenced: Fenced, told: Recorder, other: Recorder) -> None:
    """The destination of one of many datagrams appears after the call was judged: nothing goes there."""
    write_told(fenced, told, other)
    run = fenced.run(
        TOLD
        + """
class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("size", ctypes.c_size_t)]

class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("name_size", ctypes.c_uint), ("iov", ctypes.POINTER(Iovec)),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_size", ctypes.c_size_t),
                ("flags", ctypes.c_long), ("sent", ctypes.c_uint), ("padding", ctypes.c_uint)]

def vector_of(text):
    vector = (Message * 2)()
    data = Iovec(text, len(text))
    for message in vector:
        message.iov, message.count = ctypes.pointer(data), 1
    vector.keep = data
    return vector

def test_race():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own, \\
         socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        own.bind(("127.0.0.1", 0))
        client.connect(own.getsockname())
        vector = vector_of(b"secret")
        name = ctypes.create_string_buffer(raw("127.0.0.1", OTHER), 16)
        over = threading.Event()
        def change():
            while not over.is_set():
                vector[1].name = ctypes.addressof(name) and name.raw
                vector[1].name_size = 16
                vector[1].name_size = 0
        vector[1].name = name.raw
        thread = threading.Thread(target=change)
        sys.setswitchinterval(1e-6)
        thread.start()
        for _ in range(3000):
            libc.sendmmsg(client.fileno(), vector, 2, socket.MSG_DONTWAIT)
        over.set()
        thread.join()

def test_control():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own, \\
         socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        own.bind(("127.0.0.1", 0))
        client.connect(own.getsockname())
        assert libc.sendmmsg(client.fileno(), vector_of(b"hello"), 2, 0) == 2
        assert own.recv(9) + own.recv(9) == b"hellohello"
""",
        policy=policy(told),
    )
    assert {v.what for v in run.attempts("test_race")} <= {f"connect 127.0.0.1:{other.port}/udp"}, run
    run.clean("test_control")
    assert other.heard == b""


def test_nowhere_is_somewhere(fenced: Fenced, told: Recorder) -> None:
    """`0.0.0.0` leads to wherever a socket is bound, and `::` to 127.0.0.1 from a socket bound to IPv4."""
    with recording("127.0.0.9") as other, recording() as third:
        write_told(fenced, told, other)
        fenced.write("third.py", f"THIRD = {third.port}\n")
        run = fenced.run(
            TOLD
            + """
from third import THIRD

@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("bound", ["127.0.0.9", "::ffff:127.0.0.9"])
def test_bound_elsewhere(kind, bound):
    # Ours at 127.0.0.1 has the port of the machine's at 127.0.0.9.
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.socket(socket.AF_INET, kind) as own, socket.socket(family, kind) as client:
        own.bind(("127.0.0.1", OTHER))
        if kind == socket.SOCK_STREAM:
            own.listen()
        client.bind((bound, 0))
        client.settimeout(5)
        try:
            client.connect(("::ffff:0.0.0.0" if ":" in bound else "0.0.0.0", OTHER))
            client.send(b"secret")
        except OSError:
            pass

@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_bound_to_ipv4(kind):
    with socket.socket(socket.AF_INET6, kind) as own, socket.socket(socket.AF_INET6, kind) as client:
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        own.bind(("::1", THIRD))
        if kind == socket.SOCK_STREAM:
            own.listen()
        client.bind(("::ffff:127.0.0.1", 0))
        client.settimeout(5)
        try:
            client.connect(("::", THIRD))
            client.send(b"secret")
        except OSError:
            pass

def test_control():
    for bound, to in ("127.0.0.1", "0.0.0.0"), ("127.0.0.1", "::ffff:0.0.0.0"):
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        with socket.create_server((bound, 0)) as own, socket.socket(family) as client:
            client.connect((to, own.getsockname()[1]))
            client.send(b"inside")
            assert own.accept()[0].recv(9) == b"inside"
""",
            policy=policy(told),
        )
        run.clean("test_control")
        assert other.heard == third.heard == b"", run


def test_denied_by_another_name(fenced: Fenced, told: Recorder, other: Recorder) -> None:
    """What is denied at 127.0.0.1 is denied at 0.0.0.0."""
    write_told(fenced, told, other)
    run = fenced.run(
        TOLD
        + """
def test_denied():
    for host in "127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:0.0.0.0":
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s, pytest.raises(PermissionError):
            s.connect((host, OTHER))

def test_control():
    for host in "127.0.0.1", "0.0.0.0":
        socket.create_connection((host, ALLOWED), 5).close()
""",
        policy=f'[tool.fence.network]\nallow_local_outbound = true\ndenied_domains = ["127.0.0.1:{other.port}"]\n',
    )
    run.clean("test_control")
    assert run.report("test_denied")["outcome"] == "failed", run
    assert other.heard == b"", run


def test_datagrams_to_names(fenced: Fenced, told: Recorder, other: Recorder) -> None:
    """QUIC falls back: by UDP a name is refused at once, quietly where TCP would be allowed."""
    write_told(fenced, told, other)
    run = fenced.run(
        TOLD
        + """
def test_quic():
    host = allowed()[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        with pytest.raises(ConnectionRefusedError):
            s.sendto(b"secret", (host, 443))
        with pytest.raises(ConnectionRefusedError):
            s.sendmsg([b"secret"], [], 0, (host, 443))
        with pytest.raises(ConnectionRefusedError):
            s.connect((host, 443))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s, pytest.raises(ConnectionRefusedError):
        s.sendto(b"secret", (f"::ffff:{host}", 443))

def test_then_tcp():
    with socket.socket(socket.AF_INET6) as s:
        s.connect((f"::ffff:{allowed()[0]}", 443))
        assert hear(s, "allowed.test:443")

@pytest.mark.fence(denied_domains=["allowed.test"])
def test_not_allowed(request):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
        s.sendto(b"secret", ("198.18.0.1", 443))
""",
        policy=policy(told),
    )
    run.clean("test_quic", "test_then_tcp")
    run.refused("test_not_allowed", "connect allowed.test:443/udp")
    assert b"secret" not in told.heard


def test_taken_for_another(fenced: Fenced, told: Recorder, other: Recorder) -> None:
    """The filter knows a program by the address of its socket: nobody gets what was meant for another, neither inside
    the fence nor outside."""

    def outside(words: list[str]) -> str:
        source, source_port, port = words[0], int(words[1]), int(words[2])
        with socket.socket() as stranger:
            stranger.settimeout(10)
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                stranger.bind((source, source_port))
                stranger.connect(("127.0.0.1", port))
                stranger.sendall(b"GET /stranger HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
                return repr(stranger.recv(999))
            except OSError as error:
                return f"{type(error).__name__} {error}".replace("\n", " ")

    with agent(outside) as port:
        write_told(fenced, told, other, port)
        run = fenced.run(
            TOLD
            + """
# Open all the time: made later, it could get the very port that is to be free then.
LINE = socket.create_connection(("127.0.0.1", AGENT), 10).makefile("rw")

def ask(*words):
    LINE.write(" ".join(map(str, words)) + "\\n")
    LINE.flush()
    return LINE.readline().strip()

LINGER = struct.pack("ii", 1, 0)

def tunnel(host="127.0.0.1", port=0):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)  # its port is free again at once
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port))
    s.connect(allowed())
    return s

def test_other_loopback_address():
    with tunnel("127.0.0.5") as s:
        assert hear(s)
        own = s.getsockname()[1]
        with tunnel("127.0.0.1", own) as second:
            assert hear(second)
            assert hear(s)

def test_stranger():
    with tunnel() as s:
        filter, own = s.getpeername()[1], s.getsockname()[1]
        assert ask("127.0.0.6", own, filter) .startswith(("ConnectionResetError", "b''"))
        assert hear(s)
    assert ask("127.0.0.1", own, filter) .startswith(("ConnectionResetError", "b''"))

def test_stranger_after_a_second_connect():
    # An event loop asks by a second connect whether the first has succeeded.
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", 0))  # a port that connect has chosen may not be shared with whoever else has it
        where = allowed()
        s.setblocking(False)
        assert s.connect_ex(where) in (0, errno.EINPROGRESS)
        assert hear(s)
        s.setblocking(False)
        assert s.connect_ex(where) in (0, errno.EISCONN)
        assert s.connect_ex(where) == errno.EISCONN
        filter, own = s.getpeername()[1], s.getsockname()[1]
        assert hear(s)
    assert ask("127.0.0.1", own, filter) .startswith(("ConnectionResetError", "b''"))

@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:0.0.0.0"])
def test_filter_by_its_own_address(host):
    with tunnel() as s:
        filter = s.getpeername()[1]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s, pytest.raises(PermissionError):
        s.connect((host, filter))

def test_filter_from_ipv4_by_the_nothing_of_ipv6():
    with tunnel() as s:
        filter = s.getpeername()[1]
    with socket.socket(socket.AF_INET6) as s, pytest.raises(PermissionError):
        s.bind(("::ffff:127.0.0.1", 0))
        s.connect(("::", filter))
""",
            policy=policy(told, port).replace("allow_local_outbound = false", "allow_local_outbound = true"),
        )
    run.clean("test_other_loopback_address", "test_stranger", "test_stranger_after_a_second_connect")
    assert b"/stranger" not in told.heard, run
    for host in ("127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:0.0.0.0"):
        attempts = run.attempts(f"test_filter_by_its_own_address[{host}]")
        assert [v.what.partition(":")[0] for v in attempts] == ["connect 127.0.0.1"], run
    assert run.report("test_filter_from_ipv4_by_the_nothing_of_ipv6")["outcome"] == "failed", run
    assert len(run.attempts("test_filter_from_ipv4_by_the_nothing_of_ipv6")) == 1, run


def test_more_than_was_asked_for(fenced: Fenced, told: Recorder, other: Recorder) -> None:
    """recvfrom is made by the broker for those who asked a name server: with MSG_TRUNC it says how long the message
    is, and still writes no more than there is room for."""
    write_told(fenced, told, other)
    run = fenced.run(
        TOLD
        + """
def query(name):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!6H", 77, 256, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)

@pytest.mark.parametrize("flags", [0, int(socket.MSG_TRUNC)])
def test_short(flags):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(query("allowed.test"), ("192.0.2.1", 53))
        memory = ctypes.create_string_buffer(b"-" * 200, 200)
        address, size = ctypes.create_string_buffer(16), ctypes.c_int(16)
        got = libc.recvfrom(s.fileno(), memory, 12, flags, address, ctypes.byref(size))
        assert memory.raw[12:] == b"-" * 188
        assert memory.raw[:2] == b"\\0M"
        assert got > 40 if flags else got == 12
        assert address.raw[4:8] == bytes([192, 0, 2, 1])
""",
        policy=policy(told),
    )
    run.clean("test_short[0]", f"test_short[{int(socket.MSG_TRUNC)}]")
