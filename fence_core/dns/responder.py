"""The answer to one DNS query, by the verdict on its name. Nothing is ever sent on, so nothing leaks by asking.

| name | A | AAAA, HTTPS, TXT, ... |
|---|---|---|
| allowed | its synthetic address | nothing (NODATA) |
| `_service._tcp.` and the like of an allowed one | nothing | nothing |
| localhost, and below; this machine's own name | 127.0.0.1 | ::1 for AAAA |
| refused, or special (`search.is_special`) | does not exist (NXDOMAIN) | does not exist |
| PTR of a synthetic address in use | | its name |

What is refused or missing must not be remembered, since the next test may be allowed to ask: TTL 0.
"""

from __future__ import annotations

import functools
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fence_core.dns.addresses import NamesUsedUp, SyntheticAddresses
from fence_core.dns.search import Judge, SearchList, Verdict, is_special
from fence_core.dns.tcp import QUERY_MAX
from fence_core.policy import domains
from fence_core.policy.domains import DomainError

if TYPE_CHECKING:
    import dns.message
    import dns.name
    import dns.rdata

__all__ = ["Answer", "Judge", "Responder", "Verdict"]

_HEADER = struct.Struct("!6H")
_RESPONSE, _OPCODE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x7800, 0x0100, 0x0080
_FORMERR, _SERVFAIL, _NXDOMAIN, _NOTIMP, _REFUSED = 1, 2, 3, 4, 5
_BADVERS = 16
_A, _SOA, _PTR, _AAAA, _ANY = 1, 6, 12, 28, 255
_IN = 1
_TTL = 30
_UDP_PAYLOAD = 1232
"""What we say that we take: the size that needs no fragments (DNS Flag Day 2020)."""
_REVERSE = ".in-addr.arpa"
_KEPT = 256


class Answer(NamedTuple):
    """What becomes of one message."""

    reply: bytes | None
    """The message to send back; None where every answer would be wrong (a response, a fragment)."""
    refused: str | None = None
    """The name that the program meant and may not look up, to be recorded as a violation."""
    is_query: bool = True
    """False: no question for a name. Something else was sent to the port of a name server."""
    used_up: bool = False
    """Why there is no address for the name, which is not for want of a permission."""
    question: str = ""
    """The name as it was asked for, with its suffix, in small letters; empty where it is no query."""
    rtype: int = 0
    """What was asked about it: 1 A, 28 AAAA, 65 HTTPS."""
    about: str = ""
    """The name outside that the program was told exists; empty where there is none like it, or none outside."""


class Responder:
    """Answers queries of all processes of a run; the addresses it hands out are good for all of them."""

    def __init__(
        self,
        judge: Judge,
        suffixes: Sequence[str] = (),
        *,
        ndots: int = 1,
        addresses: SyntheticAddresses | None = None,
    ) -> None:
        self.addresses = SyntheticAddresses() if addresses is None else addresses
        self._judge = judge
        self._search = SearchList(suffixes, ndots)

    def answer(self, message: bytes, judge: Judge | None = None) -> Answer:
        """The answer to a message, come by UDP or by TCP: it is never longer than 512 bytes. Never raises.

        `judge` is used for this message in place of the responder's own: every process has its own rules.
        """
        if len(message) < _HEADER.size:
            return Answer(None, is_query=False)
        _, flags, questions, *_ = _HEADER.unpack_from(message)
        if flags & _RESPONSE:
            return Answer(None, is_query=False)  # to answer an answer would go on for ever
        if flags & _OPCODE:
            return Answer(_header_only(message, _NOTIMP), is_query=False)
        if questions != 1 or len(message) > QUERY_MAX:
            return Answer(_header_only(message, _FORMERR), is_query=False)
        try:
            query = _read(message[2:])
        except Exception:  # of many kinds; what they have in common is that this is no query
            return Answer(_header_only(message, _FORMERR), is_query=False)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        rtype = int(question.rdtype)
        used_up = False
        try:
            rcode, records, refused = self._decide(query, name, judge or self._judge)
        except NamesUsedUp as error:
            rcode, records, refused, used_up = _SERVFAIL, (), error.name, True
        reply = message[:2] + _render(message[2:], rcode, tuple(records))
        outside = rcode == 0 and name != "." and not domains.is_loopback_name(name) and not name.endswith(_REVERSE)
        about = _without_services(name) if outside else ""
        return Answer(reply, refused, used_up=used_up, question=name, rtype=rtype, about=about)

    def _decide(
        self, query: dns.message.QueryMessage, name: str, judge: Judge
    ) -> tuple[int, Sequence[dns.rdata.Rdata], str | None]:
        """Response code, records, and the name to report. Raises NamesUsedUp."""
        question = query.question[0]
        if query.edns > 0:
            return _BADVERS, (), None
        rcode, records, refused = self._find(name, question.name, int(question.rdtype), judge)
        if question.rdclass != _IN:
            rcode, records = _REFUSED, []
        return rcode, records, refused

    def _find(
        self, name: str, asked: dns.name.Name, kind: int, judge: Judge
    ) -> tuple[int, list[dns.rdata.Rdata], str | None]:
        """Response code, records, and the name to report. Raises NamesUsedUp."""
        if name == ".":
            return 0, [], None  # the root exists, or nothing would
        if domains.is_loopback_name(name):
            return 0, _loopback(kind), None
        if name.endswith(_REVERSE):
            meant = self._reverse(name)
            if meant is None:
                return _NXDOMAIN, [], None
            return 0, _pointer(meant) if kind in (_PTR, _ANY) else [], None
        if is_special(name):
            return _NXDOMAIN, [], None
        try:
            host = domains.canonical_host(name)
        except DomainError:
            # With characters that no host name has. They are escaped in `name`, a dot within a label too.
            return _NXDOMAIN, [], (self._search.bases(name) or [name])[0]
        if not isinstance(host, str):
            return _NXDOMAIN, [], None  # an address: nobody has a name like that
        verdict, meant = self._search.decide(host, judge)
        if verdict is Verdict.HERE:
            return 0, _loopback(kind), None
        about = _without_services(host)
        if verdict is Verdict.REFUSE and about != host:
            verdict, meant = self._search.decide(about, judge)
            if verdict is Verdict.ALLOW:
                return 0, [], None
        if verdict is Verdict.REFUSE:
            return _NXDOMAIN, [], meant
        if verdict is Verdict.QUIET:
            return _NXDOMAIN, [], None
        if kind not in (_A, _ANY):
            return 0, [], None
        return 0, [_address(self.addresses.address_of(host))], None

    def _reverse(self, name: str) -> str | None:
        numbers = name[: -len(_REVERSE)].split(".")
        if len(numbers) != 4 or not all(number.isdigit() and str(int(number)) == number for number in numbers):
            return None  # nor octal or hexadecimal, which an address may be
        return self.addresses.name_of(".".join(reversed(numbers)))


