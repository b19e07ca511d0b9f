"""Workers of pytest-xdist on other machines: each is fenced there, under this run's policy.

`start` is run by the process that the user started, before it is fenced: it starts the carrier
(`pytest_fence.remote_carrier`), which starts the workers. `Workers` is used in the fenced controller: where
pytest-xdist would open a connection of its own, which no fence would let it, it gets one to a worker that is fenced
already.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_fence import engine, options
from pytest_fence.remote_carrier import key_of

if TYPE_CHECKING:
    import execnet

_START = (
    "import json,os,sys;sys.path[:]=json.loads(sys.argv[1]);from pytest_fence.remote_carrier import main;"
    "main(os.fdopen(int(sys.argv[2]),'rb'),int(sys.argv[3]),int(sys.argv[4]))"
)
_CHDIR = "pyexecnetcache"
"""Where a worker works that is not told where (xdist/workermanage.py)."""
_ANSWER_MAX = 1 << 16


class Carrier:
    """It runs, and its workers wait."""

    def __init__(self, lines: engine.Ends, roots: Iterable[str], layers: dict[str, list[str]]) -> None:
        self.lines = lines
        self._layers = layers
        self.roots = frozenset(roots)
        """The directories that were copied, as they are named here."""

    def pytest_report_header(self) -> list[str]:
        """Of what the fences there consist."""
        return [f"fence: workers on {spec}: {', '.join(layers)}" for spec, layers in sorted(self._layers.items())]

    def worker(self, spec: str) -> socket.socket:
        """A connection to an interpreter in a fence there. Raises UsageError."""
        asks = self.lines.tests
        try:
            asks.send(spec.encode())
            answer, fds, _, _ = socket.recv_fds(asks, _ANSWER_MAX, 1)
        except OSError as error:
            raise pytest.UsageError(f"the worker on {spec} cannot be started: {error}") from None
        why = json.loads(answer) if answer else "the carrier has ended"
        if not fds:
            raise pytest.UsageError(f"the worker on {spec} {why}")
        return socket.socket(fileno=fds[0])


def start(config: pytest.Config, chosen: engine.Config, host: engine.Host, specs: list[str]) -> Carrier:
    """Start a fenced worker for each spec. Raises UsageError with what stands in the way of any of them."""
    given = _given(config, chosen, host)
    roots = _roots(config)
    order = {
        "specs": list(map(key_of, specs)),
        "chdir": _CHDIR,
        "roots": roots,
        "ignores": _ignores(config),
        "verbose": getattr(config.known_args_namespace, "verbose", 0) > 0,
        "rootdir": str(config.rootpath),
        "version": version("pytest-fence"),
        "told": {**engine.order_of(given), "below": _below(str(config.rootpath), roots)},
    }
    supervisors, ledgers = socket.socketpair()
    tests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ledgers, requests:
        _spawn(chosen, order, requests, ledgers)
    answer = tests.recv(_ANSWER_MAX)
    found: dict[str, Any] = json.loads(answer) if answer else {"problems": ["what starts them has ended"]}
    if found["problems"]:
        supervisors.close()
        tests.close()
        lines = ["workers on other machines are not run without a fence:", *(f"  {each}" for each in found["problems"])]
        raise pytest.UsageError("\n".join(lines))
    return Carrier(engine.Ends(supervisors, tests), roots, found["layers"])


def _spawn(chosen: engine.Config, order: dict[str, Any], requests: socket.socket, ledgers: socket.socket) -> None:
    """With nothing of the project's on its path: it is not fenced."""
    path = engine.trusted_path(engine.protect_early_modules(chosen.policy).filesystem.environment)
    fd = os.memfd_create("fence-order", 0)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(order, file)
        file.flush()
        os.lseek(fd, 0, os.SEEK_SET)
        fds = fd, requests.fileno(), ledgers.fileno()
        for each in fds:
            os.set_inheritable(each, True)
        argv = [sys.executable, "-I", "-S", "-c", _START, json.dumps(path), *map(str, fds)]
        os.posix_spawn(sys.executable, argv, os.environ)  # no object that would have to wait for it


def _given(config: pytest.Config, chosen: engine.Config, host: engine.Host) -> engine.Given:
    """What a fence there is made of. Raises UsageError for what only this machine has."""
    if chosen.packages:
        raise pytest.UsageError(
            "workers on other machines have one policy, and the configuration has `packages`: run the packages one by "
            "one (--rootdir), or with -n"
        )
    found = engine.find_raw(config.rootpath, options.explicit_config(config))
    given = None
    if found is not None:
        path, name, said = found
        if engine.leads_to_file(said.get("extends")):
            raise pytest.UsageError(
                f"{name} extends a file, and workers on other machines are told of one file only: name a template there"
            )
        given = {"path": os.path.relpath(path, config.rootpath), "name": name, "said": dict(said)}
    here = f"{config.rootpath}/"
    writes = [path.removeprefix(here) for path in options.paths_to_write(config) if path.startswith(here)]
    return engine.Given(given, list(options.flags_of_policy(config.known_args_namespace)), host, "", writes)


