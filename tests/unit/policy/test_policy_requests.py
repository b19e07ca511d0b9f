"""Requests are values of their own kinds."""

from __future__ import annotations

import pytest

from fence_core.policy.requests import (
    Connect,
    Read,
    Resolve,
    Run,
    Write,
)


def test_requests_are_equal_only_to_their_own_kind() -> None:
    assert Resolve("x") == Resolve("x")
    assert Resolve("x") != Read("x")
    assert Run("x") != Read("x")
    assert len({Resolve("x"), Read("x"), Resolve("x")}) == 2
    assert Connect("1.1.1.1", 1) != Connect("1.1.1.1", 1, inside=True)


def test_requests_are_frozen() -> None:
    request = Write("open", "/x")
    with pytest.raises(AttributeError):
        request.path = "/y"
    assert repr(request) == "Write(op='open', path='/x', toward='', known='', around='')"
