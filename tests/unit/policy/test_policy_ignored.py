"""What is refused in silence: only what no rule allows, and nothing that is denied or protected."""

from __future__ import annotations

from typing import Any

import pytest

from fence_core.errors import PolicyError
from fence_core.policy.compiler import Links
from fence_core.policy.decide import Judge
from fence_core.policy.model import Policy, Source
from fence_core.policy.requests import Connect, Request, Resolve, UnixConnect, Write
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay
from fence_core.report.rule import sentence


def judge(**keys: Any) -> Judge:
    overlay = parse_overlay(keys, source=Source("test.toml"), base_dir="/proj", home="/home/ci")
    return Judge(merge(Policy(), overlay), links=Links({"/home/ci/.cache/link": "/data"}.get, lambda path: False))


LISTS = {
    "allowed_domains": ["ok.telemetry.test"],
    "denied_domains": ["bad.telemetry.test"],
    "ignored_domains": ["*.telemetry.test", "one.test:8443", "192.0.2.0/24", "ok.test"],
    "ignored_unix_sockets": ["/run/bus", "/run/user/*/bus"],
    "allow_write": ["/home/ci/.cache/ours"],
    "deny_write": ["/home/ci/.cache/secret"],
    "ignore_write": ["~/.cache", "*.log", "/home/ci/.cache/link", "~/.ssh"],
}


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Resolve("a.telemetry.test"), "ignored"),
        (Resolve("A.Telemetry.Test."), "ignored"),
        (Resolve("telemetry.test"), "unlisted"),
        (Resolve("ok.telemetry.test"), "allowed"),
        (Resolve("bad.telemetry.test"), "denied"),
        (Resolve("one.test"), "ignored"),
        (Resolve("other.test"), "unlisted"),
        (Connect("a.telemetry.test", 443), "ignored"),
        (Connect("one.test", 8443), "ignored"),
        (Connect("one.test", 443), "unlisted"),
        (Connect("192.0.2.7", 5432), "ignored"),
        (Connect("192.0.2.7", 5432, "udp"), "ignored"),
        (Connect("::ffff:192.0.2.7", 5432), "ignored"),
        (Connect("198.51.100.7", 5432), "unlisted"),
        (Connect("10.0.0.1", 443, name="a.telemetry.test"), "ignored"),
        (UnixConnect("/run/bus"), "ignored"),
        (UnixConnect("/run/user/1000/bus"), "ignored"),
        (UnixConnect("/run/buses"), "unlisted"),
        (UnixConnect("\0/run/bus"), "unlisted"),
        (Write("open", "/home/ci/.cache/thing/x"), "ignored"),
        (Write("mkdir", "/home/ci/.cache/thing"), "ignored"),
        (Write("open", "/home/ci/.cache/ours"), "allowed"),
        (Write("open", "/home/ci/.cache/secret"), "denied"),
        (Write("open", "/srv/deep/down/x.log"), "ignored"),
        (Write("open", "/data/x"), "ignored"),
        (Write("open", "/srv/x.txt"), "unlisted"),
        (Write("open", "/home/ci/.ssh/config"), "protected"),
    ],
)
def test_what_is_ignored(request_: Request, why: str) -> None:
    decision = judge(**LISTS).decide(request_)
    assert decision.why == why, decision
    assert decision.allowed == (why == "allowed")
    assert decision.quiet == (why == "ignored")


def test_without_the_lists_nothing_is() -> None:
    decision = judge(allow_write=["/a"]).decide(Resolve("a.telemetry.test"))
    assert (decision.why, decision.quiet) == ("unlisted", False)


def test_the_entry_is_named() -> None:
    decision = judge(**LISTS).decide(Resolve("a.telemetry.test"))
    assert sentence(decision) == 'ignored: network.ignored_domains "*.telemetry.test" (test.toml)'


@pytest.mark.parametrize("entry", ["*", "*:443"])
def test_nobody_ignores_everything(entry: str) -> None:
    with pytest.raises(PolicyError) as raised:
        judge(ignored_domains=[entry])
    (problem,) = raised.value.problems
    assert problem.found == f'"{entry}" would ignore everything'
    assert '"*"' not in problem.accepted
