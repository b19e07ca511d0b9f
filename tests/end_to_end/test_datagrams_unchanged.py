"""Messages that the broker sends for a program: they arrive, and fail, as those that nobody sends for it.

The same program makes the same calls without a fence and inside of one; it says what became of each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import kernel_has

PROGRAM = '''
import array, asyncio, ctypes, errno, json, logging, logging.handlers, os, signal, socket, struct, sys, tempfile
import threading, time

libc = ctypes.CDLL(None, use_errno=True)
CREDENTIALS = struct.Struct("iII")
SCM_CREDENTIALS = 2

def unix(kind=socket.SOCK_DGRAM, name=None):
    s = socket.socket(socket.AF_UNIX, kind)
    if name:
        s.bind(name)
    return s

def error(call, *args):
    """How the call ends, and whether SIGPIPE came with it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        said = call(*args)
    except OSError as failed:
        said = errno.errorcode[failed.errno]
    piped = signal.sigtimedwait({signal.SIGPIPE}, 0) is not None
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPIPE})
    return [said, piped]

def received(s, descriptors=0):
    """Data, ancillary data, flags and sender; numbers of processes as what they are to us."""
    data, control, flags, sender = s.recvmsg(1 << 18, 1024)
    told = []
    for level, kind, body in control:
        if kind == socket.SCM_RIGHTS:
            for fd in array.array("i", body):
                told.append(["descriptor", os.read(fd, 99).decode(), fd > 2])
                os.close(fd)
        elif kind == SCM_CREDENTIALS:
            pid, uid, gid = CREDENTIALS.unpack(body)
            told.append(["credentials", "ours" if pid == os.getpid() else "of another", uid, gid])
    return [len(data), data[:40].decode(), told, flags, sender and str(sender)]

def pipe(text):
    read, write = os.pipe()
    os.write(write, text.encode())
    os.close(write)
    return read

def rights(*fds):
    return (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))

def credentials(pid, uid=os.getuid(), gid=os.getgid()):
    return (socket.SOL_SOCKET, SCM_CREDENTIALS, CREDENTIALS.pack(pid, uid, gid))

def fill(s, *to):
    count = 0
    try:
        while True:
            s.sendmsg([b"x"], [], socket.MSG_DONTWAIT, *to)
            count += 1
    except BlockingIOError:
        return count

def names():
    server, bound, unbound = unix(name="server"), unix(name="bound"), unix()
    result = [bound.sendto(b"one", "server"), received(server), unbound.sendto(b"two", "server"), received(server)]
    bound.connect("server")
    result += [bound.sendmsg([b"to the peer"]), received(server), bound.sendmsg([b"named"], [], 0, "server")]
    return result + [received(server)]

def vectors():
    server, client = unix(name="server"), unix()
    parts = [b"", b"a", b"", b"bc" * 3000, b"d"]
    result = [client.sendmsg(parts, [], 0, "server"), received(server)]
    result += [client.sendto(b"", "server"), received(server)]
    result += [client.sendmsg([b"x"] * 1024, [], 0, "server"), received(server)]
    return result + [client.sendto(bytes(100_000), "server"), received(server)]

def descriptors():
    server, client = unix(name="server"), unix()
    before = len(os.listdir("/proc/self/fd"))
    one, two, three = pipe("one"), pipe("two"), pipe("three")
    result = [client.sendmsg([b"some"], [rights(one, two), rights(three)], 0, "server")]
    for fd in one, two, three:
        os.close(fd)
    result += [received(server), error(client.sendmsg, [b"x"], [rights(999)], 0, "server")]
    result += [error(client.sendmsg, [b"x"], [rights(*[0] * 254)], 0, "server")]
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    result += [pair[0].sendmsg([b"packet"], [rights(pipe("four"))]), received(pair[1])]
    stream = socket.socketpair()
    result += [stream[0].sendmsg([b"stream"], [rights(pipe("five"))]), received(stream[1])]
    return result + [len(os.listdir("/proc/self/fd")) - before]

def ids():
    server, client = unix(name="server"), unix(name="client")
    server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    result = [client.sendto(b"x", "server"), received(server), client.sendmsg([b"x"], [], 0, "server")]
    result += [received(server), client.sendmsg([b"x"], [credentials(os.getpid())], 0, "server"), received(server)]
    client.connect("server")
    return result + [client.sendmsg([b"x"]), received(server)]

