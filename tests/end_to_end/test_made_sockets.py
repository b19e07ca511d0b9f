"""Where no descriptor can be borrowed (pidfd_getfd), programs see of their sockets what they see without a fence."""

from __future__ import annotations

import textwrap

from tests.end_to_end.support import Runs, without

SEEN = """
    import array, asyncio, errno, multiprocessing, os, select, socket, subprocess, sys, threading
    import pytest

    INET, UNIX, STREAM, DGRAM = socket.AF_INET, socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM
    HERE = ("127.0.0.1", 0)
    # A port of 127.0.0.1 that was free a moment ago may be anybody's by now; this address is ours.
    OWN = ("127.7.%d.%d" % divmod(os.getpid() % 65000 + 256, 256), 0)

    def closed_place():
        with socket.socket() as server:
            server.bind(OWN)
            return server.getsockname()

    @pytest.fixture
    def pair():
        with socket.create_server(HERE) as server, socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            with accepted:
                yield client, accepted

    def test_port_is_free_at_once():
        for _ in range(20):
            place = closed_place()
            with socket.create_server(place):
                pass

    @pytest.mark.parametrize("family", [INET, UNIX])
    def test_closed_datagram_socket(family, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # the path of a UNIX socket is short
        name = HERE if family == INET else "s"
        with socket.socket(family, DGRAM) as client:
            with socket.socket(family, DGRAM) as server:
                server.bind(name)
                place = server.getsockname()
                client.sendto(b"x", place)
                assert server.recv(9) == b"x"
            if family == INET:
                client.connect(place)
                client.send(b"x")
                with pytest.raises(ConnectionRefusedError):
                    client.recv(1)
            else:
                with pytest.raises(ConnectionRefusedError):
                    client.sendto(b"x", place)

    def test_abstract_name_is_free_at_once():
        for _ in range(5):
            with socket.socket(UNIX, DGRAM) as server:
                server.bind(b"\\0fence-made-%d" % os.getpid())

    def test_closed_server_and_its_connections(pair):
        client, accepted = pair
        accepted.close()
        assert client.recv(1) == b""

    def test_many_sockets_and_an_old_one():
        with socket.socket(INET, DGRAM) as old, socket.socket(INET, DGRAM) as sender:
            old.bind(HERE)
            for _ in range(300):
                socket.socket(INET, DGRAM).close()
                socket.socket().close()
            sender.sendto(b"x", old.getsockname())
            assert old.recv(9) == b"x"
            old.connect(sender.getsockname())
            old.sendto(b"y", sender.getsockname())
            assert sender.recv(9) == b"y"

    def test_messages_of_accepted_sockets(pair):
        client, accepted = pair
        done = threading.Thread(target=lambda: accepted.sendmsg([b"a", b"b"]))
        done.start()
        done.join()
        assert client.recv(2, socket.MSG_WAITALL) == b"ab"
        client.sendmsg([b"c"])
        assert accepted.recv(9) == b"c"

    @pytest.mark.parametrize("kind", [STREAM, DGRAM, socket.SOCK_SEQPACKET])
    def test_descriptors_over_a_pair(kind):
        ours, theirs = socket.socketpair(UNIX, kind)
        with ours, theirs, socket.socket(INET, DGRAM) as passed, socket.socket(INET, DGRAM) as sender:
            passed.bind(HERE)
            place = passed.getsockname()
            socket.send_fds(ours, [b"x"], [passed.fileno()])
            passed.close()
            _, (number,), _, _ = socket.recv_fds(theirs, 9, 1)
            with socket.socket(fileno=number) as received:
                sender.sendto(b"x", place)
                assert received.recv(9) == b"x"
                received.sendto(b"y", ("127.0.0.1", place[1]))
                assert received.recv(9) == b"y"

    @pytest.mark.parametrize("way", ["name", "pair"])
    def test_descriptors_on_their_way(way, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        server, client = socket.socketpair(UNIX, DGRAM) if way == "pair" else (socket.socket(UNIX, DGRAM) for _ in "12")
        with server, client, socket.socket(INET, DGRAM) as other, socket.socket(INET, DGRAM) as sender:
            to = []
            if way == "name":
                server.bind("s")
                to = ["s"]
            passed = socket.socket(INET, DGRAM)
            passed.bind(HERE)
            place = passed.getsockname()
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()]))
            assert client.sendmsg([b"x"], [rights], 0, *to) == 1
            passed.close()
            # Both have the broker look for what is closed.
            sender.bind(HERE)
            with pytest.raises(OSError):
                other.bind(sender.getsockname())
            sender.sendto(b"y", place)
            _, (number,), _, _ = socket.recv_fds(server, 9, 1)
            with socket.socket(fileno=number) as received:
                assert received.recv(9) == b"y"
                received.sendto(b"z", sender.getsockname())
                assert sender.recv(9) == b"z"

    def test_dissolved(pair):
        with socket.socket(INET, DGRAM) as client, socket.socket(INET, DGRAM) as server:
            server.bind(HERE)
            client.connect(server.getsockname())
            unspecified = b"\\0" * 16
            import ctypes
            assert ctypes.CDLL(None).connect(client.fileno(), unspecified, 16) == 0
            with pytest.raises(OSError):
                client.getpeername()
            client.sendto(b"x", server.getsockname())
            assert server.recv(9) == b"x"

    def test_connected_again_after_it_was_refused():
        with socket.socket() as client:
            place = closed_place()
            assert client.connect_ex(place) == errno.ECONNREFUSED
            with socket.create_server(place):
                client.connect(place)
                assert client.connect_ex(place) == errno.EISCONN

    def test_asked_by_a_further_connect():
        with socket.create_server(HERE) as server, socket.socket() as client:
            client.setblocking(False)
            answers = [client.connect_ex(server.getsockname())]
            select.select([], [client], [], 60)
            answers += [client.connect_ex(server.getsockname()) for _ in range(3)]
            assert answers in (
                [errno.EINPROGRESS, 0, errno.EISCONN, errno.EISCONN], [0, errno.EISCONN, errno.EISCONN, errno.EISCONN]
            )
            client.setblocking(True)
            refused = socket.socket()
            refused.setblocking(False)
            place = closed_place()
            first = refused.connect_ex(place)
            select.select([], [refused], [], 60)
            assert first == errno.ECONNREFUSED or refused.connect_ex(place) in (errno.ECONNREFUSED, errno.ECONNABORTED)
            refused.close()

    def test_listens_twice():
        with socket.create_server(HERE) as server:
            server.listen(5)
            async def main():
                async with await asyncio.start_server(lambda r, w: w.close(), sock=server.dup()):
                    reader, writer = await asyncio.open_connection(*server.getsockname())
                    assert await reader.read() == b""
                    writer.close()
            asyncio.run(main())

    def test_other_errors(pair):
        client, accepted = pair
        for sock in pair:
            with pytest.raises(OSError) as caught:
                sock.bind(HERE)
            assert caught.value.errno == errno.EINVAL
            assert sock.connect_ex(("127.0.0.1", 9)) == errno.EISCONN
        with pytest.raises(OSError) as caught:
            client.listen()
        assert caught.value.errno == errno.EINVAL
        with open(os.devnull) as file:
            import ctypes
            libc = ctypes.CDLL(None, use_errno=True)
            for number, expected in (file.fileno(), errno.ENOTSOCK), (-1, errno.EBADF), (9999, errno.EBADF):
                assert libc.listen(number, 1) == -1 and ctypes.get_errno() == expected

    def test_shared_over_fork_and_dup():
        server = socket.socket(INET, DGRAM)
        server.bind(HERE)
        place = server.getsockname()
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writes)
            os.read(reads, 1)  # the parent has closed it
            server.sendto(b"from the child", place)
            os._exit(server.recv(99) != b"from the child")
        again = server.dup()
        server.close()
        with again, socket.socket(INET, DGRAM) as sender:
            again.sendto(b"x", place)
            assert again.recv(9) == b"x"
        os.close(writes)
        os.close(reads)
        assert os.waitpid(child, 0)[1] == 0

    def test_listens_in_a_child():
        with socket.socket() as server:
            server.bind(HERE)
            child = os.fork()
            if child == 0:
                server.listen()
                os._exit(0)
            os.waitpid(child, 0)
            with socket.create_connection(server.getsockname()):
                server.accept()[0].close()

    def test_who_is_there(tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with socket.socket(UNIX) as server, socket.socket(UNIX) as client:
            server.bind("s")
            server.listen()
            client.connect(server.getsockname())
            accepted, _ = server.accept()
            with accepted:
                peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                assert array.array("i", peer)[0] == os.getpid()

    def test_interfaces_and_names():
        assert ("lo" in dict(map(reversed, socket.if_nameindex())))
        for _ in range(20):
            assert socket.getaddrinfo("localhost", 80)

    def test_workers():
        pool = multiprocessing.get_context("fork").Pool(1)
        assert pool.map(abs, [-1]) == [1]
        pool.close()
        pool.join()

    def test_files_by_descriptor(tmp_path):
        with open(tmp_path / "x", "w") as file:
            os.fchmod(file.fileno(), 0o600)
            os.utime(file.fileno(), (1, 1))
            os.fchown(file.fileno(), os.getuid(), os.getgid())
            status = os.fstat(file.fileno())
            assert (status.st_mode & 0o777, int(status.st_mtime)) == (0o600, 1)
        handle = os.open(tmp_path / "x", os.O_PATH)
        with pytest.raises(OSError) as caught:
            os.fchmod(handle, 0o644)
        assert caught.value.errno == errno.EBADF
        os.close(handle)
        reads, writes = os.pipe()
        os.fchmod(reads, 0o600)
"""


