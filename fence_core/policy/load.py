"""Find and read the project's config: `[tool.fence]`, `fence.json`/`fence.jsonc` or `fence.yaml`/`fence.yml`.

Importing this costs nothing: every run of pytest with the plugin installed calls `mentions_fence`, so what only a
fenced run needs is imported where it is needed.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    import yaml

    from fence_core.policy.model import Config, Policy
    from fence_core.policy.templates import TemplateContext

__all__ = ["config_in", "find_config", "mentions_fence", "source_kind"]

_OWN_FILES = ("fence.json", "fence.jsonc", "fence.yaml", "fence.yml")
_PYPROJECT = "pyproject.toml"


def mentions_fence(root: str | os.PathLike[str]) -> Path | None:
    """The first file in `root` that could switch the fence on, found without parsing anything.

    None is certain: nothing here sets `enabled`. A path means that `find_config` is worth its price. Never raises: a
    file that cannot be read counts as one that could.
    """
    base = os.fspath(root)
    for name, needles in ((_PYPROJECT, (b"fence", b"enabled")), *((own, (b"enabled",)) for own in _OWN_FILES)):
        path = f"{base}/{name}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError):
            return Path(path)
        try:
            data = b"".join(iter(lambda: os.read(fd, 1 << 20), b""))  # noqa: B023 - used within the round
        except OSError:
            return Path(path)
        finally:
            os.close(fd)
        # "\u0065nabled" is the same key, and so it is in UTF-16, which is an error to be shown; both are worth a parse.
        if all(needle in data for needle in needles) or any(odd in data for odd in (b"\\u", b"\\U", b"\\x", b"\0")):
            return Path(path)
    return None


def source_kind(path: Path | None) -> str:
    """The syntax that the config of this path is written in: toml, json or yaml."""
    suffix = "" if path is None else path.suffix.lower()
    return {".json": "json", ".jsonc": "json", ".yaml": "yaml", ".yml": "yaml"}.get(suffix, "toml")


def find_config(
    root: Path,
    explicit: Path | None = None,
    *,
    default_template: str = "pytest",
    context: TemplateContext | None = None,
) -> Config:
    """The config of the project in `root`, or of the file `explicit`.

    A config without `extends`, and a project without a config, get the template `default_template`. `context` is what
    the templates have to know of this run; without it, what holds for this process.

    Raises PolicyError for a file that cannot be read or parsed, for more than one config, and for all problems in it.
    """
    from fence_core.policy.merge import merge, merge_settings
    from fence_core.policy.model import Config, Source
    from fence_core.policy.templates import TemplateContext, preset
    from fence_core.policy.validate import parse_overlay

    if context is None:
        context = TemplateContext.of_run(root)
    found = _find(root) if explicit is None else _read_explicit(explicit)
    if found is None:
        base = preset(default_template, context)
        return Config(base.policy, base.settings, f"preset {default_template}", None)
    path, source, raw = found
    kind = source_kind(path)
    overlay = parse_overlay(
        raw,
        source=Source(source, os.path.abspath(path)),
        base_dir=path.parent.absolute(),
        flat=kind != "json",
        settings=True,
        home=context.home,
    )
    base = preset(overlay.extends or default_template, context)
    return Config(merge(_lock(base.policy, path), overlay), merge_settings(base.settings, overlay), source, path)


def config_in(directory: str) -> tuple[Path, str, bool] | None:
    """The config that this directory would have as a root: its file, its name, whether it switches the fence on.

    Five lstat calls where there is none. A `fence.json` that holds none of our keys is another program's. Raises
    PolicyError as `find_config` does, but for a policy that is wrong: that one is not read.
    """
    if not any(os.path.lexists(f"{directory}/{name}") for name in (*_OWN_FILES, _PYPROJECT)):
        return None
    found = _find(Path(directory))
    if found is None:
        return None
    path, source, raw = found
    if path.name != _PYPROJECT:
        from fence_core.policy.validate import is_known

        if not any(map(is_known, raw)):
            return None
    return path, source, raw.get("enabled") is True


def _lock(policy: Policy, path: Path) -> Policy:
    """The policy, with the file it comes from out of the tests' reach, wherever it lies."""
    place = os.path.abspath(path)
    files = policy.filesystem
    if place in files.locked:
        return policy
    return policy._replace(filesystem=files._replace(locked=(*files.locked, place)))


