"""A violation survives the control line, xdist and JSON as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.events.model import Doing, Frame, Owner, Program, Target, Violation
from fence_core.events.phases import PHASES
from fence_core.events.wire import from_wire, to_wire
from fence_core.policy.model import Remedy, Rule, Source
from tests.unit.plugin.fakes import violation

text = st.text(max_size=12)
number = st.integers(0, 1 << 40)
many_texts = st.lists(text, max_size=3).map(tuple)
sources = st.builds(Source, text, text, number)
rules = st.builds(Rule, text, text, st.none() | sources, text, st.lists(sources, max_size=2).map(tuple))
remedies = st.builds(Remedy, text, st.booleans() | many_texts | st.lists(number, max_size=2).map(tuple), text)
violations = st.builds(
    Violation,
    number=number,
    nodeid=text,
    phase=st.sampled_from(PHASES),
    kind=text,
    operation=text,
    target=st.builds(Target, text, text, number, text, text, text),
    verdict=text,
    rule=rules,
    program=st.builds(Program, text, number, text, many_texts, many_texts, st.booleans(), text),
    state=text,
    errno=number,
    first_s=st.floats(0, 1e6),
    last_s=st.floats(0, 1e6),
    count=number,
    owner=st.none() | st.builds(Owner, text, text, text, number),
    started_by=st.none() | st.builds(Owner, text, text, text, number),
    late=st.booleans(),
    during=st.lists(st.builds(Doing, number, text, text), max_size=2).map(tuple),
    stack=st.lists(st.builds(Frame, text, number, text), max_size=3).map(tuple),
    remedy=st.none() | remedies,
    hint=text,
)


@given(violations)
def test_round_trip(found: Violation) -> None:
    again = from_wire(Violation, json.loads(json.dumps(to_wire(found))))
    assert again == found
    assert repr(again) == repr(found)  # tuples compare equal whatever their class is


def test_whatever_a_file_is_called_it_can_be_sent() -> None:
    """Where pytest-xdist sends it, a byte that is no UTF-8 would end the worker."""
    name = "/data/\udcff"
    rule = Rule("filesystem.deny_write", name, None, f"{name} is protected")
    plain = to_wire(violation(rule=rule, remedy=Remedy("filesystem.allow_write", (name,), "toml")))
    said = json.dumps(plain, ensure_ascii=False).encode()
    assert said.count(b"/data/\\\\xff") == 3


def test_only_plain_data() -> None:
    pending = [to_wire(violation(stack=(Frame("x.py", 1, "f"),)))]
    while pending:
        value = pending.pop()
        assert type(value) in (str, int, float, bool, type(None), list, dict)
        pending += value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()


@pytest.mark.parametrize("spoil", [lambda p: p.pop("rule"), lambda p: p.update(target={}), lambda p: p.update(x={})])
def test_what_is_not_whole_is_refused(spoil: object) -> None:
    plain = to_wire(violation())
    spoil(plain)  # type: ignore[operator]
    if "x" in plain:
        assert from_wire(Violation, plain) == violation()  # a reader may be older than what was written
    else:
        with pytest.raises(KeyError):
            from_wire(Violation, plain)
