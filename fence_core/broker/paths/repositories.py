"""Repositories of git that tests make: which of them work, and what never becomes one.

git obeys what lies in a repository, and takes for one whatever looks like it (is_git_directory, setup.c): a directory
with `HEAD`, `objects` and `refs`, or with `HEAD` and `commondir`, whatever it is called. So rules by name do not do:

* In a `.git` the names that git obeys are protected (`policy/protected.py`). Of a repository whose first `config` was
  put there inside the fence, and so is no user's, they may be removed again, its sample hooks may be written, its
  `config` may be replaced, as long as that says nothing but harmless things (`policy/git_config.py`), and a rebase
  may be made in it.
  What a program writes into it at once is a draft first (`drafts.py`).
* A directory of another name may not become a repository while there is anything in it that git would obey, and what
  git obeys may not be put into one.

What a `config` says is judged on a copy, and the copy is what takes its place: whoever has the file open that was
written changes nothing by that.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from fence_core.broker.services import drafts
from fence_core.policy import git_config
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.call import Call
    from fence_core.broker.paths.resolve import Located
    from fence_core.policy.decide import Judge

__all__ = [
    "is_free_place",
    "is_telling",
    "lets",
    "may_replace_config",
    "new_config",
    "objection",
    "objection_inside",
]

_PARTS = frozenset({"HEAD", "objects", "refs", "commondir", "config", "config.worktree", "hooks"})
_OBEYED = frozenset({"config", "config.worktree", "commondir", "hooks"})
_REMOVING = frozenset({"unlink", "rmdir"})
_OF_THE_FILE = frozenset({"chmod", "chown", "utime"})
_WRITING = frozenset({"open", "create"})
_LOCK = "config.lock"
_SAMPLE = ".sample"
_REBASE = "rebase-merge"
"""What a rebase is still to do, commands among it (`exec` in `git-rebase-todo`)."""
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def is_telling(path: str) -> bool:
    """Whether a change of this name may be one of a repository that is not called `.git`: only then to be looked at."""
    return path[path.rfind("/") + 1 :] in _PARTS or "/hooks/" in path


# ---------------------------------------------------------------- .git


def lets(call: Call, op: str, located: Located) -> bool:
    """Whether what is protected as git's may be changed in this way after all; to be asked where it is refused."""
    repository, _, rest = located.path.rpartition("/.git/")
    if not rest or located.errno:
        return False
    directory, _, name = rest.rpartition("/")
    if not _is_harmless(call, f"{repository}/.git", directory, name, op, located):
        return False
    return call.passes(Write(op, located.path, known="own"))


def _is_harmless(call: Call, repository: str, directory: str, name: str, op: str, located: Located) -> bool:
    if not directory and name == _LOCK and may_replace_config(call, repository, located):
        return True  # what is renamed to it is looked at then
    if not directory and name == "hooks" and op == "mkdir":
        return True
    if directory == "hooks" and name.endswith(_SAMPLE) and op in _WRITING and located.handle < 0:
        return True  # it is made now
    try:
        status = os.lstat(repository)
    except OSError:
        return False
    if (status.st_dev, status.st_ino) not in call.services.drafts.own_repositories:
        return False
    if op in _REMOVING or op in _OF_THE_FILE:
        return True
    if f"{directory}/{name}".lstrip("/").partition("/")[0] == _REBASE:
        return bool(directory) or op == "mkdir"
    return directory == "hooks" and name.endswith(_SAMPLE) and op in _WRITING


# ---------------------------------------------------------------- any directory


def objection(call: Call, op: str, located: Located) -> Write | None:
    """Why a name that the policy allows may not be changed: the request to refuse; None where it may."""
    path = located.path
    if not is_telling(path) or op in _REMOVING or op in _OF_THE_FILE or is_free_place(call, path):
        return None
    parent, _, name = path.rpartition("/")
    in_hooks = parent.endswith("/hooks")
    if name not in _PARTS and not in_hooks:
        return None
    if "/.git/" in path:
        return None
    repository = parent.removesuffix("/hooks") if in_hooks and name not in _PARTS else parent
    found = _Directory(repository)
    if found.is_repository():
        if in_hooks and repository != parent:
            harmless = name.endswith(_SAMPLE) and op in _WRITING
        else:
            harmless = name not in _OBEYED or (name == "hooks" and op == "mkdir")
        return None if harmless else Write(op, path, known="config" if name.startswith("config") else "hooks")
    if in_hooks and repository != parent:
        return None
    found.names.add(name)
    if not found.is_repository():
        return None
    what = found.obeyed(name)
    return Write(op, path, known=what) if what else None


