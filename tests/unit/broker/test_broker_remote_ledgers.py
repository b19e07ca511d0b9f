"""What the carrier says of fences on other machines, and what it does not say."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fence_core.broker.loop import Loop
from fence_core.broker.services.remote_ledgers import RemoteLedgers
from fence_core.errors import BrokerError
from fence_core.events.ledger import Ledger
from fence_core.events.wire import to_wire
from fence_core.link import remote
from tests.unit.plugin.fakes import violation


class Case:
    def __init__(self) -> None:
        ours, self.carrier = socket.socketpair()
        self.ledger = Ledger()
        self.others = RemoteLedgers(ours, Loop(lambda error: None), self.ledger)


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    yield case
    case.carrier.sendall(remote.line(remote.ALL))
    case.carrier.close()
    case.others.close()


def test_the_ledger_has_it_when_it_is_asked(case: Case) -> None:
    plain = to_wire(violation("write /x", nodeid="t")._replace(number=1_000_000))
    case.carrier.sendall(remote.line(remote.VIOLATIONS, violations=[plain]))
    case.carrier.sendall(remote.line(remote.OVER, dropped=3, unwritten=False))
    case.others.drain()
    assert [record.made.number for record in case.ledger.records] == [1_000_000]
    assert case.ledger.dropped == 3
    assert case.others.lost == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (remote.line(remote.LOST, what="it ended"), "it ended"),
        (remote.line(remote.OVER, dropped=0, unwritten=True), "could not be written down"),
    ],
)
def test_what_is_missing_is_known(case: Case, line: bytes, says: str) -> None:
    case.carrier.sendall(line)
    case.others.drain()
    assert len(case.others.lost) == 1
    assert says in case.others.lost[0]


@pytest.mark.parametrize(
    "line", [b"nonsense\n", remote.line(remote.VIOLATIONS, violations=[{}]), remote.line(remote.OVER)]
)
def test_what_is_not_understood_is_missing(case: Case, line: bytes) -> None:
    case.carrier.sendall(line)
    with pytest.raises(BrokerError):
        case.others.drain()
    assert case.others.lost


def test_the_end_of_the_run_waits_for_the_last_word() -> None:
    case = Case()
    case.carrier.sendall(remote.line(remote.LOST, what="it ended") + remote.line(remote.ALL))
    case.carrier.close()
    case.others.close()
    assert case.others.lost == ["it ended"]


def test_a_carrier_that_ends_early_is_noticed() -> None:
    case = Case()
    case.carrier.close()
    case.others.close()
    assert len(case.others.lost) == 1
