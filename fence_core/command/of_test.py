"""The policy of one test, for `fence explain --test`: pytest collects it, in a fence, and says what it is."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from fence_core.command.options import UsageError
from fence_core.doctor.children import last_line, python, run
from fence_core.policy.model import Policy, Source
from fence_core.policy.record import Record
from fence_core.policy.sources.wire import from_wire
from fence_core.text import escape

if TYPE_CHECKING:
    from fence_core.command.options import Asked

__all__ = ["OfTest", "of_test"]

_ANSWER = "fence-asked: "
_PLUGIN = "pytest_fence.plugin"


class OfTest(Record):
    """What pytest has said. A test may have said it: it explains, and decides nothing."""

    test: str
    source: str
    """Where the policy of the run is from."""
    file: str
    policy: Policy
    """With the test's markers."""
    marked: tuple[Source, ...]


def of_test(nodeid: str, asked: Asked) -> OfTest:
    """Raises UsageError where there is no such test, or no answer."""
    odd = next(
        (name for name in ("template", "no-project-config", "allow-domain", "allow-write") if asked.has(name)), ""
    )
    if odd:
        raise UsageError(f"--{odd} is for commands; --test takes the policy that pytest would, or that of -s")
    env = dict(os.environ)
    flags = ["--fence", "--collect-only", "-p", "no:cacheprovider", "-p", "pytest_fence.asked"]
    if env.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        flags += ["-p", _PLUGIN]
    if asked.has("settings"):
        flags += ["--fence-config", asked.value("settings") or ""]
    status, out, err = run([*python("pytest"), *flags, nodeid], env)
    line = next((line for line in out.splitlines() if line.startswith(_ANSWER)), "")
    if not line:
        why = last_line(err) or next((line for line in out.splitlines() if line.startswith("E  ")), "")
        raise UsageError(f"pytest has not collected {escape(nodeid)}: {escape(why) or f'it ended with {status}'}")
    try:
        return from_wire(OfTest, json.loads(line.removeprefix(_ANSWER)))
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"what pytest has said of {escape(nodeid)} cannot be read") from None