def _import_dnspython() -> None:
    """What the first query waits for, with every other call of the run: as little as can be.

    dnspython looks for idna on the whole path, reads its metadata and imports it, for names in other scripts than
    Latin. Names come here in the form that DNS has for those.
    """
    if "dns.name" in sys.modules:
        return
    try:
        from dns import _features

        _features.force("idna", False)
    except (ImportError, AttributeError):
        pass  # another version of dnspython: it only takes longer


def _without_services(name: str) -> str:
    """The host that `_8443._https.host`, `_ldap._tcp.host` or `_dmarc.host` say something about."""
    while name.startswith("_"):
        _, dot, rest = name.partition(".")
        if not dot:
            break
        name = rest
    return name


def _header_only(message: bytes, rcode: int) -> bytes:
    """An answer without the question, for what could not be read or is not meant for us."""
    number, flags = struct.unpack_from("!2H", message)
    flags = _RESPONSE | _RECURSION_AVAILABLE | flags & (_OPCODE | _RECURSION_DESIRED) | rcode
    return _HEADER.pack(number, flags, 0, 0, 0, 0)


# Programs ask the same again and again, and dnspython takes a tenth of a millisecond each way, in which every other
# call of the run waits. So what was read and what was written is kept, without the id. What is decided is not.


@functools.lru_cache(_KEPT)
def _read(question: bytes) -> dns.message.QueryMessage:
    """The query that begins with an id and goes on like this; not to be changed. Raises what dnspython does."""
    _import_dnspython()
    import dns.message

    query = dns.message.from_wire(b"\0\0" + question)
    if not isinstance(query, dns.message.QueryMessage) or len(query.question) != 1:
        raise ValueError
    return query


@functools.lru_cache(_KEPT)
def _render(asked: bytes, rcode: int, records: tuple[dns.rdata.Rdata, ...]) -> bytes:
    """The answer to that query, from behind its id."""
    import dns.flags
    import dns.message
    import dns.name
    import dns.rcode
    import dns.rrset

    query = _read(asked)
    question = query.question[0]
    reply = dns.message.QueryMessage(id=0)
    # CD is copied and AD is not (RFC 4035, section 3.2): we verify nothing.
    reply.flags = _RESPONSE | _RECURSION_AVAILABLE | query.flags & (_RECURSION_DESIRED | dns.flags.CD)
    reply.question = [question]  # with its letters as they came: resolvers mix case and compare
    if query.edns >= 0:
        reply.use_edns(0, query.ednsflags & dns.flags.DO, _UDP_PAYLOAD)
    reply.set_rcode(dns.rcode.Rcode.make(rcode))
    if records:
        reply.answer = [dns.rrset.from_rdata(question.name, _TTL, *records)]
    elif rcode in (0, _NXDOMAIN):
        # Without it resolvers ask elsewhere, or take NODATA for a referral (RFC 2308, section 2.2).
        reply.authority = [dns.rrset.from_rdata(dns.name.root, 0, _authority())]
    to_wire: Callable[..., bytes] = reply.to_wire  # whose types are wrong in the versions for Python 3.10
    return to_wire(want_shuffle=False)[2:]


def _address(address: str) -> dns.rdata.Rdata:
    return _record(_A, socket.inet_aton(address))


def _loopback(kind: int) -> list[dns.rdata.Rdata]:
    if kind == _AAAA:
        return [_record(_AAAA, bytes(15) + b"\1")]
    return [_address("127.0.0.1")] if kind in (_A, _ANY) else []


def _pointer(name: str) -> list[dns.rdata.Rdata]:
    return [_record(_PTR, _wire_name(name))]


def _authority() -> dns.rdata.Rdata:
    fence = _wire_name("fence.invalid")
    return _record(_SOA, fence + fence + struct.pack("!5I", 1, 3600, 600, 86400, 0))


def _wire_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split(".")) + b"\0"


@functools.lru_cache(_KEPT)
def _record(kind: int, wire: bytes) -> dns.rdata.Rdata:
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype

    # Not by the class of its type: dnspython finds it, and the constructors of those classes have no types.
    return dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.RdataType.make(kind), wire, 0, len(wire))
