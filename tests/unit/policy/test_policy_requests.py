"""What reports call the things that were tried, and that nothing in a name reaches a terminal unescaped."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.policy.requests import (
    Bind,
    Connect,
    OpenSocket,
    Read,
    Request,
    Resolve,
    Run,
    UnixConnect,
    Write,
    printable,
)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Connect("93.184.216.34", 443), "connect 93.184.216.34:443/tcp"),
        (Connect("2606::1", 443, "tcp"), "connect [2606::1]:443/tcp"),
        (Connect("192.0.2.1", 53, "udp"), "connect 192.0.2.1:53/udp"),
        (Connect("api.stripe.com", 443), "connect api.stripe.com:443/tcp"),
        (Bind("0.0.0.0", 80), "bind 0.0.0.0:80/tcp"),
        (Bind("::", 0, "udp"), "bind [::]:0/udp"),
        (Resolve("api.stripe.com"), "resolve api.stripe.com"),
        (Resolve("a\x1b[31mb"), "resolve a\\x1b[31mb"),
        (UnixConnect("/run/docker.sock"), "connect unix:/run/docker.sock"),
        (UnixConnect("\0name"), "connect unix:@name"),
        (UnixConnect("\0a\0b"), "connect unix:@a\\x00b"),
        (OpenSocket(17, 3), "open socket AF_PACKET/SOCK_RAW"),
        (OpenSocket(17, 3 | 0o2004000, 0x300), "open socket AF_PACKET/SOCK_RAW"),
        (OpenSocket(40, 1), "open socket AF_VSOCK/SOCK_STREAM"),
        (OpenSocket(99, 9), "open socket family 99/type 9"),
        (OpenSocket(2, 2, 136), "open socket AF_INET/SOCK_DGRAM (UDP-Lite)"),
        (OpenSocket(10, 1 | 0o2000000, 132), "open socket AF_INET6/SOCK_STREAM (SCTP)"),
        (OpenSocket(16, 2, 136), "open socket AF_NETLINK/SOCK_DGRAM"),
        (Write("open", "/home/ci/.cache/x"), "write /home/ci/.cache/x"),
        (Write("create", "/home/ci/.cache/x"), "write /home/ci/.cache/x"),
        (Write("mkdir", "/x"), "mkdir /x"),
        (Write("rename", "/a\nb"), "rename /a\\nb"),
        (Read("/etc/shadow"), "read /etc/shadow"),
        (Run("/usr/bin/tool"), "run /usr/bin/tool"),
    ],
)
def test_describe(request_: Request, text: str) -> None:
    assert request_.describe() == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text", "plain text"),
        ("ünïcode", "ünïcode"),
        ("tab\there", "tab\\there"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("back\\slash", "back\\\\slash"),
        ("a\u202eb", "a\\u202eb"),  # right-to-left override
        ("a\u00a0b", "a\\xa0b"),
        ("line\u2028end", "line\\u2028end"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),  # a tag character, invisible
    ],
)
def test_printable(raw: str, shown: str) -> None:
    assert printable(raw) == shown


@given(st.text(st.characters(codec=None)))
def test_printable_text_is_printable_and_encodable(raw: str) -> None:
    shown = printable(raw)
    assert shown.isprintable()
    assert shown.encode().decode() == shown


@given(st.lists(st.binary(max_size=8).map(os.fsdecode), min_size=2, max_size=2, unique=True))
def test_different_file_names_are_shown_differently(pair: list[str]) -> None:
    assert printable(pair[0]) != printable(pair[1])


def test_requests_are_equal_only_to_their_own_kind() -> None:
    assert Resolve("x") == Resolve("x")
    assert Resolve("x") != Read("x")
    assert Run("x") != Read("x")
    assert len({Resolve("x"), Read("x"), Resolve("x")}) == 2
    assert Connect("1.1.1.1", 1) != Connect("1.1.1.1", 1, inside=True)


def test_requests_are_frozen() -> None:
    request = Write("open", "/x")
    with pytest.raises(AttributeError, match="frozen"):
        request.path = "/y"
    assert repr(request) == "Write(op='open', path='/x', toward='', known='', around='')"
