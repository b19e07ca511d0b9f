"""The kernel refuses an attribute longer than it knows, so its length follows the ABI."""

from __future__ import annotations

import pytest

from fence_core.kernel import landlock


@pytest.mark.parametrize(("abi", "size"), [(1, 8), (3, 8), (4, 16), (5, 16), (6, 24), (7, 24), (99, 24)])
def test_size_of_the_attribute(abi, size) -> None:
    assert landlock.attribute_size(abi) == size


def test_access_bits_are_those_of_the_header() -> None:
    """include/uapi/linux/landlock.h"""
    assert landlock.ACCESS_FS_MAKE_SYM == 0x1000
    assert landlock.ACCESS_FS_REFER == 0x2000
    assert landlock.ACCESS_FS_TRUNCATE == 0x4000
    assert landlock.ACCESS_FS_IOCTL_DEV == 0x8000
    assert (landlock.SCOPE_ABSTRACT_UNIX_SOCKET, landlock.SCOPE_SIGNAL) == (1, 2)
