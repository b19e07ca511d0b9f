"""Ways out by what a socket can be told: a route of one's own, a port borrowed from another address, many messages."""

from __future__ import annotations

import re

import pytest

from tests.end_to_end.caught import Fenced

makes_namespaces = pytest.mark.needs("user:root", "capability:SYS_ADMIN")


@pytest.mark.needs("user:root", "capability:NET_RAW")
def test_source_route(fenced: Fenced) -> None:
    """A datagram for loopback that is to go by another host goes there first."""
    run = fenced.run(
        """
        import socket, struct
        import pytest
        from here import AWAY

        ROUTE = bytes([131, 7, 4]) + socket.inet_aton(AWAY) + b"\\0"
        IP_OPTIONS, IP_RETOPTS, IP_PKTINFO = 4, 7, 8

        @pytest.fixture
        def server():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.settimeout(5)
                server.bind(("127.0.0.1", 0))
                yield server

        @pytest.fixture
        def client():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                yield client

        def refused(call, *args):
            with pytest.raises(PermissionError):
                call(*args)

        def test_with_address(server, client):
            refused(client.sendmsg, [b"x"], [(0, IP_RETOPTS, ROUTE)], 0, server.getsockname())

        def test_connected(server, client):
            client.connect(server.getsockname())
            refused(client.sendmsg, [b"x"], [(0, IP_RETOPTS, ROUTE)])

        def test_option(server, client):
            refused(client.setsockopt, 0, IP_OPTIONS, ROUTE)

        # Type 2, and 4 (segment routing): kernels know one of them, or none, and say EINVAL.
        HEADERS = [bytes([0, 2, 2, 1, 0, 0, 0, 0]) + bytes(16), bytes([0, 2, 4, 0, 0, 0, 0, 0]) + bytes(16)]

        def label(more=b""):
            head = socket.inet_pton(socket.AF_INET6, "::1") + struct.pack("!I", 7)
            return head + struct.pack("=BBHHHI", 0, 1, 1, 6, 6, 0) + more

        @pytest.mark.parametrize("header", HEADERS)
        @pytest.mark.parametrize("way", ["option", "message", "label"])
        def test_routing_header(header, way):
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client, pytest.raises(OSError) as caught:
                if way == "option":
                    client.setsockopt(41, 57, header)
                elif way == "message":
                    client.sendmsg([b"x"], [(41, 57, header)], 0, ("::1", 9))
                else:
                    part = struct.pack("@Nii", 16 + len(header), 41, 57) + header
                    client.setsockopt(41, 32, label(part))  # IPV6_FLOWLABEL_MGR
            assert caught.value.errno in (1, 22)

        def test_label_without_options():
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
                client.setsockopt(41, 32, label())

        def test_other_ancillary_data(server, client):
            client.connect(server.getsockname())
            client.sendmsg([b"by ", b"loopback"], [(0, IP_PKTINFO, struct.pack("=i4s4s", 0, bytes(4), bytes(4)))])
            assert server.recv(100) == b"by loopback"
            client.setsockopt(0, IP_OPTIONS, b"")
            assert client.getsockopt(0, IP_OPTIONS, 40) == b""
        """
    )
    what = "send by a route of one's own (source routing)"
    for test in ("test_with_address", "test_connected", "test_option"):
        run.refused(test, what)
    assert {attempt.what for attempt in run.ledger} == {what}, run
    run.clean("test_other_ancillary_data", "test_label_without_options")


def test_port_of_another_address(fenced: Fenced) -> None:
    """A port bound at one loopback address makes nobody's service at another one ours."""
    run = fenced.run(
        """
        import socket
        import pytest
        from here import PORT

        @pytest.fixture
        def server():
            with socket.socket() as server:
                server.bind(("127.0.0.9", PORT))
                server.listen()
                yield server

        def test_of_the_host(server):
            with pytest.raises(PermissionError):
                socket.create_connection(("127.0.0.1", PORT), timeout=5)

        def test_own(server):
            socket.create_connection(("127.0.0.9", PORT), timeout=5).close()

        @pytest.mark.parametrize("bound, reached", [
            ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.1.2.3"), ("::", "127.0.0.1"),
            ("::", "::1"), ("::1", "::"), ("::", "::ffff:127.0.0.1"), ("::ffff:127.0.0.1", "127.0.0.1"),
        ])
        def test_ways_to_say_so(bound, reached):
            family = {True: socket.AF_INET6, False: socket.AF_INET}
            with socket.socket(family[":" in bound]) as server, socket.socket(family[":" in reached]) as client:
                if ":" in bound:
                    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                server.bind((bound, 0))
                server.listen()
                client.connect((reached, server.getsockname()[1]))
        """,
        policy="[tool.fence]\nallow_local_outbound = false\n",
    )
    run.refused("test_of_the_host", f"connect 127.0.0.1:{fenced.loopback[0]}/tcp")
    run.nothing_else("test_of_the_host")
    assert [r["outcome"] for r in run.reports if r["phase"] == "call"].count("passed") == 9, run


