"""One canonical form for names and addresses, and patterns that match what they say and nothing that looks like it."""

# ruff: noqa: RUF001 - letters that look like others are what is tested

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.policy.domains import (
    Address,
    DomainError,
    DomainRules,
    canonical_host,
    is_loopback,
    is_loopback_name,
    parse_pattern,
)
from fence_core.policy.model import Entry, Source


def rules(*texts: str) -> DomainRules:
    return DomainRules(Entry(text, Source("test")) for text in texts)


labels = st.text(string.ascii_lowercase + string.digits + "-_", min_size=1, max_size=12).filter(
    lambda label: not label.startswith("-") and not label.endswith("-")
)
top_labels = st.text(string.ascii_lowercase, min_size=2, max_size=6)
names = st.tuples(labels, labels, top_labels).map(".".join)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("ｅｘａｍｐｌｅ．ｃｏｍ", "example.com"),  # full-width letters and dot
        ("例。jp", "xn--fsq.jp"),  # ideographic full stop
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::FFFF:7f00:1", "127.0.0.1"),
        ("[::ffff:10.0.0.1]", "10.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2606:2800:0220:0001::0001", "2606:2800:220:1::1"),
    ],
)
def test_every_spelling_has_one_form(written: str, canonical: str) -> None:
    assert str(canonical_host(written)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        ".example.com",
        "a..b",
        "example.com..",
        "exa mple.com",
        " example.com",
        "example.com\n",
        "good.test\0.evil.test",
        "127.0.0.1\0.good.test",
        "user@example.com",
        "u:p@example.com",
        "example.com/path",
        "https://example.com",
        "example.com\\x",
        "example.com?x",
        "-a.com",
        "a-.com",
        "a" * 64 + ".com",
        ".".join(["a" * 60] * 5),
        "x" * 5000,
        "1.2.3.256",
        "1.2.3.4.5",
        "256.1",
        "1.2.65536",
        "4294967296",
        "08.1.1.1",
        "foo.1",
        "1..2",
        "1::2::3",
        "::1%a b",
        "fe80::1%",
        ":::",
        "[::1",
        "xn--\udcff.com",
        "\udcff",
        "\ud800.com",
        "a\u202eb.com",
        "*.example.com",
    ],
)
def test_what_is_no_host_is_refused_and_not_repaired(text: str) -> None:
    with pytest.raises(DomainError):
        canonical_host(text)


@given(st.text(max_size=80))
def test_canonicalising_twice_is_canonicalising_once(text: str) -> None:
    try:
        once = canonical_host(text)
    except DomainError:
        return
    assert canonical_host(str(once)) == once


@given(names)
def test_case_and_the_final_dot_never_matter(name: str) -> None:
    assert canonical_host(name.upper() + ".") == canonical_host(name)


@given(st.integers(0, 2**32 - 1))
def test_every_number_base_of_an_ipv4_address_is_the_same_address(value: int) -> None:
    dotted = ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))
    octal = ".".join(f"0{value >> shift & 255:o}" for shift in (24, 16, 8, 0))
    forms = {dotted, octal, str(value), hex(value), f"::ffff:{dotted}", f"{value >> 24}.{value & 0xFFFFFF}"}
    assert {canonical_host(form) for form in forms} == {Address(4, value)}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("::ffff:0.0.0.0", True),
        ("128.0.0.1", False),
        ("126.255.255.255", False),
        ("10.0.0.1", False),
        ("::2", False),
        ("0.0.0.1", False),
        ("169.254.169.254", False),
        ("fe80::1", False),
    ],
)
def test_what_counts_as_loopback(host: str, expected: bool) -> None:
    address = canonical_host(host)
    assert isinstance(address, Address)
    assert is_loopback(address) is expected


