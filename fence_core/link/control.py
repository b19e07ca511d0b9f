"""What pytest processes ask the broker: one JSON object a line, one reply each.

Any process. The stream is what the door `control` gives. A reply that is no answer has `error`, or `problems` where a
policy was wrong. The broker believes nothing that it has not checked; whether a process may ask at all is up to it.
"""

from __future__ import annotations

from typing import Any

from fence_core.errors import BrokerError, PolicyError, Problem
from fence_core.link.operations import OPTIONAL_LIST, Operation, by_name, misfit
from fence_core.untouched_calls import calls as real

REQUEST_MAX = 16 << 20
"""Bytes of one request; more is no request of ours."""
CHUNK = 1 << 16
"""Bytes that are read at a time."""

CONFIG = {
    "policy": dict,
    "mode": str,
    "source": str,
    "syntax": str,
    "base_dir": str,
    "host": str,
    "blame": str,
    "parts": list,
}
"""What a nested session brings along."""
_VIOLATIONS = {"violations": list}

HELLO = Operation(
    "hello",
    {"role": str, "config": (dict, type(None)), "note": list},
    {
        "role": str,
        "mode": str,
        "layers": list,
        "source": str,
        "withheld": list,
        "closed": list,
        "stacks": bool,
        "watches_reads": bool,
        "announces_forks": bool,
        "packages": list,
    },
)
"""A process's first word, once for each session in it. `note`: address and token of its note (`page`). `packages`: the
directory and the scope of each package, whose policies have the numbers from 1 on."""
WORKERS = Operation("workers", {}, {})
"""Processes that are started from now on, outside of tests, may join as workers."""
POLICY = Operation("policy", {"layers": list, "base": int}, {"number": int})
"""Pairs of what a marker says and its `Source`, as data, the closest last. `base`: the policy that they add to, that of
the session or of a package."""
CEILING = Operation("ceiling", {"policy": int}, {"places": OPTIONAL_LIST})
"""Where a test under this policy may write at all: pairs for `child.add_places`."""
PROXY = Operation("proxy", {}, {"url": str})
STACKS = Operation("stacks", {"signal": int, "fd": int, "inquiry": int}, {})
"""The handler of that signal writes stacks to that descriptor; that of the other answers on the page (0: none does)."""
TAKE = Operation("take", {"nodeid": str, "by_fork": bool}, _VIOLATIONS)
LEDGER = Operation("ledger", {}, _VIOLATIONS)
USES = Operation("uses", {}, {"uses": list})
"""What the entries of the policy were needed for."""
SETTLE = Operation("settle", {"upto": int}, {})
TOLD = Operation("told", {"told": dict}, {})
"""What pytest says of its tests, for report files: `report.files.told` has the fields."""
BYE = Operation("bye", {}, {})
FORK_SERVER = Operation("fork_server", {"pid": int}, {})

OPERATIONS = by_name(HELLO, WORKERS, POLICY, CEILING, PROXY, STACKS, TAKE, LEDGER, USES, SETTLE, TOLD, BYE, FORK_SERVER)


class NoRequestError(Exception):
    """A line that asks for nothing."""


def request(operation: Operation, fields: dict[str, Any]) -> bytes:
    return _line({"op": operation.name, **fields})


def read_request(line: bytes) -> tuple[Operation, dict[str, Any]]:
    """What is asked, whose fields are still to be checked. Raises NoRequestError."""
    try:
        found = real.loads(line.decode())
        return OPERATIONS[found["op"]], found
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NoRequestError from None


def answer(fields: dict[str, Any]) -> bytes:
    return _line(fields)


def refusal(why: str) -> dict[str, Any]:
    return {"error": why}


def problems(error: PolicyError) -> dict[str, Any]:
    return {"problems": [[each.source, each.key, each.found, each.accepted] for each in error.problems]}


def read_answer(operation: Operation, line: bytes) -> dict[str, Any]:
    """Raises BrokerError; PolicyError with the broker's problems."""
    try:
        found: dict[str, Any] = real.loads(line.decode())
        if "problems" in found:
            raise PolicyError(tuple(Problem(*problem) for problem in found["problems"]))
        if "error" in found:
            raise BrokerError(f"the broker refused {operation.name!r}: {found['error']}")
        wrong = misfit(found, operation.answers)
    except (ValueError, TypeError, AttributeError) as error:
        # Somebody else has read or written here: a test that uses any descriptor it finds.
        raise BrokerError(f"the broker's answer is not understood: {error}") from error
    if wrong:
        raise BrokerError(f"the broker's answer is not understood: {wrong}")
    return found


def _line(fields: dict[str, Any]) -> bytes:
    return real.dumps(fields).encode() + b"\n"
