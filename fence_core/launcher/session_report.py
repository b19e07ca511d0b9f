"""What the supervisor says at the end of a session, and what the run ends with.

Run by the supervisor. A session shows its violations itself; here is what it has not shown.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fence_core.broker.assemble import Broker
    from fence_core.events.ledger import Record
    from fence_core.launcher.plan import Host
    from fence_core.launcher.report_files import ReportFiles
    from fence_core.policy.model import Config

__all__ = ["Reporter", "SessionReport", "exit_status", "say", "say_what_was_left"]


class Reporter(Protocol):
    """Who tells the user what the supervisor knows."""

    def unusable(self, why: str) -> str:
        """The line for stderr where there is no fence."""

    def begin(self, broker: Broker, layers: Sequence[str]) -> None:
        """The fence stands, of these layers, and nothing has been answered yet."""

    def broken(self, error: BaseException) -> None:
        """The supervisor itself has failed, and ends the run."""

    def end(self, broker: Broker, status: int, left: Sequence[str]) -> int:
        """All is over: what the run ends with, unless a signal has ended it.

        `status`: of the first process, as wait(2) has it. `left`: a line for each process that was left and ended.
        """


class SessionReport:
    """For a run that fails with its violations."""

    def __init__(self, host: Host, config: Config | None = None) -> None:
        """`config`: that of the run, where the host wants report files."""
        self._host = host
        self._config = config
        self._files: ReportFiles | None = None

    def unusable(self, why: str) -> str:
        return f"ERROR: fence: could not set up the fence: {why}"

    def begin(self, broker: Broker, layers: Sequence[str]) -> None:
        """Nothing is told before the end."""
        if self._config is not None and self._host.reports.wanted:
            from fence_core.launcher.report_files import ReportFiles  # for runs that are to leave any

            self._files = ReportFiles(self._host, self._config, layers, say)

    def broken(self, error: BaseException) -> None:
        say(f"fence: internal error in the supervisor, the run is ended: {type(error).__name__}: {error}")
        import traceback

        traceback.print_exc()

    def end(self, broker: Broker, status: int, left: Sequence[str]) -> int:
        failing = self._report(broker, status, left)
        code = exit_status(os.WEXITSTATUS(status), self._host, broken=failing)
        if self._files is not None and not self._files.write(broker, status, code):
            return exit_status(code, self._host, broken=True)
        return code

    def _claims_success(self, status: int) -> bool:
        return os.WIFEXITED(status) and os.WEXITSTATUS(status) in self._host.passing

    def _report(self, broker: Broker, status: int, left: Sequence[str]) -> bool:
        """Say what the session has not shown itself; whether any violation must fail the run."""
        ledger = broker.scope.ledger
        unsettled = ledger.unsettled()
        failing = [record for record in ledger.records if record.made.state == "failing"]
        if failing and not unsettled and self._claims_success(status):
            # A script that called pytest and went on; or somebody only said that they were shown: so name the first.
            more = f"; and {len(failing) - 1} more" if len(failing) > 1 else ""
            say(
                f"fence: the script ended with {os.WEXITSTATUS(status)} although the run failed; its exit "
                f"status is {self._host.failed} now ({_line(failing[0])}{more})"
            )
        if unsettled:
            say("fence: not shown above, since it happened when the session was over or could not report:")
            for record in unsettled[:50]:
                say("  " + _line(record))
            if len(unsettled) > 50:
                say(f"  and {len(unsettled) - 50} more")
        if ledger.dropped:
            say(f"fence: {ledger.dropped} further violations were counted but not kept")
        say_what_was_left(left)
        lost = broker.others.lost if broker.others is not None else ()
        for text in lost:
            say(f"fence: {text}")
        if broker.recorder.lost_one:
            say("fence: something was refused that could not be written down (see above), please report it")
        return bool(ledger.dropped or broker.recorder.lost_one or failing or lost)


def say_what_was_left(left: Sequence[str]) -> None:
    if left:
        processes = "1 process" if len(left) == 1 else f"{len(left)} processes"
        say(f"fence: ended {processes} that outlived the session:")
        for line in left[:20]:
            say("  " + line)


def say(text: str) -> None:
    try:
        os.write(2, (text + "\n").encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def _line(record: Record) -> str:
    from fence_core.report import words  # for what happens at the very end only

    return words.line(record.violation())


def exit_status(code: int, host: Host, *, broken: bool) -> int:
    """What the run ends with where its own process has ended with `code`. `broken`: violations fail the run."""
    return host.failed if broken and code in host.passing else code
