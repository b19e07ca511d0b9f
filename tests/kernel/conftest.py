"""Fixtures that start children and leave none behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from fence_core.kernel import bpf, process
from tests.kernel.children import Child, Supervised


@pytest.fixture
def start() -> Iterator[Callable[[Callable[[], Any]], Child]]:
    """Start children that are gone when the test is over."""
    with contextlib.ExitStack() as stack:

        def start(function: Callable[[], Any]) -> Child:
            child = Child(function)
            stack.callback(child.close)
            return child

        yield start


@pytest.fixture
def in_child(start: Callable[[Callable[[], Any]], Child]) -> Callable[[Callable[[], Any]], Any]:
    """Run a function in a forked child and return its result."""
    return lambda function: start(function).result()


@pytest.fixture
def supervise() -> Iterator[Callable[..., Supervised]]:
    """Start a child whose calls in `rules` this process answers."""
    with contextlib.ExitStack() as stack:

        def supervise(
            rules: Mapping[int, bpf.Action], function: Callable[[], Any], *, wait_killable: bool = True
        ) -> Supervised:
            child = Supervised(rules, function, wait_killable)
            stack.callback(child.close)
            return child

        yield supervise


@pytest.fixture(autouse=True)
def no_process_left_behind() -> Iterator[None]:
    before = set(process.children())
    yield
    assert set(process.children()) <= before
