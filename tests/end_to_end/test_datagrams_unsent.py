"""Connecting a datagram socket sends nothing and is nobody's fault. The first datagram is, whichever call sends it."""

from __future__ import annotations

import pytest

from tests.end_to_end import wire as wires
from tests.end_to_end.caught import AWAY, AWAY6, Fenced
from tests.end_to_end.loopback import has_ipv6
from tests.end_to_end.recorder import recording
from tests.end_to_end.wire import THERE, THERE6, Wire

wire = wires.wire

COMMON = """
import array, errno, os, socket, subprocess, sys, tempfile, threading, time
import pytest
from here import AWAY, AWAY6

def connected(host=AWAY, port=4444):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.connect((host, port))
    return s
"""

INNOCENTS = (
    COMMON
    + """
def test_probe_by_ipv6():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    assert s.connect_ex(("2001:4860:4860::8888", 443)) in (0, errno.ENETUNREACH)
    s.close()

def test_what_is_my_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("8.8.8.8", 80))
        mine = s.getsockname()[0]
    with socket.create_server((mine, 0)) as server:          # it is an address of this machine
        socket.create_connection(server.getsockname(), 10).close()

def test_many_on_one_socket():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for port in range(1, 50):
            s.connect((AWAY, port))

def test_then_somewhere_allowed():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, connected() as s:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        s.connect(server.getsockname())
        s.send(b"ping")
        data, sender = server.recvfrom(9)
        server.sendto(b"pong", sender)
        assert data == b"ping" and s.recv(9) == b"pong"

def test_dissolved():
    with connected() as s:
        libc = __import__("ctypes").CDLL(None, use_errno=True)
        assert libc.connect(s.fileno(), bytes(16), 16) == 0
        with pytest.raises(OSError) as caught:
            s.send(b"secret")
        assert caught.value.errno == errno.EDESTADDRREQ

def test_program():
    code = "import socket; s = socket.socket(2, 2); s.connect(('%s', 53000)); print(s.getsockname()[0])" % AWAY
    assert subprocess.run([sys.executable, "-c", code], stdout=-1).stdout.strip()

def test_answer_to_a_socket_that_was_never_bound():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, \\
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", 0))
        for s in server, client:
            s.settimeout(10)
        client.sendto(b"ping", server.getsockname())
        server.sendto(b"pong", server.recvfrom(9)[1])
        assert client.recv(9) == b"pong"

def test_sorted():
    both = socket.getaddrinfo("localhost", PORT, proto=socket.IPPROTO_TCP)   # libc connects to each that it has found
    assert both

def test_kernels_own_words():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        assert s.connect_ex(("255.255.255.255", 9)) == errno.EACCES
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        assert s.connect_ex(("fe80::1", 9)) == errno.EINVAL
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        assert s.connect_ex(("::ffff:198.51.100.7", 9)) == errno.ENETUNREACH
"""
)


@pytest.mark.parametrize("policy", ["", "allow_local_outbound = false\n", 'allowed_domains = ["203.0.113.9:81"]\n'])
def test_nothing_sent(fenced: Fenced, policy: str) -> None:
    text = INNOCENTS.replace("PORT, proto", f"{fenced.loopback.hello}, proto")
    run = fenced.run(text, policy="[tool.fence.network]\n" + policy)
    assert run.ledger == [], run
    assert run.status == 0, run


