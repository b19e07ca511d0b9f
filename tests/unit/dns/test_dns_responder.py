"""Whole messages in, whole messages out: what each kind of query is answered."""

from __future__ import annotations

import random
import struct
import subprocess
import sys

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.dns.addresses import SyntheticAddresses
from fence_core.dns.responder import Answer, Responder, Verdict
from fence_core.policy import domains

ALLOWED = {"api.example.com", "xn--bcher-kva.example"}


def judge(name: str) -> Verdict:
    if name in ALLOWED or name.endswith(".wild.example"):
        return Verdict.ALLOW
    return Verdict.QUIET if name == "quiet.example" else Verdict.REFUSE


@pytest.fixture
def responder() -> Responder:
    return Responder(judge)


def ask(responder: Responder, name: str, kind: str = "A", **more: object) -> tuple[dns.message.Message, Answer]:
    query = dns.message.make_query(name, kind, **more)  # type: ignore[arg-type]
    answer = responder.answer(query.to_wire())
    assert answer.reply is not None
    reply = dns.message.from_wire(answer.reply)
    assert query.is_response(reply)
    return reply, answer


def records(reply: dns.message.Message) -> list[str]:
    return [item.to_text() for rrset in reply.answer for item in rrset]


def test_an_allowed_name_has_a_synthetic_address_for_a_short_time(responder: Responder) -> None:
    reply, answer = ask(responder, "api.example.com")
    (address,) = records(reply)
    assert reply.rcode() == dns.rcode.NOERROR
    assert responder.addresses.name_of(address) == "api.example.com"
    assert 0 < reply.answer[0].ttl <= 60
    assert answer.refused is None
    assert answer.is_query


@pytest.mark.parametrize("spelling", ["API.Example.COM", "api.example.com."])
def test_all_spellings_of_a_name_have_one_address(responder: Responder, spelling: str) -> None:
    assert records(ask(responder, spelling)[0]) == records(ask(responder, "api.example.com")[0])


def test_an_international_name_is_known_by_its_ascii_form(responder: Responder) -> None:
    (address,) = records(ask(responder, "BÜCHER.example")[0])
    assert responder.addresses.name_of(address) == domains.canonical_host("bücher.example")


@pytest.mark.parametrize("kind", ["AAAA", "HTTPS", "SVCB", "MX", "TXT", "NS", "SRV", "CNAME", "SOA", "TYPE65280"])
def test_an_allowed_name_has_nothing_but_that_address(responder: Responder, kind: str) -> None:
    reply, answer = ask(responder, "api.example.com", kind)
    assert reply.rcode() == dns.rcode.NOERROR
    assert not reply.answer
    assert [rrset.rdtype for rrset in reply.authority] == [dns.rdatatype.SOA]
    assert answer.refused is None


@pytest.mark.parametrize("kind", ["A", "AAAA", "HTTPS", "MX", "TXT", "ANY"])
def test_a_refused_name_does_not_exist_and_is_reported(responder: Responder, kind: str) -> None:
    reply, answer = ask(responder, "Evil.Example", kind)
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert not reply.answer
    assert [rrset.ttl for rrset in reply.authority] == [0]  # the next test may be allowed to ask
    assert answer.refused == "evil.example"


@pytest.mark.parametrize(
    "name",
    ["quiet.example", "example.invalid", "invalid", "1.0.0.127.in-addr.arpa", "b._dns-sd._udp.0.1.168.192.in-addr.arpa",
     "8.b.d.0.1.0.0.2.ip6.arpa", "10.0.0.1", "_dns.resolver.arpa", "ipv4only.arpa"],
)  # fmt: skip
def test_some_names_do_not_exist_and_nobody_minds(responder: Responder, name: str) -> None:
    for kind in ("A", "PTR", "TXT"):
        reply, answer = ask(responder, name, kind)
        assert reply.rcode() == dns.rcode.NXDOMAIN
        assert answer.refused is None


def test_the_root_exists(responder: Responder) -> None:
    """Where the root does not exist nothing does (RFC 8020)."""
    reply, answer = ask(responder, ".", "NS")
    assert reply.rcode() == dns.rcode.NOERROR
    assert answer.refused is None


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "db.localhost"])
def test_localhost_is_this_machine(responder: Responder, name: str) -> None:
    assert records(ask(responder, name)[0]) == ["127.0.0.1"]
    assert records(ask(responder, name, "AAAA")[0]) == ["::1"]
    assert records(ask(responder, name, "TXT")[0]) == []