# --- which file ---


def _find(root: Path) -> tuple[Path, str, Mapping[str, object]] | None:
    found = []
    # lexists: a dangling link or an unreadable file is a config that cannot be read, not one that is not there.
    for name in _OWN_FILES:
        if os.path.lexists(root / name):
            found.append((root / name, name))
    pyproject = root / _PYPROJECT
    table = None
    if os.path.lexists(pyproject):
        table = _read_toml(pyproject, _PYPROJECT)
        if table is not None:
            found.append((pyproject, f"{_PYPROJECT} [tool.fence]"))
    if len(found) > 1:
        listed = " and ".join(source for _, source in found)
        raise _error(
            str(root), "", f"more than one config of the fence: {listed}", "one of them: delete the others, or"
            " name the one that counts with --fence-config=FILE",
        )  # fmt: skip
    if not found:
        return None
    path, source = found[0]
    return path, source, table if table is not None else _read(path, source)


def _read_explicit(path: Path) -> tuple[Path, str, Mapping[str, object]]:
    if path.suffix.lower() == ".toml":
        table = _read_toml(path, str(path))
        if table is None:
            raise _error(str(path), "", "has no [tool.fence]", "a file with a [tool.fence] table")
        return path, f"{path} [tool.fence]", table
    return path, str(path), _read(path, str(path))


def _read(path: Path, source: str) -> Mapping[str, object]:
    kind = path.suffix.lower()
    if kind in (".json", ".jsonc"):
        return _mapping(_parse_json(_text(path, source), source), source)
    if kind in (".yaml", ".yml"):
        return _mapping(_parse_yaml(_text(path, source), source), source)
    raise _error(source, "", f'is of no kind that the fence reads ("{kind}")', ".toml, .json, .jsonc, .yaml or .yml")


def _mapping(value: object, source: str) -> Mapping[str, object]:
    if value is None:
        return {}  # an empty file, as the Go tool takes it
    if not isinstance(value, dict):
        raise _error(source, "", f"holds a {type(value).__name__} at its top level", "a table of keys")
    return value


def _error(source: str, key: str, found: str, accepted: str) -> Exception:
    from fence_core.errors import PolicyError, Problem

    return PolicyError((Problem(source, key, found, accepted),))


def _text(path: Path, source: str) -> str:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        accepted = "a readable file; or name another with --fence-config=FILE"
        raise _error(source, "", f"cannot be read: {reason}", accepted) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(source, f"line {line}", f"byte {data[error.start]:#04x} is not UTF-8", "text in UTF-8") from None


# --- TOML ---


def _read_toml(path: Path, source: str) -> Mapping[str, object] | None:
    """The [tool.fence] table; None if the file has none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    text = _text(path, source)
    if "fence" not in text and "\\" not in text:
        return None  # not worth a parse; an escape could spell the name
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
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


def _parse_json(text: str, source: str) -> object:
    import json

    if not text.strip():
        return None

    def blank(match: re.Match[str]) -> str:
        token = match[0]
        if token.startswith('"'):
            return token
        if token == "/*":
            line, column = _place(text, match.start())
            raise _error(source, f"line {line}, column {column}", "a comment is not closed", '"*/" at its end')
        # Blanks, so that the places in later errors are those in the file.
        return re.sub(r"[^\n]", " ", token)

    plain = re.sub(_JSON_TOKEN, blank, text)
    plain = re.sub(_JSON_COMMA, lambda match: match[1] or " ", plain)
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