def objection_inside(judge: Judge, op: str, directory: int, path: str) -> Write | None:
    """As `objection`, for a directory that is moved to `path` from a place where it was free."""
    if "/.git/" in f"{path}/":
        return None
    found = _Directory(f"/proc/self/fd/{directory}/.")
    what = found.obeyed("HEAD") if found.is_repository() else ""
    request = Write(op, f"{path}/{'config' if what == 'config' else 'hooks'}", known=what)
    return request if what and not judge.decide(request).allowed else None


def is_free_place(call: Call, path: str) -> bool:
    """Whether this lies in a directory for temporary files, where nobody works tomorrow."""
    return all(judge.is_scratch(path) for _, judge in call.process.account().judges)


class _Directory:
    """What lies in a directory of that which makes a repository."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.names = {name for name in _PARTS if os.path.lexists(f"{path}/{name}")}

    def is_repository(self) -> bool:
        return "HEAD" in self.names and ({"objects", "refs"} <= self.names or "commondir" in self.names)

    def obeyed(self, new: str) -> str:
        """What git would obey in it: ``config``, ``hooks``; empty if that is nothing. `new` is what is made now."""
        if "commondir" in self.names or (new in _OBEYED and new != "config"):
            return "hooks"
        if "config.worktree" in self.names:
            return "config"
        if "hooks" in self.names and not self._has_samples_only():
            return "hooks"
        if new == "config" or not self._settles_config():
            return "config"
        return ""

    def _has_samples_only(self) -> bool:
        hooks = f"{self.path}/hooks"
        try:
            return not os.path.islink(hooks) and all(name.endswith(_SAMPLE) for name in os.listdir(hooks))
        except OSError:
            return False

    def _settles_config(self) -> bool:
        """Whether its configuration is harmless; it is a copy from then on."""
        if "config" not in self.names:
            return True
        try:
            directory = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            text, status = _read(b"config", directory)
            if git_config.objection(text):
                return False
            os.close(drafts.put(b"config", directory, text, status))
        except OSError:
            return False
        finally:
            os.close(directory)
        return True


# ---------------------------------------------------------------- config


class NewConfig(NamedTuple):
    """What is to take the place of a repository's `config`."""

    text: bytes
    like: os.stat_result
    """Of the file that was written: whose mode and owner it gets."""
    repository: tuple[int, int] | None
    """Device and inode of the `.git` that becomes the tests' own by this."""


def may_replace_config(call: Call, parent: str, located: Located) -> bool:
    """Whether this directory is a repository whose `config` the tests may make or replace, with a harmless one."""
    if not parent.endswith("/.git"):
        return _Directory(parent).is_repository()
    try:
        status = os.fstat(located.directory) if located.directory >= 0 else os.lstat(parent)
    except OSError:
        return False
    own = call.services.drafts.own_repositories
    return (status.st_dev, status.st_ino) in own or not os.path.lexists(f"{parent}/config")


def new_config(call: Call, old: Located, new: Located) -> NewConfig | Write | None:
    """What a rename puts into a repository as its `config`, if it does.

    git writes `config.lock` and renames that. Where it is not harmless: the request to refuse, if the policy does.
    """
    parent, _, name = new.path.rpartition("/")
    if name != "config" or new.name != b"config" or not old.is_file or is_free_place(call, new.path):
        return None
    if not may_replace_config(call, parent, new):
        return None
    if not (call.process.may_write(old.path, "rename") or call.passes(Write("rename", old.path, known="own"))):
        return None
    if not call.passes(Write("rename", new.path, known="own")):
        return None
    try:
        text, like = _read(old.name, old.directory)
    except OSError:
        return None
    if like.st_nlink != 1:
        return None
    found = git_config.objection(text)
    if found:
        return Write("rename", new.path, known="config", around=found)
    status = os.fstat(new.directory)
    return NewConfig(text, like, (status.st_dev, status.st_ino) if parent.endswith("/.git") else None)


def _read(name: bytes, directory: int) -> tuple[bytes, os.stat_result]:
    """What a regular file holds, up to a byte more than may be. Raises OSError for anything else."""
    file = os.open(name, _FLAGS, dir_fd=directory)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.read(file, git_config.SIZE_MAX + 1), status
    finally:
        os.close(file)
