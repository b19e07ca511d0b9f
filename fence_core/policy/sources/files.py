"""Find and read the project's config: `[tool.fence]`, `fence.json`/`fence.jsonc` or `fence.yaml`/`fence.yml`.

From a file to a raw mapping; what that means is for `validate.py`.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from fence_core.config_files import OWN_FILES, PYPROJECT
from fence_core.errors import PolicyError, Problem
from fence_core.policy.keys import is_known
from fence_core.policy.record import Record

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from pathlib import Path

    import yaml

    Found = tuple[Path, str, Mapping[str, object]]
    """A config: its file, its name for the user, and what it says."""

__all__ = [
    "PYTEST", "TABLE", "Manner", "find", "is_ours", "parse", "parse_toml", "read_explicit", "source_kind", "texts",
    "without_comments",
]  # fmt: skip

TABLE = ("tool", "fence")
"""The table of a TOML file that is ours."""

texts: dict[str, str] = {}
"""What was read, by the absolute path, for `lines.py`: the file may be another one by the time somebody asks."""


class Manner(Record):
    """How a program reads configs."""

    names_with: str
    """The flag with which its user names a file."""
    checks: bool = False
    """Whether a file has to be one that only the user, or root, can write: nobody has named it."""
    otherwise: str = ""
    """What is read as if it had this suffix, having none that we know; empty: nothing."""


PYTEST = Manner("--fence-config=FILE")


def source_kind(path: str | os.PathLike[str] | None) -> str:
    """The syntax that the config of this path is written in: toml, json or yaml. Without a path: toml."""
    suffix = os.path.splitext(path or "x.toml")[1].lower()
    return {".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}.get(suffix, "json")


# --- which file ---


def find(directory: str | os.PathLike[str], manner: Manner = PYTEST) -> Found | None:
    """The config of a directory. Raises PolicyError, also where there are two."""
    base = os.fspath(directory)
    # lexists: a dangling link or an unreadable file is a config that cannot be read, not one that is not there.
    if not any(os.path.lexists(f"{base}/{name}") for name in (*OWN_FILES, PYPROJECT)):
        return None
    from pathlib import Path  # its import takes `fence` 5 ms, and most directories have no config

    root = Path(base)
    found = []
    for name in OWN_FILES:
        if os.path.lexists(root / name):
            found.append((root / name, name))
    pyproject = root / PYPROJECT
    table = None
    if os.path.lexists(pyproject):
        table = _read_toml(pyproject, PYPROJECT, manner)
        if table is not None:
            found.append((pyproject, f"{PYPROJECT} [tool.fence]"))
    if len(found) > 1:
        listed = " and ".join(source for _, source in found)
        raise _error(
            str(root), "", f"more than one config of the fence: {listed}", "one of them: delete the others, or"
            f" name the one that counts with {manner.names_with}",
        )  # fmt: skip
    if not found:
        return None
    path, source = found[0]
    return path, source, table if table is not None else _read(path, source, manner)


def is_ours(found: Found) -> bool:
    """Whether what was found holds any of our keys: a `fence.json` below the root may be another program's."""
    return found[0].name == PYPROJECT or any(map(is_known, found[2]))


def read_explicit(path: Path, manner: Manner = PYTEST, name: str = "") -> Found:
    """The config in this file, which goes by a `name` if it is given. Raises PolicyError."""
    name = name or str(path)
    if path.suffix.lower() == ".toml":
        table = _read_toml(path, name, manner)
        if table is None:
            raise _error(name, "", "has no [tool.fence]", "a file with a [tool.fence] table")
        return path, f"{name} [tool.fence]", table
    return path, name, _read(path, name, manner)


def _read(path: Path, source: str, manner: Manner) -> Mapping[str, object]:
    kind = path.suffix.lower()
    if kind not in (".json", ".jsonc", ".yaml", ".yml"):
        kind = manner.otherwise or kind
    if kind in (".json", ".jsonc"):
        return _mapping(_parse_json(_text(path, source, manner), source), source)
    if kind in (".yaml", ".yml"):
        return _mapping(_parse_yaml(_text(path, source, manner), source), source)
    raise _error(source, "", f'is of no kind that the fence reads ("{kind}")', ".toml, .json, .jsonc, .yaml or .yml")


def parse(text: str, kind: str, source: str) -> Mapping[str, object]:
    """Our part of a config of this kind (see `source_kind`), which is empty where it has none. Raises PolicyError, and
    ValueError for what is no TOML."""
    if kind == "json":
        return _mapping(_parse_json(text, source), source)
    if kind == "yaml":
        return _mapping(_parse_yaml(text, source), source)
    found: object = parse_toml(text)
    for name in TABLE:
        found = found.get(name, {}) if isinstance(found, dict) else found
    return _mapping(found, source)


