"""The ledger as lines for a terminal: bounded, with exact totals. Pure; the caller prints."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from fence_core.events.model import Violation
from fence_core.report import words
from fence_core.report.stack import FRAMES_MAX, Fixture, View
from fence_core.report.text import plural, shorten, times
from fence_core.text import escape
from fence_core.untouched import real

PLACES_MAX = 25
"""Tests listed by name in one section."""
PER_PLACE_MAX = 10
"""Violations listed for one test."""
MEANWHILE_MAX = 4
"""Tests named that ran while a process of another one did something."""
KINDS_MAX = 10
"""Kinds of violation named in the line about those that are not listed."""
_TEXT_MAX = 400
_COMMAND_MAX = 120
"""Of a command line; the data has more of it."""

PLAIN, PLACE, WHAT, CODE, REMEDY, DIM = "plain", "place", "what", "code", "remedy", "dim"


class Line(NamedTuple):
    """One line and how it may be styled: one of the constants above."""

    text: str
    style: str = PLAIN


def merge(violations: Sequence[Violation], view: View) -> list[Violation]:
    """What looks the same to the reader, of several workers or attempts, as one with the sum; order is kept."""
    first: dict[tuple[object, ...], Violation] = {}
    for v in violations:
        key = (
            v.nodeid,
            v.phase,
            *_same(v),
            v.program.name,
            v.program.is_pytest,
            v.late,
            v.started_by,
            *view.trim(v.stack),
        )
        known = first.get(key)
        first[key] = v if known is None else _recount(known, known.count + v.count)
    return list(first.values())


def what(violation: Violation) -> str:
    """``connect 93.184.216.34:443/tcp, 3 times``."""
    return words.tried(violation) + times(violation.count)


def headline(violations: Sequence[Violation]) -> str:
    """All of them in one line, for a summary that has one line for each test."""
    text = f"fence: {shorten(what(violations[0]), _TEXT_MAX)}"
    return text if len(violations) == 1 else f"{text}, and {len(violations) - 1} more"


def place(violation: Violation, view: View) -> str:
    """Whose violation it is: a test, or what was going on outside of tests."""
    nodeid = view.nodeid(violation.nodeid)
    if violation.phase == "collect":
        return f"collecting {nodeid}" if nodeid else "collecting tests"
    if nodeid:
        return nodeid
    return {
        "startup": "starting (plugins and conftest files)",
        "finish": "finishing the session",
    }.get(violation.phase, "outside any test")


def is_in_test(violation: Violation) -> bool:
    """Whether there is a test that can be blamed."""
    return bool(violation.nodeid) and violation.phase != "collect"


def title(violations: Sequence[Violation]) -> str:
    """Heading of the section: ``fence: 3 violations in 2 tests and 1 outside any test``."""
    inside = [v for v in violations if is_in_test(v)]
    outside = len(violations) - len(inside)
    tests = plural(len({v.nodeid for v in inside}), "test")
    if all(v.state == "listed" for v in violations):
        # Inside another fence, that one may refuse what this one lets through.
        verdict = "" if any(v.errno for v in violations) else ": nothing was refused"
        return f"fence: {plural(len(violations), 'note')} (audit{verdict})"
    parts = [f"{plural(len(inside), 'violation')} in {tests}"] if inside else []
    if outside:
        parts.append(f"{outside} outside any test" if inside else plural(outside, "violation") + " outside any test")
    return "fence: " + " and ".join(parts)


def details(violation: Violation, view: View) -> Iterator[Line]:
    """One violation with all that is known of it."""
    first, *rest = explanation(violation, view)
    yield first
    for call in calls(violation, view):
        if not call.line:
            yield Line(f"  {call.function}", DIM)
            continue
        yield Line(f"  {call.path}:{call.line}: in {call.function}")
        if call.source:
            yield Line(f"      {call.source}", CODE)
    yield from rest


def explanation(violation: Violation, view: View) -> Iterator[Line]:
    """One violation without its stack: what, by whom, which rule, and the smallest change."""
    yield Line(_phase(violation, view) + shorten(what(violation), _TEXT_MAX), WHAT)
    yield from _program(violation)
    yield from _verdict(violation, view)


class Call(NamedTuple):
    """One step of a trimmed stack, ready to print; `line` is 0 for what stands for steps left out."""

    path: str
    line: int
    function: str
    source: str


def calls(violation: Violation, view: View) -> Iterator[Call]:
    """The reader's own part of the stack, outermost first; of a long one the ends."""
    frames = view.trim(violation.stack)
    skipped = len(frames) - FRAMES_MAX
    for number, frame in enumerate(frames):
        if skipped > 0 and 2 <= number < 2 + skipped:
            if number == 2:
                yield Call("", 0, f"... {plural(skipped, 'more call')}", "")
            continue
        source = shorten(view.source(frame), _TEXT_MAX)
        yield Call(view.path(frame.path), frame.line, escape(frame.function), source)


