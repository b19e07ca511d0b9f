"""Names and addresses: one canonical form for rules and requests alike, and the patterns that match them.

The same function canonicalises both sides, so a rule cannot be side-stepped by another spelling: letter case, a
trailing dot, Unicode names, octal, hexadecimal and shortened IPv4 (whatever `inet_aton` would take), IPv4-mapped
IPv6 and scope ids. What cannot be a host name at all (NUL, userinfo, spaces) is refused, never repaired.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from fence_core.policy.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fence_core.policy.model import Entry

__all__ = [
    "Address", "DomainError", "DomainRules", "Network", "Pattern", "canonical_host", "is_loopback", "is_loopback_name",
    "is_this_machine", "parse_local_name", "parse_pattern",
]  # fmt: skip


class DomainError(ValueError):
    """This is no host, or no pattern of hosts; the text says why, for the user to read."""


class Address(Record):
    """An IP address as a number. IPv4-mapped IPv6 is held as the IPv4 it reaches, a scope id is dropped."""

    version: int
    value: int

    def __str__(self) -> str:
        if self.version == 4:
            return ".".join(str(self.value >> shift & 0xFF) for shift in (24, 16, 8, 0))
        from ipaddress import IPv6Address

        return str(IPv6Address(self.value))


class Network(Record):
    """An IP network; a single address is the longest prefix."""

    version: int
    value: int
    prefix: int

    def covers(self, address: Address) -> bool:
        """Whether the address lies in this network."""
        shift = (32 if self.version == 4 else 128) - self.prefix
        return address.version == self.version and address.value >> shift == self.value >> shift


class Pattern(Record):
    """A parsed rule: a name, a wildcard (`suffix`), every name, or a network; exactly one of the four is set."""

    name: str = ""
    suffix: str = ""
    every: bool = False
    network: Network | None = None
    port: int | None = None


# As text, here and in the other modules: `re` compiles one when it is first used, not at every start.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NUMBER = r"0x[0-9a-f]*|[0-9]+"

# Below these, anybody can have a name: a wildcard there allows strangers. Not the public suffix list, which is large
# and changes; these are the second-level labels that country registries share.
_SHARED_SECOND_LEVEL = frozenset(
    {"ac", "co", "com", "ed", "edu", "gen", "go", "gob", "gouv", "gov", "govt", "gv", "id", "ltd", "me", "mil", "ne",
     "net", "nhs", "nic", "nom", "or", "org", "plc", "sch", "school"}
)  # fmt: skip
# Of these no registry of the Internet gives away names (RFC 6761, RFC 6762 appendix G, ICANN's `internal`), or they are
# those of one machine's or one cluster's own name server.
_LOCAL_DOMAINS = frozenset(
    {
        "internal",
        "local",
        "lan",
        "home",
        "corp",
        "private",
        "intranet",
        "localdomain",
        "test",
        "svc",
        "consul",
        "docker",
    }
)
# The shortest prefixes taken in rules: what one organisation or one private range may have (10/8, fc00::/7).
_SHORTEST_PREFIX = {4: 8, 6: 7}

_LOOPBACK_4 = Network(4, 127 << 24, 8)
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain"})


def _parse_ipv4(text: str) -> Address | None:
    """What `inet_aton` makes of the text; None if it does not end in a number, so that it may be a name.

    Raises DomainError for what ends in a number but is no address: no resolver would take it for a name.
    """
    parts = text.split(".")
    if not re.fullmatch(_NUMBER, parts[-1]):
        return None
    numbers = []
    for part in parts:
        try:
            if not re.fullmatch(_NUMBER, part):
                raise ValueError
            if part.startswith("0x"):
                numbers.append(int(part[2:] or "0", 16))
            elif part.startswith("0") and part != "0":
                numbers.append(int(part, 8))
            else:
                numbers.append(int(part))
        except ValueError:
            raise DomainError("is neither a host name nor an IPv4 address") from None
    if len(numbers) > 4 or any(number > 255 for number in numbers[:-1]) or numbers[-1] >= 256 ** (5 - len(numbers)):
        raise DomainError("is neither a host name nor an IPv4 address")
    value = numbers[-1]
    for place, number in enumerate(numbers[:-1]):
        value |= number << (24 - 8 * place)
    return Address(4, value)


def _parse_ipv6(text: str) -> Address:
    from ipaddress import IPv6Address

    bare, _, scope = text.partition("%")
    if "%" in text and not re.fullmatch(r"[A-Za-z0-9_.-]+", scope):
        raise DomainError("has an IPv6 scope that is not an interface name")
    try:
        address = IPv6Address(bare)
    except ValueError:
        raise DomainError("is not an IPv6 address") from None
    mapped = address.ipv4_mapped
    return Address(6, int(address)) if mapped is None else Address(4, int(mapped))


def canonical_host(text: str) -> str | Address:
    """The one form of a host: an `Address`, or a lower-case ASCII name without a trailing dot.

    Raises DomainError if the text cannot be a host.
    """
    if len(text) > 1024:
        raise DomainError("is too long for a host name")
    if text.startswith("[") and text.endswith("]"):
        return _parse_ipv6(text[1:-1])
    if ":" in text:
        return _parse_ipv6(text)
    name = text
    if not name.isascii():
        import idna

        try:
            # UTS 46 is what browsers and curl do first: full-width letters and dots become plain ones.
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise DomainError("is not a valid internationalised name") from None
    name = name.lower()
    if name.endswith("."):
        name = name[:-1]
    if not name:
        raise DomainError("is empty")
    address = _parse_ipv4(name)
    if address is not None:
        return address
    if len(name) > 253:
        raise DomainError("is too long for a host name")
    for label in name.split("."):
        if not re.fullmatch(_LABEL, label):
            raise DomainError(_why_no_label(text, label))
    return name


def _why_no_label(text: str, label: str) -> str:
    if not label:
        return "has an empty label (two dots in a row, or one at the start)"
    if "://" in text:
        return "is a URL; write the host alone"
    if "@" in text:
        return "holds userinfo; write the host alone"
    if "/" in text:
        return "holds a path; write the host alone"
    if "*" in label:
        return 'has a "*" that is not the whole first label'
    if len(label) > 63:
        return "has a label of more than 63 characters"
    return "holds a character that no host name has"


def is_loopback_name(name: str) -> bool:
    """Whether this canonical name means this machine, whatever a nameserver says (RFC 6761, nss-myhostname(8))."""
    return name in _LOOPBACK_NAMES or name.endswith((".localhost", ".localhost.localdomain"))


def is_this_machine(name: str) -> bool:
    """Whether this canonical name is loopback's, or the machine's own of this moment, which leads there as well.

    nss-myhostname(8) has it so; the file /etc/hosts of many machines does not have the name.
    """
    return is_loopback_name(name) or name == os.uname().nodename.lower().rstrip(".")


def is_loopback(address: Address) -> bool:
    """Whether a connection to the address stays on this machine's loopback: 127/8, ::1, and 0.0.0.0 or ::."""
    return _LOOPBACK_4.covers(address) or address.value == 0 or (address.version == 6 and address.value == 1)


