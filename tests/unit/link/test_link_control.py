"""What pytest's processes and the broker say: each question by its row, and nothing else is understood."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fence_core.broker.services import control as answering
from fence_core.broker.services import tunnels
from fence_core.errors import BrokerError, PolicyError, Problem
from fence_core.link import control, doors, filter
from fence_core.link.operations import Operation, Shape, misfit

EXAMPLES: dict[type, Any] = {str: "x", int: 3, bool: True, list: [1], dict: {"a": 1}, type(None): None}


def fields(shape: Shape) -> dict[str, Any]:
    return {name: EXAMPLES[kind[0] if isinstance(kind, tuple) else kind] for name, kind in shape.items()}


@pytest.mark.parametrize("operation", control.OPERATIONS.values(), ids=lambda each: each.name)
def test_a_question_arrives_as_it_was_asked(operation: Operation) -> None:
    line = control.request(operation, fields(operation.asks))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found, request = control.read_request(line)
    assert found is operation
    assert not misfit(request, operation.asks)
    assert control.read_answer(operation, control.answer(fields(operation.answers))) == fields(operation.answers)


@pytest.mark.parametrize("operation", control.OPERATIONS.values(), ids=lambda each: each.name)
def test_each_field_is_asked_for(operation: Operation) -> None:
    for name, kind in operation.asks.items():
        whole = fields(operation.asks)
        assert misfit({**whole, name: object()}, operation.asks) == name
        del whole[name]
        assert bool(misfit(whole, operation.asks)) is not (isinstance(kind, tuple) and type(None) in kind)


def test_the_broker_has_an_answer_for_each() -> None:
    assert set(answering._ANSWERS) == set(control.OPERATIONS.values())
    assert set(tunnels._ANSWERS) == set(filter.OPERATIONS.values())


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"[]", b"3", b"null", b"{}", b'{"op": []}', b'{"op": "no"}', b"\xff", b"[" * 100_000]
)
def test_no_question(line: bytes) -> None:
    with pytest.raises(control.NoRequestError):
        control.read_request(line)


@pytest.mark.parametrize("line", [b"", b"[]", b"3", b"null", b"{}", b"\xff", b'{"number": "3"}', b'{"problems": 3}'])
def test_no_answer(line: bytes) -> None:
    with pytest.raises(BrokerError, match="not understood"):
        control.read_answer(control.POLICY, line)


def test_a_refusal_names_what_was_asked() -> None:
    with pytest.raises(BrokerError, match="the broker refused 'policy': no"):
        control.read_answer(control.POLICY, control.answer(control.refusal("no")))


def test_problems_of_a_policy_arrive_whole() -> None:
    problems = (Problem("here", "allow_write", "3", "paths"), Problem("there", "mode", "x", "enforce"))
    with pytest.raises(PolicyError) as caught:
        control.read_answer(control.POLICY, control.answer(control.problems(PolicyError(problems))))
    assert caught.value.problems == problems


# ---------------------------------------------------------------- the filter


@pytest.mark.parametrize("operation", filter.OPERATIONS.values(), ids=lambda each: each.name)
def test_a_packet_arrives_as_it_was_sent(operation: Operation) -> None:
    number, found, request = filter.read_question(filter.question(7, operation, fields(operation.asks)))
    assert (number, found) == (7, operation)
    assert fields(operation.asks).items() <= request.items()
    number, answer = filter.read_answer(filter.answer(7, fields(operation.answers)))
    assert number == 7
    assert not misfit(answer, operation.answers)


@pytest.mark.parametrize("operation", [each for each in filter.OPERATIONS.values() if each.asks], ids=lambda o: o.name)
def test_a_filter_that_is_out_of_order(operation: Operation) -> None:
    with pytest.raises(ValueError, match=operation.name):
        filter.read_question(filter.question(1, operation, {}))


@pytest.mark.parametrize("packet", [b"", b"[]", b"3", b"{}", b'{"id": "1"}', b"\xff"])
def test_no_answer_for_the_filter(packet: bytes) -> None:
    with pytest.raises(ValueError):
        filter.read_answer(packet)


def test_a_fault_may_have_a_connection() -> None:
    packet = filter.question(0, filter.FAULT, {"what": "x", "at": "y", "from": 5, "host": "127.0.0.1"})
    assert json.loads(packet)["from"] == 5
    assert filter.read_question(packet)[1] is filter.FAULT


# ---------------------------------------------------------------- doors


def test_doors_are_below_one_directory() -> None:
    every = (doors.CONTROL, doors.PAGE, doors.STACK, doors.BIND, doors.of_test(1))
    assert len(set(every)) == len(every)
    assert all(door.startswith(doors.DOORS) for door in every)


@pytest.mark.parametrize("pid", [1, 4711, 1 << 22])
def test_the_fork_of_a_test_is_known_by_its_door(pid: int) -> None:
    assert doors.pid_of_test(doors.of_test(pid)) == pid


@pytest.mark.parametrize("door", [b"", doors.CONTROL, b"/proc/fence/test/", b"/proc/fence/test/-1", b"test/3"])
def test_other_doors_are_no_fork(door: bytes) -> None:
    assert doors.pid_of_test(door) is None
