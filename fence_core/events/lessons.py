"""What a session that learns has let through: each thing once, with who has needed it. Requests, not text.

Run by the supervisor. What is made of it is for `fence_core/learn`, when the run is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fence_core.policy.requests import Request

__all__ = ["Lesson", "Lessons"]

LESSONS_MAX = 200_000
"""Different requests of a run that are kept: some 120 MB."""
_TESTS_MAX = 1000
_PROGRAMS_MAX = 20


class Lesson:
    """One thing that no rule lists and that was let through."""

    __slots__ = ("absent", "count", "programs", "request", "tests")

    def __init__(self, request: Request, *, absent: bool = False) -> None:
        self.request = request
        self.absent = absent
        """Of a name that was looked up: there is none like it outside, and the program was told so."""
        self.count = 0
        self.tests: set[str] = set()
        """Node ids of those that needed it, at most 1,000; an empty one stands for what no test has asked for."""
        self.programs: set[str] = set()
        """Names of programs, a few at most; without the pytest processes that run the tests."""

    def add(self, nodeid: str, program: str) -> None:
        self.count += 1
        if len(self.tests) < _TESTS_MAX:
            self.tests.add(nodeid)
        if program and len(self.programs) < _PROGRAMS_MAX:
            self.programs.add(program)


class Lessons:
    """Of one session, from all its processes."""

    def __init__(self) -> None:
        self._known: dict[tuple[Request, bool], Lesson] = {}
        self.dropped = 0
        """Requests for which there was no room."""

    def add(self, request: Request, nodeid: str, program: str, *, absent: bool = False) -> None:
        key = (request, absent)
        lesson = self._known.get(key)
        if lesson is None:
            if len(self._known) >= LESSONS_MAX:
                self.dropped += 1
                return
            lesson = self._known[key] = Lesson(request, absent=absent)
        lesson.add(nodeid, program)

    def all(self) -> list[Lesson]:
        """In the order in which they were first met."""
        return list(self._known.values())
