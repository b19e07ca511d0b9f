"""What the supervisor of a command tells the user, while it runs and at its end.

Run by the supervisor. The command's exit status is its own, whatever was refused.
"""

from __future__ import annotations

import gc
import os
import select
import time
from typing import TYPE_CHECKING

from fence_core.launcher.session_report import say
from fence_core.policy import record as values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fence_core.broker.assemble import Broker
    from fence_core.broker.loop import Loop
    from fence_core.events.ledger import Record
    from fence_core.policy.model import Rule
    from fence_core.policy.requests import Request
    from fence_core.policy.sources.discover import Discovered
    from fence_core.report.lines import Counts

__all__ = ["CommandReport", "Log", "Told"]

_AGAIN_S = 0.05
"""How often it is tried whether lines that wait can be written."""
_HELD_MAX = 2000
"""Lines that wait; later ones are counted."""
_LEFT_MAX = 20


class Log(values.Record):
    """Where lines are appended."""

    fd: int
    as_json: bool


class Told(values.Record):
    """What the user wants to know."""

    monitor: bool = False
    debug: bool = False
    log: Log | None = None


class Screen:
    """Standard error, which the command has too. Nothing here ever waits for whoever reads it.

    On a terminal that a program has taken over (vim, or a shell that is being typed at), a line would land in the
    middle of its screen: it waits until the terminal is as it was, or all is over.
    """

    def __init__(self, loop: Loop, fd: int = 2) -> None:
        self._loop = loop
        self._fd = fd
        self._is_terminal = os.isatty(fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._held: list[bytes] = []
        self._skipped = 0

    def line(self, text: str) -> None:
        data = (text + "\n").encode("utf-8", "backslashreplace")
        if self._held or not self._is_ready():
            self._hold(data)
        else:
            self._write(data)

    def end(self) -> None:
        """The command has ended: what waits is written now."""
        held, self._held = self._held, []
        end = b"\r\n" if self._is_terminal and self._is_raw() else b"\n"
        for data in held:
            self._write(data[:-1] + end)
        if self._skipped:
            say(f"[fence] {self._skipped} lines more were not shown")

    def _hold(self, data: bytes) -> None:
        if len(self._held) >= _HELD_MAX:
            self._skipped += 1
            return
        self._held.append(data)
        if len(self._held) == 1:
            self._loop.after(_AGAIN_S, self._try)

    def _try(self) -> None:
        while self._held and self._is_ready():
            self._write(self._held.pop(0))
        if self._held:
            self._loop.after(_AGAIN_S, self._try)

    def _is_ready(self) -> bool:
        return bool(self._poll.poll(0)) and not (self._is_terminal and self._is_raw())

    def _is_raw(self) -> bool:
        import termios  # where there is a terminal

        try:
            _, output, _, local, *_ = termios.tcgetattr(self._fd)
        except termios.error:
            return False
        return not (local & termios.ICANON and output & termios.OPOST)

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._fd, data)
        except OSError:
            pass  # nobody reads it any more


class CommandReport:
    """For a command, which ends as it ends."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._screen: Screen
        self._numbers = 0
        self._refused = 0
        self._counts: Counts | None = None
        self._hows: dict[int, str] = {}
        self._began = time.monotonic()
        self._allowances: set[str] = set()

    @property
    def locked(self) -> list[str]:
        """Files of ours that nothing inside may change."""
        return []

    def settle(self, found: Discovered) -> Discovered:
        """The policy as this run is to be fenced with it. Raises UsageError."""
        return found

    def unusable(self, why: str) -> str:
        return f"fence: could not set up the fence, nothing was run: {why}"

    def begin(self, broker: Broker, layers: Sequence[str]) -> None:
        gc.enable()  # see `main`
        self._screen = Screen(broker.loop)
        now = time.monotonic()
        scope = broker.scope
        if self._told.debug:
            ready = round((now - self._began) * 1000)
            self._screen.line(f"[fence] layers: {', '.join(layers)}; ready after {ready} ms")
            scope.on_use = self._allowed
        self._began = now

        scope.listener = self._note

    def broken(self, error: BaseException) -> None:
        say(f"fence: internal error in the supervisor, the command is ended: {type(error).__name__}: {error}")

    def end(self, broker: Broker, status: int, left: Sequence[str]) -> int:
        for record in broker.scope.ledger.records:
            if self._counts is not None and self._counts.is_behind(record):
                self._show(record)
        if self._told.debug:
            self._screen.line(f"[fence] ended: {_ending(status)} after {self._age_ms()} ms; {self._refused} refused")
        self._screen.end()
        if left:
            self._tell_of(left)
        if broker.scope.ledger.dropped:
            say(f"fence: {broker.scope.ledger.dropped} more actions were refused than could be kept")
        if broker.recorder.lost_one:
            say("fence: something was refused that could not be written down, please report it")
        told = self._told
        if self._refused and not (told.monitor or told.debug or told.log) and os.isatty(2):
            actions = "1 action was" if self._refused == 1 else f"{self._refused} actions were"
            say(f"fence: {actions} refused; run with -m to see {'it' if self._refused == 1 else 'them'}")
        return os.WEXITSTATUS(status)

    def _age_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000)

    def _allowed(self, request: Request, rule: Rule) -> None:
        """Shown once for each place and rule."""
        from fence_core.command.describe import allowance  # only with -d

        text = allowance(request, rule, time.time())
        what = text.partition(" ✓ ")[2]
        if what not in self._allowances and len(self._allowances) < _HELD_MAX:
            self._allowances.add(what)
            self._screen.line(text)

    def _tell_of(self, left: Sequence[str]) -> None:
        if len(left) == 1:
            say(f"fence: ended 1 process that outlived the command: {left[0]}")
            return
        say(f"fence: ended {len(left)} processes that outlived the command:")
        for line in left[:_LEFT_MAX]:
            say("  " + line)
        if len(left) > _LEFT_MAX:
            say(f"  and {len(left) - _LEFT_MAX} more")

    def _note(self, record: Record, how: str) -> None:
        self._refused += bool(record.made.errno) and record.made.verdict != "error"
        if self._counts is None:
            from fence_core.report.lines import Counts  # only where something is refused

            self._counts = Counts()
        if self._counts.is_due(record):
            self._hows.setdefault(record.made.number, how)
            self._show(record)

    def _show(self, record: Record) -> None:
        """On standard error if the user wants to see it, and in the log."""
        told, violation, moment = self._told, record.violation(), time.time()
        is_fault = violation.verdict == "error"
        if not (told.monitor or told.debug or told.log or is_fault):
            return
        from fence_core.report import lines  # only where something is refused

        how = self._hows.get(record.made.number, "")
        text = lines.as_text(violation, moment, how)
        if told.monitor or told.debug or is_fault:
            self._screen.line(text)
        if told.log is not None:
            self._numbers += 1
            if told.log.as_json:
                import json

                text = json.dumps(lines.as_data(violation, moment, self._numbers, how))
            try:
                os.write(told.log.fd, (text + "\n").encode("utf-8", "backslashreplace"))
            except OSError as error:
                self._screen.line(f"[fence] the log file cannot be written: {error.strerror}")
                self._told = told._replace(log=None)


def _ending(status: int) -> str:
    """Of a wait status, in words."""
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
