"""A fenced worker on this machine, for a run on another one.

Run by the process that a gateway of execnet's has on this machine, which is not fenced and does nothing but what the
run's carrier tells it (`pytest_fence/remote_carrier.py`). It starts a supervisor in a session of its own, which puts
the fence up and has an interpreter wait in it for what pytest-xdist sends; then it passes on what the two sides say.

The policy is the controller's: its config comes as data, with its flags, and no config of this machine is read. Paths
that are relative count from what stands here for the controller's root directory; `~` and the presets' directories for
temporary files are those of this machine.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

from fence_core.errors import FenceError, PolicyError
from fence_core.kernel import process
from fence_core.launcher import respawn
from fence_core.launcher.obstacles import check_layers
from fence_core.launcher.plan import Host
from fence_core.link import remote
from fence_core.policy.sources.load import find_config
from fence_core.policy.sources.templates import TemplateContext
from fence_core.policy.sources.wire import from_wire, to_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fence_core.policy.model import Config

STARTS = "import sys;exec(eval(sys.stdin.readline()))"
"""How execnet has an interpreter wait for its first line (gateway_io.py there)."""
OPTION = "fence_worker"
"""The ``-X`` option by which pytest in such an interpreter knows what it is. Its value: the scope."""
WHY, BASE, LAYERS = "why", "base", "layers"
KILL = False
"""Said by the carrier: end it. None: the controller has nothing more to say."""
_GRACE_S = 30.0
"""How long a worker may take to end when the controller has said its last word. What execnet gives it is 15 s."""


class Channel(Protocol):
    """What is used of execnet's."""

    def send(self, item: object) -> None: ...
    def setcallback(self, callback: Any, endmarker: object) -> None: ...


class Given(NamedTuple):
    """What the controller has, of which the fence on another machine is made. All plain data."""

    config: dict[str, Any] | None
    """Its ``name``, its ``path`` from the root directory, and what it says (``said``); None: there is none."""
    flags: list[tuple[str, dict[str, object]]]
    host: Host
    cache_dir: str
    writes: list[str]
    """What pytest and its plugins were told to write, from the root directory."""


def order_of(given: Given) -> dict[str, Any]:
    """What all workers are told."""
    return {**given._asdict(), "host": to_wire(given.host)}


def serve(channel: Channel, order: dict[str, Any]) -> None:
    """Start a worker and pass on what is said, until it has ended.

    The first answer is what stands in the way, in words (`WHY`), or where the worker works (`BASE`) and
    what its fence consists of (`LAYERS`). Then bytes
    are execnet's, and text is a line of `link.remote`.
    """
    said: queue.SimpleQueue[object] = queue.SimpleQueue()
    channel.setcallback(said.put, endmarker=KILL)
    try:
        started = _Started(order)
    except (FenceError, OSError) as error:
        channel.send({WHY: "\n".join(map(str, error.problems)) if isinstance(error, PolicyError) else str(error)})
        return
    _Passing(channel, started, said).run()


def _compile(order: Mapping[str, Any], root: str) -> Config:
    """Raises PolicyError."""
    given = order["config"]
    found = None if given is None else (Path(root, given["path"]), given["name"], given["said"])
    context = TemplateContext.of_run(root, cache_dir=order["cache_dir"], extra_write=order["writes"])
    return find_config(Path(root), context=context, overlays=order["flags"], found=found, looks=False)


