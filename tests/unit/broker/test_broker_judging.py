"""What nested sessions say together: objections, routes and answers to queries, without a kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.broker import judging
from fence_core.dns.search import Verdict
from fence_core.policy.decision import Decision, free, impossible
from fence_core.policy.model import Rule
from fence_core.policy.requests import Connect, Resolve, Write
from tests.unit.broker.kit import Rules, Sessions, sessions

NAME, ADDRESS = "api.example.com", "198.51.100.7"
CLOSED: Rules = {}
OPEN: Rules = {"network": {"allowed_domains": [NAME]}}
PINNED: Rules = {"network": {"hosts": {NAME: "127.0.0.1:8000"}}}
ABSENT: Rules = {"network": {"hosts": {NAME: False}}}
LOCAL: Rules = {"network": {"allow_local_outbound": True}}
NO_LOCAL: Rules = {"network": {"allow_local_outbound": False}}


@pytest.fixture
def nested() -> Iterator[Sessions]:
    with sessions() as made:
        yield made


def nowhere(host: str, port: int) -> bool:
    return False


# ---------------------------------------------------------------- objections


class Fixed:
    """A judge whose mind is made up."""

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    def decide(self, request: object) -> Decision:
        return self._decision


def account(*opinions: tuple[str, Decision]) -> Any:
    """Sessions by their mode and what their judge says, innermost first."""
    judges = tuple(
        (SimpleNamespace(worker=SimpleNamespace(scope=SimpleNamespace(mode=mode)), number=number), Fixed(decision))
        for number, (mode, decision) in enumerate(opinions)
    )
    return SimpleNamespace(judges=judges)


YES = free("nothing speaks of it")
NO = Decision(False, Rule(reason="no"), "unlisted")
QUIET = impossible("in passing", quiet=True)
REQUEST = Write("open", "/etc/passwd")

OPINIONS = st.lists(
    st.tuples(st.sampled_from(["enforce", "warn", "audit"]), st.sampled_from([YES, NO, QUIET])), min_size=1, max_size=5
)


@given(OPINIONS)
def test_everybody_must_agree(opinions: list[tuple[str, Decision]]) -> None:
    of = account(*opinions)
    refusing = [number for number, (_, decision) in enumerate(opinions) if not decision.allowed]
    found = judging.objections(of, REQUEST)
    assert [one.binding.number for one in found] == refusing  # type: ignore[attr-defined]
    assert all(one.request is REQUEST for one in found)
    assert judging.allowed(of, REQUEST) == (not refusing)


@given(OPINIONS)
def test_an_audit_only_takes_note(opinions: list[tuple[str, Decision]]) -> None:
    of = account(*opinions)
    enforced = [decision for mode, decision in opinions if mode != "audit" and not decision.allowed]
    assert judging.would_refuse(of, REQUEST) == bool(enforced)
    assert judging.why_not(of, REQUEST) is (enforced[0] if enforced else None)
    assert judging.enforces(of) == any(mode != "audit" for mode, _ in opinions)
    for one in judging.objections(of, REQUEST):
        assert one.audited == (one.binding.worker.scope.mode == "audit")


@given(OPINIONS, st.tuples(st.sampled_from(["enforce", "audit"]), st.sampled_from([YES, NO])))
def test_a_session_more_allows_no_more(opinions: list[tuple[str, Decision]], more: tuple[str, Decision]) -> None:
    for several in ([*opinions, more], [more, *opinions]):
        if judging.allowed(account(*several), REQUEST):
            assert judging.allowed(account(*opinions), REQUEST)
        if judging.would_refuse(account(*opinions), REQUEST):
            assert judging.would_refuse(account(*several), REQUEST)


INNER, OUTER = "http://inner.test:3128", "http://outer.test:3128"


def _by(proxy: str, *domains: str) -> Rules:
    return {"network": {"upstream_proxy": proxy, "allowed_domains": list(domains)}}


@pytest.mark.parametrize(
    ("rules", "used"),
    [
        pytest.param([_by(INNER)], INNER, id="the only one"),
        pytest.param([CLOSED, _by(OUTER)], OUTER, id="that of those around"),
        pytest.param([CLOSED, CLOSED], None, id="none"),
        pytest.param([_by(INNER), _by(INNER)], INNER, id="the same"),
        pytest.param([_by(INNER, NAME), OPEN], None, id="those around may not connect to it"),
        pytest.param([_by(INNER), _by("", "inner.test:3128")], INNER, id="those around may connect to it"),
        pytest.param([_by(INNER), _by("", "inner.test:80")], None, id="at another port"),
        pytest.param([_by(INNER), (CLOSED, "audit")], INNER, id="those around only take note"),
        pytest.param([_by(INNER), _by(OUTER, "inner.test")], OUTER, id="those around go by another"),
        pytest.param([_by(INNER), _by(INNER), CLOSED], None, id="only some of those around agree"),
    ],
)
def test_the_innermost_proxy_that_those_around_agree_to_is_used(
    nested: Sessions, rules: list[Any], used: str | None
) -> None:
    assert judging.upstream_proxy(nested.account(*rules)) == used


@pytest.mark.parametrize("proxy", ["", "http://", "http://[", "http://x:99999", "nothing", "http://\0"])
def test_what_is_no_proxy_is_none_for_those_around(nested: Sessions, proxy: str) -> None:
    account = nested.account(CLOSED, OPEN)
    network = account.worker.scope.base.network._replace(upstream_proxy=proxy)
    account.worker.scope.policies[0] = account.worker.scope.base._replace(network=network)
    assert judging.upstream_proxy(account) is None


# ---------------------------------------------------------------- connecting to a name


@pytest.mark.parametrize(
    ("rules", "refused", "to", "told"),
    [
        pytest.param([OPEN], False, None, [], id="allowed"),
        pytest.param([CLOSED], True, None, [NAME], id="unlisted"),
        pytest.param([(CLOSED, "audit")], False, None, [NAME], id="audited"),
        pytest.param([OPEN, CLOSED], True, None, [NAME], id="refused by those around"),
        pytest.param([CLOSED, OPEN], True, None, [NAME], id="refused inside"),
        pytest.param([(CLOSED, "audit"), CLOSED], True, None, [NAME, NAME], id="one notes it, the other refuses it"),
        pytest.param([CLOSED, CLOSED], True, None, [NAME, NAME], id="refused by both"),
        pytest.param([PINNED], False, ("127.0.0.1", 8000), [], id="pinned"),
        pytest.param([PINNED, LOCAL], False, ("127.0.0.1", 8000), [], id="those around are asked about the address"),
        pytest.param([PINNED, NO_LOCAL], True, ("127.0.0.1", 8000), ["127.0.0.1"], id="and may refuse that"),
        pytest.param([OPEN, PINNED], False, ("127.0.0.1", 8000), [], id="pinned around"),
        pytest.param([CLOSED, PINNED], True, ("127.0.0.1", 8000), [NAME], id="what is pinned around is not free"),
    ],
)
def test_routes(nested: Sessions, rules: list[Any], refused: bool, to: object, told: list[str]) -> None:
    found, objections = judging.route(nested.account(*rules), NAME, 443, nowhere)
    assert (found.refusal is not None, found.to, found.absent) == (refused, to, False)
    assert [one.request.host for one in objections] == told  # type: ignore[union-attr]


def test_a_port_that_was_opened_inside_may_be_pinned_to(nested: Sessions) -> None:
    of = nested.account(PINNED, NO_LOCAL)
    asked: list[tuple[str, int]] = []

    def has_port(host: str, port: int) -> bool:
        asked.append((host, port))
        return True

    found, objections = judging.route(of, NAME, 443, has_port)
    assert (found.refusal, found.to, objections) == (None, ("127.0.0.1", 8000), [])
    assert asked == [("127.0.0.1", 8000)]


def test_a_name_that_is_meant_not_to_exist(nested: Sessions) -> None:
    found, objections = judging.route(nested.account(ABSENT), NAME, 443, nowhere)
    assert found.refusal is not None
    assert found.absent
    assert not objections, "no violation"


def test_the_first_refusal_is_told(nested: Sessions) -> None:
    denied: Rules = {"network": {"denied_domains": [NAME]}}
    found, objections = judging.route(nested.account((CLOSED, "audit"), denied, CLOSED), NAME, 443, nowhere)
    assert found.refusal is not None
    assert found.refusal.why == "denied"
    assert [one.decision.why for one in objections] == ["unlisted", "denied", "unlisted"]


@pytest.mark.parametrize(("rules", "refused"), [(LOCAL, False), (NO_LOCAL, True)])
def test_the_name_of_this_machine_leads_to_loopback(nested: Sessions, rules: Rules, refused: bool) -> None:
    name = os.uname().nodename.lower().rstrip(".")
    found, _ = judging.route(nested.account(rules), name, 8000, nowhere)
    assert found.to == ("127.0.0.1", 8000)
    assert (found.refusal is not None) == refused


# ---------------------------------------------------------------- looking a name up


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        pytest.param([OPEN], Verdict.ALLOW, id="allowed"),
        pytest.param([CLOSED], Verdict.REFUSE, id="unlisted"),
        pytest.param([(CLOSED, "audit")], Verdict.ALLOW, id="audited"),
        pytest.param([OPEN, CLOSED], Verdict.REFUSE, id="refused around"),
        pytest.param([(CLOSED, "audit"), CLOSED], Verdict.REFUSE, id="noted inside, refused around"),
        pytest.param([PINNED], Verdict.ALLOW, id="pinned"),
        pytest.param([PINNED, CLOSED], Verdict.ALLOW, id="those around are asked about the address"),
        pytest.param([CLOSED, PINNED], Verdict.REFUSE, id="what is pinned around is not free"),
        pytest.param([ABSENT], Verdict.QUIET, id="meant not to exist"),
        pytest.param([OPEN, ABSENT], Verdict.QUIET, id="meant not to exist around"),
    ],
)
def test_verdicts_on_a_name(nested: Sessions, rules: list[Any], verdict: Verdict) -> None:
    assert judging.on_name(nested.account(*rules), NAME) is verdict


def test_names_of_this_machine_and_of_nobody(nested: Sessions) -> None:
    of = nested.account(CLOSED)
    assert judging.on_name(of, "localhost") is Verdict.HERE
    assert judging.on_name(of, os.uname().nodename.lower().rstrip(".")) is Verdict.HERE
    assert judging.on_name(of, "nowhere.invalid") is Verdict.QUIET


LABELS = st.sampled_from(["api", "www", "db", "evil"])
LISTS = st.lists(st.sampled_from(["*.example.com", NAME, "db.example.com", "other.test"]), max_size=3)


@given(st.lists(st.tuples(LISTS, st.sampled_from(["enforce", "audit"])), min_size=1, max_size=3), LABELS)
def test_who_may_look_a_name_up_may_connect_to_it(lists: list[tuple[list[str], str]], label: str) -> None:
    """Without pins, both ask the same lists: an answer that leads nowhere would help nobody."""
    name = f"{label}.example.com"
    with sessions() as made:
        of = made.account(*(({"network": {"allowed_domains": allowed}}, mode) for allowed, mode in lists))
        found, told = judging.route(of, name, 443, nowhere)
        assert (judging.on_name(of, name) is Verdict.ALLOW) == (found.refusal is None)
        assert judging.would_refuse(of, Connect(name, 443)) == (found.refusal is not None)
        assert judging.would_refuse(of, Resolve(name)) == (found.refusal is not None)
        assert len(told) == len(judging.objections(of, Connect(name, 443)))
