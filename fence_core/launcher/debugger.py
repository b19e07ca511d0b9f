"""A debugger that is attached to this process: pydevd, which debugpy (so VS Code) and PyCharm bring along.

It has threads, which a fork would lose and which would go on unfenced in the supervisor; and a connection to its
client, which a new start would lose. So before the fork they are stopped, each at a point where nothing of what the
client has said, or is to be told, is lost, and the fenced child starts them again: with the same state, on the same
connection. To the client that is the process it has talked to all along, whether it follows sub-processes or not.

Run by the process that is about to be fenced, before the fork; `resume` by the fenced child, or by the former where
the fence cannot be put up; `leave` by the supervisor.

Of pydevd the names are used that both its lines have had for years (debugpy/_vendored/pydevd and JetBrains'
pydevd-pycharm: pydevd.py, _pydevd_bundle/pydevd_comm.py, _pydev_bundle/pydev_monkey.py). Where one is missing, or a
thread does not stop, there is no fence.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from fence_core.errors import FenceUnavailable
from fence_core.policy.decide import Judge
from fence_core.policy.requests import Connect

if TYPE_CHECKING:
    from fence_core.policy.model import Policy

__all__ = ["Debugger", "attached"]

_WAKING = signal.SIGURG
"""Ignored by default, so that nobody is surprised by one."""
_STEP_S = 0.02
_STEPS = 500
_AUXILIARY = ("py_db_command_thread", "check_alive_thread")
"""Attributes for threads without a state of their own; pydevd has a way to start them anew."""
_WAY_OUT = "Debug without the fence (--no-fence), or let a test wait for the debugger: debugpy.listen()."


class Debugger:
    """The debugger of this process, with a client that is connected."""

    def __init__(self, db: Any) -> None:
        """Raises OSError if the client is gone."""
        self._db = db
        self._pid = os.getpid()
        self._paused = False
        host, port = db.reader.sock.getpeername()[:2]
        self._client = str(host), int(port)

    @property
    def follows(self) -> bool:
        """Programs that are started from this process will connect to the client, too."""
        return getattr(os.fork, "__name__", "") == "new_fork"  # pydev_monkey.create_fork

    def client(self) -> tuple[str, int]:
        """Address and port of the other end, of debugpy's adapter or the IDE."""
        return self._client

    def needs(self, policy: Policy) -> dict[str, object]:
        """What a policy has to say besides, as in a configuration, for such programs to reach the client."""
        if not self.follows:
            return {}
        host, port = self.client()
        if Judge(policy).decide(Connect(host, port)).allowed:
            return {}
        address = ip_address(host.partition("%")[0])
        if address.is_loopback:
            return {"allow_local_outbound_ports": [port]}
        return {"allowed_domains": [f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"]}

    # ------------------------------------------------------------ before the fork

    def pause(self) -> None:
        """Stop its threads. Raises FenceUnavailable; then all is as before."""
        self._paused = True
        try:
            self._stop_auxiliary()
            _await_end(self._stop_writer())
            self._stop_reader()
        except BaseException as error:
            self.resume()
            if isinstance(error, FenceUnavailable) or not isinstance(error, Exception):
                raise
            raise FenceUnavailable(
                "the debugger", f"this pydevd is not known ({type(error).__name__}: {error})", _WAY_OUT
            ) from error

    def _stop_auxiliary(self) -> None:
        tracker: Any = getattr(self._db, "timeout_tracker", None)
        timer = getattr(tracker, "_thread", None)
        known = {timer, self._db.reader, self._db.writer, *(getattr(self._db, name) for name in _AUXILIARY)}
        others = [each.name for each in self._db.created_pydb_daemon_threads if each not in known]
        if others:
            raise FenceUnavailable("the debugger", f"its thread {others[0]!r} would be lost by a fork", _WAY_OUT)
        for thread in known - {None, self._db.reader, self._db.writer}:
            thread.do_kill_pydev_thread()
        # What it waits for before it looks whether it is to end.
        self._db._py_db_command_thread_event.set()
        for thread in known - {None, self._db.reader, self._db.writer}:
            _await_end(thread)
        if timer is not None:
            tracker._thread = None  # the next one that is needed is a new one

    def _stop_writer(self) -> threading.Thread:
        """It sends what there is to send, in order, and ends with the last of it. What is said later is kept."""
        writer: threading.Thread = self._db.writer
        if writer.is_alive():
            comm = sys.modules["_pydevd_bundle.pydevd_comm_constants"]
            self._db.writer.add_command(_Nothing(comm.CMD_EXIT))
        return writer

    def _stop_reader(self) -> None:
        """It is waiting in recv(2), or busy with a command. A signal interrupts the one, and Python tries again: then
        it is told that there is nothing to be read, where it would wait. So no byte is taken from the connection that
        it does not act upon."""
        reader = self._db.reader
        before = signal.signal(_WAKING, lambda *_: None)
        reader._terminate_on_socket_close = lambda: None  # what it does when a read fails
        try:
            os.set_blocking(reader.sock.fileno(), False)
            _await_end(reader, lambda: signal.pthread_kill(reader.ident, _WAKING))
        finally:
            os.set_blocking(reader.sock.fileno(), True)
            del reader._terminate_on_socket_close
            signal.signal(_WAKING, signal.SIG_DFL if before is None else before)

    # ------------------------------------------------------------ after it

    def resume(self) -> None:
        """Start its threads again, in this process; once."""
        if not self._paused:
            return
        self._paused = False
        for thread in (self._db.writer, self._db.reader):
            if not thread.is_alive():
                _start_again(thread, self._db)
        if any(getattr(self._db, name) is not None for name in _AUXILIARY):
            self._db.start_auxiliary_daemon_threads()
        if os.getpid() != self._pid:
            self._stand_in()

    def _stand_in(self) -> None:
        """The client knows this process by the pid that it had before. What it starts has to name its parent so, or
        debugpy's adapter takes it for a stranger's, and does not offer it to the client."""
        own, known = os.getpid(), self._pid
        monkey: Any = sys.modules.get("_pydev_bundle.pydev_monkey")
        updated = getattr(monkey, "_get_setup_updated_with_protocol_and_ppid", None)
        if updated is not None:

            def with_known_parent(*args: Any, **named: Any) -> Any:
                setup = updated(*args, **named)
                if setup.get("ppid") == own:
                    setup["ppid"] = known
                return setup

            monkey._get_setup_updated_with_protocol_and_ppid = with_known_parent
        api: Any = getattr(sys.modules.get("_pydevd_bundle.pydevd_api"), "PyDevdAPI", None)
        if hasattr(api, "get_ppid"):
            get_ppid = api.get_ppid

            def known_parent(self: Any) -> Any:
                found = get_ppid(self)
                return known if found == own else found

            api.get_ppid = known_parent

    def leave(self) -> None:
        """The supervisor has nothing to do with it: not traced, and no end of the connection."""
        _stop_monitoring()
        stop: Any = getattr(sys.modules.get("_pydevd_frame_eval.pydevd_frame_eval_main"), "stop_frame_eval", None)
        untrace: Any = threading.settrace
        for each in (stop or (lambda: None), lambda: self._db.SetTrace(None), lambda: untrace(None)):
            try:
                each()
            except RuntimeError:
                pass  # it does not trace in this way
        sock: socket.socket = self._db.reader.sock
        os.close(sock.detach())


class _Nothing:
    """What a writer takes for its last command."""

    as_dict = None

    def __init__(self, number: int) -> None:
        self.id = number

    def send(self, sock: object) -> None:
        pass


def attached() -> Debugger | None:
    """The debugger of this process, None where there is none or where it has no client."""
    holder = getattr(sys.modules.get("_pydevd_bundle.pydevd_constants"), "GlobalDebuggerHolder", None)
    db = getattr(holder, "global_dbg", None)
    if getattr(db, "reader", None) is None or getattr(db, "writer", None) is None:
        return None
    try:
        return Debugger(db)
    except OSError:
        return None  # its threads are about to end


def _await_end(thread: threading.Thread, nudge: Callable[[], object] = lambda: None) -> None:
    """Raises FenceUnavailable if it goes on."""
    task = f"/proc/self/task/{thread.native_id}"
    for _ in range(_STEPS):
        if not thread.is_alive():
            if not os.path.exists(task):
                return
            time.sleep(_STEP_S / 10)  # Python has done with it, the kernel not yet
            continue
        nudge()
        threading.Thread.join(thread, _STEP_S)  # pydevd has some that do more when they are joined
    raise FenceUnavailable("the debugger", f"its thread {thread.name!r} is busy", _WAY_OUT)


def _start_again(thread: Any, db: Any) -> None:
    """A thread that has ended, with all that it knows."""
    name = thread.name
    base: Any
    (base,) = (each for each in type(thread).__mro__ if each.__name__ == "PyDBDaemonThread")
    base.__init__(thread, db)
    thread.name = name
    thread.start()


def _stop_monitoring() -> None:
    """What it is told by, from Python 3.12 on."""
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:
        return
    for tool in range(6):
        if monitoring.get_tool(tool) is not None:
            monitoring.set_events(tool, 0)
            for name, event in vars(monitoring.events).items():
                if name.isupper() and event:
                    monitoring.register_callback(tool, event, None)