def test_a_synthetic_address_in_use_has_its_name(responder: Responder) -> None:
    (address,) = records(ask(responder, "api.example.com")[0])
    pointer = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    assert records(ask(responder, pointer, "PTR")[0]) == ["api.example.com."]
    assert records(ask(responder, pointer, "TXT")[0]) == []
    reply, answer = ask(responder, "9.9.18.198.in-addr.arpa", "PTR")
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert answer.refused is None


@pytest.mark.parametrize(
    "name", ["300.0.18.198.in-addr.arpa", "x.0.18.198.in-addr.arpa", "\\178.0.18.198.in-addr.arpa"]
)
def test_a_reverse_name_of_no_address_does_not_exist(responder: Responder, name: str) -> None:
    ask(responder, "api.example.com")
    assert ask(responder, name, "PTR")[0].rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("_8443._https.api.example.com", "HTTPS"),
        ("_mongodb._tcp.api.example.com", "SRV"),
        ("_dmarc.api.example.com", "TXT"),
    ],
)
def test_a_service_of_an_allowed_name_is_nothing_bad(responder: Responder, name: str, kind: str) -> None:
    reply, answer = ask(responder, name, kind)
    assert reply.rcode() == dns.rcode.NOERROR
    assert not reply.answer
    assert answer.refused is None


def test_a_service_of_a_refused_name_is_reported_as_that_name(responder: Responder) -> None:
    """Which is what the user has to allow."""
    reply, answer = ask(responder, "_8443._https.evil.example", "HTTPS")
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert answer.refused == "evil.example"


@pytest.mark.parametrize("kind", ["A", "TXT"])
def test_labels_below_an_allowed_name_are_names_of_their_own(responder: Responder, kind: str) -> None:
    reply, answer = ask(responder, "c2VjcmV0.api.example.com", kind)
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert answer.refused == "c2vjcmv0.api.example.com"


def test_below_a_wildcard_text_is_not_there(responder: Responder) -> None:
    reply, answer = ask(responder, "c2vjcmv0.wild.example", "TXT")
    assert (reply.rcode(), reply.answer, answer.refused) == (dns.rcode.NOERROR, [], None)


@pytest.mark.parametrize(
    "label", [b"api.example", b"api\x00", b"a b", b"*", b"\xff\xfe", b"api\nexample", "bücher".encode()]
)
def test_a_label_that_no_host_has_is_refused_and_escaped(responder: Responder, label: bytes) -> None:
    """A dot inside a label would make `api.example` + `com` look like the allowed name."""
    wire = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + bytes([len(label)]) + label + b"\x03com\0\0\1\0\1"
    answer = responder.answer(wire)
    assert answer.reply is not None
    assert dns.message.from_wire(answer.reply).rcode() == dns.rcode.NXDOMAIN
    assert answer.refused is not None
    assert answer.refused != "api.example.com"
    assert answer.refused.isprintable()
    assert answer.refused.isascii()


@pytest.mark.parametrize("name", ["aPi.ExAmPlE.cOm", "eViL.eXaMpLe"])
def test_the_question_comes_back_letter_by_letter(responder: Responder, name: str) -> None:
    """Resolvers mix case at random and drop answers that do not have the same (0x20)."""
    query = dns.message.make_query(name, "A").to_wire()
    reply = responder.answer(query).reply
    assert reply is not None
    assert reply[12 : len(query)] == query[12:]


def test_the_flags_are_those_of_a_resolver_that_verifies_nothing(responder: Responder) -> None:
    query = dns.message.make_query("api.example.com", "A")
    query.flags |= dns.flags.CD | dns.flags.AD
    wire = responder.answer(query.to_wire()).reply
    assert wire is not None
    assert dns.message.from_wire(wire).flags == dns.flags.QR | dns.flags.RD | dns.flags.RA | dns.flags.CD


def test_recursion_that_nobody_desired_is_not_claimed(responder: Responder) -> None:
    query = dns.message.make_query("api.example.com", "A", flags=0)
    wire = responder.answer(query.to_wire()).reply
    assert wire is not None
    assert not dns.message.from_wire(wire).flags & dns.flags.RD


@pytest.mark.parametrize("name", ["api.example.com", "evil.example"])
def test_edns_is_answered_with_edns_only(responder: Responder, name: str) -> None:
    assert ask(responder, name)[0].edns == -1
    reply, _ = ask(responder, name, use_edns=0, want_dnssec=True)
    assert reply.edns == 0
    assert reply.ednsflags == dns.flags.DO
    assert ask(responder, name, use_edns=0)[0].ednsflags == 0