def foreign_ids():
    server, client = unix(name="server"), unix()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    result = []
    for given in credentials(os.getppid()), credentials(os.getpid(), 4321), credentials(os.getpid(), gid=4321):
        result.append(error(client.sendmsg, [b"x"], [given], 0, "server"))
        if result[-1] == [1, False]:
            result.append(received(server))
    short = (socket.SOL_SOCKET, SCM_CREDENTIALS, b"1234")
    return result + [error(client.sendmsg, [b"x"], [short], 0, "server")]

def errors():
    client = unix()
    open("file", "w").close()
    unix(name="closed").close()
    server, busy, other = unix(name="server"), unix(name="busy"), unix(name="other")
    busy.connect("other")
    shut = unix(name="shut")
    shut.shutdown(socket.SHUT_RD)
    stream = socket.socketpair()
    gone = socket.socketpair()
    gone[1].close()
    packets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    packets[1].close()
    named = [[client.sendto, b"x"], [lambda to: client.sendmsg([b"x"], [], 0, to)]]
    result = []
    for send in named:
        for to in (
            "missing", "file", "closed", "busy", "shut", "missing/x", "file/x", "/", "\\0nobody-has-this", "x" * 100,
        ):
            result.append([to[:9], error(*send, to)])
    result += [error(client.sendmsg, [b"x"]), error(client.sendto, bytes(1 << 20), "server")]
    result += [error(stream[0].sendmsg, [b"x"], [], 0, "server"), error(gone[0].sendmsg, [b"x"])]
    result += [error(gone[0].sendmsg, [b"x"], [], socket.MSG_NOSIGNAL), error(packets[0].sendmsg, [b"x"])]
    result += [error(unix(socket.SOCK_STREAM).sendmsg, [b"x"], [], 0, "server")]
    result += [error(unix(socket.SOCK_STREAM).sendmsg, [b"x"])]
    unknown = (socket.SOL_SOCKET, 77, b"1234")
    return result + [error(client.sendmsg, [b"x"], [unknown], 0, "server"), error(client.sendto, b"x", 1, "server")]

def pointers():
    client, server = unix(), unix(name="server")
    address = struct.pack("H", socket.AF_UNIX) + b"server\\0"
    header = struct.Struct("@PI4xPNPNi4x")
    data = ctypes.create_string_buffer(b"x")
    vector = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(data), 1))
    name = ctypes.create_string_buffer(address)
    at, to, size = ctypes.addressof(vector), ctypes.addressof(name), len(address)
    result = []
    for given in (
        (to, size, at, 1, 0, 0), (8, size, at, 1, 0, 0), (to, size, 8, 1, 0, 0), (to, size, at, 1025, 0, 0),
        (to, size, at, 1, 8, 24), (to, 0xFFFFFFFF, at, 1, 0, 0), (to, 111, at, 1, 0, 0), (to, 2, at, 1, 0, 0),
        (to, 1, at, 1, 0, 0), (to, size, 0, 0, 0, 0), (to, size, at, 1, to, 3), (to, size, at, 1, to, 1 << 40),
    ):
        message = ctypes.create_string_buffer(header.pack(*given, 0))
        done = libc.sendmsg(client.fileno(), message, socket.MSG_DONTWAIT)
        result.append(done if done >= 0 else errno.errorcode[ctypes.get_errno()])
    for fd, pointer, length in (client.fileno(), 8, size), (client.fileno(), to, 200), (0, to, size), (999, to, size):
        done = libc.sendto(fd, data, 1, 0, ctypes.c_void_p(pointer), length)
        result.append(done if done >= 0 else errno.errorcode[ctypes.get_errno()])
    done = libc.sendto(client.fileno(), ctypes.c_void_p(8), 1, 0, name, size)
    return result + [done if done >= 0 else errno.errorcode[ctypes.get_errno()]]

