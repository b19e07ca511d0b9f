"""The exceptions carry their facts as attributes, and say all of them."""

from __future__ import annotations

import errno
import pickle

import pytest

from fence_core.errors import BrokerError, FenceError, FenceUnavailable, KernelCallError, PolicyError, Problem


def test_policy_error_lists_every_problem_on_a_line_of_its_own() -> None:
    problems = (
        Problem("fence.json", "network.allowed_domains", "'*.com' is too broad", "a domain below it"),
        Problem("fence.yaml", "", "cannot be read", ""),
    )
    error = PolicyError(problems)
    assert str(error).splitlines() == [
        "fence.json: network.allowed_domains: '*.com' is too broad; accepted: a domain below it",
        "fence.yaml: cannot be read",
    ]
    assert error.problems == problems


def test_unavailable_names_feature_reason_and_remedy() -> None:
    error = FenceUnavailable("landlock", "not built in", "Boot with lsm=landlock.")
    assert (error.feature, error.reason, error.remedy) == (
        "landlock",
        "not built in",
        "Boot with lsm=landlock.",
    )
    assert str(error) == "landlock: not built in. Boot with lsm=landlock."
    assert str(FenceUnavailable("landlock", "not built in")) == "landlock: not built in"


def test_kernel_call_error_is_an_os_error_with_the_name_of_the_call() -> None:
    error = KernelCallError("seccomp", errno.EBUSY, "one is enough")
    assert isinstance(error, OSError)
    assert isinstance(error, FenceError)
    assert (error.call, error.errno, error.detail) == ("seccomp", errno.EBUSY, "one is enough")
    assert "seccomp" in str(error)
    assert "one is enough" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        KernelCallError("seccomp", errno.EBUSY, "detail"),
        PolicyError((Problem("a", "b", "c", "d"),)),
        FenceUnavailable("a", "b", "c"),
        BrokerError("a"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: FenceError) -> None:
    """Workers and child processes hand them over."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
