"""What was tried that the policy does not allow: bounded detail, exact totals, grouped by test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fence_core.events.model import Frame, Use, Violation
    from fence_core.policy.model import Rule

RECORDS_MAX = 10_000
"""Distinct violations kept with all their detail. Later ones are only counted, but for the first of each test: a test
must not be able to use up the room of those after it."""
OF_ONE_TEST_MAX = 1_000


class Record:
    """One violation while it is still being counted; `violation` is what others get to see of it."""

    __slots__ = ("count", "is_whole", "joint", "last_s", "lead", "made", "settled", "stack", "taken", "thread")

    def __init__(self, made: Violation) -> None:
        self.made = made
        """As it was made; what changes later is beside it."""
        self.count = 1
        self.last_s = made.first_s
        self.stack: tuple[Frame, ...] = ()
        self.lead: tuple[Frame, ...] = ()
        """Who waits for what the thread does, outermost first."""
        self.joint = 0
        """Which of these stands on the stack too, counted from 1, followed by the rest of it; 0: none does."""
        self.is_whole = True
        """Whether the lead is complete."""
        self.thread = ""
        """The name that Python has for the thread; empty for the main one."""
        self.taken = False
        """The pytest process it belongs to has fetched it for a report."""
        self.settled = 0
        """How many of the count have been shown to the user."""

    def violation(self) -> Violation:
        made = self.made
        program = made.program._replace(thread=self.thread) if self.thread else made.program
        stack = joined(self.lead, self.joint, self.stack)
        return made._replace(count=self.count, last_s=self.last_s, stack=stack, program=program)


def joined(lead: tuple[Frame, ...], joint: int, stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """A stack behind the lines that lead to it, without those of it that are among these."""
    if 0 < joint <= len(lead):
        shared = lead[joint - 1]
        for place in range(len(stack) - 1, -1, -1):
            if (stack[place].path, stack[place].function) == (shared.path, shared.function):
                return (*lead, *stack[place + 1 :])
    return (*lead, *stack)


class Ledger:
    """The violations of one session, over all its workers; and what its policy was needed for."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.first = 0
        """The number of the first violation."""
        self.dropped = 0
        """Violations for which there was no room, of which only the number is known."""
        self._of_test: dict[tuple[int, str], int] = {}
        self._open: dict[tuple[object, ...], Record] = {}
        self._untaken: dict[tuple[int, str], list[Record]] = {}
        self._kept: dict[tuple[int, str], list[Record]] = {}
        self._adopted: dict[int, Record] = {}
        self._uses: dict[Rule, dict[str, int]] = {}
        """For each entry that has allowed something, how often it was for which test."""

    def add(self, worker: int, made: Violation, *, again: bool = False) -> tuple[Record, bool]:
        """Count an attempt; the record, and whether it is a new one, whose details the caller fills in.

        `again`: the same attempt as one just counted, made again by something below the program (a resolver).

        An attempt equal to one that was fetched for a report, or shown to the user, is a new record: a test that is
        run again must be reported again, and what happens later happens at another line.
        """
        whose = (worker, made.nodeid, made.phase, made.owner, made.started_by)
        key = (*whose, made.operation, made.target, made.program.name)
        record = self._open.get(key)
        if record is not None and not record.taken and (again or not record.settled):
            record.count += not again
            record.last_s = made.first_s
            return record, False
        test = (worker, made.nodeid)
        record = Record(made._replace(number=self.first + len(self.records)))
        already = self._of_test.get(test, 0)
        if already and (already >= OF_ONE_TEST_MAX or len(self.records) >= RECORDS_MAX):
            self.dropped += 1
            return record, False
        self._of_test[test] = already + 1
        self._open[key] = record
        self._untaken.setdefault(test, []).append(record)
        self.records.append(record)
        return record, True

    def adopt(self, told: Violation) -> None:
        """What the ledger of another fence of this run says of one violation, by its number there, now or once more."""
        if told.number not in self._adopted:
            record = self._adopted[told.number] = Record(told)
            record.taken = True  # for a report over there
            if len(self.records) < RECORDS_MAX:
                self.records.append(record)
            else:
                self.dropped += 1
        record = self._adopted[told.number]
        record.count, record.last_s, record.stack = told.count, told.last_s, told.stack

    def used(self, rule: Rule, nodeid: str) -> None:
        """Count that an entry has allowed something."""
        tests = self._uses.setdefault(rule, {})
        if nodeid not in tests and len(tests) >= RECORDS_MAX:
            nodeid = ""
        tests[nodeid] = tests.get(nodeid, 0) + 1

    def uses(self) -> list[Use]:
        """Of entries of `allowed_domains`, `hosts`, ports and UNIX sockets. Of paths nobody can tell: below the ceiling
        the kernel allows what is written."""
        from fence_core.events.model import Use

        return [Use(rule, sum(tests.values()), tuple(sorted(tests))) for rule, tests in self._uses.items()]

    def take(self, worker: int, nodeid: str, *, keep: bool = False) -> list[Record]:
        """What this worker has not fetched yet for that test; `keep`: to be fetched once more, by `kept`."""
        found = self._untaken.pop((worker, nodeid), [])
        for record in found:
            record.taken = True
        if keep and found:
            self._kept.setdefault((worker, nodeid), []).extend(found)
        return found

    def kept(self, worker: int, nodeid: str) -> list[Record]:
        """What a fork of this worker has fetched since this was last asked."""
        return self._kept.pop((worker, nodeid), [])

    def settle(self, upto: int) -> None:
        """The first `upto` records were shown to the user as they are now."""
        for record in self.records[:upto]:
            record.settled = record.count

    def unsettled(self) -> list[Record]:
        """What nobody has shown yet, and what has happened again since it was shown."""
        return [r for r in self.records if r.settled < r.count]