def test_programs_see_no_difference(runs: Runs) -> None:
    (runs.directory / "test_it.py").write_text(textwrap.dedent(SEEN), encoding="utf-8")
    ends = [runs.pytest("-q", "-rA", "-p", "no:cacheprovider", fenced=False)]
    ends += [runs.command(*without(runs, "pidfd_getfd", "-q", "-rA", "-p", "no:cacheprovider"))]
    for ended in ends:
        assert ended.status == 0, ended
    assert ends[0].outcomes() == ends[1].outcomes()


EXCHANGED = """
    import ctypes, os, socket, struct, sys, threading

    def test_it():
        libc = ctypes.CDLL(None, use_errno=True)
        sys.setswitchinterval(1e-6)
        ours, theirs = socket.socketpair()
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", 0))
        datagrams.connect(datagrams.getsockname())
        file = open("file", "w")
        number = os.dup(ours.fileno())
        over = threading.Event()

        def exchange():
            while not over.is_set():
                for each in ours, file, datagrams:
                    os.dup2(each.fileno(), number)
                os.close(number)

        data = ctypes.create_string_buffer(b"x")
        vector = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(data), 1))
        message = ctypes.create_string_buffer(struct.pack("@PI4xPNPNi4x", 0, 0, ctypes.addressof(vector), 1, 0, 0, 0))
        thread = threading.Thread(target=exchange)
        thread.start()
        ways = set()
        for _ in range(2000):
            ways.add(libc.sendmsg(number, message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL))
            libc.listen(number, 1)
            libc.fchmod(number, 0o600)
        over.set()
        thread.join()
        assert ways == {-1, 1}
        for each in ours, theirs, datagrams, file:
            each.close()
"""