def several():
    """sendmmsg(2): how many were sent, and the lengths that were written back."""
    server, client = unix(name="server"), unix()
    header = struct.Struct("@PI4xPNPNi4xI4x")
    data = ctypes.create_string_buffer(b"data")
    name = ctypes.create_string_buffer(struct.pack("H", socket.AF_UNIX) + b"server\\0")
    vector = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(data), 4))
    to, at = (ctypes.addressof(name), 9), (ctypes.addressof(vector), 1)
    good, no_name, no_data, no_rights = (*to, *at, 0, 0), (8, 9, *at, 0, 0), (*to, 8, 1, 0, 0), (*to, *at, 8, 24)
    result = []
    for messages in [], [good, good], [good, no_name], [good, no_data], [good, no_rights], [no_name, good], [no_data]:
        all_of_them = b"".join(header.pack(*message, 0, 77) for message in messages)
        vector_of_them = ctypes.create_string_buffer(all_of_them)
        done = libc.sendmmsg(client.fileno(), vector_of_them, len(messages), socket.MSG_DONTWAIT)
        told = [length for *_, length in header.iter_unpack(vector_of_them.raw[: len(all_of_them)])]
        result.append([done if done >= 0 else errno.errorcode[ctypes.get_errno()], told])
        result += [received(server)[0] for _ in range(max(done, 0))]
    return result + [error(server.recv, 9, socket.MSG_DONTWAIT)[0]]

def full():
    """Nobody waits who did not want to; who does is woken, and keeps nobody else waiting."""
    server, client = unix(name="server"), unix()
    result = [fill(client, "server"), error(client.sendto, b"x", socket.MSG_DONTWAIT, "server")]
    client.setblocking(False)
    result.append(error(client.sendto, b"x", "server"))
    client.setblocking(True)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("qq", 0, 50_000))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, 0.04)  # the kernel's clock: it has waited if this has rung, unheard
    result += [error(client.sendto, b"x", "server"), signal.SIGALRM in signal.sigpending()]
    signal.sigwait({signal.SIGALRM})
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes(16))
    sent = []
    sender = threading.Thread(target=lambda: sent.append(client.sendto(b"later", "server")))
    sender.start()
    while open(f"/proc/self/task/{sender.native_id}/stat").read().rpartition(")")[2].split()[0] != "S":
        pass
    os.mkdir("meanwhile")  # a call that is judged, too
    result.append(list(sent))
    count = 0
    while server.recv(99) == b"x":
        count += 1
    sender.join()
    return result + [count, sent]

def interrupted():
    """A signal ends the waiting: with what was sent of a stream, with the handler's exception of a datagram."""
    class Rung(Exception):
        pass

    def ring(*_):
        rang.append(1)
        if raises:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Rung

    rang, raises, result = [], True, []
    signal.signal(signal.SIGALRM, ring)
    server, client = unix(name="server"), unix()
    fill(client, "server")
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)  # again and again: the first may come before the call
        client.sendto(b"never", "server")
    except Rung:
        result.append("rung")
    raises = False
    ours, theirs = socket.socketpair()
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    sent = ours.sendmsg([bytes(10 << 20)])
    signal.setitimer(signal.ITIMER_REAL, 0)
    result += [0 < sent < 10 << 20, len(rang) > 1]
    ours.close()
    while part := theirs.recv(1 << 20):
        sent -= len(part)
    return result + [sent]

def large():
    """A blocking stream takes all of it in one call."""
    result = []
    for ours, theirs in socket.socketpair(), tcp():
        found = []
        def read():
            while part := theirs.recv(1 << 20):
                found.append(part)
        reader = threading.Thread(target=read)
        reader.start()
        data = os.urandom(5 << 20)
        result.append(ours.sendmsg([data[:7], data[7:3_000_000], data[3_000_000:]]))
        ours.close()
        reader.join()
        result.append(b"".join(found) == data)
    return result

def tcp():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]

def many():
    """More datagrams than fit into a queue, by a sender that waits."""
    server, client = unix(name="server"), unix()
    found = []
    reader = threading.Thread(target=lambda: found.extend(server.recv(99).decode() for _ in range(500)))
    reader.start()
    for number in range(500):
        client.sendto(b"%d" % number, "server")
    reader.join()
    return found == [str(number) for number in range(500)]

def syslog():
    server = unix(name="log")
    handler = logging.handlers.SysLogHandler("log")
    handler.emit(logging.LogRecord("x", logging.WARNING, "f", 1, "to the log", (), None))
    result = received(server)
    handler.close()
    return result