def _roots(config: pytest.Config) -> list[str]:
    """What pytest-xdist copies to other machines (`NodeManager._getrsyncdirs`), before a conftest could add to it."""
    import _pytest

    named = [*getattr(config.known_args_namespace, "rsyncdir", ()), *config.getini("rsyncdirs")]
    given = [os.path.dirname(pytest.__file__), os.path.dirname(_pytest.__file__), *map(str, named)]
    missing = [path for path in given if not os.path.exists(path)]
    if missing:
        raise pytest.UsageError(f"rsyncdir does not exist: {', '.join(missing)}")
    return list(dict.fromkeys(str(Path(path).resolve()) for path in given))


def _ignores(config: pytest.Config) -> list[str]:
    workermanage: Any = import_module("xdist.workermanage")  # which has no types
    named = [*getattr(config.known_args_namespace, "rsyncignore", ()), *config.getini("rsyncignore")]
    return [*workermanage.NodeManager.DEFAULT_IGNORES, *map(str, named)]


def _below(rootdir: str, roots: list[str]) -> str:
    """What stands for pytest's root directory there, from the directory of the worker."""
    path = Path(rootdir).resolve()
    for root in map(Path, roots):
        if path.is_relative_to(root):
            return str(Path(root.name, path.relative_to(root)))
    return ""


class Workers:
    """In the controller: gives pytest-xdist what the carrier has."""

    def __init__(self, carrier: Carrier, manager: Any) -> None:
        """`manager`: pytest-xdist's `NodeManager`, which has made no gateway yet."""
        self._carrier = carrier
        self._group = manager.group
        self._make = manager.group.makegateway
        self._copy = manager.rsync_roots
        missing = {str(root) for root in manager.roots} - carrier.roots
        if missing:
            raise pytest.UsageError(
                f"{', '.join(sorted(missing))} cannot be copied to other machines, as that was not asked for on the "
                "command line or in the ini file (--rsyncdir)"
            )
        self._remote: set[str] = set()
        manager.group.makegateway = self._makegateway
        manager.rsync_roots = self._rsync_roots

    def holds(self, gateway: execnet.Gateway) -> bool:
        """Whether this one is on another machine."""
        return gateway.id in self._remote

    def _makegateway(self, spec: Any = None) -> execnet.Gateway:
        if spec is None or spec.popen:
            made: execnet.Gateway = self._make(spec)
            return made
        import execnet
        from execnet import gateway_io

        line = _Line(self._carrier.worker(key_of(str(spec))), self._group.execmodel, str(spec))
        # One of ssh's is what speaks execnet's own words on the standard streams of an interpreter, and so does ours.
        parts = [part for part in str(spec).split("//") if part.startswith(("chdir=", "nice=", "env:"))]
        like = execnet.XSpec("//".join(["ssh=there", "execmodel=main_thread_only", *parts]))
        like.id, like.chdir = spec.id, spec.chdir
        make = gateway_io.create_io
        gateway_io.create_io = lambda spec, execmodel: line if spec is like else make(spec, execmodel)  # type: ignore[assignment,return-value]
        try:
            gateway: execnet.Gateway = self._make(like)
        finally:
            gateway_io.create_io = make
        gateway.spec = spec
        self._remote.add(gateway.id)
        return gateway

    def _rsync_roots(self, gateway: execnet.Gateway) -> None:
        """To other machines the carrier has copied them."""
        if not self.holds(gateway):
            self._copy(gateway)


class _Line:
    """What execnet reads from and writes to (`execnet.gateway_base.IO`)."""

    def __init__(self, line: socket.socket, execmodel: object, remoteaddress: str) -> None:
        self._line = line
        self.execmodel = execmodel
        self.remoteaddress = remoteaddress

    def read(self, numbytes: int) -> bytes:
        found = bytearray()
        while len(found) < numbytes:
            chunk = self._line.recv(numbytes - len(found))
            if not chunk:
                raise EOFError(f"expected {numbytes} bytes, got {len(found)}")
            found += chunk
        return bytes(found)

    def write(self, data: bytes) -> None:
        self._line.sendall(data)

    def close_read(self) -> None:
        self._shut(socket.SHUT_RD)

    def close_write(self) -> None:
        self._shut(socket.SHUT_WR)

    def wait(self) -> None:
        """What was read to its end has ended."""

    def kill(self) -> None:
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        try:
            self._line.shutdown(how)
        except OSError:
            pass