def test_options_of_edns_are_taken_and_not_returned(responder: Responder) -> None:
    reply, _ = ask(
        responder,
        "api.example.com",
        use_edns=0,
        options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")],
    )
    assert reply.options == ()


def test_a_later_edns_is_told_which_we_know(responder: Responder) -> None:
    reply, answer = ask(responder, "api.example.com", use_edns=1)
    assert reply.rcode() == dns.rcode.BADVERS
    assert reply.edns == 0
    assert answer.refused is None


def test_other_classes_are_refused_and_their_names_judged(responder: Responder) -> None:
    reply, answer = ask(responder, "version.bind", "TXT", rdclass="CH")
    assert reply.rcode() == dns.rcode.REFUSED
    assert answer.refused == "version.bind"
    reply, answer = ask(responder, "api.example.com", "A", rdclass="CH")
    assert (reply.rcode(), reply.answer, answer.refused) == (dns.rcode.REFUSED, [], None)


def test_an_update_is_not_implemented(responder: Responder) -> None:
    update = dns.update.UpdateMessage("example.com")
    update.add("secret", 300, "TXT", "hidden")
    answer = responder.answer(update.to_wire())
    assert answer.reply is not None
    assert len(answer.reply) == 12
    assert dns.message.from_wire(answer.reply).rcode() == dns.rcode.NOTIMP
    assert not answer.is_query


def test_a_response_is_never_answered(responder: Responder) -> None:
    query = dns.message.make_query("api.example.com", "A")
    assert responder.answer(dns.message.make_response(query).to_wire()) == Answer(None, None, False)


_QUERY = dns.message.make_query("api.example.com", "A").to_wire()


@pytest.mark.parametrize(
    "message",
    [
        _QUERY[:4] + b"\0\0" + _QUERY[6:12],
        _QUERY[:4] + b"\0\2" + _QUERY[6:] + _QUERY[12:],
        _QUERY[:-1],
        _QUERY[:12],
        _QUERY + b"more",
        _QUERY + bytes(5000),
        _QUERY[:12] + b"\xc0\x0c\0\1\0\1",
        _QUERY[:12] + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",
    ],
    ids=["no question", "two questions", "cut", "header", "trailing", "oversized", "pointer to itself", "long name"],
)  # fmt: skip
def test_what_cannot_be_read_is_a_format_error(responder: Responder, message: bytes) -> None:
    answer = responder.answer(message)
    assert answer.reply is not None
    assert answer.reply[:2] == message[:2]
    assert dns.message.from_wire(answer.reply).rcode() == dns.rcode.FORMERR
    assert not answer.is_query
    assert answer.refused is None


def test_a_query_longer_than_any_has_to_be_is_a_format_error(responder: Responder) -> None:
    """Well formed as it may be: what is in its options could be anything."""
    for size, rcode in ((1000, dns.rcode.NOERROR), (5000, dns.rcode.FORMERR)):
        padding = dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(size))
        message = dns.message.make_query("api.example.com", "A", use_edns=0, options=[padding]).to_wire(max_size=65535)
        reply = responder.answer(message).reply
        assert reply is not None
        assert dns.message.from_wire(reply).rcode() == rcode


@pytest.mark.parametrize("size", range(12))
def test_a_fragment_of_a_header_is_not_answered(responder: Responder, size: int) -> None:
    assert responder.answer(_QUERY[:size]) == Answer(None, None, False)


def check(message: bytes) -> None:
    answer = Responder(judge, ["corp.example"]).answer(message)
    if answer.reply is None:
        assert len(message) < 12 or message[2] & 0x80
        return
    reply = dns.message.from_wire(answer.reply)
    assert reply.flags & dns.flags.QR
    assert answer.reply[:2] == message[:2]
    assert len(answer.reply) <= 512
    assert reply.rcode() != dns.rcode.NOERROR or answer.refused is None


@given(st.binary(max_size=600))
def test_no_message_is_too_strange(message: bytes) -> None:
    check(message)


@given(st.binary(max_size=300), st.integers(0, 1), st.integers(0, 1), st.integers(0, 2))
def test_no_body_is_too_strange(body: bytes, answers: int, authorities: int, additional: int) -> None:
    check(struct.pack("!6H", 1, 0x0100, 1, answers, authorities, additional) + body)