def test_exchanged_meanwhile(runs: Runs) -> None:
    """What one thread closes while another uses it is the program's own affair: nothing of it is reported."""
    (runs.directory / "test_it.py").write_text(textwrap.dedent(EXCHANGED), encoding="utf-8")
    ended = runs.command(*without(runs, "pidfd_getfd", "-q", "-p", "no:cacheprovider"))
    assert ended.status == 0, ended


UNHELD = """
    import ctypes, errno, socket, struct

    libc = ctypes.CDLL(None, use_errno=True)

    def error(call, *args):
        return ctypes.get_errno() if call(*args) < 0 else 0

    def test_taken_apart():
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            assert error(libc.connect, client.fileno(), bytes(16), 16) == errno.EPERM  # AF_UNSPEC

    def test_pair_of_datagram_sockets():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = struct.pack("=H", socket.AF_UNIX) + b"name\\0"
        with ours, theirs:
            assert error(libc.bind, ours.fileno(), name, len(name)) == errno.EPERM
            assert error(libc.sendto, ours.fileno(), b"x", 1, 0, name, len(name)) == errno.EPERM
            assert ours.send(b"x") == ours.sendmsg([b"y"]) == 1
            assert theirs.recv(9) + theirs.recv(9) == b"xy"

    def test_way_of_an_accepted_socket():
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            with server.accept()[0] as accepted:
                assert error(libc.setsockopt, accepted.fileno(), 1, 25, b"lo\\0", 3) == errno.EPERM  # SO_BINDTODEVICE
                assert error(libc.setsockopt, accepted.fileno(), 1, 9, struct.pack("i", 1), 4) == 0  # SO_KEEPALIVE
"""


def test_refused_and_reported(runs: Runs) -> None:
    """What can neither be made on a copy nor left to the kernel."""
    (runs.directory / "test_it.py").write_text(textwrap.dedent(UNHELD), encoding="utf-8")
    ended = runs.command(*without(runs, "pidfd_getfd", "-q", "-rA", "-p", "no:cacheprovider"))
    assert ended.status == 1, ended
    assert "AssertionError" not in ended.out, ended
    ended.has(
        "call: connect a socket that is connected, or from elsewhere, test_it.py:7",
        "call: bind a socket from elsewhere, test_it.py:7",
        "call: send by a socket from elsewhere, test_it.py:7",
        "call: set where messages go by a socket from elsewhere, test_it.py:7",
        "fence: 4 violations in 3 tests",
    )
