"""What a pytest process inside the fence holds: its page, and a line to the broker.

Run by fenced processes. Everything here uses calls that are not trapped (read, write), except for opening the line.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fence_core.errors import BrokerError
from fence_core.events.model import Owner, Use, Violation
from fence_core.events.phases import PHASES, known_as
from fence_core.events.wire import from_wire
from fence_core.launcher.numbers import out_of_the_way
from fence_core.launcher.waiting import Answers
from fence_core.link import control, doors
from fence_core.link.page import Note, Page
from fence_core.untouched import real

if TYPE_CHECKING:
    from fence_core.launcher.per_test import Layer
    from fence_core.link.one_test import Line
    from fence_core.link.operations import Operation
    from fence_core.policy.model import Source

_STACK_SIGNAL = int(signal.SIGRTMAX) - 3
_INQUIRY_SIGNAL = int(signal.SIGRTMAX) - 4
_DEFAULT = signal.SIG_DFL
_RLIMIT_NOFILE = resource.RLIMIT_NOFILE
_PHASE_NUMBERS = {name: number for number, name in enumerate(PHASES)}


def _violations(answer: Mapping[str, Any]) -> list[Violation]:
    try:
        return [from_wire(Violation, each) for each in answer["violations"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BrokerError(f"the broker's answer is not understood: {type(error).__name__}: {error}") from error


class Fence:
    """One fenced session in this process."""

    def __init__(self, role: str, config: Mapping[str, Any] | None) -> None:
        """Raises BrokerError; call `doors.is_fenced` first."""
        self._lock = real.Lock()
        self._note = Note()
        note = [self._note.address, self._note.token]
        answer = self._ask(control.HELLO, role=role, config=config, note=note)
        self.role: str = answer["role"]
        """``session``, ``worker`` or ``nested``."""
        self.mode: str = answer["mode"]
        self.layers: tuple[str, ...] = tuple(answer["layers"])
        """What is active, for the header: ``seccomp``, ``landlock 7``."""
        self.source: str = answer["source"]
        self.watches_reads: bool = answer["watches_reads"]
        """Whether `deny_read` can be kept: that is settled when the session starts."""
        self.announces_forks: bool = answer["announces_forks"]
        """Whether the broker has to be told of forks."""
        self.withheld: tuple[str, ...] = tuple(answer["withheld"])
        """Variables that `env_deny` keeps from the tests."""
        self.closed: tuple[tuple[int, str], ...] = tuple((fd, what) for fd, what in answer["closed"])
        """Descriptors that the caller had left open and that were closed here, each with what it led to."""
        self.packages: tuple[tuple[str, str], ...] = tuple(
            (directory, scope) for directory, scope in answer["packages"]
        )
        """Directories whose tests have policies of their own, with the numbers from 1 on; each with its scope."""
        page = doors.knock(doors.PAGE)
        if page is None:
            raise BrokerError("the broker gave no page")
        self._page = Page(page)
        real.close(page)
        self._nodeid = ""
        self._policy = 0
        self._owner = ""
        self._per_test: Any = None
        self._layers: dict[int, Layer | None] = {}
        """Rulesets for forks, by policy."""
        self._fork_server: int | None = None
        if answer["stacks"]:
            self._offer_stacks()

    # ------------------------------------------------------------ per test

    def enter(self, nodeid: str, phase: str, policy: int = 0) -> None:
        """From now on calls of this process are on this test's account. A memory write, no round trip."""
        number = _PHASE_NUMBERS[phase]
        if "multiprocessing.forkserver" in real.modules:
            self._tell_of_fork_server()
        if nodeid == self._nodeid and policy == self._policy:
            self._page.write_phase(number)
            self._note.write_phase(number)
            return
        self._nodeid = nodeid
        self._policy = policy
        self._write(number)

    def owned(self, owner: Owner | None, policy: int | None = None) -> None:
        """Until this is said again, what is tried is the doing of a fixture that more than one test has.

        `policy`: under another policy than what was entered.
        """
        if policy is not None:
            self._policy = policy
        self._owner = "" if owner is None else "\0" + "\0".join(map(str, owner))
        self._write(self._page.phase())

    def _write(self, phase: int) -> None:
        said = (known_as(self._nodeid) + self._owner).encode("utf-8", "replace")
        self._page.write(said, phase, self._policy)
        self._note.write(said, phase, self._policy)

    def phase(self) -> str:
        """The phase that was entered last, by this process or by the fork that runs its test."""
        number = self._page.phase()
        return PHASES[number] if number < len(PHASES) else PHASES[0]

    def violation_count(self) -> int:
        """Violations on this process's account so far; compare with an earlier value."""
        return self._page.count()

    def take(self, nodeid: str | None, *, by_fork: bool = False) -> list[Violation]:
        """What has not been taken yet of this test; None: of no test. Waits for outstanding stacks.

        What a fork for one test takes, its parent gets once more; `by_fork`: nothing but that.
        """
        return _violations(self._ask(control.TAKE, nodeid=known_as(nodeid or ""), by_fork=by_fork))

    def prepare_forks(self) -> Line:
        """Some tests are to have processes of their own. The line to this process, for one of them at a time."""
        from fence_core.launcher import per_test
        from fence_core.link.one_test import Line

        self._per_test = per_test
        return Line()

    def fork_test(self) -> int:
        """Fork for one test: 0 in the child, which is this session's process as well, its pid here. Raises OSError.

        What the child enters counts, as it shares the page; the session above it goes on being this process's. The
        child has a Landlock layer of its own, for the policy that was entered last.
        """
        per_test = self._per_test
        if self._policy not in self._layers:
            places = self._ask(control.CEILING, policy=self._policy)["places"]
            self._layers[self._policy] = None if places is None else per_test.Layer(places)
        with self._note.forking_for_a_test():
            pid: int = per_test.fork(self._layers[self._policy], self._layers.values())
        if pid == 0:
            self._lock = real.Lock()  # a thread that is not there may have held it
        return pid

    # ------------------------------------------------------------ per session

    def register_policy(self, layers: Sequence[tuple[Mapping[str, object], Source]], base: int = 0) -> int:
        """The number of this session's policy, or of that of a package, with the arguments of these markers merged in,
        the closest last.

        Raises PolicyError.
        """
        plain = [[dict(raw), source._asdict()] for raw, source in layers]
        number: int = self._ask(control.POLICY, layers=plain, base=base)["number"]
        return number

    def proxy(self) -> str:
        """The URL of the filter, for programs that are to be told of a proxy."""
        return str(self._ask(control.PROXY)["url"])

    def expect_workers(self) -> None:
        """From now on processes that this one starts outside of any test may join the session as its workers."""
        self._ask(control.WORKERS)

    def ledger(self) -> list[Violation]:
        """Everything of this session, from all its processes."""
        return _violations(self._ask(control.LEDGER))

    def uses(self) -> list[Use]:
        """What the entries of this session's policies were needed for."""
        return [from_wire(Use, each) for each in self._ask(control.USES)["uses"]]

    def settle(self, upto: int) -> None:
        """The first `upto` of the ledger were shown to the user; the supervisor prints the rest.

        The exit status does not depend on it.
        """
        self._ask(control.SETTLE, upto=upto)

    def tell(self, told: Mapping[str, Any]) -> None:
        """What this session says of its tests, for report files; the last word counts."""
        self._ask(control.TOLD, told=dict(told))

    def close(self) -> None:
        """A nested session in this process is over. The outer session's page is in force again."""
        if self.role == "nested":
            try:
                self._ask(control.BYE)
            except BrokerError:
                pass
            self._page.release()
            self._note.release()

    # ------------------------------------------------------------ inside

    def _tell_of_fork_server(self) -> None:
        """What it forks for this test belongs to the one that started it, unless the broker knows what it is.

        In time if told between two phases: those of the phase that started it are right without.
        """
        server = getattr(real.modules.get("multiprocessing.forkserver"), "_forkserver", None)
        pid = getattr(server, "_forkserver_pid", None)
        if pid != self._fork_server and isinstance(pid, int):
            self._fork_server = pid
            try:
                self._ask(control.FORK_SERVER, pid=pid)
            except BrokerError:
                pass  # then they go on belonging to that test

    def _offer_stacks(self) -> None:
        """Let the broker ask for the Python stack of a thread that it is about to refuse something."""
        fd = doors.knock(doors.STACK)
        if fd is None:
            return
        fd = out_of_the_way(fd)
        if real.getsignal(_STACK_SIGNAL) is not _DEFAULT:
            real.close(fd)
            return  # somebody uses it: no stacks rather than a surprise
        real.register_stack_signal(_STACK_SIGNAL, file=fd, all_threads=False, chain=False)
        self._ask(control.STACKS, signal=_STACK_SIGNAL, fd=fd, inquiry=self._answer_inquiries())

    def _answer_inquiries(self) -> int:
        """The signal by which the main thread is asked who waits for what a thread does; 0: it cannot be."""
        if real.getsignal(_INQUIRY_SIGNAL) is not _DEFAULT:
            return 0
        try:
            real.handle_signal(_INQUIRY_SIGNAL, Answers(self._page))
        except ValueError:  # this is not the main thread
            return 0
        return _INQUIRY_SIGNAL

    def _ask(self, operation: Operation, **fields: Any) -> dict[str, Any]:
        """One request, one reply, on a line of its own.

        No line is kept open: suites count sockets and descriptors, close what they do not know, and fork. Raises
        BrokerError where the broker cannot be reached: it is gone, or a bug; PolicyError with the broker's problems.
        """
        data = control.request(operation, fields)
        received = bytearray()
        with self._lock:
            line = _line()
            try:
                while data:
                    data = data[real.write(line, data) :]
                while not received.endswith(b"\n"):
                    chunk = real.read(line, control.CHUNK)
                    if not chunk:
                        raise BrokerError("the broker has closed the line")
                    received += chunk
            except OSError as error:
                raise BrokerError(f"the broker cannot be reached: {error}") from error
            finally:
                _close(line)
        return control.read_answer(operation, bytes(received))


def _line() -> int:
    """A line to the broker. Raises BrokerError.

    A test may have used up all descriptors, or have lowered their limit: then it is raised for the moment of the call.
    """
    line = doors.knock(doors.CONTROL)
    if line is None:
        try:
            soft, hard = real.getrlimit(_RLIMIT_NOFILE)
            if soft != hard:
                real.setrlimit(_RLIMIT_NOFILE, (hard, hard))
                try:
                    line = doors.knock(doors.CONTROL)
                finally:
                    real.setrlimit(_RLIMIT_NOFILE, (soft, hard))
        except (OSError, ValueError):
            pass
    if line is None:
        raise BrokerError("the broker does not answer, or this process may open no more files")
    return line


def _close(line: int) -> None:
    try:
        real.close(line)
    except OSError:
        pass  # a thread of a test that closes all descriptors was first
