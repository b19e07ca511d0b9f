"""A policy survives the way to another process, and nothing else gets in by that road."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fence_core.policy.decide import Judge
from fence_core.policy.model import Policy, Source
from fence_core.policy.requests import Bind, Connect, Write
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.templates import TemplateContext, preset
from fence_core.policy.sources.validate import parse_overlay
from fence_core.policy.sources.wire import from_wire, to_wire
from fence_core.report.rule import sentence


def full_policy() -> Policy:
    base = preset("pytest", TemplateContext("/p", ("/tmp",), "/h", "/p/.pytest_cache", ("/r.xml",))).policy
    overlay = parse_overlay(
        {
            "allowed_domains": ["*.example.com", "10.0.0.0/8:5432"],
            "denied_domains": ["bad.example.com"],
            "allow_unix_sockets": ["/run/x"],
            "allow_local_outbound": False,
            "allow_local_outbound_ports": [80, 443],
            "deny_write": ["*.key"],
            "allow_git_config": True,
        },
        source=Source("fence.json"),
        base_dir="/p",
        home="/h",
    )
    policy = merge(base, overlay)
    return policy._replace(
        network=policy.network._replace(
            hosts=(("a.test", "127.0.0.1:1"),), upstream_proxy="http://x", http_proxy_port=1
        )
    )


SOURCE = {"name": "x", "file": "", "line": None, "at": []}


@pytest.mark.parametrize("policy", [Policy(), full_policy()], ids=["empty", "full"])
def test_there_and_back(policy: Policy) -> None:
    assert from_wire(Policy, json.loads(json.dumps(to_wire(policy)))) == policy


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("network", "allow_local_binding", 1),
        ("network", "allow_local_binding", None),
        ("network", "allow_local_outbound", "yes"),
        ("network", "allow_local_outbound_ports", [True]),
        ("network", "allowed_domains", ["a.test"]),
        ("network", "allowed_domains", [{"text": "a.test", "source": SOURCE}]),
        ("network", "allowed_domains", [{"text": 1, "source": SOURCE, "pattern": ""}]),
        ("network", "allowed_domains", [{"text": "a.test", "source": {**SOURCE, "line": "1"}, "pattern": ""}]),
        ("network", "allowed_domains", [{"text": "a.test", "source": {**SOURCE, "at": [None]}, "pattern": ""}]),
        ("filesystem", "early_names", [["/x", "name"]]),
        ("network", "allowed_domains", "abc"),
        ("network", "hosts", [["a.test"]]),
        ("filesystem", "scratch", [1]),
        ("filesystem", "root", None),
        ("command", "use_defaults", 0),
        ("filesystem", "sources", {"a": "b"}),
    ],
)
def test_what_is_ill_typed_is_refused(section: str, key: str, value: Any) -> None:
    plain = json.loads(json.dumps(to_wire(full_policy())))
    plain[section][key] = value
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_wire(Policy, plain)


def test_a_missing_field_is_refused() -> None:
    plain = to_wire(Policy())
    del plain["network"]["denied_domains"]
    with pytest.raises(KeyError):
        from_wire(Policy, plain)


def test_decisions_show_nothing_raw_of_a_policy_from_elsewhere() -> None:
    """A nested session may name its sources and patterns as it likes."""
    plain = json.loads(json.dumps(to_wire(full_policy())))
    plain["sources"] = [{**SOURCE, "name": "\x1b[2J"}]
    plain["network"]["sources"] = [["allow_local_binding", {**SOURCE, "name": "\x1b[31m"}]]
    plain["filesystem"]["deny_write"] = [{"text": "/x\u202e", "source": {**SOURCE, "name": "\x07"}, "pattern": "/x"}]
    judge = Judge(from_wire(Policy, plain))
    for request in (Write("open", "/etc/y"), Write("open", "/x"), Bind("127.0.0.1", 1), Connect("192.0.2.1", 1)):
        answer = judge.decide(request)
        assert sentence(answer).isprintable()