def block(violations: Sequence[Violation], view: View) -> Iterator[Line]:
    """All violations of one test, for the report on that test."""
    for number, violation in enumerate(violations[:PER_PLACE_MAX]):
        if number:
            yield Line("")
        yield from details(violation, view)
    if len(violations) > PER_PLACE_MAX:
        yield Line(f"... and {plural(len(violations) - PER_PLACE_MAX, 'more violation')} in this test", DIM)


def section(violations: Sequence[Violation], view: View, *, shown: Collection[int] = ()) -> Iterator[Line]:
    """All violations, grouped by test; each kind is explained once, where it is first seen.

    `shown` are the numbers of violations which the reader has already seen in full.
    """
    places: dict[str, list[Violation]] = {}
    for violation in violations:
        places.setdefault(place(violation, view), []).append(violation)
    explained: set[tuple[object, ...]] = set()
    for name, found in list(places.items())[:PLACES_MAX]:
        yield Line(name, PLACE)
        for violation, by in _told_apart(found[:PER_PLACE_MAX], view, shown):
            for line in _entry(violation, view, explained, shown, by):
                yield line._replace(text="  " + line.text)
        if len(found) > PER_PLACE_MAX:
            yield Line(f"  ... and {plural(len(found) - PER_PLACE_MAX, 'more violation')} here", DIM)
    rest = [violation for found in list(places.values())[PLACES_MAX:] for violation in found]
    if rest:
        yield from _rest(rest, len(places) - PLACES_MAX)


def _told_apart(violations: Sequence[Violation], view: View, shown: Collection[int]) -> list[tuple[Violation, str]]:
    """Each with what its line says of the program, so that no line stands there twice: nothing where it is the only one
    of its text, the program where several programs did it, and the sum where nothing would tell them apart."""
    programs: dict[str, set[str]] = {}
    for violation in violations:
        programs.setdefault(_short(violation, view, 1), set()).add(violation.program.name)
    found: dict[tuple[object, ...], tuple[Violation, str]] = {}
    for violation in violations:
        text = _short(violation, view, 1)
        by = f", by {escape(violation.program.name)}" if len(programs[text]) > 1 else ""
        # What the reader has not seen yet is explained, and that tells it apart.
        key: tuple[object, ...] = (text, by) if violation.number in shown else (text, by, violation.number)
        known = found.get(key)
        found[key] = (violation if known is None else _recount(known[0], known[0].count + violation.count), by)
    return list(found.values())


def _short(violation: Violation, view: View, count: int, by: str = "") -> str:
    """One violation in a line."""
    # Of a test the reader has the name. Outside of tests he has nothing but this.
    culprit = view.culprit(violation.stack)
    if culprit is None and not is_in_test(violation):
        culprit = next(reversed(view.trim(violation.stack)), None)
    where = f", {view.path(culprit.path)}:{culprit.line}" if culprit else ""
    return _phase(violation, view) + shorten(what(_recount(violation, count)), _TEXT_MAX) + by + where


def _entry(
    violation: Violation, view: View, explained: set[tuple[object, ...]], shown: Collection[int], by: str
) -> Iterator[Line]:
    key = (*_same(violation), violation.remedy, violation.program.chain, violation.state)
    if violation.number not in shown and key not in explained:
        explained.add(key)
        yield from details(violation, view)
        return
    yield Line(_short(violation, view, violation.count, by), WHAT)
    if key not in explained:
        explained.add(key)
        yield from _remedy(violation, view)


def _rest(violations: Sequence[Violation], places: int) -> Iterator[Line]:
    yield Line(f"... and {plural(len(violations), 'more violation')} in {plural(places, 'more place')}:", PLACE)
    kinds: dict[str, int] = {}
    for violation in violations:
        name = words.tried(violation)
        kinds[name] = kinds.get(name, 0) + violation.count
    largest = sorted(kinds.items(), key=lambda kind: -kind[1])
    for name, count in largest[:KINDS_MAX]:
        yield Line(f"  {shorten(name, _TEXT_MAX)}{times(count)}", WHAT)
    if len(largest) > KINDS_MAX:
        left = sum(count for _, count in largest[KINDS_MAX:])
        yield Line(f"  {plural(len(largest) - KINDS_MAX, 'other')}{times(left)}", DIM)


