"""A raw mapping, from whatever file or marker, into an `Overlay`; or every problem it has, all at once.

What is accepted the rows of `keys.py` say. Each key is taken in snake_case and in the camelCase of the Go tool.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fence_core.errors import PolicyError, Problem
from fence_core.policy.keys import DENY_READ, FLAT_SECTIONS, SECTIONS, Key, spellings
from fence_core.policy.kinds import Reading, type_of
from fence_core.policy.sources.merge import Overlay

if TYPE_CHECKING:
    from pathlib import Path

    from fence_core.policy.kinds import At
    from fence_core.policy.model import Source

__all__ = ["parse_marker", "parse_overlay", "unwatched"]


def parse_overlay(
    raw: Mapping[str, object],
    *,
    source: Source,
    base_dir: Path | str,
    flat: bool = True,
    settings: bool = False,
    home: str | None = None,
) -> Overlay:
    """Check a raw mapping and turn it into an `Overlay`.

    `source` is shown with every rule. Relative paths count from `base_dir`, `~` is `home` (the user's own unless
    given). `flat`: the section may be left out, as in TOML, YAML and markers. `settings`: keys about the run as a
    whole may be set, as in config files; a marker has none.

    Raises PolicyError with all problems.
    """
    reading = Reading(source, os.path.abspath(base_dir), os.path.expanduser("~") if home is None else home)
    _Parser(reading, flat=flat, settings=settings).read(raw)
    if reading.problems:
        from fence_core.policy.sources.lines import problem  # only where something is wrong already

        raise PolicyError(
            tuple(problem(reading.at(at), spell(at), found, accepted) for at, found, accepted in reading.problems)
        )
    return Overlay(source, reading.values, reading.sources)


def parse_marker(
    raw: Mapping[str, object], *, source: Source, base_dir: Path | str, watches_reads: bool
) -> Overlay:  # fmt: skip
    """The same of a marker's arguments, in a session that watches what is read or does not."""
    overlay = parse_overlay(raw, source=source, base_dir=base_dir)
    if DENY_READ.path in overlay.values and not watches_reads:
        raise PolicyError((unwatched(source.name),))
    return overlay


def unwatched(source: str, which: str = "the run") -> Problem:
    """`deny_read` where nothing watches what is read."""
    return Problem(
        source,
        DENY_READ.path,
        f"cannot be kept: {which} does not watch reads, and that has to be switched on before it starts",
        f"watch_reads = true, or a deny_read, in the configuration of {which} (nothing is watched otherwise, since "
        "each open for reading then takes some 30 microseconds longer)",
    )


def spell(at: At) -> str:
    """A place in a source, for the user: network.allowed_domains[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")


class _Parser:
    """Finds out which keys are meant in one source, and has their values read."""

    def __init__(self, reading: Reading, *, flat: bool, settings: bool) -> None:
        self._reading = reading
        self._flat = flat
        self._settings = settings
        self._written: dict[str, str] = {}  # key -> how it was spelled

    def read(self, raw: Mapping[str, object]) -> None:
        for name, value in raw.items():
            if name == "$schema":
                continue
            if name in SECTIONS:
                self._section(name, value)
                continue
            key = spellings("").get(name)
            if key is not None:
                self._key(key, (name,), value)
                continue
            owner = next((key for section in SECTIONS if (key := spellings(section).get(name))), None)
            if owner is None:
                self._unknown("", name)
            elif self._flat and owner.section in FLAT_SECTIONS:
                self._key(owner, (name,), value)
            else:
                accepted = f'under "{owner.section}": {owner.section}.{name}'
                self._reading.problem((name,), "is outside its section", accepted)

    def _section(self, section: str, value: object) -> None:
        if value is None:
            return  # an empty section in YAML
        if not isinstance(value, Mapping):
            self._reading.problem((section,), f"is {type_of(value)}", f"a table of {section} keys")
            return
        for name, item in value.items():
            key = spellings(section).get(name) if isinstance(name, str) else None
            if key is None:
                self._unknown(section, name)
            else:
                self._key(key, (section, name), item)

    def _unknown(self, section: str, name: object) -> None:
        if not isinstance(name, str):
            self._reading.problem((section,), f"has a key that is {type_of(name)}", "names as keys")
            return
        sections = (section,) if section else (("",) if self._settings else ()) + (FLAT_SECTIONS if self._flat else ())
        keys = {spelling: key for one in sections for spelling, key in spellings(one).items()}
        known = [*keys, *([] if section else SECTIONS)]
        import difflib  # only where something is wrong already

        at = (section, name) if section else (name,)
        other = next((each for each in SECTIONS if name in spellings(each)), None)
        if other:
            self._reading.problem(at, "is in the wrong section", f"{other}.{name}")
            return
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        if close:
            self._reading.problem(at, f'is not a key of the fence; did you mean "{close[0]}"?', "")
            return
        listed = [name for name in known if name == name.lower() and not (name in keys and keys[name].foreign)]
        self._reading.problem(at, "is not a key of the fence", ", ".join(listed))

    def _key(self, key: Key, at: At, value: object) -> None:
        reading, path = self._reading, key.path
        if path in self._written:
            reading.problem(at, f"is given a second time: {self._written[path]} is the same key", "each key once")
            return
        self._written[path] = spell(at)
        unset = (*key.kind.unset, "") if key.foreign else key.kind.unset
        if value is None or any(type(value) is type(each) and value == each for each in unset):
            return  # as YAML has an empty key, and the Go tool writes what is not set
        if not (self._settings or key.marker):
            flag = f", or {key.flag}" if key.flag else ""
            reading.problem(at, "is set for the run as a whole", f"in the configuration{flag}")
            return
        before = len(reading.problems)
        parsed = key.kind.read(reading, key, at, value)
        if key.refused and len(reading.problems) == before and parsed not in key.harmless:
            reading.problem(at, f"is refused: {key.refused}", key.instead)
        if len(reading.problems) == before:
            reading.values[path] = parsed
            reading.sources[path] = reading.at(at)
