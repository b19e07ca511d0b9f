"""The filter that the table makes: what watching reads adds to it, and that without it nothing is added."""

from __future__ import annotations

import os

from fence_core.broker import table
from fence_core.broker.calls.opens import CHANGES
from fence_core.kernel import arch, bpf

HERE = arch.current()


def test_without_deny_read_the_filter_stops_no_open_that_only_reads() -> None:
    """A run that denies no reading pays nothing for it: the filter itself lets such opens pass."""
    program = table.filter_program(HERE)
    assert program == table.filter_program(HERE, watch_reads=False) == bpf.assemble(table.rules(HERE), arch=HERE)
    case, otherwise = table.rules(HERE)[HERE.calls["openat"]]  # type: ignore[misc]
    assert otherwise == table.ALLOW
    assert case == bpf.Case((bpf.Condition(2, "any_bits", CHANGES),), table.TRAP)
    assert not CHANGES & (os.O_RDONLY | os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_NONBLOCK)


def test_watching_reads_changes_these_calls_only() -> None:
    plain, watching = table.rules(HERE), table.rules(HERE, watch_reads=True)
    names = {number: name for name, number in HERE.calls.items()}
    changed = {names[number] for number, action in watching.items() if plain.get(number) != action}
    assert changed == {"open", "openat", "fanotify_init", "perf_event_open", "uselib"} & HERE.calls.keys()
    assert watching[HERE.calls["openat"]] == table.TRAP