@makes_namespaces
def test_rights_of_the_broker(fenced: Fenced) -> None:
    """A low port is bound by the broker, but only for those who may."""
    run = fenced.run(
        """
        import ctypes, os, socket, struct
        import pytest

        CLONE_NEWUSER = 0x10000000

        def bound_by(uid, family, *, namespace=False):
            pid = os.fork()
            if pid == 0:
                try:
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                    libc = ctypes.CDLL(None, use_errno=True)
                    if namespace and libc.unshare(CLONE_NEWUSER):
                        os._exit(77)
                    own = socket.socket()
                    address = struct.pack("=HH12x", family, socket.htons(81))
                    os._exit(ctypes.get_errno() if libc.bind(own.fileno(), address, 16) else 0)
                finally:
                    os._exit(99)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        @pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNSPEC])
        def test_without(family):
            assert bound_by(1000, family) == 13

        def test_in_a_namespace_of_its_own():
            if (ended := bound_by(1000, socket.AF_INET, namespace=True)) == 77:
                pytest.skip("no user namespaces here")
            assert ended == 13

        @pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNSPEC])
        def test_with(family):
            assert bound_by(0, family) == 0
        """
    )
    assert not run.ledger, run
    assert run.status == 0, run
    if run.report("test_in_a_namespace_of_its_own", "call")["outcome"] == "skipped":
        pytest.skip("kernel: no user namespaces")


def test_many_messages(fenced: Fenced) -> None:
    """Of several messages in one call each is judged, and those before a refused one are sent."""
    run = fenced.run(
        """
        import ctypes, socket, struct
        from here import AWAY

        class Iovec(ctypes.Structure):
            _fields_ = [("base", ctypes.c_char_p), ("size", ctypes.c_size_t)]

        class Message(ctypes.Structure):
            _fields_ = [("name", ctypes.c_char_p), ("name_size", ctypes.c_uint), ("iov", ctypes.POINTER(Iovec)),
                        ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_size", ctypes.c_size_t),
                        ("flags", ctypes.c_long), ("sent", ctypes.c_uint), ("padding", ctypes.c_uint)]

        def send(client, *hosts, port):
            vector = (Message * len(hosts))()
            data = Iovec(b"x", 1)
            for message, host in zip(vector, hosts):
                address = struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton(host))
                message.name, message.name_size = address, 16
                message.iov, message.count = ctypes.pointer(data), 1
            libc = ctypes.CDLL(None, use_errno=True)
            return libc.sendmmsg(client.fileno(), vector, len(hosts), 0), [message.sent for message in vector]

        def test_second_away():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.bind(("127.0.0.1", 0))
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    assert send(client, "127.0.0.1", AWAY, port=server.getsockname()[1]) == (1, [1, 0])
                assert server.recv(10) == b"x"

        def test_both_here():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.bind(("127.0.0.1", 0))
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    assert send(client, "127.0.0.1", "127.0.0.1", port=server.getsockname()[1]) == (2, [1, 1])
                assert server.recv(10) + server.recv(10) == b"xx"
        """
    )
    (attempt,) = run.attempts("test_second_away")
    assert re.fullmatch(r"connect 198\.51\.100\.7:\d+/udp", attempt.what), run
    run.clean("test_both_here")


def test_flag_of_a_shared_file(fenced: Fenced) -> None:
    """Whoever makes a socket blocking again while the broker connects it keeps nobody waiting but himself."""
    run = fenced.run(
        """
        import fcntl, os, socket, sys, threading

        def test_fight(tmp_path):
            sys.setswitchinterval(1e-5)
            with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
                server.bind("short")
                server.listen(0)
                first.connect("short")  # the queue is full now
                over = threading.Event()
                client = socket.socket(socket.AF_UNIX)

                def fight():
                    while not over.is_set():
                        fcntl.fcntl(client, fcntl.F_SETFL, 0)

                threads = [threading.Thread(target=fight), threading.Thread(target=lambda: client.connect("short"))]
                for thread in threads:
                    thread.start()
                try:
                    for n in range(1000):
                        (tmp_path / str(n)).mkdir()
                finally:
                    over.set()
                    server.accept()[0].close()
                    server.accept()[0].close()
                    for thread in threads:
                        thread.join()
                    client.close()
        """
    )
    run.clean("test_fight")
    assert run.status == 0, run


@makes_namespaces
def test_namespace_of_others(fenced: Fenced) -> None:
    """A network namespace that was made outside is not entered; one made inside is."""
    run = fenced.run(
        """
        import ctypes, os
        import pytest

        CLONE_NEWNET = 0x40000000
        libc = ctypes.CDLL(None, use_errno=True)

        def test_enter():
            fd = os.open("netns", os.O_RDONLY)
            assert libc.setns(fd, CLONE_NEWNET) == -1 and ctypes.get_errno() == 1
            os.close(fd)

        def test_own():
            before = os.open("/proc/self/ns/net", os.O_RDONLY)
            assert libc.unshare(CLONE_NEWNET) == 0
            assert libc.setns(before, CLONE_NEWNET) == 0
            os.close(before)
        """,
        prefix=[
            "unshare",
            "--mount",
            "sh",
            "-c",
            'touch netns && unshare --net true && mount --bind /proc/self/ns/net netns && exec "$0" "$@"',
        ],
    )
    run.refused("test_enter", f"enter namespace {fenced.directory}/netns")
    run.clean("test_own")
