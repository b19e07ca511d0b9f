"""A violation is known again by what was tried, by whom, and from where; not by what no second run has."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.events.model import Frame, Program, Target, Violation
from fence_core.report import fingerprint as module
from tests.unit.plugin.fakes import violation

PLACE = Frame("/home/kim/shop/shop.py", 47, "charge")
BASE = violation(
    nodeid="tests/test_shop.py::TestPay::test_charge[1-a::b]",
    operation="connect",
    target=Target("name", "api.stripe.com", 443, "tcp"),
)


def print_of(found: Violation, place: Frame | None = PLACE, *, root: str = "/home/kim/shop") -> str:
    return module.fingerprint(found, place, root=root)


def to(target: Target, **changes: Any) -> str:
    return print_of(BASE._replace(target=target, **changes))


def test_it_stays_as_it_is() -> None:
    """Baselines and code scanning of others hold these."""
    assert print_of(BASE) == "10a3f07863e0f5856a2311da1fa4c727"


@pytest.mark.parametrize(
    "other",
    [
        BASE._replace(number=9, count=4, first_s=3.0, last_s=8.0),
        BASE._replace(program=Program("curl", 77, chain=("pytest", "curl"))),
        BASE._replace(nodeid="tests/test_shop.py::TestPay::test_charge[2-b]"),
        BASE._replace(phase="teardown", late=True, state="warned"),
    ],
)
def test_what_it_does_not_depend_on(other: Violation) -> None:
    assert print_of(other) == print_of(BASE)
    assert print_of(other, PLACE._replace(line=48)) == print_of(BASE)


@pytest.mark.parametrize(
    "other",
    [
        BASE._replace(operation="resolve"),
        BASE._replace(target=Target("name", "api.stripe.com", 80, "tcp")),
        BASE._replace(target=Target("name", "api.stripe.org", 443, "tcp")),
        BASE._replace(nodeid="tests/test_shop.py::TestPay::test_refund"),
        BASE._replace(nodeid="tests/test_cart.py::TestPay::test_charge[1-a::b]"),
    ],
)
def test_what_it_depends_on(other: Violation) -> None:
    assert print_of(other) != print_of(BASE)


def test_the_place_counts_by_file_and_function() -> None:
    different = {
        print_of(BASE, place)
        for place in (None, PLACE, PLACE._replace(function="refund"), PLACE._replace(path="/home/kim/shop/x.py"))
    }
    assert len(different) == 4


def test_the_project_may_lie_elsewhere() -> None:
    elsewhere = print_of(BASE, PLACE._replace(path="/srv/checkout/shop.py"), root="/srv/checkout")
    assert elsewhere == print_of(BASE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/tmp/tmpab12cd34/x", "/tmp/tmpzzyyxxww/x"),
        ("/tmp/tmp.aB3xY9zQ12/x", "/tmp/tmp.qqqqqqqqqq/x"),
        ("/tmp/pytest-of-kim/pytest-3/test_a0/x", "/tmp/pytest-of-root/pytest-17/popen-gw1/test_a4/x"),
        ("/proc/4711/oom_score_adj", "/proc/4712/oom_score_adj"),
        ("/run/user/1000/bus", "/run/user/1001/bus"),
        ("/srv/cache/build-12345/log", "/srv/cache/build-54321/log"),
        ("/home/kim/shop/out-20261130.log", "/home/kim/shop/out-20261201.log"),
    ],
)
def test_temporary_names_do_not_count(one: str, other: str) -> None:
    assert to(Target("path", path=one)) == to(Target("path", path=other))
    assert print_of(BASE, Frame(one, 1, "f")) == print_of(BASE, Frame(other, 1, "f"))


@pytest.mark.parametrize(("one", "other"), [("/home/kim/.gitconfig", "/home/kim/.npmrc"), ("/srv/a", "/srv/b")])
def test_other_names_do(one: str, other: str) -> None:
    assert to(Target("path", path=one)) != to(Target("path", path=other))


made_up = st.text(string.ascii_lowercase + string.digits + "_", min_size=8, max_size=8)
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=20)


@given(made_up, made_up, names)
def test_whatever_tempfile_makes_up(one: str, other: str, name: str) -> None:
    for form in ("/tmp/tmp{}", "/tmp/thing-{}", "/var/tmp/tmp{}.json"):
        pair = [to(Target("path", path=f"{form.format(moving)}/{name}")) for moving in (one, other)]
        assert pair[0] == pair[1]


@given(st.integers(32768, 65535), st.integers(32768, 65535), st.sampled_from(("connect", "bind")))
def test_ports_of_the_moment(one: int, other: int, operation: str) -> None:
    pair = [to(Target("address", "127.0.0.1", port, "tcp"), operation=operation) for port in (one, other)]
    assert pair[0] == pair[1]


@given(nodeid=st.text(), path=st.text(), detail=st.text(), function=st.text())
def test_it_is_a_function_of_any_text(nodeid: str, path: str, detail: str, function: str) -> None:
    found = BASE._replace(nodeid=nodeid, target=Target("other", path=path, detail=detail))
    first = print_of(found, Frame(path, 1, function))
    assert first == print_of(found, Frame(path, 2, function))
    assert len(first) == 32
    assert not set(first) - set(string.hexdigits.lower())
