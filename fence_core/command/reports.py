"""`fence report`: what can be made of report files, by whoever has them.

Nothing is run and no fence put up. A file that is not a report is named with what is wrong in it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fence_core.command.options import UsageError
from fence_core.policy.reports import TYPES
from fence_core.report.files import formats, schema
from fence_core.report.files.groups import by, whose
from fence_core.report.files.merge import diff, merge
from fence_core.text import escape

__all__ = ["report"]

_USAGE = """\
usage: fence report convert FILE --format TYPE [--output FILE]
       fence report merge FILE... [--expect N] [--name NAME] [--output FILE]
       fence report diff OLD NEW
       fence report schema
TYPE: """ + ", ".join(TYPES)
_LARGEST = 512 << 20
"""Bytes of one file."""


def report(arguments: Sequence[str]) -> int:
    """Raises UsageError, OSError."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    actions = {"convert": _convert, "merge": _merge, "diff": _diff, "schema": _schema}
    if not arguments or arguments[0] not in actions:
        raise UsageError(f"report: convert, merge, diff or schema is missing\n{_USAGE}")
    if "--help" in arguments[1:] or "-h" in arguments[1:]:
        print(_USAGE)
        return 0
    return actions[arguments[0]](arguments[1:])


def _convert(arguments: Sequence[str]) -> int:
    files, given = _parsed(arguments, ("format", "output"))
    if len(files) != 1 or "format" not in given:
        raise UsageError("report convert: one FILE and --format TYPE are needed")
    kind = given["format"]
    if kind not in TYPES:
        raise UsageError(f"report convert: {escape(kind)} is not a type of report ({', '.join(TYPES)})")
    _put(formats.render(kind, _read(files[0]), os.environ), given.get("output"))
    return 0


def _merge(arguments: Sequence[str]) -> int:
    """1 where a part is missing."""
    files, given = _parsed(arguments, ("expect", "name", "output"))
    if not files:
        raise UsageError("report merge: which files?")
    expected = given.get("expect")
    if expected is not None and not (expected.isascii() and expected.isdigit() and int(expected) > 0):
        raise UsageError(f"report merge: --expect {escape(expected)} is not a number of reports")
    merged = merge([_read(file) for file in files], int(expected) if expected else None, given.get("name", ""))
    _put(formats.render("json", merged, os.environ), given.get("output"))
    if not merged["run"]["complete"]:
        print(f"fence: incomplete: {'; '.join(map(escape, merged['errors'])) or 'a run did not end'}", file=sys.stderr)
        return 1
    return 0


def _diff(arguments: Sequence[str]) -> int:
    """1 where anything is new."""
    files, _ = _parsed(arguments, ())
    if len(files) != 2:
        raise UsageError("report diff: OLD and NEW are needed")
    found = diff(*map(_read, files))
    for sign, violations in (("+", found.new), ("-", found.gone)):
        for each in violations:
            print(f"{sign} {whose(each)}: {escape(each['text'])}{by(each)}")
    print(f"{len(found.new)} new, {len(found.gone)} gone, {len(found.same)} in both")
    return 1 if found.new else 0


def _schema(arguments: Sequence[str]) -> int:
    if arguments:
        raise UsageError("report schema takes nothing else")
    print(schema.text(), end="")
    return 0


def _parsed(arguments: Sequence[str], options: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Files, and the values of options. Raises UsageError."""
    files, given = [], {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "--":
            files += words
            break
        if not word.startswith("--"):
            files.append(word)
        elif name not in options:
            raise UsageError(f"report: there is no option --{escape(name)} here")
        elif not equals and not words:
            raise UsageError(f"report: --{name} needs a value")
        else:
            given[name] = value if equals else words.pop(0)
    return files, given


def _read(path: str) -> dict[str, Any]:
    """Raises UsageError, OSError."""
    with open(path, "rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise UsageError(f"{escape(path)} is too large for a report")
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError(f"{escape(path)} is not JSON") from None
    version = found.get("version") if isinstance(found, Mapping) else None
    if isinstance(version, int) and version > 1:
        raise UsageError(f"{escape(path)} is of version {version}, which a newer pytest-fence has written")
    wrong = schema.misfit(found)
    if wrong:
        raise UsageError(f"{escape(path)} is not a report: {escape(wrong)}")
    read: dict[str, Any] = found
    return read


def _put(text: str, path: str | None) -> None:
    """Raises OSError."""
    data = text.encode("utf-8", "backslashreplace")
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        return
    temporary = f"{path}.{os.getpid()}.new"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