WAYS = (
    COMMON
    + """
def last(s):
    "What the next call on the socket says: nobody waits in vain for an answer."
    with pytest.raises(ConnectionRefusedError):
        s.recv(9)

def test_send():
    with connected() as s:
        s.send(b"secret")
        last(s)

def test_send_at_the_end():
    connected().send(b"secret")

def test_write():
    with connected() as s:
        os.write(s.fileno(), b"secret")
        last(s)

def test_writev():
    with connected() as s:
        os.writev(s.fileno(), [b"sec", b"ret"])
        last(s)

def test_sendfile():
    with connected() as s, tempfile.TemporaryFile() as f:
        f.write(b"secret")
        f.flush()
        os.sendfile(s.fileno(), f.fileno(), 0, 6)
        last(s)

def test_splice():
    read, write = os.pipe()
    os.write(write, b"secret")
    with connected() as s:
        splice = __import__("ctypes").CDLL(None).splice
        assert splice(read, None, s.fileno(), None, 6, 0) == 6
        last(s)

def test_duplicate():
    s = connected()
    other = s.dup()
    s.close()
    other.send(b"secret")

def test_program_with_the_socket():
    with connected() as s:
        subprocess.run(["sh", "-c", "printf secret >&0"], stdin=s.fileno())

def test_fork():
    with connected() as s:
        if os.fork() == 0:
            s.send(b"secret")
            os._exit(0)
        os.wait()

def test_handed_over():
    ours, theirs = socket.socketpair()
    code = "import array, socket, sys; s = socket.socket(fileno=0); " \\
           "_, fds, _, _ = socket.recv_fds(s, 9, 1); socket.socket(fileno=fds[0]).send(b'secret')"
    with subprocess.Popen([sys.executable, "-c", code], stdin=theirs.fileno()) as other:
        with connected() as s:
            socket.send_fds(ours, [b"x"], [s.fileno()])
        assert other.wait(20) == 0

def test_sendmsg():
    with connected() as s, pytest.raises(PermissionError):
        s.sendmsg([b"secret"])

def test_sendmmsg():
    import ctypes
    class Vec(ctypes.Structure): _fields_ = [("base", ctypes.c_char_p), ("len", ctypes.c_size_t)]
    class Msg(ctypes.Structure):
        _fields_ = [("name", ctypes.c_void_p), ("namelen", ctypes.c_int), ("iov", ctypes.POINTER(Vec)),
                    ("iovlen", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
                    ("flags", ctypes.c_int), ("len", ctypes.c_uint)]
    libc = ctypes.CDLL(None, use_errno=True)
    with connected() as s:
        vec = Vec(b"secret", 6)
        assert libc.sendmmsg(s.fileno(), ctypes.byref(Msg(iov=ctypes.pointer(vec), iovlen=1)), 1, 0) == -1
        assert ctypes.get_errno() == errno.EACCES

def test_sendto():
    with connected() as s, pytest.raises(PermissionError):
        s.sendto(b"secret", (AWAY, 4444))

def test_shell():
    subprocess.run(["bash", "-c", f"echo secret > /dev/udp/{AWAY}/4444"])

def test_static_program():
    code = "import socket; s = socket.socket(2, 2); s.connect(('%s', 4444)); s.send(b'secret')" % AWAY
    subprocess.run([sys.executable, "-S", "-c", code], check=True)

def test_innocent_between():
    pass
"""
)
BY = {
    "test_program_with_the_socket": None,
    "test_fork": None,
    "test_shell": "bash",
    "test_static_program": "python3",
}


@pytest.mark.parametrize("policy", ["", 'allowed_domains = ["203.0.113.9:81"]\n'], ids=["tied", "untied"])
def test_sent(fenced: Fenced, policy: str) -> None:
    run = fenced.run(WAYS, policy="[tool.fence.network]\n" + policy)
    tests = [line.split("(")[0][4:] for line in WAYS.splitlines() if line.startswith("def test_")]
    for test in tests[:-1]:
        (attempt,) = run.attempts(test)
        assert attempt.what == f"connect {AWAY}:4444/udp", run
        assert run.report(test)["outcome"] == "failed", run
        if test in ("test_send", "test_send_at_the_end", "test_writev", "test_duplicate"):
            assert run.line_of(attempt) == "s.connect((host, port))", run
    run.clean("test_innocent_between")


@pytest.mark.skipif(not has_ipv6(), reason="kernel: no IPv6 on loopback")
def test_sent_by_ipv6(fenced: Fenced) -> None:
    run = fenced.run(
        COMMON
        + """
def test_six():
    with connected(AWAY6) as s:
        s.send(b"secret")
        with pytest.raises(ConnectionRefusedError):
            s.recv(9)

def test_mapped():
    with connected("::ffff:" + AWAY) as s:
        s.send(b"secret")
        with pytest.raises(ConnectionRefusedError):
            s.recv(9)
"""
    )
    run.refused("test_six", f"connect [{AWAY6}]:4444/udp", line="s.connect((host, port))")
    run.refused("test_mapped", f"connect {AWAY}:4444/udp", line="s.connect((host, port))")


def test_on_loopback(fenced: Fenced) -> None:
    """A service of this machine is no closer, and hears nothing; the same from a test that may reach it is heard."""
    with recording() as service:
        port = service.udp.getsockname()[1]
        run = fenced.run(
            COMMON
            + f"""
def test_refused():
    with connected("127.0.0.1", {port}) as s:
        s.send(b"secret")

def test_resolver_of_this_machine():
    with connected("127.0.0.1", 853) as s:
        s.send(b"secret")

@pytest.mark.fence(allow_local_outbound_ports=[{port}])
def test_allowed():
    with connected("127.0.0.1", {port}) as s:
        s.send(b"heard")

@pytest.fixture(scope="module")
def kept():
    with connected("127.0.0.1", {port}) as s:
        yield s

def test_before(kept):
    pass

@pytest.mark.fence(allow_local_outbound_ports=[{port}])
@pytest.mark.parametrize("call", ["send", "sendmsg"])
def test_allowed_by_now(kept, call):
    kept.send(b"late") if call == "send" else kept.sendmsg([b"later"])

def test_name():
    with connected(socket.gethostbyname("ported.example"), 443) as s:
        s.send(b"secret")

def test_name_unsent():
    connected(socket.gethostbyname("ported.example"), 443).close()
""",
            policy='[tool.fence.network]\nallow_local_outbound = false\nallowed_domains = ["ported.example:80"]\n',
        )
        run.refused("test_refused", f"connect 127.0.0.1:{port}/udp", line="s.connect((host, port))")
        run.refused("test_resolver_of_this_machine", "connect 127.0.0.1:853/udp", line="s.connect((host, port))")
        run.refused("test_name", "connect ported.example:443/udp", line="s.connect((host, port))")
        run.clean("test_allowed", "test_before", "test_allowed_by_now[send]", "test_allowed_by_now[sendmsg]")
        run.clean("test_name_unsent")
    assert b"secret" not in service.heard, service.heard
    for word in b"heard", b"late", b"later":
        assert word in service.heard, service.heard


