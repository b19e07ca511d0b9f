"""Of every request, the data that a violation keeps of it, and the text that is made from them."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.events.attempt import described
from fence_core.events.model import Target
from fence_core.policy import requests
from fence_core.policy.requests import (
    Bind,
    Connect,
    Execute,
    Fault,
    Move,
    OpenSocket,
    Passage,
    Read,
    Request,
    Resolve,
    Run,
    SocketOption,
    SystemCall,
    UnixConnect,
    Write,
)
from fence_core.report.words import attempt

NETLINK = "open socket AF_NETLINK/SOCK_DGRAM"
CASES: list[tuple[Request | Fault, str, Target, str]] = [
    (Connect("192.0.2.7", 80), "connect", Target("address", "192.0.2.7", 80, "tcp"), "connect 192.0.2.7:80/tcp"),
    (Connect("::1", 80, "udp"), "connect", Target("address", "::1", 80, "udp"), "connect [::1]:80/udp"),
    (Connect("a.example", 80), "connect", Target("name", "a.example", 80, "tcp"), "connect a.example:80/tcp"),
    (
        Connect("10.0.0.1", 80, name="a.example"),
        "connect",
        Target("name", "a.example", 80, "tcp", detail="which leads to 10.0.0.1"),
        "connect a.example:80/tcp, which leads to 10.0.0.1",
    ),
    (Bind("0.0.0.0", 80), "bind", Target("address", "0.0.0.0", 80, "tcp"), "bind 0.0.0.0:80/tcp"),
    (Resolve("a.example"), "resolve", Target("name", "a.example"), "resolve a.example"),
    (UnixConnect("/run/x"), "connect", Target("unix", path="/run/x"), "connect unix:/run/x"),
    (UnixConnect("\0x"), "connect", Target("unix", path="@x"), "connect unix:@x"),
    (OpenSocket(17, 3), "socket", Target("other", protocol="AF_PACKET/SOCK_RAW"), "open socket AF_PACKET/SOCK_RAW"),
    (
        OpenSocket(17, 3 | 0o2004000, 0x300),
        "socket",
        Target("other", protocol="AF_PACKET/SOCK_RAW"),
        "open socket AF_PACKET/SOCK_RAW",
    ),
    (OpenSocket(99, 9), "socket", Target("other", protocol="family 99/type 9"), "open socket family 99/type 9"),
    (
        OpenSocket(10, 1 | 0o2000000, 132),
        "socket",
        Target("other", protocol="AF_INET6/SOCK_STREAM (SCTP)"),
        "open socket AF_INET6/SOCK_STREAM (SCTP)",
    ),
    (
        OpenSocket(16, 2, 136),
        "socket",
        Target("other", protocol="AF_NETLINK/SOCK_DGRAM"),
        "open socket AF_NETLINK/SOCK_DGRAM",
    ),
    (
        SocketOption("tie", "SO_BINDTODEVICE"),
        "socket",
        Target("other", detail="tie a socket to a network interface (SO_BINDTODEVICE)"),
        "tie a socket to a network interface (SO_BINDTODEVICE)",
    ),
    (Write("create", "/x\x1b"), "write", Target("path", path="/x\x1b"), "write /x\\x1b"),
    (
        SocketOption("route"),
        "socket",
        Target("other", detail="send by a route of one's own (source routing)"),
        "send by a route of one's own (source routing)",
    ),
    (
        Passage("TLS for b through a tunnel to a:443", "own name", "a", 443),
        "relay",
        Target("name", "a", 443, "tcp", detail="TLS for b through a tunnel to a:443"),
        "TLS for b through a tunnel to a:443",
    ),
    (Write("open", "/x"), "write", Target("path", path="/x"), "write /x"),
    (Write("mkdir", "/x"), "mkdir", Target("path", path="/x"), "mkdir /x"),
    (Write("mknod device", "/x"), "mknod", Target("path", path="/x"), "mknod /x"),
    (Read("/x"), "read", Target("path", path="/x"), "read /x"),
    (Run("/x"), "run", Target("path", path="/x"), "run /x"),
    (Execute(("git", "a b\n"), ()), "run", Target("command", detail="git a b\n"), "run git a b\\n"),
    (Execute(("x", "y" * 300), ()), "run", Target("command", detail=f"x {'y' * 195}..."), f"run x {'y' * 195}..."),
    (Move("rename", "/x", "/y"), "rename", Target("path", path="/x"), "rename /x"),
    (
        Move("rename", "/x", "/y", ".git"),
        "rename",
        Target("path", path="/x", detail="which holds .git"),
        "rename /x, which holds .git",
    ),
    (SystemCall("mount"), "system", Target("other", detail="mount"), "mount"),
    (Fault("KeyError: 'x'"), "error", Target("other", detail="KeyError: 'x'"), "KeyError: 'x'"),
]


@pytest.mark.parametrize(("request_", "operation", "target", "text"), CASES)
def test_described(request_: Request | Fault, operation: str, target: Target, text: str) -> None:
    assert described(request_) == (operation, target)
    assert attempt(operation, target) == text


def test_every_request_is_among_them() -> None:
    classes = {
        each
        for _, each in inspect.getmembers(requests, inspect.isclass)
        if each.__module__ == requests.__name__ and hasattr(each, "kind")
    }
    assert classes == {type(case[0]) for case in CASES}


@given(st.text(st.characters(exclude_characters="")))
def test_whatever_a_name_holds(text: str) -> None:
    """What is kept can be encoded, and what is shown can be printed."""
    for request in (Write("open", text), Resolve(text), Connect(text, 1), UnixConnect(text), SystemCall(text)):
        operation, target = described(request)
        assert "".join(map(str, target)).encode()
        assert attempt(operation, target).isprintable()
