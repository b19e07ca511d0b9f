"""The carrier: starts the workers of pytest-xdist on other machines, and carries what is said to them and by them.

A process of its own, started by the run's before that is fenced, and outside of the fence: it goes where the command
line says, by execnet, as pytest-xdist would. It has no other orders. The fenced run gets nothing but connections to
interpreters that are fenced already; what their fences refuse goes from here to its supervisor, past the tests on both
sides.

For each place there is one connection, whatever number of workers it has.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, NoReturn

from fence_core.launcher.remote import BASE, KILL, LAYERS, WHY, kill_children
from fence_core.link import remote

if TYPE_CHECKING:
    from collections.abc import Callable

    import execnet

_ENDS_S = 12.0
"""How long all workers together may take to end, when they are killed."""
_MORE_S = 5.0
_WORKERS_MAX = 1000
"""Which nobody wants; whatever runs in the controller may ask for more of them."""
_OWN = ("id=", "nice=", "execmodel=", "chdir=")
"""What execnet does in the worker itself, or the controller knows better."""

_one_copies = threading.Lock()
"""Two places may be one directory, for two interpreters."""


def key_of(spec: str) -> str:
    """A spec of execnet's without what differs between two workers of the same place."""
    return "//".join(part for part in spec.split("//") if not part.startswith(("id=", "execmodel=")))


