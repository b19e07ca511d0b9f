"""What the filter is told by one policy, where there is no broker: for `fence proxy` and the plugin for proxy.py.

The broker asks the policies of whoever is connected (`broker/services/tunnels.py`). Here nobody is known, and one
policy holds for all that come.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fence_core.link import filter as link
from fence_core.policy.decide import Judge
from fence_core.policy.domains import is_loopback_name, is_this_machine
from fence_core.policy.requests import Connect
from fence_core.proxy.dial import Target
from fence_core.proxy.refusal import RefusedError
from fence_core.report.rule import sentence

if TYPE_CHECKING:
    from fence_core.link.operations import Operation
    from fence_core.policy.decision import Decision
    from fence_core.policy.model import Policy, Remedy

__all__ = ["Desk", "Outcome"]


class Outcome(NamedTuple):
    """What became of one request."""

    mark: str
    """`refused`, `allowed`, or `failed`: allowed, but there was no connection."""
    method: str
    host: str
    """As it was asked for; empty where that could not be read."""
    port: int
    status: int
    """Of our answer: 200 for a tunnel, 0 for what was cut off later, and for a request that was passed on."""
    client: str
    """Address and port of whoever asked."""
    what: str
    """What was asked, or found, in words."""
    rule: str = ""
    remedy: Remedy | None = None


class Desk:
    """One policy, asked by any number of threads at once.

    `told` hears of each request, in the thread that carries it. `token`: what clients must show; empty: nothing.
    `syntax` is that of the policy's file, for what is proposed.
    """

    def __init__(
        self, policy: Policy, told: Callable[[Outcome], None], *, token: str = "", syntax: str = "json"
    ) -> None:
        self._policy = policy
        self._judge = Judge(policy)
        self._lock = threading.Lock()
        self._told = told
        self.token = token
        self._syntax = syntax
        self.own: tuple[str, int] | None = None
        """Where the filter itself listens: whoever asks for that would go round in circles."""

    def knows(self, token: bytes) -> bool:
        """Whether this is the token. Takes as long for a wrong one that begins like it."""
        return hmac.compare_digest(token, self.token.encode())

    def tell(self, outcome: Outcome) -> None:
        """Say what became of a request."""
        with self._lock:
            self._told(outcome)

    def target(self, name: str, port: int) -> Target:
        """Where a canonical name leads. Raises RefusedError, with rule and remedy in words."""
        with self._lock:
            to = self._judge.pinned(name, port)
            request = Connect(name, port)
            if to is None and is_this_machine(name) and not is_loopback_name(name):
                to = ("127.0.0.1", port)  # wherever else it leads outside
            decision = self._judge.decide(request)
            if (to is not None and self._is_own(*to)) or self._is_own(name, port):
                raise RefusedError(403, f"{name}:{port} is this proxy itself", rule="it does not connect to itself")
            if not decision.allowed:
                if decision.quiet and decision.why == "denied":
                    raise RefusedError(502, f"{name}: Name or service not known")
                raise self._refused(request, decision)
        return Target(name, port, to, self._policy.network.upstream_proxy)

    def _is_own(self, host: str, port: int) -> bool:
        return self.own is not None and port == self.own[1] and (host == self.own[0] or is_this_machine(host))

    def _refused(self, request: Connect, decision: Decision) -> RefusedError:
        from fence_core.policy.remedy import remedy  # only ever needed where something was refused
        from fence_core.report import words

        change = remedy(request, self._policy, decision, self._syntax)
        proposed = [words.config(change)] if change is not None else []
        refused = RefusedError(
            403, f"{request.host}:{request.port} is not allowed", rule=sentence(decision), remedy=proposed
        )
        refused.change = change
        return refused

    async def ask(self, operation: Operation, **what: Any) -> Mapping[str, Any]:
        """What `dial` asks: which of the addresses of a name may be used."""
        assert operation is link.ADDRESSES
        return self.addresses(what["name"], what["port"], what["found"])

    def addresses(self, name: str, port: int, found: list[str]) -> Mapping[str, Any]:
        """Those that are public, or that the policy lists: `use`, and without any the `rule`."""
        use, rule = [], ""
        with self._lock:
            for text in found:
                decision = self._judge.decide(Connect(text, port, name=name))
                if self._is_own(text, port):
                    rule = rule or "it is this proxy itself"
                elif decision.allowed:
                    use.append(text)
                else:
                    rule = rule or sentence(decision)
        return {"use": use, "rule": rule}
