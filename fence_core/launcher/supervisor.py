"""The supervisor process: runs the broker, forwards signals, mirrors the end of the fenced child.

Run by the process that the user started, after the fork. It never runs code of a test, starts no thread, leaves the
terminal to the child and ends by libc's ``_exit``, so that exit handlers and coverage data belong to the child alone.

Signals (measured against plain pytest for Ctrl-C once and twice, Ctrl-Z and fg, ``timeout``, TERM, HUP, QUIT):

* All are blocked before the fork and read from a signalfd, so none is lost and none interrupts an answer.
* What the terminal sends (``si_code`` is SI_KERNEL) reaches the child's process group anyway: not forwarded. What a
  process has sent to the whole group is not either: `witness` tells.
* When the child stops, so does the supervisor, which is what the shell waits for; going on, it wakes the child.
* When a signal ends the child, the same signal ends the supervisor, without a second core dump.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import time
from typing import TYPE_CHECKING, NoReturn

from fence_core.broker.processes import program
from fence_core.kernel import libc, process, signals
from fence_core.launcher import witness
from fence_core.launcher.child import BLOCKED
from fence_core.link import start
from fence_core.text import escape

if TYPE_CHECKING:
    from fence_core.broker.assemble import Broker
    from fence_core.launcher.plan import Plan
    from fence_core.launcher.session_report import Reporter

GRACE_S = 0.25
"""How long helpers of a finished session (resource trackers, fork servers, workers) have to see that it is over."""
TERM_S = 2.0
"""Between SIGTERM and SIGKILL for what a session left behind."""
_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_STOPPING = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
_OF_THE_TERMINAL = _STOPPING | {signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCONT, signal.SIGWINCH}
"""What the kernel itself sends to the group in the foreground."""
WITNESS_AFTER_S = 0.03
"""The witness is started when the child is under way; what is sent earlier is passed on, whoever has got it too."""
WITNESS_TICK_S = 0.002
_WITNESS_TICKS = 250
_TICKS_AT_LEAST = 3
_NOTE_TRUST_S = 0.5
_SAME_SIGNAL_S = 0.02


class Supervisor:
    """From the fork to the exit status."""

    def __init__(self, child: int, control: socket.socket, plan: Plan, reporter: Reporter) -> None:
        self._broker: Broker
        self._child = child
        self._control = control
        self._leftovers = plan.leftovers
        self._host = plan.host
        self._reporter = reporter
        self._layers = plan.layers
        self._status: int | None = None
        self._deadline = 0.0
        self._left: list[str] = []
        self._witness = 0
        """Its pid; 0 while there is none."""
        self._notes = -1
        self._noted: dict[tuple[int, int], float] = {}
        """Signal and sender of what the witness has got and this process not yet, and when that was read."""
        self._weighed: set[tuple[int, int]] = set()
        """Signal and sender of what is being decided."""
        self._signals = signals.create_signalfd(int(number) for number in BLOCKED)
        self._untold: list[bytes] = []
        """What the guardian has yet to be told, where it had no room."""

    def end_all(self) -> None:
        """Whoever this fence was put up for has gone."""
        self._end(start.TERMINATE, start.KILL)

    def run(self, broker: Broker) -> NoReturn:
        """Answer until the child and what it left behind have ended; then end the same way."""
        self._broker = broker
        self._reporter.begin(broker, self._layers)
        gc.freeze()
        broker.loop.watch(self._signals, self._signalled)
        broker.loop.after(WITNESS_AFTER_S, self._start_witness)
        try:
            broker.run()
        except BaseException as error:  # the fence must not go on half dead
            self._reporter.broken(error)
            self._ask(start.KILL)
            os.kill(self._child, signal.SIGKILL)
            libc.exit_now(self._host.internal)
        self._finish()

    # ------------------------------------------------------------ signals

    def _signalled(self) -> None:
        found = signals.read_signalfd(self._signals)
        continued = any(info.signo == signal.SIGCONT for info in found)
        if continued:
            self._forget_stops()
        for info in found:
            if info.signo == signal.SIGCHLD:
                self._reap(stop=not continued)
            elif info.signo == signal.SIGPIPE and info.pid == os.getpid():
                continue  # of what this process has written itself
            elif self._status is not None:
                self._hurry(info.signo)
            elif info.code == signals.SI_KERNEL and info.signo in _OF_THE_TERMINAL:
                # Of a hang-up only the leader of the session is told, until it has ended.
                if info.signo == signal.SIGHUP and os.getsid(0) == os.getpid():
                    self._pass_on(info.signo)
            elif info.code == signals.SI_USER and self._witness:
                if (info.signo, info.pid) not in self._weighed:
                    # Once even if sent to this process and then to its group, as `timeout` does: a process that got
                    # both would have seen one.
                    self._weighed.add((info.signo, info.pid))
                    self._weigh(info, 0)
            else:
                self._pass_on(info.signo)

    def _weigh(self, info: signals.SignalInfo, ticks: int) -> None:
        """Pass a signal on unless the whole group has got it."""
        sent = (info.signo, info.pid)
        if sent not in self._weighed:
            return
        if info.signo == signal.SIGCONT and self._witness:
            os.kill(self._witness, signal.SIGCONT)  # a SIGSTOP may have reached it
        # Some ticks are for the sender, which may signal this process first and then its group (timeout(1) does).
        over = ticks > _TICKS_AT_LEAST and (ticks > _WITNESS_TICKS or self._witness_has_spoken(info.signo))
        self._read_notes()
        if sent in self._noted:
            del self._noted[sent]
            # Not forgotten at once: this process may be the last of the group to get it, after having got its own.
            self._broker.loop.after(_SAME_SIGNAL_S, lambda: self._weighed.discard(sent))
        elif over:
            self._weighed.discard(sent)
            self._pass_on(info.signo)
        else:
            self._broker.loop.after(WITNESS_TICK_S, lambda: self._weigh(info, ticks + 1))

    def _forget_stops(self) -> None:
        """SIGCONT takes away what would have stopped the tests, had they not been stopped already."""
        self._weighed = {sent for sent in self._weighed if sent[0] not in _STOPPING}

    def _witness_has_spoken(self, number: int) -> bool:
        """Whether it waits for signals and has none: what it had is in the pipe."""
        try:
            status = process.read_proc(f"/proc/{self._witness}/status")
        except OSError:
            return True
        pending = signals.parse_state(status).pending_shared & signals.bit(number)
        return not pending and process.field(status, b"State").startswith(b"S")

    def _read_notes(self) -> None:
        now = time.monotonic()
        # What this process does not get at all (SIGCONT takes a waiting SIGTSTP away) says nothing of what comes later.
        self._noted = {sent: read for sent, read in self._noted.items() if read > now - _NOTE_TRUST_S}
        try:
            while data := os.read(self._notes, start.NOTE.size * 64):
                self._noted.update((sent, now) for sent in start.NOTE.iter_unpack(data))
        except OSError:
            pass

    def _start_witness(self) -> None:
        supervisor = os.getpid()
        self._notes, notes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        pid = process.clone_child()
        if pid == 0:
            witness.run(notes, supervisor, BLOCKED - {signal.SIGCHLD})
        os.close(notes)
        self._witness = pid

    def _pass_on(self, number: int) -> None:
        if self._status is not None:  # by now: it ended while the signal was being weighed
            self._hurry(number)
            return
        try:
            os.kill(self._child, number)
        except ProcessLookupError:
            pass

    def _reap(self, *, stop: bool) -> None:
        """`stop`: stop with the child. Not where this process was stopped too, and has just been continued."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._witness and not os.WIFSTOPPED(status):
                self._witness = 0
            if pid != self._child:
                continue
            if os.WIFSTOPPED(status):
                # The shell has put this process in the foreground and waits for it. What continues this process is
                # passed on like any other signal.
                if stop:
                    os.kill(os.getpid(), signal.SIGSTOP)
                    self._forget_stops()
            else:
                self._status = status
                self._child_ended()

    # ------------------------------------------------------------ the end

    def _child_ended(self) -> None:
        """What is left is still answered while it ends."""
        self._deadline = time.monotonic() + GRACE_S
        self._await_leftovers()

    def _await_leftovers(self) -> None:
        if not self._anybody():
            self._broker.loop.finished = True
        elif self._leftovers == "wait":
            self._broker.loop.after(0.05, self._await_leftovers)
        elif time.monotonic() < self._deadline:
            self._broker.loop.after(0.005, self._await_leftovers)
        else:
            self._left = [self._describe(pid) for pid in self._members()]
            self._end(start.TERMINATE, start.KILL)

    def _end(self, command: bytes, *harder: bytes) -> None:
        """Have the guardian end what is left; in a while, if that has not helped, by the next command."""
        self._ask(command)
        self._deadline = time.monotonic() + TERM_S
        self._broker.loop.after(0.005, lambda: self._await_end(harder))

    def _await_end(self, harder: tuple[bytes, ...]) -> None:
        over = time.monotonic() >= self._deadline
        if not self._anybody() or (over and not harder):
            self._broker.loop.finished = True
        elif over:
            self._end(*harder)
        else:
            self._broker.loop.after(0.005, lambda: self._await_end(harder))

    def _hurry(self, number: int) -> None:
        """A signal for this process when the child has ended already: no more waiting; the second time, no mercy."""
        if number not in _ENDING:
            return
        if self._leftovers == "wait":
            self._leftovers = "end"
            self._status = number  # ended by this signal, as wait(2) has it
        self._deadline = 0.0

    def _describe(self, pid: int) -> str:
        try:
            words = " ".join(escape(word) for word in process.argv(pid)).rstrip() or program(pid)
        except OSError:
            words = "?"
        nodeid = self._broker.processes.started_by(pid)
        started = f", started by {escape(nodeid)}" if nodeid else ""
        return f"{words[:200]} (pid {pid}{started})"

    def _anybody(self) -> bool:
        return bool(self._ask(start.COUNT))

    def _members(self) -> list[int]:
        return self._ask(start.LIST)

    def tell(self, pid: int) -> None:
        """Without signal scopes the guardian can end only what it knows, and its children."""
        try:
            self._untold.append(start.PACKET.pack(start.KNOW, pid, process.start_time(pid)))
        except OSError:
            return  # it is gone already
        self._tell_all(socket.MSG_DONTWAIT)

    def _tell_all(self, flags: int = 0) -> None:
        try:
            while self._untold:
                self._control.send(self._untold[0], flags)
                del self._untold[0]
        except BlockingIOError:
            pass

    def _ask(self, command: bytes) -> list[int]:
        """Pids that the guardian answers with; the guardian answers at once or is gone."""
        found: list[int] = []
        try:
            self._tell_all()
            self._control.send(start.PACKET.pack(command, 0, 0))
            while packet := self._control.recv(start.PACKET.size):
                kind, pid, _ = start.PACKET.unpack(packet)
                if kind != start.LIST:
                    break
                found.append(pid)
        except OSError:
            pass
        return found

    def _finish(self) -> NoReturn:
        status = self._status if self._status is not None else 0
        self._broker.sinks.drain()
        self._broker.drafts.settle(finally_=True)
        self._broker.recorder.collect()
        if self._broker.others is not None:
            self._broker.others.close()
        code = self._reporter.end(self._broker, status, self._left)
        try:
            self._control.send(start.PACKET.pack(start.QUIT, 0, 0))
        except OSError:
            pass
        self._control.close()
        self._broker.tunnels.close()
        if self._witness:
            os.kill(self._witness, signal.SIGKILL)
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        if os.WIFSIGNALED(status):
            _die_of(os.WTERMSIG(status))
        libc.exit_now(code)


def _die_of(number: int) -> NoReturn:
    """End by the same signal, without leaving a second core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    libc.exit_now(128 + number)


def raise_limits() -> None:
    """The broker holds a descriptor for each process it knows, and pages in memory that count as files; the tests keep
    their own limits."""
    for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
        hard = resource.getrlimit(which)[1]
        most = min(hard, 1 << 20) if which == resource.RLIMIT_NOFILE and hard > 0 else hard
        try:
            resource.setrlimit(which, (most, hard))
        except (OSError, ValueError):
            pass
