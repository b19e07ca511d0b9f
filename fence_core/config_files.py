"""Where config files may lie, and whether one could switch the fence on: asked in every run, fenced or not.

Every pytest process imports this, so it imports nothing of ours, and reads files without parsing them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

__all__ = ["OWN_FILES", "PYPROJECT", "Directories", "mentions_fence"]

OWN_FILES = ("fence.json", "fence.jsonc", "fence.yaml", "fence.yml")
PYPROJECT = "pyproject.toml"
_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # Windows has neither


def mentions_fence(root: str | os.PathLike[str]) -> str | None:
    """The first file in `root` that could switch the fence on, found without parsing anything.

    None is certain: nothing here sets `enabled`, or names packages or other files that may. A file means that
    `find_config` is worth its price. Never raises: a file that cannot be read counts as one that could.
    """
    base = os.fspath(root)
    for name in (PYPROJECT, *OWN_FILES):
        path = f"{base}/{name}"
        try:
            fd = os.open(path, _READ)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError):
            return path
        try:
            data = b"".join(iter(lambda: os.read(fd, 1 << 20), b""))  # noqa: B023 - used within the round
        except OSError:
            return path
        finally:
            os.close(fd)
        # "\u0065nabled" is the same key, and so it is in UTF-16, which is an error to be shown; both are worth a parse.
        asks = b"enabled" in data or b"packages" in data or (b"extends" in data and _extends_files(name, data))
        asks = asks and (name != PYPROJECT or b"fence" in data)
        if asks or any(odd in data for odd in (b"\\u", b"\\U", b"\\x", b"\0")):
            return path
    return None


def _extends_files(name: str, data: bytes) -> bool:
    """Whether some `extends` may name a file: is anything but a plain word, in a syntax with few ways to write one."""
    if name.endswith((".yaml", ".yml")):
        return True
    import re  # pytest has it

    words = re.findall(rb"""extends["']?\s*[:=]\s*(["'])[a-z-]+\1\s*(?:[,}\n\r#]|$)""", data)
    return len(words) < data.count(b"extends")


class Directories:
    """Walks from directories up to the root, each once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._seen = {root}

    def up(self, directory: str) -> Iterator[str]:
        """This directory and those above it that were not seen yet, up to the first that holds the root."""
        while directory not in self._seen:
            self._seen.add(directory)
            yield directory
            if self._root.startswith(directory.rstrip(os.sep) + os.sep):
                return
            directory = os.path.dirname(directory)
