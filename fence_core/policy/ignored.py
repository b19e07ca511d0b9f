"""What is refused and no violation, since the policy says that it is known: a browser's calls home.

Asked only about what no rule allows: a permission beats it, and what is denied or protected is never ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.policy import domains
from fence_core.policy.decision import Decision
from fence_core.policy.domains import Address, DomainError, DomainRules
from fence_core.policy.model import Rule
from fence_core.policy.requests import Connect, Resolve, UnixConnect, Write

if TYPE_CHECKING:
    from fence_core.policy.compiler import Compiler
    from fence_core.policy.model import Entry, Policy
    from fence_core.policy.requests import Request

__all__ = ["Ignored"]

_DOMAINS = "network.ignored_domains"


class Ignored:
    """The lists of a policy, compiled."""

    def __init__(self, policy: Policy, compiler: Compiler) -> None:
        network = policy.network
        self._domains = DomainRules(network.ignored_domains)
        self._sockets = compiler.ignored("network.ignored_unix_sockets", network.ignored_unix_sockets)
        self._files = compiler.ignored("filesystem.ignore_write", policy.filesystem.ignore_write)

    def instead(self, request: Request) -> Decision | None:
        """The answer in place of an `unlisted` one; None where no entry covers the request."""
        if isinstance(request, Resolve):
            entry = self._of_host(request.name, None)
        elif isinstance(request, Connect):
            entry = self._of_host(request.host, request.port) or self._of_host(request.name, request.port)
        elif isinstance(request, UnixConnect | Write) and request.path.startswith("/"):
            node = (self._sockets if isinstance(request, UnixConnect) else self._files).node(request.path)
            return None if node.deny is None else _ignored(node.deny.says)
        else:
            return None
        return None if entry is None else _ignored(Rule(_DOMAINS, entry.text, entry.source))

    def _of_host(self, text: str, port: int | None) -> Entry | None:
        try:
            host = domains.canonical_host(text)
        except DomainError:
            return None
        if isinstance(host, Address):
            return self._domains.match_address(host, port or 0)
        return self._domains.match_any_port(host) if port is None else self._domains.match_name(host, port)


def _ignored(rule: Rule) -> Decision:
    return Decision(False, rule, "ignored", quiet=True)
