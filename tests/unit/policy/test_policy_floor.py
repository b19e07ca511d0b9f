"""What no list opens: table by table, with a policy that allows all that lists can allow, and with each switch."""

from __future__ import annotations

from typing import Any

import pytest

from fence_core.policy import floor
from fence_core.policy.decide import Judge
from fence_core.policy.model import Policy, Source
from fence_core.policy.requests import (
    Connect,
    OpenSocket,
    Passage,
    Request,
    Resolve,
    SocketOption,
    SystemCall,
    Write,
)
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay
from fence_core.report.rule import sentence

EVERYTHING = {
    "allow_write": ["/"],
    "allowed_domains": ["192.0.2.0/24", "127.0.0.0/8", "::1", "localhost", "a.test"],
    "allow_local_binding": True,
    "allow_all_unix_sockets": True,
    "allow_git_config": True,
}


def judge(*, proxy_env: bool = False, **keys: Any) -> Judge:
    overlay = parse_overlay({**EVERYTHING, **keys}, source=Source("test.toml"), base_dir="/proj", home="/home/ci")
    policy = merge(Policy(sources=(Source("preset x"),)), overlay)
    return Judge(policy._replace(network=policy.network._replace(proxy_env=proxy_env)))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Connect("127.0.0.1", 53), "a name server of this machine"),
        (Connect("localhost", 853, "udp"), "a name server of this machine"),
        (Connect("::", 53), "a name server of this machine"),
        (Connect("127.0.0.1", 41000, way="filter"), "told of it (network.proxy_env would allow it)"),
        (Connect("192.0.2.1", 53, "udp", way="no query"), "this was no query for a name"),
        (Connect("192.0.2.1", 80, "udp", way="late"), "did not when the socket was connected"),
        (Connect("a.test", 443, "udp"), "names are reached by TCP only"),
        (Resolve("a.test", used_up=True), "no address is left"),
        (OpenSocket(2, 3, 1), "is not for the fence to see"),
        (OpenSocket(2, 1, 132), "is not for the fence to see"),
        (OpenSocket(2, 1 | 0o2000000, 17), "is not for the fence to see"),
        (OpenSocket(17, 3, 0), "is not for the fence to see"),
        (OpenSocket(40, 1, 0), "is not for the fence to see"),
        (SocketOption("route"), "the first stop of its route"),
        (SocketOption("interface"), "it leaves this machine"),
        (SocketOption("tie", "SO_BINDTODEVICE", 8080), "(network.expose_ports with 8080 would allow it)"),
        (SocketOption("serve", port=8080), "(network.expose_ports with 8080 would allow it)"),
        (Passage("TLS for b.test through a tunnel to a.test:443", "own name"), "for its own name only"),
        (Passage("an HTTP request", "ambiguous"), "two readers"),
        (Passage("GET /", "no proxy request"), "the requests of a proxy only"),
        (Passage("HTTP/2", "cleartext HTTP/2"), "request by request"),
        (Write("mknod device", "/srv/x"), "a device node is a way"),
        (Write("chmod", "pipe:[1]", known="inherited"), "whoever started it"),
        (Write("open", "/proc/1/mem"), "a process outside"),
        (Write("open", "../1/cwd/x", known="outside"), "a process outside"),
        (SystemCall("mount"), "it changes the whole machine"),
        (SystemCall("type into a terminal (TIOCSTI)", "terminal"), "a shell would run what is typed"),
        (SystemCall("trace bash, a process outside", "process"), "out of reach from inside"),
        (SystemCall("change the limits of x", "neighbours"), "out of reach from inside"),
        (SystemCall("enter namespace net:[1]", "namespace"), "in a namespace of the host's"),
        (Write("terminal", "/dev/pts/9"), "(filesystem.allow_write with /dev/pts/9 would allow it)"),
    ],
)
def test_no_list_opens_it(request_: Request, reason: str) -> None:
    answer = judge().decide(request_)
    assert (answer.allowed, answer.why) == (False, "impossible")
    assert reason in sentence(answer)


@pytest.mark.parametrize(
    ("request_", "keys"),
    [
        (Connect("127.0.0.1", 41000, way="filter"), {"proxy_env": True}),
        (SocketOption("tie", "SO_BINDTODEVICE", 8080), {"expose_ports": [8080]}),
        (SocketOption("serve", port=8080), {"expose_ports": [8080]}),
        (Write("terminal", "/dev/pts/9"), {"allow_write": ["/dev/pts/9"]}),
        (SocketOption("tie", "SO_BINDTODEVICE"), {"allowed_domains": ["192.0.2.1"]}),
    ],
)
def test_the_switch_that_is_named_opens_it(request_: Request, keys: dict[str, Any]) -> None:
    assert judge(**keys).decide(request_).allowed
    without = judge(**({"allowed_domains": ["a.test"]} if "allowed_domains" in keys else {})).decide(request_)
    assert not without.allowed
    assert without.rule.key.partition(".")[2] in keys


@pytest.mark.parametrize(
    "request_",
    [
        Connect("127.0.0.1", 53, inside=True),
        Connect("192.0.2.1", 53),
        Connect("a.test", 443),
        Connect("localhost", 443, "udp"),
        Connect("192.0.2.1", 443, "udp"),
        Resolve("a.test"),
        OpenSocket(1, 5),
        OpenSocket(16, 3, 0),
        OpenSocket(2, 1, 262),
        OpenSocket(10, 2 | 0o4000, 58),
        SocketOption("tie", "SO_BINDTODEVICE"),
        Write("mknod", "/srv/x"),
        Write("open", "/proc/self/mem"),
    ],
)
def test_what_is_like_it_is_left_to_the_lists(request_: Request) -> None:
    assert judge().decide(request_).allowed


def test_what_the_lists_refuse_is_said_to_be_refused_by_them() -> None:
    it = judge(allowed_domains=[], allow_local_outbound=False)
    for request in (
        Connect("b.test", 443, "udp"),
        Connect("192.0.2.1", 53, "udp", way="no query"),
        Resolve("b.test", used_up=True),
    ):
        assert (it.decide(request).why, it.decide(request).quiet) == ("unlisted", False)


def test_what_the_filter_finds_is_what_the_floor_knows() -> None:
    for why, reason in floor.PASSAGES.items():
        assert sentence(judge().decide(Passage("x", why))) == reason
    assert not judge().decide(Passage("x", "something new")).allowed


def test_an_audit_refuses_what_could_not_be_undone() -> None:
    held = [SystemCall("mount"), SystemCall("x", "terminal"), SystemCall("x", "process"), Connect("a.test", 1, "udp")]
    let_through = [SystemCall("enter namespace x", "namespace"), SocketOption("route"), OpenSocket(17, 3)]
    assert all(judge().decide(request).always for request in held)
    assert not any(judge().decide(request).always for request in let_through)


def test_each_row_has_words_for_it() -> None:
    for rows in floor.FLOOR.values():
        assert all(row.reason and row.reason.isprintable() and not row.reason.endswith(".") for row in rows)