def run(order: dict[str, Any], requests: socket.socket, ledgers: socket.socket) -> None:
    """Until the run has ended. Never raises what the user is to see."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ssh's, too: it is for the tests, whose end ends these
    _thread(lambda: _watch(requests.fileno()))
    carrier = _Carrier(order, ledgers)
    problems = carrier.start()
    requests.send(json.dumps({"problems": problems, "layers": carrier.layers}).encode())
    try:
        while packet := requests.recv(remote.CHUNK):
            answer, fd = carrier.worker(packet.decode("utf-8", "replace"))
            socket.send_fds(requests, [json.dumps(answer).encode()], [] if fd is None else [fd.fileno()])
            if fd is not None:
                fd.close()
    except OSError:
        pass  # the run has ended, and asks no more
    carrier.close()


class _Carrier:
    def __init__(self, order: dict[str, Any], ledgers: socket.socket) -> None:
        import execnet  # not imported by those who only want a name of this module

        self._order = order
        self._ledgers = ledgers
        self._group = execnet.Group()
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._ready: dict[str, list[_Worker]] = {}
        self._workers: list[_Worker] = []
        self.layers: dict[str, list[str]] = {}
        """Of what the fences at each place consist."""

    def start(self) -> list[str]:
        """All workers, at once. What stands in the way, in words, each once."""
        specs: list[str] = self._order["specs"]
        problems: dict[str, str] = {}
        for spec in specs:
            self._places.setdefault(spec, _Place(spec, self._order))

        def one(spec: str, number: int) -> None:
            try:
                worker = self._new(spec, number)
            except _RefusedError as error:
                problems[spec] = str(error)
            else:
                self._ready.setdefault(spec, []).append(worker)

        threads = [threading.Thread(target=one, args=(spec, n), daemon=True) for n, spec in enumerate(specs, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [f"{spec}: {text}" for spec, text in sorted(problems.items())]

    def worker(self, spec: str) -> tuple[str, socket.socket | None]:
        """The connection to one more: an empty string and a socket, or what stands in the way."""
        if spec not in self._places:
            return "was not on the command line", None
        if len(self._workers) >= _WORKERS_MAX:
            return f"would be one of more than {_WORKERS_MAX} in one run", None
        ready = self._ready.get(spec)
        try:
            worker = ready.pop(0) if ready else self._new(spec, len(self._workers) + 1)
        except _RefusedError as error:
            return str(error), None
        return "", worker.connect()

    def _new(self, spec: str, number: int) -> _Worker:
        place = self._places[spec]
        channel, base, self.layers[spec] = place.channel(self._group, number)
        names = [(f"{base}/{os.path.basename(root)}/", f"{root}/") for root in self._order["roots"]]
        if not self._order["told"]["below"]:
            names.append((f"{base}/", f"{self._order['rootdir']}/"))
        worker = _Worker(spec, channel, lambda message: self._say(_as_here(message, names)))
        with self._lock:
            self._workers.append(worker)
        return worker

    def _say(self, message: dict[str, Any]) -> None:
        with self._lock:
            try:
                self._ledgers.sendall(remote.line(**message))
            except OSError:
                pass  # the supervisor has gone, and so will this process

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        deadline = time.monotonic() + _ENDS_S
        for worker in self._workers:
            worker.await_end(max(0.0, deadline - time.monotonic()))
        self._group.terminate(timeout=2.0)
        self._say({"kind": remote.ALL})
        self._ledgers.close()


def _as_here(message: dict[str, Any], names: list[tuple[str, str]]) -> dict[str, Any]:
    """With the files that were copied there as they are named here."""

    def named(path: str) -> str:
        found = ((there, here) for there, here in names if path.startswith(there))
        there, here = next(found, ("", ""))
        return here + path.removeprefix(there)

    for violation in message.get("violations", ()):
        for frame in violation["stack"]:
            frame["path"] = named(frame["path"])
        for owner in violation["owner"], violation["started_by"]:
            if owner is not None:
                owner["file"] = named(owner["file"])
    return message


class _RefusedError(Exception):
    """No worker: why, in words."""


class _Place:
    """Another machine, or another directory there: what a spec names."""

    def __init__(self, spec: str, order: dict[str, Any]) -> None:
        self.spec = spec
        self._order = order
        self._lock = threading.Lock()
        self._gateway: execnet.Gateway | None = None
        parts = spec.split("//")
        self.base = next((part.partition("=")[2] for part in parts if part.startswith("chdir=")), order["chdir"])
        self._bare = "//".join(part for part in parts if not part.startswith(_OWN))

    def channel(self, group: execnet.Group, number: int) -> tuple[execnet.Channel, str, list[str]]:
        """That of a fenced worker, which has said that it is one; where it works, and of what its fence consists.

        Raises _RefusedError.
        """
        import execnet

        from pytest_fence import remote_start

        try:
            channel = self._connected(group).remote_exec(remote_start)
            told = {**self._order["told"], "base": self.base, "first": number * 1_000_000}
            channel.send((self._order["version"], told))
            answer = channel.receive()
        except execnet.RemoteError as error:
            raise _RefusedError(f"an error there: {str(error).strip().splitlines()[-1]}") from error
        except (OSError, EOFError, AssertionError, execnet.HostNotFound) as error:
            why = str(error) or type(error).__name__
            raise _RefusedError(f"cannot be reached, or has no Python that can be used ({why})") from error
        if WHY in answer:
            raise _RefusedError(f"cannot be fenced: {answer[WHY]}")
        return channel, answer[BASE], answer[LAYERS]

    def _connected(self, group: execnet.Group) -> execnet.Gateway:
        """Raises what execnet does."""
        with self._lock:
            if self._gateway is None or not self._gateway.hasreceiver():
                gateway = group.makegateway(self._bare)
                if self._gateway is None:  # never while tests of ours may run there: they could lead it elsewhere
                    with _one_copies:
                        self._bring(gateway)
                self._gateway = gateway
            return self._gateway

    def _bring(self, gateway: execnet.Gateway) -> None:
        """What pytest-xdist would copy there (--rsyncdir): before there is a fence, which lets nobody write that."""
        roots: list[str] = self._order["roots"]
        if not roots:
            return
        workermanage: Any = import_module("xdist.workermanage")  # which has no types

        made = gateway.remote_exec("import os; d = channel.receive(); os.path.isdir(d) or os.mkdir(d)")
        made.send(self.base)
        made.waitclose()
        gateway.spec.chdir = self.base  # for what is said of it
        for root in roots:
            rsync = workermanage.HostRSync(root, ignores=self._order["ignores"], verbose=self._order["verbose"])
            # As `HostRSync.add_target_host` does, whose gateway is in that directory already.
            rsync.add_target(gateway, f"{self.base}/{os.path.basename(root)}", delete=True)
            rsync.send()


class _Worker:
    """One of them: a channel, and the socket that the controller has the other end of."""

    def __init__(self, spec: str, channel: execnet.Channel, say: Callable[[dict[str, Any]], object]) -> None:
        self._spec = spec
        self._channel = channel
        self._say = say
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._own, self._theirs = socket.socketpair()
        self._over = threading.Event()
        channel.setcallback(self._said.put, endmarker=None)
        _thread(self._from_there)

    def connect(self) -> socket.socket:
        """Called once."""
        _thread(self._to_there)
        return self._theirs

    def kill(self) -> None:
        self._send(KILL)

    def await_end(self, seconds: float) -> None:
        self._over.wait(seconds)

    def _from_there(self) -> None:
        told = False
        while (item := self._said.get()) is not None:
            if isinstance(item, bytes):
                try:
                    self._own.sendall(item)
                except OSError:
                    self.kill()  # nobody hears it any more
            else:
                message = remote.read(item.encode())
                told = told or message["kind"] == remote.OVER
                self._say(message)
        if not told:
            what = f"the worker on {self._spec} ended before its fence could say all that it has refused"
            self._say({"kind": remote.LOST, "what": what})
        try:
            self._own.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the controller was first
        self._over.set()

    def _to_there(self) -> None:
        try:
            while chunk := self._own.recv(remote.CHUNK):
                self._send(chunk)
        except OSError:
            pass
        self._send(None)
        self._over.wait()
        self._own.close()

    def _send(self, item: object) -> None:
        try:
            self._channel.send(item)
        except OSError:
            pass  # it has ended, and `_from_there` is told


def _thread(target: Callable[[], object]) -> None:
    threading.Thread(target=target, daemon=True).start()


def _watch(requests: int) -> None:
    """When nobody asks any more, see to the end: whatever waits for a machine that does not answer."""
    line = select.poll()
    line.register(requests, 0)  # POLLHUP
    line.poll()
    time.sleep(_ENDS_S + _MORE_S)
    _leave()


def _leave() -> NoReturn:
    kill_children()
    os._exit(0)


def main(order: IO[bytes], requests: int, ledgers: int) -> None:
    """Run by the new program (`pytest_fence.remote`)."""
    found = json.load(order)
    order.close()
    for fd in requests, ledgers:
        os.set_inheritable(fd, False)
    try:
        run(found, socket.socket(fileno=requests), socket.socket(fileno=ledgers))
    finally:
        sys.stderr.flush()
        _leave()  # threads may wait for ever for a machine that does not answer
