"""A config file that is edited while others are about: it is read before anything foreign runs and written afterwards.

In between tests have run. So its directory is held open and never looked up again, the file must be what it was, and
what is written is read once more and must say what it is meant to say.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Any

from fence_core.edit.additions import EditError, expected, place
from fence_core.errors import PolicyError
from fence_core.policy.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fence_core.edit.additions import Addition

__all__ = ["EditError", "Target", "difference"]

_PATIENT = 100
"""So many names are tried for the new file."""


class Target:
    """The file, as it was found. `close` gives its directory back."""

    def __init__(self, path: str, *, extends: str = "") -> None:
        """`path`: absolute; a link to it is followed now. `extends`: what a new file is to name as its base.

        Raises EditError.
        """
        self.path = os.path.realpath(path)
        self.kind = files.source_kind(self.path)
        self.extends = extends
        self.needs = ""
        """The package that is missing to write such a file."""
        directory, self._name = os.path.split(self.path)
        try:
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise EditError(f"{directory}: {error.strerror}") from None
        self._found = self._read()
        if self.kind == "toml":
            from fence_core.edit import toml

            self.needs = "" if toml.is_there() else "tomlkit"
        else:
            import yaml  # noqa: F401 - now, and not when tests have had a chance to put another in its place

            from fence_core.edit import nodes  # noqa: F401

    def close(self) -> None:
        os.close(self._directory)

    @property
    def is_new(self) -> bool:
        return self._found is None

    def additions(self, wanted: Iterable[tuple[str, str | int | bool, str]]) -> tuple[Addition, ...]:
        """What is missing in it of these keys, values and comments. Raises EditError."""
        return place(self._parse(self._text()), wanted, flat=self.kind == "toml", camel=self.kind == "json")

    def edited(self, additions: Iterable[Addition]) -> str:
        """What it would be with them. Raises EditError."""
        before, added = self._text(), tuple(additions)
        if self.kind == "toml":
            from fence_core.edit.toml import edit_toml

            after = edit_toml(before, added)
        elif self.kind == "yaml":
            from fence_core.edit.nodes import edit_yaml

            after = edit_yaml(before, added)
        else:
            from fence_core.edit.nodes import edit_json

            commented = self.path.endswith(".jsonc") or files.without_comments(before, self.path) != before
            after = edit_json(before, added, comments=commented)
        if self._parse(after) != expected(self._parse(before), added):
            raise EditError("its layout is too unusual to be edited by machine")
        return after

    def text(self) -> str:
        """As it was found; empty if there was none."""
        return "" if self._found is None else self._found[1].decode("utf-8")

    def write(self, text: str) -> None:
        """Put the new text in its place. Raises EditError where it is not what it was any more."""
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EditError("somebody else is writing to its directory") from None
        try:
            self._replace(text.encode("utf-8", "strict"))
        except OSError as error:
            raise EditError(f"it cannot be written: {error.strerror}") from None
        finally:
            fcntl.flock(self._directory, fcntl.LOCK_UN)

    # ------------------------------------------------------------ the file

    def _read(self) -> tuple[os.stat_result, bytes] | None:
        """None where there is none. Raises EditError."""
        try:
            fd = os.open(self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EditError(f"it cannot be read: {error.strerror}") from None
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise EditError("it is no ordinary file")
            return status, file.read()

    def _replace(self, data: bytes) -> None:
        now = self._read()
        if _identity(now) != _identity(self._found):
            raise EditError("it has been changed meanwhile: nothing was written")
        name, fd = self._new_file()
        try:
            with open(fd, "wb") as file:
                if now is not None:
                    own = os.fstat(fd)
                    if (own.st_uid, own.st_gid) != (now[0].st_uid, now[0].st_gid):
                        os.fchown(fd, now[0].st_uid, now[0].st_gid)
                    os.fchmod(fd, stat.S_IMODE(now[0].st_mode))
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(name, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except BaseException:
            os.unlink(name, dir_fd=self._directory)
            raise

    def _new_file(self) -> tuple[str, int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for number in range(_PATIENT):
            name = f".{self._name}.{os.getpid()}-{number}"
            try:
                return name, os.open(name, flags, 0o666, dir_fd=self._directory)
            except FileExistsError:
                continue
        raise EditError("no name is free for the new file")

    # ------------------------------------------------------------ what it says

    def _text(self) -> str:
        """What is edited: of a new file, its beginning."""
        if self._found is not None:
            try:
                return self.text()
            except UnicodeDecodeError:
                raise EditError("it is not in UTF-8") from None
        if not self.extends:
            return ""
        return {
            "toml": f'[tool.fence]\nextends = "{self.extends}"\n',
            "yaml": f"extends: {self.extends}\n",
            "json": f'{{\n  "extends": "{self.extends}"\n}}\n',
        }[self.kind]

    def _parse(self, text: str) -> dict[str, Any]:
        """Our part of it. Raises EditError."""
        try:
            found = files.parse(text.removeprefix("\ufeff"), self.kind, self.path)
        except (PolicyError, ValueError) as error:
            raise EditError(f"it is not understood: {error}") from None
        return dict(found)


def _identity(found: tuple[os.stat_result, bytes] | None) -> tuple[int, int, bytes] | None:
    return None if found is None else (found[0].st_dev, found[0].st_ino, found[1])


def difference(before: str, after: str, name: str) -> list[str]:
    """Lines of a unified diff."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="", n=2)
    return list(lines)