def _mapping(value: object, source: str) -> Mapping[str, object]:
    if value is None:
        return {}  # an empty file, as the Go tool takes it
    if not isinstance(value, dict):
        raise _error(source, "", f"holds a {type(value).__name__} at its top level", "a table of keys")
    return value


def _error(source: str, key: str, found: str, accepted: str) -> Exception:
    return PolicyError((Problem(source, key, found, accepted),))


def _text(path: Path, source: str, manner: Manner) -> str:
    try:
        with open(path, "rb") as file:
            if manner.checks:
                _check(path, os.fstat(file.fileno()), source, manner)
            data = file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        accepted = f"a readable file; or name another with {manner.names_with}"
        raise _error(source, "", f"cannot be read: {reason}", accepted) from None
    try:
        text = texts[os.path.abspath(path)] = data.decode("utf-8-sig")
        return text
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(source, f"line {line}", f"byte {data[error.start]:#04x} is not UTF-8", "text in UTF-8") from None


def _check(path: Path, status: os.stat_result, source: str, manner: Manner) -> None:
    """Raises PolicyError for a file that somebody else than the user or root could have written.

    As git does with repositories (`safe.directory`): whoever unpacks a tree into a shared directory would otherwise
    choose what others may do there. Writing by a group is let pass where it is the user's own.
    """
    link = os.lstat(path)
    owners = {status.st_uid, link.st_uid} - {0, os.geteuid()}
    if owners:
        found = f"belongs to another user (uid {owners.pop()}), who could have any command allowed"
        raise _error(source, "", found, f"a file of your own; or {manner.names_with}, if you trust it")
    wide = 0o002 if status.st_gid == os.getegid() else 0o022
    if status.st_mode & wide:
        who = "anybody" if status.st_mode & 0o002 else "its group"
        found = f"can be written by {who} (mode {status.st_mode & 0o7777:04o})"
        raise _error(source, "", found, f'"chmod go-w {path}"; or {manner.names_with}, if you trust it')


# --- TOML ---


def parse_toml(text: str) -> dict[str, Any]:
    """Raises ValueError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read_toml(path: Path, source: str, manner: Manner) -> Mapping[str, object] | None:
    """The [tool.fence] table; None if the file has none."""
    text = _text(path, source, manner)
    if "fence" not in text and "\\" not in text:
        return None  # not worth a parse; an escape could spell the name
    try:
        data = parse_toml(text)
    except ValueError as error:
        raise _error(source, "", f"is not valid TOML: {error}", "a file that parses") from None
    tool = data.get("tool")
    if not isinstance(tool, dict) or "fence" not in tool:
        return None
    table = tool["fence"]
    if not isinstance(table, dict):
        raise _error(source, "tool.fence", f"is a {type(table).__name__}", "a table: [tool.fence]")
    return table


# --- JSON with comments ---

_JSON_TOKEN = r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*[\s\S]*?\*/|/\*'
_JSON_COMMA = r'("(?:[^"\\\n]|\\.)*")|,(?=\s*[}\]])'


def without_comments(text: str, source: str) -> str:
    """With blanks for comments and trailing commas, so that the places in later errors are those in the file."""

    def blank(match: re.Match[str]) -> str:
        token = match[0]
        if token.startswith('"'):
            return token
        if token == "/*":
            line, column = _place(text, match.start())
            raise _error(source, f"line {line}, column {column}", "a comment is not closed", '"*/" at its end')
        return re.sub(r"[^\n]", " ", token)

    return re.sub(_JSON_COMMA, lambda match: match[1] or " ", re.sub(_JSON_TOKEN, blank, text))


def _parse_json(text: str, source: str) -> object:
    import json

    plain = without_comments(text, source)
    if not plain.strip():
        return None

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, value in items:
            if key in result:
                raise _error(source, key, "is given twice in the same table", "each key once")
            result[key] = value
        return result

    def constant(name: str) -> object:
        raise _error(source, "", f"holds {name}, which is not JSON", "a file that parses")

    try:
        return json.loads(plain, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _error(source, where, f"is not valid JSON: {error.msg}", "a file that parses") from None
    except RecursionError:
        raise _error(source, "", "is nested too deeply", "a file that parses") from None


def _place(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


# --- YAML ---


def _parse_yaml(text: str, source: str) -> object:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that takes no key twice: the later one would silently win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
            seen = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, str):
                    if key in seen:
                        line = key_node.start_mark.line + 1
                        raise _error(source, f"line {line}: {key}", "is given twice in the same table", "each key once")
                    seen.add(key)
            result: dict[Hashable, object] = super().construct_mapping(node, deep)
            return result

    try:
        value: object = yaml.load(text, Loader)
        return value
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise _error(source, where, f"is not valid YAML: {problem}", "a file that parses") from None
    except RecursionError:
        raise _error(source, "", "is nested too deeply", "a file that parses") from None
