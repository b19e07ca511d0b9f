"""Whom may the tests talk to? Names, addresses, loopback, UNIX sockets, and the kinds of socket nothing can allow."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.policy.compiler import Links
from fence_core.policy.decide import Judge
from fence_core.policy.model import Policy, Source
from fence_core.policy.requests import Bind, Connect, OpenSocket, Request, Resolve, UnixConnect
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay
from fence_core.report.rule import sentence


def judge(**keys: Any) -> Judge:
    links = Links({"/var/run": "/run"}.get, lambda path: True)
    overlay = parse_overlay(keys, source=Source("test.toml"), base_dir="/proj", home="/home/ci")
    return Judge(merge(Policy(sources=(Source("preset x"),)), overlay), links=links)


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        (Resolve("api.stripe.com"), True),
        (Resolve("API.STRIPE.COM."), True),
        (Resolve("stripe.com"), False),
        (Resolve("evilapi.stripe.com"), False),
        (Resolve("api.stripe.com.evil.test"), False),
        (Resolve("a.example.com"), True),
        (Resolve("example.com"), False),
        (Resolve("evilexample.com"), False),
        (Resolve("bad.example.com"), False),  # denied below an allowed wildcard
        (Resolve("x.bad.example.com"), True),
        (Resolve("port.example.org"), True),  # allowed on one port
        (Connect("api.stripe.com", 443), True),
        (Connect("a.example.com", 1), True),
        (Connect("bad.example.com", 443), False),
        (Connect("port.example.org", 8443), True),
        (Connect("port.example.org", 443), False),
        (Connect("93.184.216.34", 443), False),
        (Connect("10.1.2.3", 443), True),
        (Connect("::ffff:10.1.2.3", 443), True),
        (Connect("10.66.0.1", 443), False),
        (Connect("10.1.2.3", 22), False),
        (Connect("192.0.2.1", 5432), True),
        (Connect("192.0.2.1", 5433), False),
        (Connect("2606::1", 443), False),
        (Connect("2606::1", 443, inside=True), True),
        (Connect("192.0.2.1", 5432, "udp"), True),
    ],
)
def test_names_and_addresses(request_: Request, allowed: bool) -> None:
    it = judge(
        allowed_domains=[
            "api.stripe.com", "*.example.com", "port.example.org:8443", "10.0.0.0/8", "192.0.2.1:5432",
        ],
        denied_domains=["bad.example.com", "10.66.0.0/16", "10.0.0.0/8:22"],
    )  # fmt: skip
    assert it.decide(request_).allowed is allowed


def test_rules_are_named_with_their_source() -> None:
    it = judge(allowed_domains=["*.example.com"], denied_domains=["bad.example.com"])
    assert (
        sentence(it.decide(Resolve("a.example.com"))) == 'allowed: network.allowed_domains "*.example.com" (test.toml)'
    )
    denied = it.decide(Connect("bad.example.com", 443))
    assert sentence(denied) == 'denied: network.denied_domains "bad.example.com" (test.toml)'
    assert denied.why == "denied"
    unlisted = it.decide(Connect("93.184.216.34", 443))
    assert sentence(unlisted) == "no rule in network.allowed_domains allows it (preset x, test.toml)"
    assert unlisted.why == "unlisted"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "localhost"])
@pytest.mark.parametrize(
    ("keys", "allowed"),
    [
        ({}, False),
        ({"allow_local_binding": True}, True),  # as in the Go tool: outbound follows binding
        ({"allow_local_binding": True, "allow_local_outbound": False}, False),
        ({"allow_local_outbound": True}, True),
        ({"allow_local_outbound_ports": [5432]}, True),
        ({"allow_local_outbound": False, "allow_local_outbound_ports": [5432]}, True),
        ({"allow_local_outbound_ports": [5433]}, False),
        ({"allow_local_binding": True, "allow_local_outbound_ports": [5432]}, True),
        ({"allow_local_binding": True, "allow_local_outbound_ports": [5433]}, False),
        ({"allow_local_outbound": True, "allow_local_outbound_ports": [5432]}, True),
        ({"allow_local_outbound": True, "allow_local_outbound_ports": [5433]}, False),
        ({"allowed_domains": ["localhost"]}, True),
        ({"allowed_domains": ["localhost:5432"]}, True),
        ({"allowed_domains": ["localhost:5433"]}, False),
        ({"allow_local_outbound": True, "denied_domains": ["localhost:5432"]}, False),
    ],
)
def test_services_on_loopback(host: str, keys: dict[str, Any], allowed: bool) -> None:
    it = judge(**keys)
    assert it.decide(Connect(host, 5432)).allowed is allowed
    assert it.decide(Connect(host, 5432, inside=True)).allowed


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({"allow_local_binding": True}, "allowed: network.allow_local_binding (test.toml)"),
        ({"allow_local_outbound": True}, "allowed: network.allow_local_outbound (test.toml)"),
        ({"allow_local_outbound_ports": [1]}, 'allowed: network.allow_local_outbound_ports "1" (test.toml)'),
    ],
)
def test_a_loopback_permission_says_what_decided(keys: dict[str, Any], rule: str) -> None:
    assert sentence(judge(**keys).decide(Connect("127.0.0.1", 1))) == rule


@pytest.mark.parametrize("port", [53, 853])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "localhost", "0.0.0.0"])
def test_a_resolver_of_this_machine_is_never_reached(host: str, port: int) -> None:
    for keys in {"allow_local_outbound": True}, {"allow_local_outbound_ports": [53, 853]}, {"allowed_domains": [host]}:
        for proto in "tcp", "udp":
            decision = judge(**keys).decide(Connect(host, port, proto))
            assert (decision.allowed, decision.why) == (False, "impossible")
            assert judge(**keys).decide(Connect(host, port, proto, inside=True)).allowed


def test_names_are_reached_by_tcp_only() -> None:
    it = judge(allowed_domains=["api.corp.net", "192.0.2.7"], allow_local_outbound=True)
    assert it.decide(Connect("api.corp.net", 443)).allowed
    decision = it.decide(Connect("api.corp.net", 443, "udp"))
    assert (decision.allowed, decision.quiet) == (False, True)
    assert not it.decide(Connect("other.corp.net", 443, "udp")).quiet
    assert it.decide(Connect("192.0.2.7", 443, "udp")).allowed
    assert it.decide(Connect("localhost", 443, "udp")).allowed


@pytest.mark.parametrize(
    ("address", "keys", "allowed"),
    [
        ("93.184.216.34", {}, True), ("2606:2800::1", {}, True),
        ("10.9.9.9", {}, False), ("10.9.9.9", {"allowed_domains": ["10.0.0.0/8:80"]}, True),
        ("10.9.9.9", {"allowed_domains": ["10.0.0.0/8:81"]}, False), ("169.254.169.254", {}, False),
        ("fd00::7", {}, False), ("127.0.0.1", {"allow_local_outbound": False}, False),
        ("127.0.0.1", {"allow_local_outbound": True}, True),
        ("93.184.216.34", {"denied_domains": ["93.184.216.34"]}, False),
    ],
)  # fmt: skip
def test_an_address_that_an_allowed_name_leads_to(address: str, keys: dict[str, Any], allowed: bool) -> None:
    it = judge(**keys)
    assert it.decide(Connect(address, 80, name="db.corp.net")).allowed is allowed
    if "allowed_domains" not in keys and not keys.get("allow_local_outbound"):
        assert not it.decide(Connect(address, 80)).allowed  # by itself it is allowed by being listed only


def test_name_services_of_libc_are_refused_quietly() -> None:
    assert judge().decide(UnixConnect("/run/nscd/socket")).quiet
    assert not judge().decide(UnixConnect("/run/docker.sock")).quiet
    assert judge(allow_unix_sockets=["/run/nscd"]).decide(UnixConnect("/run/nscd/socket")).allowed


def test_a_name_can_be_declared_absent() -> None:
    for keys in {}, {"allowed_domains": ["*.x.test"]}, {"denied_domains": ["gone.x.test"]}:
        it = judge(hosts={"Gone.x.test.": False, "here.x.test": "127.0.0.1"}, **keys)
        for request in Resolve("gone.x.test"), Connect("gone.x.test", 80):
            decision = it.decide(request)
            assert (decision.allowed, decision.quiet) == (False, True)
            assert 'gone.x.test" (test.toml): it does not exist' in sentence(decision)
        assert it.pinned("gone.x.test") is None
        assert it.decide(Resolve("here.x.test")).allowed
        assert not it.decide(Resolve("a.gone.x.test")).quiet


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("doesnotexist.google.com", True), ("non-resolvable-address.com", True), ("no-such-host.corp.net", True),
        ("nxdomain.corp.net", True), ("unknown.corp.net", True), ("api.foo.test", True), ("invalid.corp.net", True),
        ("api.stripe.com", False), ("mono-host.net", False), ("admin.hosting.com", False), ("test.corp.net", False),
    ],
)  # fmt: skip
def test_what_to_do_about_a_name_that_is_meant_not_to_exist(name: str, hint: bool) -> None:
    decision = judge().decide(Resolve(name))
    assert decision.why == "unlisted"
    assert not decision.quiet
    assert (f'hosts = {{"{name}" = false}}' in sentence(decision)) is hint


def test_the_own_name_leads_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "Runner-7F.corp.net", "", "", "")))
    assert judge().decide(Resolve("runner-7f.corp.net")).allowed
    assert not judge().decide(Connect("runner-7f.corp.net", 80)).allowed
    assert judge(allow_local_outbound=True).decide(Connect("runner-7f.corp.net", 80)).allowed
    for other in "runner-7f", "x.runner-7f.corp.net", "corp.net":
        assert not judge().decide(Resolve(other)).allowed
    assert not judge(denied_domains=["runner-7f.corp.net"]).decide(Resolve("runner-7f.corp.net")).allowed


def test_a_loopback_refusal_says_what_decided() -> None:
    assert "allow_local_outbound is false (test.toml)" in sentence(
        judge(allow_local_outbound=False).decide(Connect("127.0.0.1", 1))
    )
    assert "network.allow_local_outbound_ports" in sentence(judge().decide(Connect("127.0.0.1", 1)))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "api.localhost", "127.0.0.1", "::1", "0x7f.1"])
def test_looking_up_this_machine_is_free(host: str) -> None:
    assert judge().decide(Resolve(host)).allowed


def test_a_denied_loopback_name_is_denied() -> None:
    assert not judge(denied_domains=["api.localhost"]).decide(Resolve("api.localhost")).allowed


def test_names_that_cannot_exist_and_addresses_being_sorted_are_no_violations() -> None:
    it = judge()
    for request in (
        Resolve("x.invalid"), Resolve("invalid"), Connect("192.0.2.1", 0, "udp"), Connect("::1", 0, "udp"),
    ):  # fmt: skip
        answer = it.decide(request)
        assert (answer.allowed, answer.quiet) == (False, True)
    assert not it.decide(Resolve("invalid.example.com")).quiet
    assert not it.decide(Connect("192.0.2.1", 0, "tcp")).quiet


@pytest.mark.parametrize(
    ("request_", "keys", "allowed"),
    [
        (Bind("127.0.0.1", 0), {}, False),
        (Bind("127.0.0.1", 0), {"allow_local_binding": True}, True),
        (Bind("0.0.0.0", 80), {"allow_local_binding": True}, True),
        (Bind("::", 80), {"allow_local_binding": True}, True),
        (Bind("::", 80), {"allow_local_outbound": True}, False),
        (Bind("127.0.0.1", 80), {"allowed_domains": ["127.0.0.1"]}, False),  # reaching is not serving
        (Bind("192.0.2.1", 80), {"allow_local_binding": True}, False),
        (Bind("192.0.2.1", 80), {"allowed_domains": ["192.0.2.0/24"]}, True),
        (Bind("192.0.2.1", 80), {"allowed_domains": ["192.0.2.0/24:81"]}, False),
        (Bind("192.0.2.1", 80), {"allowed_domains": ["192.0.2.0/24"], "denied_domains": ["192.0.2.1"]}, False),
        (Bind("host.example", 80), {"allow_local_binding": True}, False),
    ],
)
def test_bind(request_: Bind, keys: dict[str, Any], allowed: bool) -> None:
    assert judge(**keys).decide(request_).allowed is allowed


@pytest.mark.parametrize(
    ("path", "keys", "allowed"),
    [
        ("/run/docker.sock", {}, False),
        ("/run/docker.sock", {"allow_unix_sockets": ["/var/run/docker.sock"]}, True),
        ("/run/docker.sock", {"allow_unix_sockets": ["/run/*.sock"]}, True),
        ("/run/docker.socket", {"allow_unix_sockets": ["/run/*.sock"]}, False),
        ("/run/postgresql/.s.PGSQL.5432", {"allow_unix_sockets": ["/run/postgresql"]}, True),
        ("/proj/app.sock", {"allow_unix_sockets": ["app.sock"]}, True),
        ("/run/docker.sock", {"allow_all_unix_sockets": True}, True),
        ("/run/docker.sock", {"allow_write": ["/run"]}, False),
        ("relative.sock", {"allow_unix_sockets": ["/"]}, False),
        ("\0abstract", {}, False),
        ("\0abstract", {"allow_unix_sockets": ["/", "?abstract", "abstract"]}, False),
        ("\0abstract", {"allow_all_unix_sockets": True}, True),
    ],
)
def test_unix_sockets(path: str, keys: dict[str, Any], allowed: bool) -> None:
    it = judge(**keys)
    assert it.decide(UnixConnect(path)).allowed is allowed
    assert it.decide(UnixConnect(path, inside=True)).allowed


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        (OpenSocket(2, 1), True),
        (OpenSocket(10, 2 | 0o2000000), True),
        (OpenSocket(2, 1, 262), True),  # MPTCP
        (OpenSocket(2, 2, 1), True),  # ping
        (OpenSocket(10, 5, 132), False),  # SCTP
        (OpenSocket(10, 1, 132), False),
        (OpenSocket(2, 2, 136), False),  # UDP-Lite
        (OpenSocket(2, 1, 17), False),
        (OpenSocket(1, 5), True),
        (OpenSocket(16, 3), True),  # netlink
        (OpenSocket(2, 3, 1), False),  # raw ICMP
        (OpenSocket(17, 3), False),
        (OpenSocket(40, 1), False),
        (OpenSocket(38, 5), False),
        (OpenSocket(99, 1), False),
    ],
)
def test_kinds_of_socket(request_: OpenSocket, allowed: bool) -> None:
    answer = judge(allow_all_unix_sockets=True, allow_local_binding=True).decide(request_)
    assert answer.allowed is allowed
    assert allowed or answer.why == "impossible"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "good.test\0.evil.test",
        "user@api.stripe.com",
        "api.stripe.com/",
        "\udcff",
        "1.2.3.999",
        "::g",
        "a" * 9999,
    ],
)
def test_what_is_no_host_is_refused_in_words(host: str) -> None:
    it = judge(allowed_domains=["api.stripe.com", "*.evil.test"], allow_local_binding=True)
    for request in (Resolve(host), Connect(host, 443), Bind(host, 80)):
        answer = it.decide(request)
        assert (answer.allowed, answer.why) == (False, "impossible")
        assert sentence(answer).isprintable()


@given(st.text(st.characters(codec=None), max_size=60), st.integers(-1, 70_000))
def test_no_host_makes_the_judge_raise(text: str, port: int) -> None:
    it = judge(allowed_domains=["a.example", "10.0.0.0/8"], allow_unix_sockets=["/run/*"])
    for request in (Resolve(text), Connect(text, port), Bind(text, port), UnixConnect(text), UnixConnect("/" + text)):
        assert sentence(it.decide(request)).isprintable()


labels = st.sampled_from(["a", "b", "api", "example", "com", "evil", "test"])
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)
rules = st.one_of(hosts, st.lists(labels, min_size=2, max_size=3).map(lambda parts: "*." + ".".join(parts)))


@given(st.lists(rules, max_size=4), st.lists(rules, max_size=3), hosts)
def test_what_is_allowed_matches_no_denial(allow: list[str], deny: list[str], host: str) -> None:
    it = judge(allowed_domains=allow, denied_domains=deny)
    denials = judge(allowed_domains=deny)
    for request in (Resolve(host), Connect(host, 443)):
        if it.decide(request).allowed:
            assert not denials.decide(request).allowed
            assert judge(allowed_domains=allow).decide(request).allowed