def _split_port(text: str) -> tuple[str, int | None]:
    """Split `host:port`; the brackets of an IPv6 literal are taken off. Raises DomainError for a bad port."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise DomainError('has a "[" without its "]"')
        slash, colon, port = rest.partition(":")
        if slash and not slash.startswith("/"):
            raise DomainError('has something after its "]"')
        host += slash
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    else:
        return text, None  # none, or an IPv6 address
    if not colon:
        return host, None
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535 and len(port) <= 5):
        raise DomainError("has a port that is not a number from 1 to 65535")
    return host, int(port)


def _parse_network(host: str) -> Network:
    base, _, length = host.partition("/")
    address = canonical_host(base)
    if not isinstance(address, Address):
        raise DomainError("holds a path; write the host alone")
    bits = 32 if address.version == 4 else 128
    mapped = 96 if ":" in base and address.version == 4 else 0  # ::ffff:10.0.0.0/104 is 10.0.0.0/8
    if not (length.isascii() and length.isdigit() and len(length) <= 3 and mapped <= int(length) <= bits + mapped):
        raise DomainError(f"has a network prefix that is not a number from 0 to {bits}")
    prefix = int(length) - mapped
    if prefix < _SHORTEST_PREFIX[address.version]:
        raise DomainError(f"is too broad: a network of at least /{_SHORTEST_PREFIX[address.version]} is needed")
    shift = bits - prefix
    value = address.value >> shift << shift
    if value != address.value:
        raise DomainError(f"has bits beyond its prefix; did you mean {Address(address.version, value)}/{prefix}")
    return Network(address.version, value, prefix)


def parse_pattern(text: str) -> Pattern:
    """Parse a rule: `host`, `*.host`, `*`, an IP address or a network, each with an optional `:port`.

    Raises DomainError, with a text that continues a sentence beginning with the pattern.
    """
    if "://" in text:
        raise DomainError("is a URL; write the host alone")
    host, port = _split_port(text)
    if text.partition(":")[0] == "*":
        return Pattern(every=True, port=port)
    if "/" in host:
        return Pattern(network=_parse_network(host), port=port)
    if host.startswith("*."):
        suffix = canonical_host(host[2:])
        if isinstance(suffix, Address):
            raise DomainError("is a wildcard of an address; write a network such as 10.0.0.0/8")
        labels = suffix.split(".")
        if len(labels) < 2:
            raise DomainError("is too broad: a wildcard needs at least two labels after it, as in *.example.com")
        if len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SHARED_SECOND_LEVEL:
            raise DomainError(f"is too broad: anybody can have a name below {suffix}")
        return Pattern(suffix=suffix, port=port)
    if host.startswith("."):
        raise DomainError(f'starts with a dot; write "*{host}" for the names below it')
    name = canonical_host(host)
    if isinstance(name, Address):
        return Pattern(network=Network(name.version, name.value, 32 if name.version == 4 else 128), port=port)
    return Pattern(name=name, port=port)


def parse_local_name(text: str) -> Pattern:
    """Parse a rule of `network.allow_private`: `host` or `*.host`, each with an optional `:port`.

    Of wildcards more are taken than elsewhere (`*.internal`), since nobody can have a name there for himself; and
    fewer, since whoever can have one chooses where it leads. Raises DomainError.
    """
    if text.startswith("*."):
        host, port = _split_port(text)
        suffix = host[2:].lower().removesuffix(".")
        if suffix in _LOCAL_DOMAINS:
            return Pattern(suffix=suffix, port=port)
    pattern = parse_pattern(text)
    if pattern.network is not None:
        raise DomainError("is no name; addresses and networks go into allowed_domains")
    if pattern.every:
        raise DomainError("is too broad: whoever has any name could lead it into your network")
    return pattern


def parse_endpoint(text: str) -> tuple[str, int | None]:
    """One address with an optional port, as `network.hosts` has them. Raises DomainError."""
    host, port = _split_port(text)
    address = canonical_host(host)
    if not isinstance(address, Address):
        raise DomainError("is not an IP address")
    return str(address), port


_ANY = -1
"""Stands for a port where one that is allowed is enough."""


class DomainRules:
    """A list of patterns, compiled for look-ups: a dictionary access per label, whatever the list's length.

    `*` is every name but those of this machine, which `allow_local_outbound` speaks of. Where the rules forbid
    (`deny`) it is every address outside of it as well: a permission errs to less, a denial to more.
    """

    __slots__ = ("_deny", "_every", "_names", "_networks", "_suffixes")

    def __init__(
        self, entries: Iterable[Entry], *, deny: bool = False, parse: Callable[[str], Pattern] = parse_pattern
    ) -> None:
        self._deny = deny
        self._every: list[tuple[int | None, Entry]] = []
        self._names: dict[str, list[tuple[int | None, Entry]]] = {}
        self._suffixes: dict[str, list[tuple[int | None, Entry]]] = {}
        self._networks: list[tuple[Network, int | None, Entry]] = []
        for entry in entries:
            pattern = parse(entry.text)
            if pattern.every:
                self._every.append((pattern.port, entry))
            elif pattern.network is not None:
                self._networks.append((pattern.network, pattern.port, entry))
            elif pattern.suffix:
                self._suffixes.setdefault(pattern.suffix, []).append((pattern.port, entry))
            else:
                self._names.setdefault(pattern.name, []).append((pattern.port, entry))

    def match_address(self, address: Address, port: int) -> Entry | None:
        """The first rule that covers this address and port."""
        for network, wanted, entry in self._networks:
            if (wanted is None or wanted == port) and network.covers(address):
                return entry
        loopback = (self._names or self._every) and is_loopback(address)
        if loopback:
            return _first(self._names.get("localhost"), port)
        return _first(self._every, port) if self._deny else None

    def has_every_name(self) -> bool:
        """Whether a rule is about all names."""
        return bool(self._every)

    def has_addresses(self) -> bool:
        """Whether some rule is about addresses, and not about names."""
        return bool(self._networks)

    def may_match_loopback(self) -> bool:
        """Whether some rule could cover an address of loopback; if not, none does."""
        return bool(self._networks) or "localhost" in self._names

    def match_name(self, name: str, port: int | None = None) -> Entry | None:
        """The first rule that covers this canonical name, exact ones first. Without a port: a rule for any port."""
        found = _first(self._names.get(name), port)
        rest = name
        while found is None and self._suffixes:
            _, dot, rest = rest.partition(".")
            if not dot:
                break
            found = _first(self._suffixes.get(rest), port)
        if found is None and self._every and not is_this_machine(name):
            found = _first(self._every, port)
        return found

    def match_any_port(self, name: str) -> Entry | None:
        """The first rule that covers this canonical name on at least one port."""
        return self.match_name(name, _ANY)


def _first(rules: list[tuple[int | None, Entry]] | None, port: int | None) -> Entry | None:
    if rules is not None:
        for wanted, entry in rules:
            if wanted is None or port == _ANY or wanted == port:
                return entry
    return None
