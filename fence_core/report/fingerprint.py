"""By what a violation is known again in other runs and on other machines, whatever has moved meanwhile."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fence_core.events.model import Frame, Target, Violation
from fence_core.policy.siblings import moving_part
from fence_core.untouched import real

_PASSING_PORTS = 32768
"""From here on the kernel chooses ports."""
_SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")
_OF_PYTEST = re.compile(r"/pytest-of-[^/]+/pytest-\d+(?:/popen-gw\d+)?")
_NUMBERED = re.compile(r"\d+\Z")
"""How pytest tells the directories of tests apart."""
_MADE_UP = re.compile(r"(?:(?<=[-_.])|(?<=tmp)|\A)[A-Za-z0-9_]{6,12}(?=[-_.]|\Z)")
"""What may be a name that `tempfile` or mktemp(1) has made up, where such names are."""
_DIGITS = re.compile(r"\d+")


def fingerprint(violation: Violation, place: Frame | None, *, root: str, temporary: Sequence[str] = ()) -> str:
    """32 hexadecimal digits, of what was tried, by which test, and from where.

    `place` is the line to look at first. `root` is the project, `temporary` are further directories whose names are
    others in the next run. No number of a line or a process, no port of the moment and no temporary name is part of it.
    """
    file, _, test = violation.nodeid.partition("::")
    parts = (
        violation.operation,
        *_target(violation.target, root, temporary),
        file,
        test.partition("[")[0],
        _path(place.path, root, temporary) if place is not None else "",
        place.function if place is not None else "",
    )
    return real.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _target(target: Target, root: str, temporary: Sequence[str]) -> tuple[str, ...]:
    port = str(target.port) if 0 < target.port < _PASSING_PORTS else ""
    # Of a name the detail is where it has led to; else it may hold numbers of the moment.
    detail = "" if target.kind in ("name", "address") else _DIGITS.sub("*", target.detail)
    return target.kind, target.host, port, target.protocol, _path(target.path, root, temporary), detail


def _path(path: str, root: str, temporary: Sequence[str]) -> str:
    if root and path.startswith(f"{root.rstrip('/')}/"):
        return "./" + "/".join(map(_name, path[len(root.rstrip("/")) + 1 :].split("/")))
    for place in temporary:
        if path.startswith(f"{place.rstrip('/')}/"):
            return "<temporary>/" + "/".join(map(_in_scratch, path[len(place.rstrip("/")) + 1 :].split("/")))
    found = _OF_PYTEST.search(path)
    if found is not None:
        test, *rest = path[found.end() + 1 :].split("/")
        return "/".join(["<temporary>", _NUMBERED.sub("", test), *map(_in_scratch, rest)])
    for place in _SCRATCH:
        if path.startswith(f"{place}/"):
            return f"{place}/" + "/".join(map(_in_scratch, path[len(place) + 1 :].split("/")))
    return "/".join(map(_name, path.split("/")))


def _name(name: str) -> str:
    """Without what no second run has."""
    while (moving := moving_part(name)) is not None:
        name = f"{name[: moving[0]]}*{name[moving[1] :]}"
    return "*" if name.isdigit() else name


def _in_scratch(name: str) -> str:
    return _name(_MADE_UP.sub("*", name))