def notify():
    """As sd_notify(3): a message to a name in the environment, with credentials and descriptors."""
    server = unix(name="notify")
    server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    os.environ["NOTIFY_SOCKET"] = os.path.abspath("notify")
    with unix() as client:
        given = [rights(pipe("stored")), credentials(os.getpid())]
        sent = client.sendmsg([b"READY=1\\nFDSTORE=1"], given, socket.MSG_NOSIGNAL, os.environ["NOTIFY_SOCKET"])
    return [sent, received(server)]

def endpoints():
    async def talk():
        loop = asyncio.get_running_loop()
        heard = loop.create_future()

        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport
            def datagram_received(self, data, sender):
                self.transport.sendto(data.upper(), sender)

        class Ask(asyncio.DatagramProtocol):
            def datagram_received(self, data, sender):
                heard.set_result([data.decode(), sender])

        echo, _ = await loop.create_datagram_endpoint(Echo, "echo", family=socket.AF_UNIX)
        ask, _ = await loop.create_datagram_endpoint(Ask, "ask", family=socket.AF_UNIX)
        ask.sendto(b"hello", "echo")
        said = await asyncio.wait_for(heard, 10)
        ask.close(), echo.close()
        return said
    return asyncio.run(talk())

def netlink():
    """The addresses of this machine, asked on a socket that was not bound: it gets the number of the process."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        request = struct.pack("=IHHIIBxxxi", 24, 22, 0x301, 7, 0, socket.AF_UNSPEC, 0)
        result = [s.sendto(request, (0, 0)), s.getsockname()[0] == os.getpid()]
        answer, _, _, sender = s.recvmsg(1 << 16)
        size, kind, _, number, port = struct.unpack_from("=IHHII", answer)
        return result + [kind, number, port == os.getpid(), list(sender)]

CASES = [
    names, vectors, descriptors, ids, foreign_ids, errors, pointers, several, full, interrupted, large, many,
    syslog, notify, endpoints, netlink,
]

def main():
    said = {}
    for case in CASES:
        if case.__name__ in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory(dir=".") as directory:
            os.chdir(directory)
            try:
                said[case.__name__] = case()
            except BaseException as failed:
                said[case.__name__] = repr(failed)
            os.chdir("..")
    print(json.dumps(said))

if __name__ == "__main__":
    main()
'''

TEST = """
import json, subprocess, sys
import pytest

def test_it():
    with open("inside.json", "w") as said:
        subprocess.run([sys.executable, "cases.py", *LEFT_OUT], stdout=said, check=True)

@pytest.mark.fence(allow_all_unix_sockets=True)
def test_anywhere():
    with open("anywhere.json", "w") as said:
        subprocess.run([sys.executable, "cases.py", *LEFT_OUT], stdout=said, check=True)
"""


SENDS_PIPES = ("descriptors", "notify")
"""Over datagram sockets, which takes borrowing them; see docs/security-model.md."""


def test_same_as_without_a_fence(fenced: Fenced) -> None:
    left_out = () if kernel_has("pidfd_getfd") else SENDS_PIPES
    fenced.write("cases.py", PROGRAM)
    ended = subprocess.run(
        [sys.executable, "cases.py", *left_out], cwd=fenced.directory, capture_output=True, text=True, check=True
    )
    plain: dict[str, Any] = json.loads(ended.stdout)
    assert not [said for said in plain.values() if isinstance(said, str)], plain
    run = fenced.run(f"LEFT_OUT = {list(left_out)!r}\n{TEST}")
    run.clean("test_it", "test_anywhere")
    if os.geteuid():
        # What an ordinary user's broker cannot say: see docs/known-limitations.md.
        text = json.dumps({case: plain[case] for case in ("ids", "notify") if case in plain})
        others = json.loads(text.replace('"ours"', '"of another"'))
    else:
        others = {}
    for name, expected in ("inside", plain | others), ("anywhere", plain):
        said = json.loads((fenced.directory / f"{name}.json").read_text(encoding="ascii"))
        wrong = {case: (said.get(case), expected[case]) for case in expected if said.get(case) != expected[case]}
        assert not wrong, (name, wrong)
