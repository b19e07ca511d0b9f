"""`allow_private`, and `*`: where a real name server may lead the names that are allowed."""

from __future__ import annotations

import json
import sys

import pytest

from tests.end_to_end.caught import Caught, Fenced
from tests.end_to_end.private_names import ENTER, FILES, NAME_SERVER
from tests.end_to_end.test_escape_domains_rebinding import own_network

PUBLIC, CONTAINER, DENIED, METADATA = "93.184.216.34", "172.18.0.3", "10.7.7.7", "169.254.169.254"
AGENT = 8054
SUITE = """
    import socket
    import pytest

    def leads_to(name, *addresses):
        with socket.create_connection(("127.0.0.1", %(agent)d), 10) as s, s.makefile("rw") as lines:
            lines.write(" ".join([name, *addresses]) + "\\n")
            lines.flush()
            assert lines.readline() == "done\\n"

    def get(name, path):
        with socket.create_connection((name, 80), 10) as s:
            s.sendall(f"GET /{path} HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\n".encode())
            return s.recv(9999)
"""


def run(fenced: Fenced, tests: str, policy: str) -> tuple[Caught, dict[str, str]]:
    if not own_network():
        pytest.skip("kernel: no network namespaces")
    for name, text in FILES.items():
        fenced.write(name, text)
    servers = [PUBLIC, CONTAINER, DENIED, METADATA, "127.0.0.1"]
    own = [f"{address}/32" for address in (*servers, NAME_SERVER) if address != "127.0.0.1"]
    ran = fenced.run(
        SUITE % {"agent": AGENT} + tests,
        policy=policy,
        prefix=[
            "env",
            f"ADDRESSES={' '.join(own)}",
            *("unshare", "--net", "--mount", "sh", "-c", ENTER, sys.executable),
            *("heard.json", str(AGENT), ",".join(servers)),
        ],
    )
    return ran, json.loads((fenced.directory / "heard.json").read_text(encoding="ascii"))


@pytest.mark.needs("user:root", "program:unshare", "program:ip")
def test_private_names(fenced: Fenced) -> None:
    ran, heard = run(
        fenced,
        f"""
    @pytest.mark.parametrize("name", ["db", "cache.internal", "deep.down.internal"])
    def test_private(name):
        leads_to(name, "{CONTAINER}")
        assert get(name, name).endswith(b"heard")

    def test_public():
        leads_to("db", "{PUBLIC}")
        assert get("db", "public").endswith(b"heard")

    @pytest.mark.parametrize("address", ["{METADATA}", "127.0.0.1", "{DENIED}"])
    def test_elsewhere(address):
        leads_to("db", address)
        assert b" 403 " in get("db", "secret")

    def test_among_others():
        leads_to("db", "{METADATA}", "{CONTAINER}", "{DENIED}")
        for _ in range(3):
            assert get("db", "among").endswith(b"heard")

    def test_listed_without():
        leads_to("listed.test", "{CONTAINER}")
        assert b" 403 " in get("listed.test", "secret")

    def test_unlisted():
        with pytest.raises(socket.gaierror):
            socket.create_connection(("other", 80), 10)

    def test_address():
        with pytest.raises(PermissionError):
            socket.create_connection(("{CONTAINER}", 80), 10)

    @pytest.mark.fence(allow_private=["marked"])
    def test_marked():
        leads_to("marked", "{CONTAINER}")
        assert get("marked", "marked").endswith(b"heard")
    """,
        f"""
        [tool.fence.network]
        allow_local_outbound = false
        allow_local_outbound_ports = [{AGENT}]
        allowed_domains = ["listed.test"]
        denied_domains = ["{DENIED}"]
        allow_private = ["db", "*.internal"]
        """,
    )
    ran.clean(*(f"test_private[{name}]" for name in ("db", "cache.internal", "deep.down.internal")))
    ran.clean("test_public", "test_among_others", "test_marked")
    for name in ("db", "cache.internal", "deep.down.internal", "marked"):
        assert f"/{name} " in heard[CONTAINER]
    assert heard[CONTAINER].count("/among ") == 3
    assert "/public " in heard[PUBLIC]
    assert not any("secret" in text for text in heard.values()), heard
    assert heard[METADATA] == heard[DENIED] == heard["127.0.0.1"] == "", heard
    for address in METADATA, "127.0.0.1", DENIED:
        ran.refused(f"test_elsewhere[{address}]", f"connect db:80/tcp, which leads to {address}")
    ran.refused("test_listed_without", f"connect listed.test:80/tcp, which leads to {CONTAINER}")
    ran.refused("test_unlisted", "resolve other")
    ran.refused("test_address", f"connect {CONTAINER}:80/tcp")


@pytest.mark.needs("user:root", "program:unshare", "program:ip")
def test_every_name(fenced: Fenced) -> None:
    ran, heard = run(
        fenced,
        f"""
    @pytest.mark.parametrize("name", ["one.test", "two.example.org", "single"])
    def test_public(name):
        leads_to(name, "{PUBLIC}")
        assert get(name, name).endswith(b"heard")

    @pytest.mark.parametrize("address", ["{CONTAINER}", "{METADATA}", "127.0.0.1"])
    def test_elsewhere(address):
        leads_to("one.test", address)
        assert b" 403 " in get("one.test", "secret")

    def test_denied():
        leads_to("telemetry.test", "{PUBLIC}")
        with pytest.raises(socket.gaierror):
            get("telemetry.test", "secret")

    def test_address():
        with pytest.raises(PermissionError):
            socket.create_connection(("{PUBLIC}", 80), 10)

    def test_this_machine():
        with pytest.raises(PermissionError):
            socket.create_connection(("localhost", 80), 10)
    """,
        f"""
        [tool.fence.network]
        allow_local_outbound_ports = [{AGENT}]
        allowed_domains = ["*"]
        denied_domains = ["telemetry.test"]
        """,
    )
    for name in ("one.test", "two.example.org", "single"):
        ran.clean(f"test_public[{name}]")
        assert f"/{name} " in heard[PUBLIC]
    assert not any("secret" in text for text in heard.values()), heard
    assert heard[METADATA] == heard[CONTAINER] == heard["127.0.0.1"] == "", heard
    for address in CONTAINER, METADATA, "127.0.0.1":
        ran.refused(f"test_elsewhere[{address}]", f"connect one.test:80/tcp, which leads to {address}")
    ran.refused("test_denied", "resolve telemetry.test")
    ran.refused("test_address", f"connect {PUBLIC}:80/tcp")
    assert ran.attempts("test_this_machine")
