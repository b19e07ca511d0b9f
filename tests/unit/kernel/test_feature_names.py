"""What is required and missing is named with its reason; what does not exist is refused with what does."""

from __future__ import annotations

import pytest

from fence_core.errors import FenceUnavailable
from fence_core.kernel import features
from fence_core.kernel.features import Feature, Features


def some(**missing: str) -> Features:
    return Features(
        [Feature(name, name not in missing, missing.get(name, "")) for name in features.NAMES], landlock_abi=5
    )


def test_nothing_missing_is_silent() -> None:
    some().require(features.NAMES)
    some(landlock="off").require([])
    some(landlock="off").require(["seccomp"])


def test_everything_missing_is_listed_with_its_reason() -> None:
    found = some(landlock="switched off at boot", pidfd_getfd="Function not implemented")
    with pytest.raises(FenceUnavailable) as caught:
        found.require(["landlock", "seccomp", "pidfd_getfd"])
    for word in ("landlock", "switched off at boot", "pidfd_getfd", "Function not implemented"):
        assert word in str(caught.value)
    assert "seccomp" not in str(caught.value)


def test_unknown_name_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(FenceUnavailable) as caught:
        some().require(["landlok", "seccomp"])
    assert "landlok" in str(caught.value)
    for name in features.NAMES:
        assert name in str(caught.value)


def test_hyphens_and_blanks_are_forgiven() -> None:
    some().require([" wait-killable", "landlock-scopes "])


def test_lookup() -> None:
    found = some(ptrace="Yama")
    assert [feature.name for feature in found] == list(features.NAMES)
    assert found["ptrace"] == Feature("ptrace", False, "Yama")
    assert not found.available("ptrace")
    assert found.available("seccomp")
