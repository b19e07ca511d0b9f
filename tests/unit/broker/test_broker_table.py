"""The filter that the table makes: what watching reads adds to it, and that without it nothing is added."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from fence_core.broker import table
from fence_core.broker.calls import privileged
from fence_core.broker.calls.registers import OPEN_CHANGES
from fence_core.broker.later import Handlers, Later, found
from fence_core.kernel import arch, bpf

HERE = arch.current()


def test_without_deny_read_the_filter_stops_no_open_that_only_reads() -> None:
    """A run that denies no reading pays nothing for it: the filter itself lets such opens pass."""
    program = table.filter_program(HERE)
    assert program == table.filter_program(HERE, watch_reads=False) == bpf.assemble(table.rules(HERE), arch=HERE)
    case, otherwise = table.rules(HERE)[HERE.calls["openat"]]  # type: ignore[misc]
    assert otherwise == table.ALLOW
    assert case == bpf.Case((bpf.Condition(2, "any_bits", OPEN_CHANGES),), table.TRAP)
    assert not OPEN_CHANGES & (os.O_RDONLY | os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_NONBLOCK)


def test_watching_reads_changes_these_calls_only() -> None:
    plain, watching = table.rules(HERE), table.rules(HERE, watch_reads=True)
    names = {number: name for name, number in HERE.calls.items()}
    changed = {names[number] for number, action in watching.items() if plain.get(number) != action}
    assert changed == {"open", "openat", "fanotify_init", "perf_event_open", "uselib"} & HERE.calls.keys()
    assert watching[HERE.calls["openat"]] == table.TRAP


@pytest.mark.parametrize("name", table.TRAPPED)
def test_each_row_has_its_handler(name: str) -> None:
    """They are imported with their first call, so nothing else says before that one is missing."""
    handler: Any = table.TRAPPED[name].handler
    assert isinstance(handler, Later), "the table is not to import it"
    function = found(handler)
    assert callable(function)
    assert (function.__module__, function.__name__) == (handler.module, handler.name)


def test_what_no_rule_can_allow_is_named_twice_alike() -> None:
    rows = {name for name, row in table.TRAPPED.items() if found(row.handler) is privileged.closed}
    assert rows == privileged.CLOSED.keys()


def test_a_handler_is_looked_for_once_and_used_as_it_was_made() -> None:
    made: list[object] = []

    def making(handler: Any) -> Callable[[Any], int]:
        made.append(handler)
        return lambda call: 7

    handlers = Handlers({1: table.TRAPPED["mknod"].handler, 2: table.TRAPPED["bind"].handler}, making)
    call: Any = None
    assert [handlers[1](call), handlers[1](call), handlers[2](call)] == [7, 7, 7]
    assert made == [found(table.TRAPPED["mknod"].handler), found(table.TRAPPED["bind"].handler)]
    with pytest.raises(KeyError):
        handlers[3]


def test_a_handler_that_cannot_be_imported_is_no_answer() -> None:
    handlers = Handlers({1: Later("fence_core.broker.calls.missing", "mkdir")}, lambda handler: handler)
    for _ in range(2):
        with pytest.raises(ImportError):
            handlers[1]