def test_account(fenced: Fenced) -> None:
    """Of a socket that outlives its test the one is to blame that sends; each time, at once, and no test after it."""
    run = fenced.run(
        COMMON
        + """
@pytest.fixture(scope="session")
def client():
    with connected() as s:
        yield s

def test_first(client):
    pass

@pytest.mark.parametrize("number", range(20))
def test_sends(client, number):
    if number in (7, 8, 15):
        client.connect((AWAY, number))
        client.send(b"secret")

def test_last(client):
    pass
"""
    )
    sends = {f"test_sends[{number}]" for number in (7, 8, 15)}
    for number in (7, 8, 15):
        run.refused(f"test_sends[{number}]", f"connect {AWAY}:{number}/udp")
    assert {attempt.nodeid.partition("::")[2] for attempt in run.ledger} == sends, run


@pytest.mark.parametrize("scope", ["session", "test"])
@pytest.mark.parametrize("kept", [True, False])
def test_account_of_another_process(fenced: Fenced, scope: str, kept: bool) -> None:
    """What a process of one test sends while another test runs, by a socket that pytest's process has led there: under
    no marker but its own test's, and on its own test's account."""
    with recording() as service:
        port = service.udp.getsockname()[1]
        run = fenced.run(
            COMMON
            + f"""
GO, LET_GO = os.pipe()
DONE, TELL = os.pipe()
KEPT = []

def test_starts():
    s = connected("127.0.0.1", {port})
    if os.fork() == 0:
        os.setsid()
        os.read(GO, 1)
        for _ in range(2):
            try:
                s.send(b"secret")
            except OSError:
                pass
        os.write(TELL, b"x")
        os._exit(0)
    if {kept}:
        KEPT.append(s)

@pytest.mark.fence(allow_local_outbound_ports=[{port}])
def test_innocent():
    os.write(LET_GO, b"x")
    assert os.read(DONE, 1) == b"x"

def test_last():
    with connected("127.0.0.1", 9):
        pass
""",
            policy=f'[tool.fence]\nscope = "{scope}"\n[tool.fence.network]\nallow_local_outbound = false\n',
        )
    assert {(v.nodeid.partition("::")[2], v.what) for v in run.ledger} == {
        ("test_starts", f"connect 127.0.0.1:{port}/udp")
    }, run
    run.clean("test_innocent", "test_last")
    assert b"secret" not in service.heard, service.heard


def _place(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@wires.needs
@pytest.mark.parametrize(("there", "away"), [(THERE, AWAY), (THERE6, AWAY6)])
def test_then_to_whom_is_allowed(fenced: Fenced, wire: Wire, there: str, away: str) -> None:
    """A socket that was led elsewhere reaches another machine as if it had not been: from its own address."""
    run = fenced.run(
        COMMON
        + f"""
HOST = {there!r}

def test_connects():
    with connected({away!r}) as s:
        s.connect((HOST, 9998))
        assert s.getsockname()[0] != "127.0.0.1" != s.getsockname()[0].removeprefix("::1")
        s.send(b"by connect")

def test_names():
    with connected({away!r}) as s:
        for word in b"by name", b"by name again":
            s.sendto(word, (HOST, 9998))

def test_goes_back():
    with connected({away!r}) as s:
        s.sendto(b"in between", (HOST, 9998))
        s.send(b"secret")
""",
        policy=f'[tool.fence.network]\nallowed_domains = ["{_place(there)}:9998"]\n',
        prefix=wire.prefix,
    )
    run.clean("test_connects", "test_names")
    run.refused("test_goes_back", f"connect {_place(away)}:4444/udp", line="s.connect((host, port))")
    for word in b"by connect", b"by name", b"by name again", b"in between":
        assert wire.saw(word), word
    assert not wire.saw(b"secret")


@pytest.mark.parametrize("mode", ["warn", "audit"])
def test_modes(fenced: Fenced, mode: str) -> None:
    """A warning for what is sent; an audit, under which nothing is led elsewhere, lists what is connected to."""
    run = fenced.run(
        COMMON
        + """
def test_sends():
    with connected("127.0.0.1", 4444) as s:
        try:
            s.send(b"secret")
        except OSError:
            pass
""",
        flags=("--fence", f"--fence-mode={mode}"),
        policy="[tool.fence.network]\nallow_local_outbound = false\n",
    )
    state = {"audit": "listed", "warn": "warned"}[mode]
    assert [(attempt.what, attempt.state) for attempt in run.ledger] == [("connect 127.0.0.1:4444/udp", state)], run
    assert run.status == 0, run
