"""Names that may lead to private addresses, and to nothing worse."""

from __future__ import annotations

from typing import Any

import pytest

from fence_core.errors import PolicyError
from fence_core.policy.decide import Judge
from fence_core.policy.model import Policy, Source
from fence_core.policy.public import is_private, is_public
from fence_core.policy.requests import Connect, Request, Resolve
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay
from fence_core.report.rule import sentence


def judge(**network: Any) -> Judge:
    said = parse_overlay({"network": network}, source=Source("fence.json"), base_dir="/", flat=False)
    return Judge(merge(Policy(), said))


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (Resolve("db"), True),
        (Resolve("cache.internal"), True),
        (Resolve("a.b.internal"), True),
        (Resolve("internal"), False),
        (Resolve("db.internal.example"), False),
        (Resolve("ported.test"), True),
        (Connect("db", 5432), True),
        (Connect("ported.test", 5432), True),
        (Connect("ported.test", 80), False),
        (Connect("172.18.0.3", 5432, name="db"), True),
        (Connect("10.1.2.3", 80, name="cache.internal"), True),
        (Connect("192.168.1.9", 80, name="db"), True),
        (Connect("100.64.3.4", 80, name="db"), True),
        (Connect("fd12::3", 80, name="db"), True),
        (Connect("93.184.216.34", 80, name="db"), True),
        (Connect("10.1.2.3", 5432, name="ported.test"), True),
        (Connect("10.1.2.3", 80, name="ported.test"), False),
        (Connect("10.1.2.3", 80, name="allowed.test"), False),
        (Connect("10.1.2.3", 80), False),
        (Connect("172.18.0.3", 5432), False),
        (Connect("127.0.0.1", 80, name="db"), False),
        (Connect("0.0.0.0", 80, name="db"), False),
        (Connect("::1", 80, name="db"), False),
        (Connect("169.254.169.254", 80, name="db"), False),
        (Connect("fe80::1", 80, name="db"), False),
        (Connect("fd00:ec2::254", 80, name="db"), False),
        (Connect("100.100.100.200", 80, name="db"), False),
        (Connect("198.18.0.1", 80, name="db"), False),
        (Connect("224.0.0.1", 80, name="db"), False),
        (Connect("64:ff9b::a01:203", 80, name="db"), False),
        (Connect("10.7.7.7", 80, name="db"), False),
    ],
    ids=str,
)
def test_names(asked: Request, allowed: bool) -> None:
    it = judge(
        allowPrivate=["db", "*.internal", "ported.test:5432"],
        allowedDomains=["allowed.test"],
        deniedDomains=["10.7.7.7"],
    )
    assert it.decide(asked).allowed is allowed


def test_what_is_said() -> None:
    it = judge(allowPrivate=["db"], allowedDomains=["a.test", "*"])
    by = 'allowed: network.allow_private "db" (fence.json)'
    assert sentence(it.decide(Connect("10.1.2.3", 80, name="db"))) == by
    said = sentence(it.decide(Connect("10.1.2.3", 80, name="a.test")))
    assert "no rule in network.allow_private allows it" in said
    assert "10.1.2.3 is not a public address" in said
    said = sentence(it.decide(Connect("169.254.169.254", 80, name="db")))
    assert "no rule in network.allowed_domains allows it" in said


def test_a_denial_wins() -> None:
    it = judge(allowPrivate=["db", "*.internal"], deniedDomains=["db", "*.secret.internal"])
    assert it.decide(Connect("db", 80)).why == "denied"
    assert it.decide(Resolve("a.secret.internal")).why == "denied"
    assert it.decide(Resolve("a.internal")).allowed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("*", "too broad: whoever has any name"),
        ("*.com", "too broad"),
        ("*.co.uk", "too broad"),
        ("10.0.0.0/8", "is no name; addresses and networks go into allowed_domains"),
        ("172.18.0.3", "is no name"),
        ("db:0", "port"),
        ("http://db", "URL"),
    ],
)
def test_what_no_name_is(text: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said) as caught:
        judge(allowPrivate=[text])
    assert 'a wildcard ("*.internal")' in str(caught.value)


@pytest.mark.parametrize(
    "text", ["*.internal", "*.Internal.", "*.svc:80", "*.lan", "*.cluster.example", "db", "db:5432"]
)
def test_what_is_one(text: str) -> None:
    judge(allowPrivate=[text])


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.31.0.1", "192.168.0.1", "100.127.0.1", "fc00::1", "8.8.8.8", "::1", "127.0.0.1", "169.254.1.1",
        "198.18.0.1", "172.32.0.1", "fd00:ec2::23",
    ],
)  # fmt: skip
def test_no_address_is_both(address: str) -> None:
    assert not (is_private(address) and is_public(address))