def _phase(violation: Violation, view: View) -> str:
    phase = violation.phase
    if phase not in ("setup", "call", "teardown"):
        return ""
    fixture = _fixture(violation, view)
    if fixture is not None:
        phase += f" (fixture {escape(fixture.name)}, scope {escape(fixture.scope)})"
    if violation.late:
        phase += ", by a process that " + ("it started" if violation.started_by else "outlived it")
    return phase + ": "


def _program(violation: Violation) -> Iterator[Line]:
    program, starter = violation.program, violation.started_by
    if program.is_pytest:
        if program.thread:
            yield Line(f"  in thread {escape(program.thread)}")
        return
    chain = " -> ".join(escape(name) for name in program.chain)
    text = f"  by {escape(program.name)}" + (f" ({chain})" if len(program.chain) > 1 else "")
    started = f", that fixture {escape(starter.fixture)} ({escape(starter.scope)}) started" if starter else ""
    yield Line(f"{text}{started}{_meanwhile(violation)}")
    if program.argv:
        yield Line("    $ " + shorten(" ".join(_quote(word) for word in program.argv), _COMMAND_MAX), CODE)


def _meanwhile(violation: Violation) -> str:
    """What else than the test that it is blamed on was running."""
    names = [escape(doing.nodeid) for doing in violation.during]
    others = list(dict.fromkeys(name for name in names if name != escape(violation.nodeid)))
    if not others or not (violation.late or (violation.started_by and violation.owner == violation.started_by)):
        return ""
    more = f" and {plural(len(others) - MEANWHILE_MAX, 'other')}" if len(others) > MEANWHILE_MAX else ""
    return f"; while {shorten(', '.join(others[:MEANWHILE_MAX]), _TEXT_MAX)}{more} ran"


def _quote(word: str) -> str:
    return escape(real.quote(word))


def _verdict(violation: Violation, view: View) -> Iterator[Line]:
    because = words.rule(violation.rule, violation.verdict)
    if violation.verdict == "error":
        yield Line(f"  a fault of the fence, not of the test: {because}")
        return
    verdict = "refused" if violation.errno or violation.state != "listed" else "let through (audit)"
    yield Line(f"  {verdict}: {shorten(because, _TEXT_MAX)}")
    yield from _remedy(violation, view)


def _remedy(violation: Violation, view: View) -> Iterator[Line]:
    if violation.verdict == "error":
        return
    found = remedies(violation, view)
    if not found:
        text = _hopeless(violation)
        if text:
            yield Line(f"  {text}")
    for label, remedy in zip(("to allow it: ", "or: "), found, strict=False):
        for number, text in enumerate(remedy.splitlines()):
            head = label if number == 0 else ""
            yield Line(f"  {head:<13}{escape(text)}", REMEDY)
    fixture = _shared_fixture(violation, view)
    if found and fixture is not None:
        where = f"{view.path(fixture.path)}:{fixture.line}"
        yield Line(f"  {'for: ':<13}fixture {escape(fixture.name)}, {where}")
    if violation.hint:
        yield Line(f"  {'note: ' if found else 'instead: ':<13}{escape(violation.hint)}")


def remedies(violation: Violation, view: View) -> list[str]:
    """What would allow it, the smallest first. Outside of tests a marker has nothing to stand on; and on the test that
    happened to need a shared fixture first it would stand wrong, since that may be another one in the next run."""
    remedy = violation.remedy
    if remedy is None:
        return []
    config = words.config(remedy)
    alone = not is_in_test(violation) or _shared_fixture(violation, view) is not None
    return [config] if alone else [words.marker(remedy), config]


def _shared_fixture(violation: Violation, view: View) -> Fixture | None:
    """The fixture of more than one test that was being set up or torn down."""
    fixture = _fixture(violation, view)
    return fixture if fixture is not None and fixture.is_shared else None


def _fixture(violation: Violation, view: View) -> Fixture | None:
    """The fixture that was at work: of more tests than one as pytest says, else as the stack tells."""
    if violation.owner is not None:
        return Fixture(*violation.owner)
    return view.fixture(violation.stack) if violation.phase in ("setup", "teardown") else None


def _hopeless(violation: Violation) -> str:
    """What stands in the place of a remedy; empty if the rule itself names the switch that would help, or a hint says
    what does."""
    if violation.verdict == "denied":
        return "a denial overrides every permission: remove that rule to allow this"
    if violation.verdict == "unlisted":
        return "" if violation.hint else "nothing can allow this"
    return "" if violation.rule.key else "nothing can allow this"


def _same(violation: Violation) -> tuple[object, ...]:
    """Equal where the same was tried, and refused for the same reason."""
    return violation.operation, violation.target, violation.rule


def _recount(violation: Violation, count: int) -> Violation:
    return violation._replace(count=count)
