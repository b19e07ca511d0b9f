"""Every exception of the fence, grouped by whose fault it is.

- the user's: `PolicyError`
- the machine's: `FenceUnavailable`, and `KernelCallError` for one refused call
- ours: `BrokerError`

A violation is an event, not an exception: see `fence_core.events`.
"""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = [
    "BrokerError",
    "FenceError",
    "FenceUnavailable",
    "KernelCallError",
    "PolicyError",
    "Problem",
]


class FenceError(Exception):
    """Base of every exception that the fence raises on purpose."""


# A named tuple and not a dataclass: every process imports this module, `dataclasses` costs 5 ms.
class Problem(NamedTuple):
    """One thing that is wrong in one place of a policy."""

    source: str  # "pyproject.toml [tool.fence]", "@pytest.mark.fence of test_x"
    key: str  # "network.allowed_domains"; empty when the source as a whole is wrong
    found: str
    accepted: str
    line: int | None = None
    """Where in the file, if it is in one, and that can be told."""

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}, line {self.line}"
        where = f"{where}: {self.key}" if self.key else where
        tail = f"; accepted: {self.accepted}" if self.accepted else ""
        return f"{where}: {self.found}{tail}"


class PolicyError(FenceError):
    """A policy that cannot be used. Carries all its problems, so that one run shows them all."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class FenceUnavailable(FenceError):  # noqa: N818 - a state of the machine, and public by this name
    """This machine lacks something that the fence needs.

    `feature` names it, `reason` says how we know, `remedy` says what the user can do (may be empty).
    """

    def __init__(self, feature: str, reason: str, remedy: str = "") -> None:
        self.feature = feature
        self.reason = reason
        self.remedy = remedy
        super().__init__(feature, reason, remedy)

    def __str__(self) -> str:
        text = f"{self.feature}: {self.reason}"
        return f"{text}. {self.remedy}" if self.remedy else text


class KernelCallError(FenceError, OSError):
    """The kernel refused one call.

    `call` names it, `errno` is the kernel's answer as a positive number, `detail` is advice (may be empty).
    Unlike a plain `OSError` it is never turned into `PermissionError` and the like: compare `errno`.
    """

    _strerror = staticmethod(os.strerror)  # out of reach of a test that replaces `os`

    def __init__(self, call: str, errno: int, detail: str = "") -> None:
        self.call = call
        self.detail = detail
        super().__init__(errno, self._strerror(errno))

    def __str__(self) -> str:
        text = f"{self.call}: [Errno {self.errno}] {self.strerror}"
        return f"{text} ({self.detail})" if self.detail else text

    def __reduce__(self) -> tuple[type[KernelCallError], tuple[str, int | None, str]]:
        # OSError would pickle (errno, strerror), which is not what __init__ takes.
        return type(self), (self.call, self.errno, self.detail)


class BrokerError(FenceError):
    """The fence itself failed. Whoever catches it refuses the call in question: closed, not open."""
