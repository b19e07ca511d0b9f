"""Whom may the tests talk to? The part of the judge that is about names, addresses and sockets.

What no list opens has been asked for before: see `floor.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fence_core.policy import domains
from fence_core.policy.decision import Decision, allowed, denied, free, impossible, unlisted
from fence_core.policy.domains import Address, DomainError, DomainRules
from fence_core.policy.floor import Switches
from fence_core.policy.model import Rule
from fence_core.policy.requests import Bind, Connect, Resolve, UnixConnect

if TYPE_CHECKING:
    from fence_core.policy.compiler import Compiler
    from fence_core.policy.model import Policy, Source

__all__ = ["Reach"]


class Reach:
    """The network rules of a policy, compiled."""

    __slots__ = (
        "_absent", "_allowed", "_denied", "_hosts", "_network", "_outbound", "_policy", "_private", "_sockets",
        "loopback_is_free",
        "loopback_is_open",
        "switches",
    )  # fmt: skip

    def __init__(self, policy: Policy, compiler: Compiler) -> None:
        self._policy = policy
        network = self._network = policy.network
        self._allowed = DomainRules(network.allowed_domains)
        self._denied = DomainRules(network.denied_domains, deny=True)
        self._private = DomainRules(network.allow_private, parse=domains.parse_local_name)
        self._hosts = {
            str(domains.canonical_host(name)): domains.parse_endpoint(at) for name, at in network.hosts if at
        }
        self._absent = frozenset(str(domains.canonical_host(name)) for name, at in network.hosts if not at)
        # As in the Go tool: who may open ports may also reach those of others, unless it is said otherwise.
        self._outbound = network.allow_local_binding if network.allow_local_outbound is None else (
            network.allow_local_outbound
        )  # fmt: skip
        self.loopback_is_free = self._outbound and not network.allow_local_outbound_ports
        self.loopback_is_open = self.loopback_is_free and not self._denied.may_match_loopback()
        self.switches = Switches(network.proxy_env, network.expose_ports, self._allowed.has_addresses())
        self._sockets = compiler.sockets(network.allow_unix_sockets)

    def connect(self, request: Connect) -> Decision:
        if request.inside:
            return free("the port was opened inside the fence")
        if request.way == "filter":
            return allowed("network.proxy_env", where=self._network.source_of("proxy_env"))
        try:
            host = domains.canonical_host(request.host)
        except DomainError as error:
            return _no_host(request.host, error)
        answer = self._reach(host, request.port)
        if answer.allowed:
            return answer
        if isinstance(host, Address) and request.name and answer.why == "unlisted":
            return self._led_to(host, request)
        if request.port == 0 and request.proto == "udp":
            return answer._replace(rule=Rule(reason="nothing is sent: libc sorts addresses this way"), quiet=True)
        return answer

    def _led_to(self, host: Address, request: Connect) -> Decision:
        """About an address that an allowed name leads to, as the filter has been told."""
        from fence_core.policy.public import is_private, is_public  # only where the filter has looked up a name

        if is_public(str(host)):
            return free("it is a public address of a name that is allowed")
        if not is_private(str(host)) or domains.is_loopback(host):
            return self._unlisted("network.allowed_domains", f"{host} is not a public address")
        entry = self._private.match_name(request.name, request.port)
        if entry is not None:
            return allowed("network.allow_private", entry)
        return self._unlisted("network.allow_private", f"{host} is not a public address")

    def _reach(self, host: str | Address, port: int) -> Decision:
        if isinstance(host, Address):
            if host.value == 0:  # 0.0.0.0 and :: lead to loopback
                host = Address(4, 127 << 24 | 1) if host.version == 4 else Address(6, 1)
            no, yes = self._denied.match_address(host, port), self._allowed.match_address(host, port)
            loopback = domains.is_loopback(host)
        else:
            if host in self._absent:
                return self._declared_absent(host)
            no, yes = self._denied.match_name(host, port), self._allowed.match_name(host, port)
            loopback = domains.is_this_machine(host)
        if no is not None:
            return denied("network.denied_domains", no)
        if isinstance(host, str) and host in self._hosts:
            return self._listed_host(host)
        if yes is not None:
            return allowed("network.allowed_domains", yes)
        if loopback:
            return self._connect_loopback(port)
        own = self._private.match_name(host, port) if isinstance(host, str) else None
        if own is not None:
            return allowed("network.allow_private", own)
        of_names = isinstance(host, Address) and self._allowed.has_every_name()
        return self._unlisted("network.allowed_domains", '"*" means names, not addresses' if of_names else "")

    def _connect_loopback(self, port: int) -> Decision:
        network = self._network
        ports = network.allow_local_outbound_ports
        if ports:
            if port in ports:
                where = network.source_of("allow_local_outbound_ports", port)
                return allowed("network.allow_local_outbound_ports", where=where, item=str(port))
            listed = ", ".join(map(str, ports[:8])) + (", ..." if len(ports) > 8 else "")
            return self._unlisted("network.allow_local_outbound_ports", f"only {listed}")
        name = "allow_local_binding" if network.allow_local_outbound is None else "allow_local_outbound"
        if self._outbound:
            return allowed(f"network.{name}", where=network.source_of(name))
        if network.allow_local_outbound is not None:
            return _switched_off("network.allow_local_outbound", network.source_of(name))
        return self._unlisted("network.allow_local_outbound or network.allow_local_outbound_ports")

    def resolve(self, request: Resolve) -> Decision:
        try:
            host = domains.canonical_host(request.name)
        except DomainError as error:
            return _no_host(request.name, error)
        if isinstance(host, Address):
            return free("this is an address, not a name: there is nothing to look up")
        if host in self._absent:
            return self._declared_absent(host)
        no = self._denied.match_name(host)
        if no is not None:
            return denied("network.denied_domains", no)
        if host in self._hosts:
            return self._listed_host(host)
        if domains.is_this_machine(host):
            return free("the name means this machine")
        if host == "invalid" or host.endswith(".invalid"):
            return impossible("names below .invalid do not exist (RFC 6761)", quiet=True)
        yes = self._allowed.match_any_port(host)
        if yes is not None:
            return allowed("network.allowed_domains", yes)
        own = self._private.match_any_port(host)
        if own is not None:
            return allowed("network.allow_private", own)
        made_up = f'if the test wants it not to exist: hosts = {{"{host}" = false}}' if _is_made_up(host) else ""
        return self._unlisted("network.allowed_domains", made_up)

    def pinned(self, name: str, port: int = 0) -> tuple[str, int] | None:
        """The address and port that `network.hosts` says a canonical name is at; None if it says nothing of it."""
        found = self._hosts.get(name)
        return None if found is None else (found[0], found[1] or port)

    def _listed_host(self, name: str) -> Decision:
        return allowed("network.hosts", where=self._network.source_of("hosts", name), item=name)

    def _declared_absent(self, name: str) -> Decision:
        where = self._network.source_of("hosts", name)
        return Decision(False, Rule("network.hosts", name, where, "it does not exist"), "denied", quiet=True)

    def bind(self, request: Bind) -> Decision:
        try:
            host = domains.canonical_host(request.host)
        except DomainError as error:
            return _no_host(request.host, error)
        if isinstance(host, Address):
            if self._is_opened(host, request.port):
                return allowed("-p", item=str(request.port))
            if domains.is_loopback(host):  # the wildcard address included
                where = self._network.source_of("allow_local_binding")
                if self._network.allow_local_binding:
                    return allowed("network.allow_local_binding", where=where)
                return _switched_off("network.allow_local_binding", where)
            no = self._denied.match_address(host, request.port)
            if no is not None:
                return denied("network.denied_domains", no)
            yes = self._allowed.match_address(host, request.port)
            if yes is not None:
                return allowed("network.allowed_domains", yes)
        return self._unlisted("network.allowed_domains")

    def _is_opened(self, host: Address, port: int) -> bool:
        """Whether somebody who starts a command has said that it opens this port: there, or on loopback."""
        for address, opened in self._network.opened_ports:
            if opened == port and (domains.is_loopback(host) or domains.canonical_host(address or "::1") == host):
                return True
        return False

    def unix_connect(self, request: UnixConnect) -> Decision:
        if request.inside:
            return free("the socket was made inside the fence")
        path = request.path
        network = self._network
        if network.allow_all_unix_sockets:
            return allowed("network.allow_all_unix_sockets", where=network.source_of("allow_all_unix_sockets"))
        if path.startswith("\0"):
            return self._unlisted("network.allow_all_unix_sockets")  # abstract: no path that a pattern could name
        if not path.startswith("/"):
            return impossible(f"{path} is not an absolute path")
        node = self._sockets.node(path)
        if node.allow is not None:
            return Decision(True, node.allow.says)
        return self._unlisted("network.allow_unix_sockets")._replace(quiet=path in _NAME_SERVICES)

    def _unlisted(self, key: str, reason: str = "") -> Decision:
        return unlisted(self._policy, key, reason)


def _no_host(host: str, error: DomainError) -> Decision:
    return impossible(f'"{host}" {error}')


def _switched_off(key: str, where: Source) -> Decision:
    return Decision(False, Rule(key, "", where), "unlisted")


_NAME_SERVICES = frozenset(
    {
        "/run/nscd/socket",
        "/var/run/nscd/socket",
        "/run/systemd/resolve/io.systemd.Resolve",
        "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    }
)
"""Sockets that libc asks unbidden; without them it asks the resolver, whose socket leads to us."""


def _is_made_up(name: str) -> bool:
    """Whether this is likely the name of a test of what happens without it. RFC 6761 has no machine below .test and
    .example."""
    return (
        re.search(
            r"not[-_.]?(?:exist|found|resolv|reach|valid|real|there)"
            r"|(?<![a-z])non?e?[-_.]?(?:exist|such|host|where|domain|resolv|known)"
            r"|unknown|unreach|unresolv|invalid|nx-?domain|bogus|missing|fake|wrong|\bbad\b|\.(?:test|example)\Z",
            name,
        )
        is not None
    )
