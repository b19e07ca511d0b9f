"""How a worker of pytest-xdist ends that must not go on, and how its controller says why.

Imported by fenced runs, and by others where there is something to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import pytest

_UNUSABLE = "fence_unusable"
_PLUGIN = "fence_plugin"


def refuse(config: pytest.Config, what: str, problems: Sequence[str]) -> NoReturn:
    """End this run as a usage error; if it is a worker's, so that its controller ends as one."""
    lines = [what, *(f"  {text}" for text in problems)]
    output: dict[str, Any] | None = getattr(config, "workeroutput", None)
    if output is None:
        raise pytest.UsageError("\n".join(lines))
    # In order: an exception would make xdist start another worker, and another.
    output[_UNUSABLE] = lines
    pytest.exit("what pytest-fence was told is wrong", returncode=int(pytest.ExitCode.USAGE_ERROR))


def heed(node: Any) -> None:
    """A worker has ended: what is a usage error in one process is one in the controller, too."""
    lines = getattr(node, "workeroutput", {}).get(_UNUSABLE)
    if lines:
        raise pytest.UsageError("\n".join(lines))


def say_plugin(config: pytest.Config) -> None:
    """This worker has the plugin."""
    config.workeroutput[_PLUGIN] = True  # type: ignore[attr-defined]


def expect_plugin(node: Any) -> None:
    """The fence of a worker on another machine stands without, and does not know which test is running."""
    if _PLUGIN not in getattr(node, "workeroutput", {}):
        raise pytest.UsageError(
            f"pytest on {node.gateway.spec} was fenced, and has run without the plugin of pytest-fence: no violation "
            "there is known by its test. Is PYTEST_DISABLE_PLUGIN_AUTOLOAD set there?"
        )
