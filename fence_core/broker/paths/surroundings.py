"""What rules by name cannot tell, since it depends on what lies there: repositories, environments, others' sockets.

Asked for what the policy allows. The broker looks, the judge decides: each answer is a request that says what was seen.

* An environment of Python, wherever it lies and whatever it is called, is a directory with a `pyvenv.cfg` or, made by
  conda or pixi, a `conda-meta/history`. One that was there before the run may be used by its user tomorrow, so nothing
  that Python runs from it may come from a test; one that a test has made is its own. The kernel tells which it is:
  nobody can set the time of a file's last change of status (ctime) back.
* A socket in `/tmp` may be that of a service of the same user (an agent, a terminal multiplexer, an editor). Whoever
  removes or replaces it is talked to in its place. The mode of the directory that it lies in says who may talk to it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from fence_core.broker.paths import repositories
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.paths.resolve import Located

__all__ = ["is_telling", "is_telling_move", "objection"]

_MARK = "pyvenv.cfg"
_MARKS = (_MARK, "conda-meta/history")
_BELOW = ("/bin/", f"/{_MARK}", "/conda-meta", "/etc/conda/")
"""What follows the place of an environment in a path. The shell runs `etc/conda/activate.d` with `conda activate`."""
_SLACK_S = 0.05
"""File systems take their times from a clock that is late by a tick, or more."""
_CONTAINERS = 4
"""Names on the way from an environment to its packages, both included: `.venv/lib/python3.12/site-packages`."""
_TAKEN = "/.venv"
"""The name that editors, uv and poetry take for an environment without asking, should there be one."""
_OF_THE_FILE = frozenset({"chmod", "chown", "utime"})
_RUN_FROM = ("bin", "lib", "lib64", _MARK, "conda-meta", "etc")
_ENTRIES_MAX = 256
_HARMLESS_TO_SOCKETS = frozenset({"open", "create", "mkdir", "symlink", "mknod", "link"})
"""They make a name, and change nothing of one that is there."""
_OF_THEIR_DIRECTORY = frozenset({"rename", "chmod", "chown", "setxattr", "removexattr"})
"""What lets others in, or out: an access list is an extended attribute (acl(5))."""


def is_telling(op: str, path: str) -> bool:
    """Whether `objection` could have something to say of this change, as far as its text tells and one look."""
    if repositories.is_telling(path) or _is_of_an_environment(path):
        return True
    return op == "unlink" and _is_socket(path)


def is_telling_move(old: str, new: str) -> bool:
    """The same for a rename: directories may hold anything."""
    if repositories.is_telling(new) or _is_of_an_environment(old) or _is_of_an_environment(new) or _is_socket(new):
        return True
    try:
        mode = os.lstat(old).st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) or stat.S_ISSOCK(mode)


def objection(call: Call, op: str, located: Located, *, gets: bool = True) -> Write | None:
    """Why what the policy allows may not be done: the request to refuse; None where it may.

    `gets`: whether something gets this name by it, and does not just lose it.
    """
    asked = repositories.objection(call, op, located) if gets else None
    if asked is not None and call.allowed(asked):
        asked = None
    return asked or _of_environment(call, op, located.path, gets) or _of_socket(call, op, located)


def _is_of_an_environment(path: str) -> bool:
    return "/bin/" in path or "/site-packages" in path or "/conda" in path or path.endswith((_MARK, "/bin", _TAKEN))


def _of_environment(call: Call, op: str, path: str, gets: bool) -> Write | None:
    if path.endswith(_TAKEN) and gets and op not in _OF_THE_FILE and not repositories.is_free_place(call, path):
        asked = Write(op, path, known="environment", around=path)
        return None if call.allowed(asked) else asked
    if op == "rename":
        parts = path.rsplit("/", _CONTAINERS - 1)
        candidates = [path, *("/".join(parts[:at]) for at in range(1, len(parts)) if parts[at] in _RUN_FROM)]
    elif _is_of_an_environment(path):
        candidates = [before for part in _BELOW for before in _all_before(path, part)]
        candidates += [path[:-4]] if path.endswith("/bin") else []
        candidates += [before.rsplit("/", 2)[0] for before in _all_before(path, "/site-packages")]
    else:
        return None
    if not any(candidates) or repositories.is_free_place(call, path):
        return None
    for place in candidates:
        if place and _was_there(call, place):
            asked = Write(op, path, known="environment", around=place)
            if not call.allowed(asked):
                return asked
    return None


def _all_before(path: str, part: str) -> list[str]:
    """What stands before this part of a path, wherever it does: the project may itself lie below some `bin`."""
    pieces = path.split(part)
    return [part.join(pieces[:at]) for at in range(1, len(pieces))]


def _was_there(call: Call, place: str) -> bool:
    """Whether this is an environment that nobody has made since the run began."""
    for mark in _MARKS:
        try:
            if os.lstat(f"{place}/{mark}").st_ctime < call.services.started - _SLACK_S:
                return True
        except OSError:
            continue
    return False


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _of_socket(call: Call, op: str, located: Located) -> Write | None:
    if op in _HARMLESS_TO_SOCKETS:
        return None
    try:
        status = os.fstat(located.handle) if located.handle >= 0 else os.lstat(located.path)
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):
        if op not in _OF_THEIR_DIRECTORY or not _holds_socket_of_others(call, located.path):
            return None
    elif not stat.S_ISSOCK(status.st_mode) or not call.services.unix.is_of_others(status, located.path):
        return None
    asked = Write(op, located.path, known="socket")
    return None if call.allowed(asked) else asked


def _holds_socket_of_others(call: Call, directory: str) -> bool:
    """Whether one lies in this very directory, as those of agents and terminal multiplexers do (`/tmp/tmux-1000`)."""
    try:
        with os.scandir(directory) as entries:
            for entry, _ in zip(entries, range(_ENTRIES_MAX), strict=False):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISSOCK(status.st_mode) and call.services.unix.is_of_others(status, entry.path):
                    return True
    except OSError:
        pass
    return False