def test_localhost_and_names_below_it_mean_this_machine() -> None:
    assert is_loopback_name("localhost")
    assert is_loopback_name("api.localhost")
    assert not is_loopback_name("notlocalhost")
    assert not is_loopback_name("localhost.example.com")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("**", "first label"),
        ("*:0", "port"),
        ("[*]", "first label"),
        ("*/8", "first label"),
        ("*.", "empty"),
        ("*.com", "too broad"),
        ("*.com:443", "too broad"),
        ("*.localhost", "too broad"),
        ("*.co.uk", "below co.uk"),
        ("*.COM.au", "below com.au"),
        ("0.0.0.0/0", "too broad"),
        ("10.0.0.0/7", "too broad"),
        ("::/0", "too broad"),
        ("2000::/3", "too broad"),
        ("api.*.com", "first label"),
        ("*api.example.com", "first label"),
        ("example.com.*", "first label"),
        (".example.com", 'write "*.example.com"'),
        ("https://example.com", "URL"),
        ("example.com/path", "path"),
        ("user@example.com", "userinfo"),
        ("example.com:0", "port"),
        ("example.com:65536", "port"),
        ("example.com:http", "port"),
        ("example.com:", "port"),
        ("example.com:٤٤٣", "port"),  # digits, but not ASCII ones
        ("10.0.0.1/8", "did you mean 10.0.0.0/8"),
        ("2001:db8::1/32", "did you mean 2001:db8::/32"),
        ("10.0.0.0/33", "prefix"),
        ("10.0.0.0/", "prefix"),
        ("::ffff:10.0.0.0/8", "prefix"),
        ("*.10.0.0.1", "wildcard of an address"),
        ("[::1", "]"),
        ("[::1]x", "after its"),
        ("", "empty"),
    ],
)
def test_bad_patterns_say_why(text: str, reason: str) -> None:
    with pytest.raises(DomainError, match=reason.replace("*", r"\*").replace("[", r"\[")):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("pattern", "host", "port", "expected"),
    [
        ("api.example.com", "api.example.com", 443, True),
        ("API.Example.com.", "api.example.com", 443, True),
        ("api.example.com", "x.api.example.com", 443, False),
        ("*.example.com", "api.example.com", 443, True),
        ("*.example.com", "a.b.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("example.com:443", "example.com", 443, True),
        ("example.com:443", "example.com", 80, False),
        ("*.example.com:443", "a.example.com", 80, False),
        ("*.bücher.example", "a.xn--bcher-kva.example", 1, True),
        ("localhost", "localhost", 1, True),
        ("db", "db", 5432, True),
        ("*.amazonaws.com", "s3.amazonaws.com", 443, True),
        ("*.co.example", "a.co.example", 443, True),
    ],
)
def test_name_patterns(pattern: str, host: str, port: int, expected: bool) -> None:
    name = canonical_host(host)
    assert isinstance(name, str)
    assert (rules(pattern).match_name(name, port) is not None) is expected


@pytest.mark.parametrize(
    ("pattern", "host", "port", "expected"),
    [
        ("10.0.0.0/8", "10.255.1.2", 1, True),
        ("10.0.0.0/8", "11.0.0.0", 1, False),
        ("10.0.0.0/8:5432", "10.1.1.1", 5432, True),
        ("10.0.0.0/8:5432", "10.1.1.1", 5433, False),
        ("0x0a000001", "10.0.0.1", 1, True),
        ("10.0.0.1", "::ffff:10.0.0.1", 1, True),
        ("::ffff:10.0.0.1", "10.0.0.1", 1, True),
        ("::ffff:10.0.0.0/104", "10.9.9.9", 1, True),
        ("2001:db8::/32", "2001:db8:1::1", 1, True),
        ("2001:db8::/32", "2001:db9::1", 1, False),
        ("[2001:db8::/32]:443", "2001:db8::1", 443, True),
        ("[2001:db8::]/32:443", "2001:db8::1", 443, True),
        ("[2001:db8::]/32:443", "2001:db8::1", 80, False),
        ("[2001:db8::1]:443", "2001:db8::1", 443, True),
        ("[2001:db8::1]:443", "2001:db8::1", 80, False),
        ("[2001:db8::1]", "2001:db8::1", 80, True),
        ("2001:db8::1", "2001:db8::2", 80, False),
        ("fe80::1%eth0", "fe80::1%eth1", 80, True),
        ("1.0.0.0/8", "::100:0", 80, False),  # the same number in the other family
        ("localhost", "127.0.0.1", 80, True),
        ("localhost:80", "::1", 80, True),
        ("localhost:80", "127.0.0.1", 81, False),
        ("localhost", "10.0.0.1", 80, False),
    ],
)
def test_address_patterns(pattern: str, host: str, port: int, expected: bool) -> None:
    address = canonical_host(host)
    assert isinstance(address, Address)
    assert (rules(pattern).match_address(address, port) is not None) is expected


@given(names, labels)
def test_a_name_pattern_never_matches_its_look_alikes(name: str, other: str) -> None:
    exact, wild = rules(name), rules(f"*.{name}")
    for look_alike in (f"{other}{name}", f"{name}{other}", f"{name}.{other}.elsewhere", f"{other}-{name}"):
        assert exact.match_name(look_alike) is None
        assert wild.match_name(look_alike) is None
    assert wild.match_name(name) is None
    assert exact.match_name(f"{other}.{name}") is None
    assert wild.match_name(f"{other}.{name}") is not None


@given(st.integers(0, 2**32 - 1), st.integers(8, 32), st.integers(0, 2**32 - 1))
def test_a_network_covers_exactly_the_addresses_with_its_prefix(base: int, prefix: int, other: int) -> None:
    shift = 32 - prefix
    start = base >> shift << shift
    covered = rules(f"{Address(4, start)}/{prefix}").match_address(Address(4, other), 1) is not None
    assert covered is (start <= other < start + (1 << shift))


def test_an_exact_rule_is_named_before_a_wildcard() -> None:
    both = rules("*.example.com", "api.example.com")
    found = both.match_name("api.example.com")
    assert found is not None
    assert found.text == "api.example.com"


def test_a_port_rule_lets_its_name_be_looked_up() -> None:
    only = rules("api.example.com:443", "*.example.org:8080")
    assert only.match_any_port("api.example.com") is not None
    assert only.match_any_port("x.example.org") is not None
    assert only.match_any_port("example.org") is None
    assert only.match_name("api.example.com") is None  # not for a rule that forbids: it forbids one port
