"""How many look-ups a number of queries were, whatever the resolver."""

from __future__ import annotations

import pytest

from fence_core.broker.services.look_ups import NAMES_MAX, LookUps, Query

A, AAAA, HTTPS = 1, 28, 65


def query(number: int, rtype: int = A, name: str = "api.example.com", **changes: object) -> Query:
    """By default by UDP to one server from one port."""
    return Query(name, rtype, number, "udp", "192.0.2.53", 40_000)._replace(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("queries", "look_ups"),
    [
        pytest.param([query(1), query(2, AAAA)], 1, id="libc"),
        pytest.param([query(1), query(2, AAAA), query(3), query(4, AAAA)], 2, id="twice"),
        pytest.param([query(1), query(2), query(3)], 3, id="only one kind"),
        pytest.param([query(n, kind, port=n) for n, kind in enumerate((HTTPS, AAAA, A))], 1, id="a port for each"),
        pytest.param([query(1), query(2), query(3, AAAA), query(4, AAAA)], 2, id="two threads"),
        pytest.param([query(1), query(2), query(3, AAAA), query(4), query(5, AAAA)], 3, id="two threads, and one more"),
        pytest.param(
            [query(1, name=f"api{suffix}") for suffix in ("", ".one.example", ".two.example")], 1, id="suffixes"
        ),
        pytest.param([query(1), query(1)], 1, id="sent again"),
        pytest.param([query(1), query(2), query(1), query(2)], 2, id="two threads, sent again"),
        pytest.param([query(1, server=s, port=p) for p, s in enumerate(("192.0.2.1", "192.0.2.2"))], 1, id="2 servers"),
        pytest.param([query(1), query(1, proto="tcp", port=2)], 1, id="by TCP in the end"),
        pytest.param([query(7, port=1), query(7, port=2)], 2, id="always the same id"),
        pytest.param([query(number, port=1) for number in range(1000)], 1000, id="many"),
    ],
)
def test_look_ups(queries: list[Query], look_ups: int) -> None:
    counted = LookUps()
    assert [counted.begins("test", one) for one in queries].count(True) == look_ups


def test_names_and_askers_are_told_apart() -> None:
    counted = LookUps()
    assert all(counted.begins(key, query(1)) for key in ("test", "other"))


def test_what_is_remembered_is_bounded_and_the_latest() -> None:
    counted = LookUps()
    for name in range(2 * NAMES_MAX):
        assert counted.begins(name, query(1))
        assert not counted.begins(0, query(2 + name, HTTPS)) or name  # asked all the time: not forgotten
    assert len(counted._names) == NAMES_MAX
    assert not counted.begins(0, query(1))
    assert counted.begins(1, query(1))
    for kind in range(1000):
        counted.begins("kinds", query(1, kind))
    assert len(counted._names["kinds"].questions) <= 32