@given(
    st.lists(st.binary(min_size=1, max_size=63), max_size=5),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 2**32 - 1), st.binary(max_size=40)),
)
def test_no_name_type_class_or_option_is_too_strange(
    labels: list[bytes], kind: int, rdclass: int, option: tuple[int, int, bytes] | None
) -> None:
    message = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 1 if option else 0)
    message += b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack("!2H", kind, rdclass)
    if option:
        payload, flags, data = option
        message += b"\0" + struct.pack("!HHIH", 41, payload, flags, len(data)) + data
    check(message)


@given(st.integers(0, len(_QUERY) - 1), st.integers(0, 255))
def test_no_single_wrong_byte_is_too_strange(at: int, value: int) -> None:
    check(_QUERY[:at] + bytes([value]) + _QUERY[at + 1 :])


def test_the_longest_answer_fits_a_plain_datagram() -> None:
    """So that no answer is ever truncated."""
    labels = ["a" * 63, "b" * 63, "c" * 63, "d" * 61]
    responder = Responder(lambda name: Verdict.ALLOW)
    (address,) = records(ask(responder, ".".join(labels))[0])
    pointer = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    for name, kind in ((".".join(labels), "TXT"), (".".join(labels), "A"), (pointer, "PTR")):
        _, answer = ask(responder, name, kind, use_edns=0, want_dnssec=True)
        assert answer.reply is not None
        assert len(answer.reply) <= 512


def test_the_judge_of_a_message_goes_before_that_of_the_run(responder: Responder) -> None:
    query = dns.message.make_query("api.example.com", "A").to_wire()
    assert responder.answer(query, lambda name: Verdict.REFUSE).refused == "api.example.com"
    assert responder.answer(query).refused is None


def test_the_judge_is_asked_for_canonical_names_only() -> None:
    asked: list[str] = []

    def note(name: str) -> Verdict:
        asked.append(name)
        return Verdict.REFUSE

    responder = Responder(note, ["corp.example"])
    for name in (
        "API.Example.COM",
        "Api.Corp.Example",
        "_x._tcp.Evil.Example",
        "a b.example",
        "localhost",
        "x.invalid",
    ):
        ask(responder, name)
    assert asked
    assert all(domains.canonical_host(name) == name for name in asked)
    assert not {"localhost", "x.invalid"} & set(asked)


def test_when_the_addresses_are_used_up_the_server_fails() -> None:
    responder = Responder(judge, addresses=SyntheticAddresses(limit=1))
    ask(responder, "a.wild.example")
    reply, answer = ask(responder, "b.wild.example")
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert answer.refused == "b.wild.example"  # it is in the report, with the reason
    assert answer.used_up


def test_the_same_question_again_is_decided_again() -> None:
    """It is neither read nor written again; its id is its own, and the verdict of the moment counts."""
    responder = Responder(judge)
    question = dns.message.make_query("api.example.com", "A").to_wire()[2:]
    verdicts = [Verdict.ALLOW, Verdict.REFUSE, Verdict.ALLOW]
    answers = [
        responder.answer(bytes([0, number]) + question, lambda name, verdict=verdict: verdict)
        for number, verdict in enumerate(verdicts)
    ]
    replies = [dns.message.from_wire(answer.reply) for answer in answers if answer.reply]
    assert [reply.id for reply in replies] == [0, 1, 2]
    assert [reply.rcode() for reply in replies] == [0, dns.rcode.NXDOMAIN, 0]
    assert [answer.refused for answer in answers] == [None, "api.example.com", None]
    assert records(replies[0]) == records(replies[2])


def test_dnspython_is_imported_by_the_first_query() -> None:
    code = f"""
import sys
import fence_core.dns.addresses, fence_core.dns.resolv_conf, fence_core.dns.responder, fence_core.dns.tcp
from fence_core.dns.responder import Responder, Verdict
responder = Responder(lambda name: Verdict.REFUSE)
assert responder.answer(b"").reply is None
assert not [name for name in sys.modules if name.partition(".")[0] in ("dns", "idna")]
assert responder.answer({_QUERY!r}).refused == "api.example.com"
assert "dns.message" in sys.modules
assert not {{"dns.resolver", "dns.query", "dns.asyncquery", "ssl", "asyncio"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mixed_case_at_random_has_one_address(responder: Responder) -> None:
    mixed = random.Random(20)
    found = {
        tuple(records(ask(responder, "".join(mixed.choice((c, c.upper())) for c in "api.example.com"))[0]))
        for _ in range(20)
    }
    assert len(found) == 1
