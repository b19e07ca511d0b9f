"""A descriptor is closed once, and its number never used again."""

from __future__ import annotations

import gc
import os

import pytest

from fence_core.kernel.fds import OwnedFd


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_closes_once() -> None:
    read, write = os.pipe()
    os.close(write)
    owned = OwnedFd(read)
    assert owned.fileno() == read
    assert not owned.closed
    owned.close()
    assert owned.closed
    assert owned.fileno() == -1
    again, other = os.pipe()  # takes over the number
    assert again == read
    owned.close()
    assert is_open(again)
    os.close(again)
    os.close(other)


def test_forgets_the_number_even_when_close_fails() -> None:
    read, write = os.pipe()
    os.close(write)
    owned = OwnedFd(read)
    os.close(read)
    with pytest.raises(OSError):
        owned.close()
    owned.close()


def test_context_manager_and_finaliser_close() -> None:
    read, write = os.pipe()
    with OwnedFd(read):
        assert is_open(read)
    assert not is_open(read)
    owned = OwnedFd(write)
    del owned
    gc.collect()
    assert not is_open(write)


def test_detach_gives_the_number_away() -> None:
    read, write = os.pipe()
    os.close(write)
    owned = OwnedFd(read)
    assert owned.detach() == read
    owned.close()
    assert is_open(read)
    os.close(read)
    with pytest.raises(ValueError, match="closed"):
        owned.detach()


def test_no_descriptor_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        OwnedFd(-1)
