"""`*` in a list of domains: every name, and as a permission neither an address nor this machine."""

from __future__ import annotations

import os
from typing import Any

import pytest

from fence_core.policy.decide import Judge
from fence_core.policy.model import Policy, Source
from fence_core.policy.requests import Bind, Connect, Request, Resolve
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay
from fence_core.report.rule import sentence

PUBLIC, PRIVATE = "93.184.216.34", "10.9.9.9"


def judge(**network: Any) -> Judge:
    said = parse_overlay({"network": network}, source=Source("fence.json"), base_dir="/", flat=False)
    return Judge(merge(Policy(), said))


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (Resolve("api.example.com"), True),
        (Resolve("db"), True),
        (Connect("api.example.com", 443), True),
        (Connect("a.b.c.d.e.example", 22), True),
        (Connect(PUBLIC, 443), False),
        (Connect(PRIVATE, 443), False),
        (Connect("2606:2800::1", 443), False),
        (Connect("198.18.0.1", 443), False),
        (Connect(PUBLIC, 443, name="api.example.com"), True),
        (Connect(PRIVATE, 443, name="api.example.com"), False),
        (Connect("169.254.169.254", 80, name="metadata.google.internal"), False),
        (Connect("127.0.0.1", 5432), False),
        (Connect("localhost", 5432), False),
        (Connect("api.localhost", 5432), False),
        (Connect(os.uname().nodename, 5432), False),
        (Connect("127.0.0.1", 5432, name="rebound.example.com"), False),
        (Bind("192.0.2.1", 80), False),
        (Bind("0.0.0.0", 80), False),
        (Resolve("nothing.invalid"), False),
        (Resolve("a b"), False),
    ],
    ids=str,
)
def test_allowed(asked: Request, allowed: bool) -> None:
    assert judge(allowedDomains=["*"]).decide(asked).allowed is allowed


def test_denied_names_stay_denied() -> None:
    it = judge(allowedDomains=["*"], deniedDomains=["*.sentry.io", "evil.test:443", "93.184.0.0/16"])
    assert it.decide(Connect("sentry.io", 443)).allowed
    assert it.decide(Connect("o1.ingest.sentry.io", 443)).why == "denied"
    assert it.decide(Resolve("o1.ingest.sentry.io")).why == "denied"
    assert it.decide(Connect("evil.test", 443)).why == "denied"
    assert it.decide(Connect("evil.test", 80)).allowed
    assert it.decide(Connect(PUBLIC, 443, name="api.example.com")).why == "denied"


def test_one_port_of_every_name() -> None:
    it = judge(allowedDomains=["*:443"])
    assert it.decide(Connect("a.test", 443)).allowed
    assert not it.decide(Connect("a.test", 80)).allowed
    assert it.decide(Resolve("a.test")).allowed


def test_what_is_said() -> None:
    it = judge(allowedDomains=["*", "b.test"])
    assert sentence(it.decide(Connect("a.test", 1))) == 'allowed: network.allowed_domains "*" (fence.json)'
    assert sentence(it.decide(Connect("b.test", 1))) == 'allowed: network.allowed_domains "b.test" (fence.json)'
    assert '"*" means names, not addresses' in sentence(it.decide(Connect(PUBLIC, 1)))
    assert "means names" not in sentence(judge(allowedDomains=["a.test"]).decide(Connect(PUBLIC, 1)))
    assert not it.lists_addresses


def test_everything_denied() -> None:
    """All that is outside of this machine, addresses that are listed too."""
    it = judge(
        allowedDomains=["a.test", PUBLIC], deniedDomains=["*"], allowLocalBinding=True, hosts={"b.test": "127.0.0.1"}
    )
    for asked in Connect("a.test", 1), Resolve("a.test"), Connect(PUBLIC, 1), Connect("b.test", 1):
        assert it.decide(asked).why == "denied"
    assert it.decide(Connect("127.0.0.1", 5432)).allowed
    assert it.decide(Connect("localhost", 5432)).allowed
