"""A network of the test's own with another machine in it, which sees all that leaves: runs a command in there.

`python -m tests.end_to_end.wire NOTED COMMAND...`, in a network namespace that is new and whose root it is. The command
has the interface `out0` (192.0.2.2, 2001:db8::2) with default routes to the other machine, a process in a namespace of
its own at the far end. When the command has ended, what came there is in NOTED, as hexadecimal lines.

The other machine dials on request: a line such as "tcp 192.0.2.2 8000" into the pipe `dial` in the command's working
directory, and the pipe `dialled` says "connected", or the error. By "udp" it sends a datagram ("sent").
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE, HERE6 = "192.0.2.2", "2001:db8::2"
THERE, THERE6 = "192.0.2.1", "2001:db8::1"
FROM_THERE = b"from another machine"
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_LAST = ("239.255.255.254", "ff05::ffff:ffff")
"""Groups that are joined when all is over: the kernel announces them after whatever it still had to announce."""
_SECONDS = 10
_DIAL_SECONDS = 3

needs = pytest.mark.needs("program:unshare", "program:ip")


class Wire:
    """Where the command's network is; `prefix` for `Fenced.run`."""

    def __init__(self, directory: Path) -> None:
        self._noted = directory / "wire.noted"
        for name in ("dial", "dialled"):
            os.mkfifo(directory / name)
        module = [sys.executable, "-m", __name__, str(self._noted)]
        if os.geteuid() == 0:
            self.prefix = ["unshare", "--net", *module]
        else:
            ids = [f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}"]
            self.prefix = ["unshare", "--user", "--map-root-user", "--net", *module, "unshare", "--user", *ids]

    def seen(self) -> list[bytes]:
        """The packets of the last run that reached the other machine."""
        return [bytes.fromhex(line) for line in self._noted.read_text(encoding="ascii").split()]

    def saw(self, what: bytes) -> bool:
        return any(what in packet for packet in self.seen())


@pytest.fixture
def wire(runs: object) -> Wire:
    """Skips where no network can be made."""
    command = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    if os.geteuid():
        command[1:1] = ["--user", "--map-root-user"]
    if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("kernel: no network namespaces for this user")
    return Wire(runs.directory)  # type: ignore[attr-defined]


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def main() -> int:
    noted, *command = sys.argv[1:]
    _ip("link set lo up", "link add out0 type veth peer name wire0")
    ping = "0 2147483647" if Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2] != "1" else "0 0"
    Path("/proc/sys/net/ipv4/ping_group_range").write_text(ping, encoding="ascii")
    there, to_there = socket.socketpair()
    other = os.fork()
    if other == 0:
        status = 1
        try:
            to_there.close()
            _other_machine(there, Path(noted))
            status = 0
        finally:
            os._exit(status)
    there.close()
    with to_there:
        assert to_there.recv(1), "the other machine did not start"
        _ip(
            f"link set wire0 netns {other}",
            f"address add {HERE}/24 dev out0",
            f"address add {HERE6}/64 dev out0 nodad",
            "link set out0 addrgenmode none",
            "link set out0 up",
            "address add fe80::2/64 dev out0 nodad",
            f"route add default via {THERE}",
            f"route add ::/0 via {THERE6} dev out0",
        )
        to_there.send(b"1")
        assert to_there.recv(1), "the other machine has no network"
        status = subprocess.run(command).returncode
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as v4,
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as v6,
        ):
            index = socket.if_nametoindex("out0")
            v4.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", _packed(_LAST[0]), b"", index)
            )
            v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("16si", _packed(_LAST[1]), index))
            to_there.send(b"2")
            os.waitpid(other, 0)
    return status if status >= 0 else 128 - status


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _other_machine(line: socket.socket, noted: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if ctypes.CDLL(None).unshare(_CLONE_NEWNET):
        return
    line.send(b"1")
    assert line.recv(1)
    _ip(
        "link set lo up",
        f"address add {THERE}/24 dev wire0",
        f"address add {THERE6}/64 dev wire0 nodad",
        "link set wire0 up",
    )
    dial = os.open("dial", os.O_RDWR)
    answer = os.open("dialled", os.O_RDWR)
    packets: list[bytes] = []
    missing: set[bytes] | None = None
    deadline = float("inf")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as card:
        card.bind(("wire0", 0))
        line.send(b"1")
        while missing is None or (missing and time.monotonic() < deadline):
            for fd in select.select([card, dial, line], [], [], 0.2)[0]:
                if fd is card:
                    packets.append(card.recv(65536))
                    if missing:
                        missing = {group for group in missing if group not in packets[-1]}
                elif fd is line:
                    if not line.recv(1):
                        return  # killed
                    missing = {_packed(group) for group in _LAST}
                    missing = {group for group in missing if not any(group in packet for packet in packets)}
                    deadline = time.monotonic() + _SECONDS
                else:
                    os.write(answer, _dial(*os.read(dial, 100).decode().split()).encode())
    noted.write_text("\n".join(packet.hex() for packet in packets), encoding="ascii")


def _dial(kind: str, host: str, port: str, from_port: str = "0") -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as caller:
        caller.settimeout(_DIAL_SECONDS)
        caller.bind(("", int(from_port)))
        try:
            if kind == "udp":
                caller.sendto(FROM_THERE, (host, int(port)))
                return "sent"
            caller.connect((host, int(port)))
            return "connected"
        except OSError as error:
            return error.strerror or str(error)


ASK = """
def dial(*words):
    with open("dial", "w") as out, open("dialled", "rb", 0) as answers:
        out.write(" ".join(map(str, words)) + "\\n")
        out.flush()
        return answers.read(100).decode()
"""
"""For tests: has the other machine dial."""

if __name__ == "__main__":
    sys.exit(main())
