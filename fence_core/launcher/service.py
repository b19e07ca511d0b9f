"""The proxy beside a run, for what cannot be fenced: service containers, remote browsers (`service_proxy`).

`start_service` is run by the process that the user started, before it is fenced. `main` is a program of its own,
outside of the fence: the filter of `fence proxy`, which tells the supervisor what it refuses, and ends when that does.
Nobody inside of the fence can write there.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from fence_core.errors import FenceUnavailable
from fence_core.events.attempt import described
from fence_core.events.model import Program, Target, Violation
from fence_core.events.wire import to_wire
from fence_core.launcher.supervise import Ends
from fence_core.link import remote
from fence_core.policy.decide import Judge
from fence_core.policy.decision import impossible
from fence_core.policy.model import Policy
from fence_core.policy.requests import Connect
from fence_core.policy.sources import wire

if TYPE_CHECKING:
    from fence_core.policy.model import Config
    from fence_core.proxy.desk import Outcome

__all__ = ["TOKEN", "Service", "start_service"]

TOKEN = "FENCE_PROXY_TOKEN"
"""The variable with what clients must show."""
_FIRST = 1_000_000_000
"""The number of its first violation: workers on other machines have millions of their own."""
_KEPT_MAX = 1000
_STATES = {"enforce": "failing", "warn": "warned", "audit": "listed"}
_START = (
    "import json,sys;sys.path[:]=json.loads(sys.argv[1]);from fence_core.launcher.service import main;"
    "main(*map(int,sys.argv[2:]))"
)


class Service:
    """It runs."""

    def __init__(self, lines: Ends, url: str) -> None:
        self.lines = lines
        self.url = url
        """For clients, with the token."""


def start_service(config: Config, path: list[str]) -> Service:
    """Start it. `path`: of modules that nobody inside can change. Raises FenceUnavailable where it cannot listen."""
    from fence_core.proxy.standalone import listen

    host, _, port = config.settings.service_proxy.rpartition(":")
    host = host.strip("[]")
    try:
        listener = listen(host, int(port))
    except OSError as error:
        raise FenceUnavailable(
            "service_proxy", f"the proxy cannot listen on {config.settings.service_proxy}: {error.strerror}",
            "Name an address of this machine and a free port, or port 0 for any.",
        ) from None  # fmt: skip
    token = _token(host)
    ours, theirs = socket.socketpair()
    unused, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.close()
    order = {
        "policy": wire.to_wire(config.policy),
        "token": token,
        "state": _STATES[config.settings.mode],
        "syntax": config.path.suffix[1:] if config.path else "toml",
    }
    fd = os.memfd_create("fence-order", 0)
    with listener, theirs, open(fd, "w", encoding="utf-8") as file:
        json.dump(order, file)
        file.flush()
        os.lseek(fd, 0, os.SEEK_SET)
        fds = fd, listener.fileno(), theirs.fileno()
        for each in fds:
            os.set_inheritable(each, True)
        argv = [sys.executable, "-I", "-S", "-c", _START, json.dumps(path), *map(str, fds)]
        os.posix_spawn(sys.executable, argv, os.environ)
        at = listener.getsockname()
    shown = f"[{at[0]}]" if ":" in at[0] else at[0]
    user = f"fence:{token}@" if token else ""
    return Service(Ends(ours, unused), f"http://{user}{shown}:{at[1]}")


def _token(host: str) -> str:
    """As `fence proxy` has it: none on loopback, unless it is given. Raises FenceUnavailable."""
    given = os.environ.get(TOKEN, "")
    if not given.isascii() or any(sign in given for sign in " @:/\t\r\n"):
        raise FenceUnavailable(TOKEN, "it holds signs that do not fit into a URL", "Letters, digits, - and _ do.")
    if given or host.startswith("127.") or host == "::1":
        return given
    import secrets

    return secrets.token_urlsafe(24)


# -- the program ------------------------------------------------------------------------------------------------------


class _Teller:
    """Tells the supervisor what is refused. Called by one thread at a time."""

    def __init__(self, line: socket.socket, policy: Policy, state: str) -> None:
        self._line = line
        self._judge = Judge(policy)
        self._state = state
        self._began = time.monotonic()
        self._known: dict[tuple[str, int, str], Violation] = {}
        self._dropped = 0

    def told(self, outcome: Outcome) -> None:
        if outcome.mark != "refused":
            return
        key = outcome.host, outcome.port, outcome.what
        try:
            self._refused(key, outcome)
        except Exception as error:  # a mistake of ours: nobody may take the run for one without refusals
            self._say(remote.LOST, what=f"the proxy beside the run could not tell what it refused: {error!r}")

    def _refused(self, key: tuple[str, int, str], outcome: Outcome) -> None:
        found = self._known.get(key)
        if found is None and len(self._known) >= _KEPT_MAX:
            self._dropped += 1
            return
        now = time.monotonic() - self._began
        made = self._made(outcome, now) if found is None else found._replace(count=found.count + 1, last_s=now)
        self._known[key] = made
        self._say(remote.VIOLATIONS, violations=[to_wire(made)])

    def last_word(self) -> None:
        self._say(remote.OVER, dropped=self._dropped, unwritten=False)
        self._say(remote.ALL)

    def _made(self, outcome: Outcome, now: float) -> Violation:
        rule, verdict = impossible(outcome.rule or outcome.what).rule, "protected"
        target = Target("other", detail=outcome.what)
        if outcome.host:
            request = Connect(outcome.host, outcome.port)
            decision = self._judge.decide(request)
            target = described(request)[1]
            if not decision.allowed:
                rule, verdict = decision.rule, decision.why
        return Violation(
            number=_FIRST + len(self._known), nodeid="", phase="session", kind="connect", operation="connect",
            target=target, verdict=verdict, rule=rule,
            program=Program(f"the proxy beside the run, for {outcome.client.rpartition(':')[0]}"),
            state=self._state, errno=13, first_s=now, last_s=now, remedy=outcome.remedy,
        )  # fmt: skip

    def _say(self, kind: str, **fields: Any) -> None:
        try:
            self._line.sendall(remote.line(kind, **fields))
        except OSError:
            pass  # the run is over


def main(order: int, listener: int, line: int) -> None:
    """Until the supervisor has ended, or says that the run has."""
    from fence_core.proxy.desk import Desk
    from fence_core.proxy.standalone import Server

    with open(order, encoding="utf-8") as file:
        found = json.load(file)
    policy = wire.from_wire(Policy, found["policy"])
    sock = socket.socket(fileno=line)
    teller = _Teller(sock, policy, found["state"])
    server = Server(
        socket.socket(fileno=listener), Desk(policy, teller.told, token=found["token"], syntax=found["syntax"])
    )

    def wait() -> None:
        sock.recv(1)  # nothing is ever said
        server.stop()

    threading.Thread(target=wait, daemon=True).start()
    server.run()
    teller.last_word()
    sys.stderr.flush()
    os._exit(0)  # threads that carry connections may wait for ever
