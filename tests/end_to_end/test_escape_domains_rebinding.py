"""Ways around the names by what they lead to: an allowed name whose owner answers with an address of this network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.rebinding import ENTER
from tests.end_to_end.test_escape_domains_names import QUERY

PUBLIC, PRIVATE, LISTED, METADATA = "93.184.216.34", "10.9.9.9", "10.8.8.8", "169.254.169.254"
AGENT = 8053
WAYS = {
    "private": PRIVATE,
    "shared": "100.64.9.9",
    "metadata": METADATA,
    "loopback": "127.0.0.1",
    "nothing": "0.0.0.0",
    "synthetic": "198.18.0.1",
    "mapped": f"::ffff:{PRIVATE}",
    "nothing in IPv6": "::",
    "unique local": "fd00::9",
    "site local": "fec0::9",
    "link local": "fe80::9",
    "translated": "64:ff9b::a09:909",
    "denied": "93.184.216.35",
}


def own_network() -> bool:
    if not all(map(shutil.which, ("unshare", "ip"))):
        return False
    command = ["unshare", "--net", "--mount", "ip", "link", "set", "lo", "up"]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


@pytest.mark.needs("user:root", "program:unshare", "program:ip")
def test_rebinding(fenced: Fenced) -> None:
    """Where a name leads is looked at each time, and what was looked at is what is connected to."""
    if not own_network():
        pytest.skip("kernel: no network namespaces")
    fenced.write("query.py", QUERY)
    servers = [PUBLIC, "93.184.216.35", PRIVATE, LISTED, METADATA, "100.64.9.9", "127.0.0.1", "198.18.0.1"]
    own = [f"{address}/32" for address in servers if address != "127.0.0.1"] + ["fd00::9/128", "fec0::9/128"]
    run = fenced.run(
        f"""
        import socket
        import pytest
        from query import query

        WAYS = {list(WAYS.values())!r}

        def leads_to(*addresses):
            with socket.create_connection(("127.0.0.1", {AGENT}), 10) as s, s.makefile("rw") as lines:
                lines.write(" ".join(["name.test", *addresses]) + "\\n")
                lines.flush()
                assert lines.readline() == "done\\n"

        def connected():
            # libc would read /etc/hosts itself: a resolver that asks goes by what the fence answers.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(5)
                asking.sendto(query([b"name", b"test"]), ("192.0.2.53", 53))
                address = socket.inet_ntoa(asking.recv(999)[-4:])
            return socket.create_connection((address, 80), 5)

        def get(path, s=None):
            with s or connected() as s:
                s.sendall(f"GET /{{path}} HTTP/1.1\\r\\nHost: name.test\\r\\n\\r\\n".encode())
                return s.recv(9999)

        def test_control():
            leads_to("{PUBLIC}")
            assert get("public").endswith(b"heard")

        def test_listed():
            leads_to("{LISTED}")
            assert get("listed").endswith(b"heard")

        @pytest.mark.parametrize("number", range({len(WAYS)}))
        def test_way(number):
            leads_to(WAYS[number])
            assert b" 403 " in get("secret")

        def test_among_others():
            leads_to("{PRIVATE}", "{PUBLIC}", "{METADATA}")
            for _ in range(3):
                assert get("among").endswith(b"heard")

        def test_second_answer():
            leads_to("{PUBLIC}")
            with connected() as first:
                assert get("first", first).endswith(b"heard")
            leads_to("{PRIVATE}")
            assert b" 403 " in get("secret")
            leads_to("{PUBLIC}")
            assert get("third").endswith(b"heard")
        """,
        policy=f"""
        [tool.fence.network]
        allow_local_outbound = false
        allow_local_outbound_ports = [{AGENT}]
        allowed_domains = ["name.test", "{LISTED}"]
        denied_domains = ["93.184.216.35"]
        """,
        prefix=[
            "env",
            f"ADDRESSES={' '.join(own)}",
            *("unshare", "--net", "--mount", "sh", "-c", ENTER, sys.executable),
            *("hosts", "heard.json", str(AGENT), ",".join(servers)),
        ],
    )
    heard = json.loads((fenced.directory / "heard.json").read_text(encoding="ascii"))
    run.clean("test_control", "test_listed", "test_among_others")
    assert "/public" in heard[PUBLIC]
    assert "/listed" in heard[LISTED]
    assert heard[PUBLIC].count("/among") == 3
    assert not any("secret" in text for text in heard.values()), heard
    assert heard[PRIVATE] == heard[METADATA] == heard["127.0.0.1"] == "", heard
    for number, (what, address) in enumerate(WAYS.items()):
        found = [v.what for v in run.attempts(f"test_way[{number}]")]
        assert len(found) == 1, (what, run)
        assert found[0].startswith("connect name.test:80/tcp, which leads to "), (what, address, found)
    run.refused("test_second_answer", f"connect name.test:80/tcp, which leads to {PRIVATE}")
