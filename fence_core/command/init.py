"""`fence config init`: a first policy, with comments, where there is none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fence_core.command.options import Option, UsageError, parse
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["INIT_OPTIONS", "init"]

INIT_OPTIONS = (
    Option("output", "o", "FILE", "by default fence.json; or .jsonc, .yaml, .yml, pyproject.toml"),
    Option("template", "t", "NAME", "what it extends: by default command, in a pyproject.toml pytest"),
    Option("print", "", "", "show it, and write nothing"),
    Option("help", "h", "", "show this text and exit"),
)
HEAD = """\
usage: fence config init [flags]

Writes a first policy, with comments. Never into a file that is there: to a pyproject.toml it adds a [tool.fence].
"""
_KINDS = {".json": "jsonc", ".jsonc": "jsonc", ".yaml": "yaml", ".yml": "yaml"}
_PROJECT = "pyproject.toml"
_FIRST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "first")


def init(words: Sequence[str]) -> int:
    """An exit status. Raises UsageError, OSError."""
    asked = parse(words, INIT_OPTIONS)
    if asked.has("help"):
        from fence_core.command.help import page

        print(page(HEAD, INIT_OPTIONS, ""))
        return 0
    if asked.words:
        raise UsageError(f"config init takes flags only, and {escape(asked.words[0])} is none of them")
    path = asked.value("output") or "fence.json"
    text = _text(path, asked.value("template"))
    if asked.has("print"):
        print(text, end="")
        return 0
    _write(path, text)
    print(f"{escape(path)}: written; it allows nothing of the network yet")
    command = "pytest --fence" if os.path.basename(path) == _PROJECT else "fence -m COMMAND"
    choice = "" if _is_found(path) else f" -s {escape(path)}"
    print(f"next: `{command.replace(' -m', f' -m{choice}')}` shows what else is needed; `fence check{choice}` reads it")
    return 0


def _text(path: str, template: str | None) -> str:
    """Raises UsageError."""
    from fence_core.policy.keys import PRESETS

    name = os.path.basename(path)
    kind = "toml" if name == _PROJECT else _KINDS.get(os.path.splitext(name)[1], "")
    if not kind:
        raise UsageError(f"{escape(path)} is of no kind that fence reads; accepted: .json, .jsonc, .yaml, .yml, "
                         "pyproject.toml")  # fmt: skip
    chosen = template or ("pytest" if kind == "toml" else "command")
    if chosen not in PRESETS:
        raise UsageError(f'"{escape(chosen)}" is not a template; there are: {", ".join(PRESETS)}')
    with open(os.path.join(_FIRST, f"{kind}.txt"), encoding="utf-8") as file:
        return file.read().replace("TEMPLATE", chosen)


def _write(path: str, text: str) -> None:
    """Raises UsageError where there is a policy already, OSError."""
    directory, name = os.path.split(os.path.abspath(path))
    present = _present(directory) if name == _PROJECT or os.path.splitext(name)[0] == "fence" else ""
    if present:
        raise UsageError(f"{escape(present)} is there already; `fence check` reads it")
    if name == _PROJECT and os.path.lexists(path):
        with open(path, "a", encoding="utf-8") as file:
            file.write(("\n" if file.tell() else "") + text)
        return
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{escape(path)} is there already, and is left as it is") from None


def _present(directory: str) -> str:
    """The config that is in this directory already. Raises PolicyError where it cannot be read, or there are two."""
    from pathlib import Path

    from fence_core.policy.sources.files import find

    found = find(Path(directory))
    return "" if found is None else os.path.relpath(found[0]) + ("" if found[1] == found[0].name else " [tool.fence]")


def _is_found(path: str) -> bool:
    """Whether it is found without being named."""
    directory, name = os.path.split(os.path.abspath(path))
    return directory == os.getcwd() and (name == _PROJECT or os.path.splitext(name)[0] == "fence")
