"""From what was let through to proposals that have been tried: with them the judge allows all that they are for.

What `fence learn` and `pytest --fence-learn` print and write. Several runs may be given; what differs between them is a
name of the moment.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fence_core.errors import PolicyError
from fence_core.events.attempt import described
from fence_core.learn.broad import Broad
from fence_core.learn.collapse import Changes, Standing, collapse
from fence_core.learn.model import Evidence, Outcome, Place, Proposal, Unlearnt
from fence_core.policy.decide import Judge
from fence_core.policy.model import Source
from fence_core.policy.remedy import remedy, shorten
from fence_core.policy.requests import UNNAMED, Move, Resolve, UnixConnect, Write
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fence_core.events.lessons import Lesson
    from fence_core.policy.model import Policy
    from fence_core.policy.requests import Request

__all__ = ["as_table", "propose"]

_WRITE = "filesystem.allow_write"
_DOMAINS = "network.allowed_domains"
_HOSTS = "network.hosts"
_PTY = "allow_pty"
_TERMINALS = re.compile(r"/dev/(?:ptmx|tty|pts/.*)\Z", re.DOTALL)
_LEARNT = Source("learnt")
_LIKE_A_HASH = re.compile(r"(?=.*\d)[a-z0-9-]{4,}\Z|[0-9a-f]{8,}\Z")
_WILDCARD_MIN = 3
_OPENED_SHOWN = 5

_Wish = tuple[str, "str | int | bool"]
"""Key and value of an entry."""


def propose(runs: Sequence[Sequence[Lesson]], policy: Policy, place: Place) -> Outcome:
    """What to add to the policy in force, so that the next run needs nothing more."""
    lessons = [lesson for run in runs for lesson in run]
    maker = _Maker(policy, place)
    for wish, why, lesson in maker.of_files(runs):
        maker.want(wish, why, lesson)
    for lesson in sorted(lessons, key=_order):
        maker.of_the_rest(lesson)
    if place.wildcards:
        maker.widen_names()
    return maker.outcome(lessons)


def as_table(proposals: Iterable[Proposal]) -> dict[str, dict[str, object]]:
    """The proposals as a config says them, by section; settings in the section of no name."""
    table: dict[str, dict[str, object]] = {}
    for each in proposals:
        section, _, name = each.key.rpartition(".")
        into = table.setdefault(section, {})
        if each.key == _HOSTS:
            hosts = into.setdefault(name, {})
            assert isinstance(hosts, dict)
            hosts[str(each.value)] = False
        elif isinstance(each.value, bool):
            into[name] = each.value
        else:
            entries = into.setdefault(name, [])
            assert isinstance(entries, list)
            entries.append(each.value)
    return table


def _order(lesson: Lesson) -> tuple[int, str]:
    """Connections before look-ups, which they make superfluous; names that are there before those that are not."""
    return (lesson.absent * 2 + isinstance(lesson.request, Resolve), repr(lesson.request))


class _Reasons:
    """What an entry is for."""

    def __init__(self, lessons: list[Lesson], why: str) -> None:
        self.lessons = lessons
        self.why = why
        """Why it is wider than what was asked for."""


class _Maker:
    """Collects what is wished for."""

    def __init__(self, policy: Policy, place: Place) -> None:
        self._policy = policy
        self._place = place
        self._judge = Judge(policy)
        self._wishes: dict[_Wish, _Reasons] = {}
        self._tried: dict[_Wish, bool] = {}
        self._unlearnt: dict[str, Unlearnt] = {}
        self._remarks: list[str] = []
        self._broad: Broad | None = None

    def want(self, wish: _Wish, why: str, lesson: Lesson) -> None:
        known = self._wishes.setdefault(wish, _Reasons([], why))
        known.lessons.append(lesson)
        known.why = known.why or why

    # ------------------------------------------------------------ files

    def of_files(self, runs: Sequence[Sequence[Lesson]]) -> list[tuple[_Wish, str, Lesson]]:
        """For every change of a file, what to wish for, and why it is wider than that."""
        rules = self._policy.filesystem
        found: list[tuple[_Wish, str, Lesson]] = []
        changes = Changes([[change for lesson in run for change in _changes(lesson.request)] for run in runs])
        for path in [path for path in changes.ops if path.startswith("/proc/") or _TERMINALS.match(path)]:
            del changes.ops[path]
        self._broad = Broad(self._judge, rules, self._place, changes.touched())
        standing = collapse(changes, rules, self._broad, self._place)
        for lesson in (lesson for run in runs for lesson in run):
            for _, path in _changes(lesson.request):
                if _TERMINALS.match(path):
                    found.append(((_PTY, True), "", lesson))
                    continue
                if path in standing and not standing[path].text:
                    continue
                for text, why in self._texts(lesson.request, path, standing):
                    found.append(((_WRITE, text), why, lesson))
        return found

    def _texts(self, request: Request, path: str, standing: Mapping[str, Standing]) -> list[Standing]:
        known = standing.get(path.removesuffix(f"/{UNNAMED}"))
        if known is not None:
            return [known]
        offered = remedy(request, self._policy, self._judge.decide(request))
        values = offered.value if offered is not None and isinstance(offered.value, tuple) else ()
        return [Standing(str(value), "") for value in values]

    # ------------------------------------------------------------ everything else

    def of_the_rest(self, lesson: Lesson) -> None:
        """Names, addresses, ports, sockets."""
        request = lesson.request
        if isinstance(request, Write | Move):
            return
        decision = self._judge.decide(request)
        if decision.allowed:
            return
        if lesson.absent and isinstance(request, Resolve):
            if not self._names_it(request.name):
                self.want((_HOSTS, request.name), "there is no such name", lesson)
            return
        if isinstance(request, UnixConnect) and request.path.startswith("\0"):
            self._give_up(lesson, "only allow_all_unix_sockets opens abstract sockets, and with them all others")
            return
        source = decision.rule.source
        if source is not None and source.file:
            self._give_up(lesson, f"{decision.rule.key} is switched off in {source}")
            return
        offered = remedy(request, self._policy, decision)
        if offered is None:
            self._give_up(lesson, decision.rule.reason or f"no rule of {decision.rule.key} could name it")
        elif isinstance(offered.value, tuple):
            if isinstance(request, Resolve) and self._names_it(request.name):
                return
            for value in offered.value:
                self.want((offered.key, value), "", lesson)
        else:
            self.want((offered.key, offered.value), "", lesson)

    def _names_it(self, name: str) -> bool:
        """Whether something that is wished for names it already: `name:8443`."""
        return any(
            key in (_DOMAINS, "network.allow_private") and (value == name or str(value).startswith(f"{name}:"))
            for key, value in self._wishes
        )

    def widen_names(self) -> None:
        """Names with first labels like hashes, of one parent: a wildcard."""
        for parent, names in self._families().items():
            lessons = [lesson for name in names for lesson in self._wishes.pop((_DOMAINS, name)).lessons]
            for lesson in lessons:
                self.want((_DOMAINS, f"*.{parent}"), f"{len(names)} names", lesson)

    def _families(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for key, value in self._wishes:
            if key == _DOMAINS and isinstance(value, str) and ":" not in value and "/" not in value:
                label, _, parent = value.partition(".")
                if parent.count(".") >= 1 and not parent.replace(".", "").isdigit() and _LIKE_A_HASH.match(label):
                    found.setdefault(parent, []).append(value)
        return {parent: sorted(names) for parent, names in found.items() if len(names) >= _WILDCARD_MIN}

    # ------------------------------------------------------------ the whole

    def outcome(self, lessons: Sequence[Lesson]) -> Outcome:
        """What is left of the wishes when each has shown that it is of use, and what they do not help."""
        for wish in list(self._wishes):
            if not self._is_rule(wish):
                for lesson in self._wishes.pop(wish).lessons:
                    self._give_up(lesson, "no rule can name it")
        self._join_ports()
        self._fall_back(lessons)
        kept = self._without_those_covered()
        if not self._place.wildcards:
            for parent, names in self._families().items():
                self._remarks.append(f'"*.{parent}" would cover these {len(names)} names: {", ".join(names[:3])}, ...')
        proposals = tuple(self._proposal(wish) for wish in sorted(kept, key=_by_key))
        requests = len({lesson.request for lesson in lessons})
        unlearnt = tuple(self._unlearnt[what] for what in sorted(self._unlearnt))
        return Outcome(proposals, unlearnt, tuple(self._remarks), requests)

    def _join_ports(self) -> None:
        """A port that the kernel chose opens all of loopback, and with it those that were listed; so does the right to
        open ports, where nothing is said about reaching them."""
        everything: _Wish = ("network.allow_local_outbound", True)
        if everything not in self._wishes or self._policy.network.allow_local_outbound_ports:
            return
        for wish in [wish for wish in self._wishes if wish[0] == "network.allow_local_outbound_ports"]:
            for lesson in self._wishes.pop(wish).lessons:
                self.want(everything, "", lesson)
        others = self._judge_with(wish for wish in self._wishes if wish != everything)
        if all(others.decide(lesson.request).allowed for lesson in self._wishes[everything].lessons):
            del self._wishes[everything]

    def _fall_back(self, lessons: Sequence[Lesson]) -> None:
        """What the wider entries do not allow after all is named as it is; or it cannot be allowed."""
        judge = self._judge_with(self._wishes)
        for lesson in lessons:
            request = lesson.request
            if lesson.absent or judge.decide(request).allowed or _told(request) in self._unlearnt:
                continue
            wish = (_WRITE, shorten(request.path, self._policy.filesystem)) if isinstance(request, Write) else None
            if isinstance(request, Write) and self._broad is not None and self._broad.is_shared(request.path):
                self._give_up(lesson, "programs share this directory, and a rule for it would open all of it")
            elif wish is None or not self._is_rule(wish) or not self._judge_with((wish,)).decide(request).allowed:
                reason = judge.decide(request).rule.reason
                self._give_up(lesson, reason or "no rule that could be proposed allows it")
            else:
                self.want(wish, "", lesson)
        for useless in [wish for wish in self._wishes if wish[0] == _WRITE]:
            if all(_told(lesson.request) in self._unlearnt for lesson in self._wishes[useless].lessons):
                del self._wishes[useless]

    def _without_those_covered(self) -> list[_Wish]:
        """Entries that others do not make superfluous."""
        paths = {value for key, value in self._wishes if key == _WRITE}
        return [
            (key, value)
            for key, value in self._wishes
            if key != _WRITE or not any(str(value).startswith(f"{other}/") for other in paths)
        ]

    def _is_rule(self, wish: _Wish) -> bool:
        """Whether a config may say this."""
        known = self._tried.get(wish)
        if known is None:
            try:
                self._judge_with((wish,))
                known = True
            except (PolicyError, ValueError):
                known = False
            self._tried[wish] = known
        return known

    def _judge_with(self, wishes: Iterable[_Wish]) -> Judge:
        """Raises PolicyError for what no config may say."""
        rules = self._policy.filesystem
        table = as_table(Proposal(key, value, Evidence()) for key, value in wishes)
        raw: dict[str, object] = {**table.pop("", {}), **table}
        base = rules.base or rules.root or "/"
        overlay = parse_overlay(raw, source=_LEARNT, base_dir=base, settings=True, home=rules.home)
        return Judge(merge(self._policy, overlay))

    def _proposal(self, wish: _Wish) -> Proposal:
        why, lessons = self._wishes[wish].why, self._wishes[wish].lessons
        tests = sorted({test for lesson in lessons for test in lesson.tests})
        programs = sorted({program for lesson in lessons for program in lesson.programs})
        examples = sorted({_told(lesson.request) for lesson in lessons})
        evidence = Evidence(
            len({lesson.request for lesson in lessons}),
            tuple(tests),
            tuple(programs),
            examples[0].partition(" ")[2] if why and examples else "",
            why,
            self._opens(wish, lessons),
        )
        return Proposal(*wish, evidence)

    def _opens(self, wish: _Wish, lessons: Sequence[Lesson]) -> tuple[str, ...]:
        """What lies in a directory of the project that is given as a whole, and was not touched."""
        paths = [path for lesson in lessons for _, path in _changes(lesson.request)]
        if wish[0] != _WRITE or self._broad is None or not paths:
            return ()
        text = str(wish[1])
        for path in paths:
            here = path
            while here.count("/") > 1:
                if shorten(here, self._policy.filesystem) == text:
                    return tuple(self._broad.untouched(here)[:_OPENED_SHOWN])
                here = here.rpartition("/")[0]
        return ()

    def _give_up(self, lesson: Lesson, why: str) -> None:
        what = _told(lesson.request)
        known = self._unlearnt.get(what)
        tests = set(lesson.tests) | set(known.tests if known is not None else ())
        self._unlearnt[what] = Unlearnt(what, why, tuple(sorted(tests)))


def _changes(request: Request) -> list[tuple[str, str]]:
    """Operation and path of what is changed on the disk."""
    if isinstance(request, Write):
        return [(request.op.partition(" ")[0], request.path)]
    if isinstance(request, Move):
        return [("rename", request.old), ("rename", request.new)]
    return []


def _told(request: Request) -> str:
    from fence_core.report import words

    return words.attempt(*described(request))


def _by_key(wish: _Wish) -> tuple[str, str]:
    return wish[0], str(wish[1])
