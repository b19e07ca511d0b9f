"""Ways around the names by how they are written: close to an allowed one, or the same to some readers only."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.recorder import recording

QUERY = """
import random, socket, struct

def query(labels, kind=1, number=None):
    name = b"".join(bytes([len(label)]) + label for label in labels)
    number = random.randrange(65536) if number is None else number
    return struct.pack("!6H", number, 256, 1, 0, 0, 0) + name + struct.pack("!BHH", 0, kind, 1)

def read(reply):
    "Response code, number of answers, and the last four bytes of the first if it is an address."
    _, flags, _, answers, _, _ = struct.unpack_from("!6H", reply)
    return flags & 15, answers

def ask(labels, kind=1, to=("192.0.2.53", 53)):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.sendto(query(labels, kind), to)
        return read(s.recvfrom(4096)[0])
"""

SAME = ("allowed.test", "ALLOWED.Test", "allowed.test.", "\uff41\uff4c\uff4c\uff4f\uff57\uff45\uff44.test")
OTHERS = {
    "allowed.test.evil.test": "",
    "evilallowed.test": "",
    "sub.allowed.test": "",
    "allowed.test-evil.test": "",
    "allowedxtest.evil": "",
    "allowed.testing": "",
    "wild.example": "",
    "xwild.example": "",
    "denied.wild.example": "",
    "\u0430llowed.test": "xn--llowed-2nf.test",
    "xn--llowed-2nf.test": "",
    "allow\u0435d.test": "xn--allowd-7of.test",
    "allowed\u200b.test.evil": "allowed.test.evil",
}
"""Names that are refused, and how the report has them where that differs."""
LABELS = {
    "userinfo": [b"user@allowed", b"test"],
    "userinfo the other way": [b"allowed", b"test@evil", b"test"],
    "NUL": [b"allowed", b"test\0", b"evil", b"test"],
    "NUL at the end": [b"allowed", b"test\0"],
    "a dot in a label": [b"allowed.test"],
    "a dot before another": [b"evil.wild", b"example"],
    "slash": [b"evil", b"test/", b"wild", b"example"],
    "space": [b"allowed", b"test "],
    "new line": [b"allowed", b"test\n"],
    "star": [b"*", b"wild", b"example"],
    "bytes": [b"\xff", b"wild", b"example"],
    "Latin": ["\xe4llowed".encode("latin-1"), b"test"],
}


def test_spellings(fenced: Fenced) -> None:
    """One canonical form: what is the same name is allowed, what only looks like it is refused by its own name."""
    with recording() as allowed:
        fenced.write("query.py", QUERY)
        run = fenced.run(
            f"""
            import socket
            import pytest
            from query import ask

            @pytest.mark.parametrize("number", range({len(SAME)}))
            def test_same(number):
                name = {SAME!r}[number]
                with socket.create_connection((name, 80), 5) as s:
                    s.sendall(b"GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n")
                    assert s.recv(999).endswith(b"heard")

            def test_below():
                assert socket.gethostbyname("any.wild.example").startswith("198.18.")
                assert ask([b"DEEP", b"any", b"Wild", b"example"]) == (0, 1)

            @pytest.mark.parametrize("number", range({len(OTHERS)}))
            def test_other(number):
                name = {list(OTHERS)!r}[number]
                with pytest.raises((socket.gaierror, UnicodeError)):
                    socket.getaddrinfo(name, 80)

            @pytest.mark.parametrize("number", range({len(LABELS)}))
            def test_labels(number):
                assert ask({list(LABELS.values())!r}[number]) == (3, 0)
            """,
            policy=f"""
            [tool.fence.network]
            allow_local_outbound = false
            allowed_domains = ["*.wild.example"]
            denied_domains = ["denied.wild.example"]
            hosts = {{"allowed.test" = "127.0.0.1:{allowed.port}"}}
            """,
        )
        run.clean(*(f"test_same[{number}]" for number in range(len(SAME))), "test_below")
        for number, (name, shown) in enumerate(OTHERS.items()):
            run.refused(f"test_other[{number}]", f"resolve {shown or name}", count=None)
        for number, labels in enumerate(LABELS.values()):
            (attempt,) = run.attempts(f"test_labels[{number}]")
            assert attempt.what.startswith("resolve "), (labels, run)
            assert attempt.what.isprintable(), run
        assert allowed.heard.count(b"GET / ") == len(SAME)


@pytest.mark.needs("program:curl")
def test_addresses(fenced: Fenced) -> None:
    """However the address of a service is written, it is that service."""
    with recording() as other, recording() as allowed:
        run = fenced.run(
            f"""
            import socket, subprocess
            import pytest

            WAYS = ("127.1", "0177.0.0.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "127.0.1", "0",
                    "0.0.0.0", "::ffff:127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:ffff:7f00:1", "::ffff:0.0.0.0",
                    "localhost", "LOCALHOST", "localhost.", "x.localhost")

            @pytest.mark.parametrize("host", WAYS)
            def test_way(host):
                with pytest.raises(OSError):
                    socket.create_connection((host, {other.port}), 5)

            @pytest.mark.parametrize("host", WAYS)
            def test_same_way(host):
                with socket.create_connection((host, {allowed.port}), 5) as s:
                    s.sendall(b"\\n\\n")
                    assert s.recv(99).endswith(b"heard")

            def test_curl():
                for host in "0177.0.0.1", "0x7f000001", "[::ffff:127.0.0.1]", "user@127.0.0.1", "allowed.test@127.1":
                    got = subprocess.run(["curl", "-s", f"http://{{host}}:{other.port}/"], capture_output=True)
                    assert got.returncode and not got.stdout

            @pytest.mark.parametrize("host", [
                "fe80::1%lo", "::1%lo", "::1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "::ffff:0:7f00:1"
            ])
            def test_scoped_and_translated(host):
                with pytest.raises(OSError):
                    socket.create_connection((host, {other.port}), 5)
            """,
            policy=f"""
            [tool.fence.network]
            allow_local_outbound = false
            allow_local_outbound_ports = [{allowed.port}]
            """,
        )
        for attempt in run.ledger:
            if "test_way" in attempt.nodeid:
                assert attempt.what.partition("/")[0] in (
                    f"connect 127.0.0.1:{other.port}",
                    f"connect [::1]:{other.port}",
                )
        blamed = {attempt.nodeid for attempt in run.ledger}
        names = [report["nodeid"] for report in run.reports if report["phase"] == "call"]
        for nodeid in names:
            if "::test_way" in nodeid:
                assert nodeid in blamed, (nodeid, run)
        run.clean(*(name for name in names if "test_same_way" in name))
        assert other.heard == b""


def test_synthetic_addresses(fenced: Fenced) -> None:
    """An address means the name that it was given, to everybody, and for each test it is judged by that name."""
    with recording() as allowed:
        run = fenced.run(
            f"""
            import socket
            import pytest

            known = {{}}

            @pytest.mark.fence(hosts={{"once.test": "127.0.0.1:{allowed.port}"}})
            def test_once():
                known["once.test"] = socket.gethostbyname("once.test")
                with socket.create_connection((known["once.test"], 80), 5) as s:
                    s.sendall(b"GET / HTTP/1.1\\r\\nHost: once.test\\r\\n\\r\\n")
                    assert s.recv(99).endswith(b"heard")

            def test_later():
                with pytest.raises(PermissionError):
                    socket.create_connection((known["once.test"], 80), 5)

            def test_later_mapped():
                with socket.socket(socket.AF_INET6) as s, pytest.raises(PermissionError):
                    s.connect(("::ffff:" + known["once.test"], 80))

            def test_later_in_the_first_segment():
                with socket.socket() as s, pytest.raises(PermissionError):
                    s.sendto(b"secret", socket.MSG_FASTOPEN, (known["once.test"], 80))

            @pytest.mark.fence(hosts={{"once.test": "127.0.0.1:{allowed.port}"}})
            def test_again():
                assert socket.gethostbyname("once.test") == known["once.test"]
                with socket.socket() as s:
                    s.sendto(b"GET /first HTTP/1.1\\r\\nHost: once.test\\r\\n\\r\\n", socket.MSG_FASTOPEN,
                             (known["once.test"], 80))
                    assert s.recv(99).endswith(b"heard")

            def test_other_port():
                where = socket.gethostbyname("ported.test")
                with pytest.raises(PermissionError):
                    socket.create_connection((where, 80), 5)

            def test_never_handed_out():
                for host in "198.18.0.0", "198.18.77.77", "198.19.255.255", "::ffff:198.18.77.77":
                    with pytest.raises(PermissionError):
                        socket.create_connection((host, 80), 5)

            def test_reverse():
                assert socket.gethostbyaddr(known["once.test"])[0] == "once.test"
                with pytest.raises(OSError):
                    socket.gethostbyaddr("198.18.77.77")
            """,
            policy='[tool.fence.network]\nallow_local_outbound = false\nallowed_domains = ["ported.test:443"]\n',
        )
        run.clean("test_once", "test_again", "test_reverse")
        for test in ("test_later", "test_later_mapped", "test_later_in_the_first_segment"):
            run.refused(test, "connect once.test:80/tcp")
        run.refused("test_other_port", "connect ported.test:80/tcp")
        hosts = ["198.18.0.0", "198.18.77.77", "198.19.255.255"]
        assert [v.what for v in run.attempts("test_never_handed_out")] == [f"connect {h}:80/tcp" for h in hosts], run
        assert b"secret" not in allowed.heard
        assert b"/first" in allowed.heard
