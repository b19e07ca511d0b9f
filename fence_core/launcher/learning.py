"""The end of a run that is learnt from: what it needed becomes proposals, and these a file, if that was asked for.

Run by the supervisor, which is outside of the fence: so what it takes is there before the first test runs. Everything
it needs is imported, and the file that is to be edited read, when it is made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fence_core.edit.additions import EditError
from fence_core.edit.files import Target, difference
from fence_core.launcher.session_report import SessionReport
from fence_core.learn.comments import comment
from fence_core.learn.model import Outcome, Place, Unlearnt
from fence_core.learn.propose import propose
from fence_core.learn.text import entries, summary, without_rule
from fence_core.policy.model import Config
from fence_core.policy.record import Record
from fence_core.report import words
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fence_core.broker.assemble import Broker
    from fence_core.launcher.plan import Host

__all__ = ["BANNER", "EditError", "Learning", "LearningReport", "Order", "learning_config"]

BANNER = "learn: nothing is refused but writes to protected files, and what a rule denies"


class Order(Record):
    """What is wanted of a run."""

    path: str
    """The config that the rules are for, absolute; empty where there is none."""
    shown: str
    """What the user calls it."""
    how: str
    """How it would be written, for who did not ask for that."""
    write: bool = False
    partial: bool = False
    """Also where the run has failed."""
    partial_flag: str = "--partial"
    wildcards: bool = False
    tests: bool = False
    """It is a run of tests."""
    extends: str = ""
    """What a new file names as its base."""
    fd: int = 2
    """Where all is said."""


def learning_config(config: Config) -> Config:
    """The same policy, for a run that is learnt from."""
    return config._replace(settings=config.settings._replace(mode="learn"))


class Learning:
    """One run."""

    def __init__(self, order: Order) -> None:
        """Raises EditError where the file could not be edited afterwards."""
        self._order = order
        self._target = Target(order.path, extends=order.extends) if order.path else None
        self._place = Place(_names_in, _searched(), order.wildcards)

    @property
    def locked(self) -> tuple[str, ...]:
        """Files that nothing inside may change."""
        return () if self._target is None else (self._target.path,)

    def finish(self, broker: Broker, failed: str) -> bool:
        """Say what was learnt, and write it; whether all that was asked for was done.

        `failed`: how the run has failed, empty if it has not.
        """
        lessons = broker.scope.lessons
        assert lessons is not None
        if lessons.dropped:
            failed = failed or f"there was no room for {lessons.dropped} of the things that it did"
        outcome = propose([lessons.all()], broker.scope.base, self._place)
        refused = self._refused(broker)
        self._say(f"fence: {summary(outcome)}")
        self._lines(entries(outcome.proposals, tests=self._order.tests))
        done = self._file(outcome, failed) if outcome.proposals else True
        left = (*outcome.unlearnt, *refused)
        if left:
            self._say("For these there is no rule:")
            self._lines(without_rule(left))
        self._lines(escape(each) for each in outcome.remarks)
        return done

    def _refused(self, broker: Broker) -> list[Unlearnt]:
        """What was refused although this is a run that learns."""
        found: dict[str, Unlearnt] = {}
        for record in broker.scope.ledger.records:
            violation = record.violation()
            what = words.tried(violation)
            tests = found[what].tests if what in found else ()
            found[what] = Unlearnt(what, words.rule(violation.rule, violation.verdict), (*tests, violation.nodeid))
        return [found[what] for what in sorted(found)]

    def _file(self, outcome: Outcome, failed: str) -> bool:
        """Show what becomes of the file, and write it; whether all that was asked for was done."""
        order, target = self._order, self._target
        if target is None:
            return not order.write
        if target.needs:
            self._say(
                f"{escape(order.shown)} is edited by {target.needs}, which is not installed: "
                "pip install 'pytest-fence[edit]'"
            )
            return not order.write
        try:
            wanted = [(each.key, each.value, comment(each.evidence, tests=order.tests)) for each in outcome.proposals]
            after = target.edited(target.additions(wanted))
            self._show(target, after, failed)
            if not order.write:
                return True
            if failed and not order.partial:
                self._say(
                    f"fence: {escape(order.shown)} was not written: {failed}, so what it did may be what it does when "
                    f"it fails; {order.partial_flag} writes it all the same"
                )
                return False
            target.write(after)
        except EditError as error:
            self._say(f"fence: {escape(order.shown)}: {escape(str(error))}")
            return False
        self._say(
            f"fence: {escape(order.shown)} was written; these rules are proposals: read them before you keep them"
        )
        return True

    def _show(self, target: Target, after: str, failed: str) -> None:
        order = self._order
        writes = order.write and (order.partial or not failed)
        self._say("" if writes else f"{escape(order.shown)} would become ({escape(order.how)}):")
        self._lines(escape(line) for line in difference(target.text(), after, order.shown))

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._say(line)

    def _say(self, text: str) -> None:
        data = (text + "\n").encode("utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(self._order.fd, data) :]
        except OSError:
            pass  # nobody reads it any more


class LearningReport(SessionReport):
    """For a run of tests."""

    def __init__(self, host: Host, config: Config, order: Order) -> None:
        """Raises EditError."""
        super().__init__(host, config)
        self._learning = Learning(order)

    def end(self, broker: Broker, status: int, left: Sequence[str]) -> int:
        code = super().end(broker, status, left)
        failed = ""
        if os.WIFSIGNALED(status):
            failed = f"the run was ended by signal {os.WTERMSIG(status)}"
        elif code not in self._host.passing:
            failed = f"not all has passed (exit status {code})"
        done = self._learning.finish(broker, failed)
        return self._host.failed if code in self._host.passing and not done else code


def _names_in(directory: str) -> Sequence[str] | None:
    try:
        return os.listdir(directory)
    except OSError:
        return None


def _searched() -> tuple[str, ...]:
    places = [os.path.abspath(place) for place in os.environ.get("PATH", "").split(":") if place]
    return tuple(dict.fromkeys((*places, *map(os.path.realpath, places))))
