"""Way out: `sendmsg`, whose destination is hidden in a structure in memory."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_sendmsg(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import array, os, socket
        import pytest
        from here import AWAY, HELLO, PORT, UDP

        def udp():
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(10)
            return s

        def test_away():
            with udp() as s, pytest.raises(PermissionError):
                s.sendmsg([b"se", b"cret"], [], 0, (AWAY, 4444))

        def test_away_on_a_connected_socket():
            with udp() as s:
                s.connect(("127.0.0.1", UDP))
                with pytest.raises(PermissionError):
                    s.sendmsg([b"secret"], [], 0, (AWAY, 4444))
                s.send(b"ping")
                assert s.recv(99) == b"ping"

        def test_loopback():
            with udp() as s:
                assert s.sendmsg([b"pi", b"", b"ng"], [], 0, ("127.0.0.1", UDP)) == 4
                assert s.recvfrom(99) == (b"ping", ("127.0.0.1", UDP))

        def test_loopback_with_control_data():
            with udp() as s:
                ttl = (socket.IPPROTO_IP, socket.IP_TTL, array.array("i", [5]))
                assert s.sendmsg([b"ping"], [ttl], 0, ("127.0.0.1", UDP)) == 4
                assert s.recv(99) == b"ping"

        def test_largest_datagram_on_loopback():
            with udp() as server, udp() as s:
                server.bind(("127.0.0.1", 0))
                data = os.urandom(65507)
                assert s.sendmsg([data[:1], data[1:]], [], 0, server.getsockname()) == len(data)
                assert server.recv(70000) == data
                with pytest.raises(OSError, match="Message too long"):
                    s.sendmsg([data, b"x"], [], 0, server.getsockname())

        def test_stream_on_loopback():
            with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:
                s.sendmsg([b"any", b"thing"])
                assert s.recv(99) == HELLO
        """
    )
    what, line = "connect 198.51.100.7:4444/udp", 's.sendmsg([b"secret"], [], 0, (AWAY, 4444))'
    run.refused("test_away", what, line='s.sendmsg([b"se", b"cret"], [], 0, (AWAY, 4444))')
    run.refused("test_away_on_a_connected_socket", what, line=line)
    run.clean("test_loopback", "test_loopback_with_control_data", "test_largest_datagram_on_loopback")
    run.clean("test_stream_on_loopback")


def test_destination_swapped_by_another_thread(fenced: Fenced) -> None:
    """What was judged is what is sent to: the address is copied once."""
    run = fenced.run(
        """
        import ctypes, errno, socket, struct, threading
        from here import AWAY, UDP

        libc = ctypes.CDLL(None, use_errno=True)

        def address(host, port):
            return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)

        def test_it():
            good, bad = address("127.0.0.1", UDP), address(AWAY, 4444)
            where = ctypes.create_string_buffer(good, 16)
            stop = threading.Event()

            def swap():
                while not stop.is_set():
                    ctypes.memmove(where, bad, 16)
                    ctypes.memmove(where, good, 16)

            thread = threading.Thread(target=swap)
            thread.start()
            results = {"sent": 0, "refused": 0}
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                for _ in range(3000):
                    done = libc.sendto(s.fileno(), b"ping", 4, 0, where, 16)
                    if done == 4:
                        results["sent"] += 1
                    else:
                        assert ctypes.get_errno() == errno.EACCES
                        results["refused"] += 1
            stop.set()
            thread.join()
            assert results["sent"] and results["refused"], results
            print("refused", results["refused"])
        """,
        "-s",
    )
    (found,) = run.attempts("test_it")
    assert found.what == "connect 198.51.100.7:4444/udp"
    assert f"refused {found.count}\n" in run.out


def test_address_that_comes_later(fenced: Fenced) -> None:
    """A message without an address when it is judged has none when it is sent: what succeeded went to the peer."""
    run = fenced.run(
        """
        import ctypes, errno, socket, struct, sys, threading
        from here import AWAY

        class Message(ctypes.Structure):
            _fields_ = [("name", ctypes.c_void_p), ("size", ctypes.c_uint), ("iov", ctypes.c_void_p),
                        ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("length", ctypes.c_size_t),
                        ("flags", ctypes.c_int)]

        def test_swap():
            sys.setswitchinterval(1e-5)
            libc = ctypes.CDLL(None, use_errno=True)
            data = ctypes.create_string_buffer(b"x")
            iov = ctypes.create_string_buffer(struct.pack("@PN", ctypes.addressof(data), 1), 16)
            address = ctypes.create_string_buffer(
                struct.pack("=H", socket.AF_INET) + struct.pack("!H", 9) + socket.inet_aton(AWAY) + bytes(8), 16)
            message = Message(0, 16, ctypes.addressof(iov), 1, 0, 0, 0)
            over = threading.Event()

            def swap():
                while not over.is_set():
                    message.name = ctypes.addressof(address)
                    message.name = None

            with (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
                  socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client):
                server.bind(("127.0.0.1", 0))
                server.settimeout(5)
                client.connect(server.getsockname())
                thread = threading.Thread(target=swap)
                thread.start()
                sent = 0
                try:
                    for _ in range(3000):
                        if libc.sendmsg(client.fileno(), ctypes.byref(message), 0) == 1:
                            sent += 1
                            assert server.recv(9) == b"x"
                        else:
                            assert ctypes.get_errno() == errno.EACCES
                finally:
                    over.set()
                    thread.join()
                assert sent
        """
    )
    assert {attempt.what for attempt in run.attempts("test_swap")} <= {"connect 198.51.100.7:9/udp"}, run
    assert "AssertionError" not in run.out, run
    assert "TimeoutError" not in run.out, run