class _Started:
    """A supervisor, and the ends of what leads to it."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        """Raises FenceError, OSError."""
        self.base = os.path.abspath(order["base"])
        config = _compile(order, os.path.join(self.base, order["below"]) if order["below"] else self.base)
        check_layers(config.settings.require)
        host = from_wire(Host, order["host"])
        argv = [sys.executable, "-X", f"{OPTION}={config.settings.scope}", "-u", "-c", STARTS]
        self.work, work = socket.socketpair()
        self.home, home = socket.socketpair()
        order = {"withheld": [], "home": home.fileno(), "first": order["first"]}
        told = {**respawn.make_order(config, argv, host), **order}
        fd = os.memfd_create("fence-order", 0)
        with open(fd, "wb") as file, work, home:
            file.write(json.dumps(told).encode())
            file.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", respawn.START, str(fd)],
                stdin=work.fileno(),
                stdout=work.fileno(),
                stderr=subprocess.PIPE,
                pass_fds=(fd, home.fileno()),
                start_new_session=True,
            )
        assert self.process.stderr is not None
        self.errors: IO[bytes] = self.process.stderr

    def close(self) -> None:
        """It has said its last word, or never a first."""
        self.process.wait()
        self.home.close()


class _Errors:
    """What the supervisor and the worker write to standard error: passed on, but for why there is no fence."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._kept: list[bytes] | None = []
        self._lock = threading.Lock()
        self._thread = _thread(self._run)

    def _run(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), remote.CHUNK):
                with self._lock:
                    if self._kept is not None:
                        self._kept.append(chunk)
                        continue
                _write(chunk)

    def pass_on(self) -> None:
        """From now on; and what there is."""
        with self._lock:
            kept, self._kept = self._kept, None
            _write(b"".join(kept or ()))

    def text(self) -> str:
        """All of it, when nobody writes there any more."""
        self._thread.join()
        return b"".join(self._kept or ()).decode("utf-8", "replace").strip()


def _write(data: bytes) -> None:
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        pass  # whoever read it has gone


def _thread(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


class _Passing:
    """What the controller says goes to the worker, what the worker and its supervisor say to the carrier."""

    def __init__(self, channel: Channel, started: _Started, said: queue.SimpleQueue[object]) -> None:
        self._channel = channel
        self._started = started
        self._said = said
        self._errors = _Errors(started.errors)
        self._over = threading.Event()

    def run(self) -> None:
        """Returns when the fence and all in it are gone."""
        lines = remote.Lines()
        home = self._started.home
        first = home.recv(remote.CHUNK)
        if not first:
            self._started.close()
            text = self._errors.text()
            self._send({WHY: text.removeprefix("ERROR: fence: ") or "the fence could not be set up"})
            return
        said = lines.of(first)
        self._send({BASE: self._started.base, LAYERS: remote.read(said[0])["layers"]})
        self._errors.pass_on()
        hears, speaks = _thread(self._to_worker), _thread(self._from_worker)
        while True:
            for line in said:
                self._send(line.decode())
            chunk = _received(home)
            if not chunk:
                break
            said = lines.of(chunk)
        self._started.close()
        speaks.join()  # all of it, before the end is told
        self._over.set()
        self._said.put(KILL)
        hears.join()
        self._started.work.close()

    def _to_worker(self) -> None:
        work = self._started.work
        while isinstance(data := self._said.get(), bytes):
            try:
                work.sendall(data)
            except OSError:
                pass  # it has ended, and that is told elsewhere
        if data is None:
            _end(work, socket.SHUT_WR)
            while data is None and not self._over.is_set():
                try:
                    data = self._said.get(timeout=_GRACE_S)
                except queue.Empty:
                    break
        _end(self._started.home, socket.SHUT_RDWR)  # its supervisor ends it

    def _from_worker(self) -> None:
        while chunk := _received(self._started.work):
            self._send(chunk)

    def _send(self, item: object) -> None:
        try:
            self._channel.send(item)
        except OSError:
            self._said.put(KILL)  # the connection is gone


def kill_children() -> None:
    """Of this process, which is about to end: an ssh that still asks for a password, say."""
    for pid in process.children():
        os.kill(pid, signal.SIGKILL)


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(remote.CHUNK)
    except OSError:
        return b""


def _end(line: socket.socket, how: int) -> None:
    try:
        line.shutdown(how)
    except OSError:
        pass  # the other side was first
