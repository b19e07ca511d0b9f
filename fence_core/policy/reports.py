"""Report files: which types there are, and where each goes by default. How they are made is in `report/files`."""

from __future__ import annotations

import os

__all__ = ["OFF", "TYPES", "parse_report", "report_parts"]

TYPES = {
    "json": "fence-report.json",
    "html": "fence-report.html",
    "markdown": "fence-report.md",
    "sarif": "fence-report.sarif",
    "gitlab": "gl-code-quality-report.json",
    "concise": "",
    "github": "",
}
"""Each with the file that it goes to where none is named; empty: standard output, of ``github`` what the step has."""
OFF = ""
"""In a list of reports: none at all, whatever else there is."""
_NO_PLACES = ("/dev/std", "/dev/fd/", "/proc/")
"""Links to what a process has open."""


def parse_report(text: str, base: str) -> str:
    """``TYPE`` or ``TYPE:FILE``, with an absolute path as far as a file is written. Raises ValueError."""
    name, colon, path = text.partition(":")
    if name not in TYPES:
        raise ValueError(f"is not a type of report ({', '.join(TYPES)})")
    if name == "github" and colon:
        raise ValueError("has a file: GitHub's step has its own channels")
    if colon and not path:
        raise ValueError("has no file after its colon")
    path = os.path.expanduser(path or TYPES[name])
    if not path:
        return name
    path = os.path.normpath(os.path.join(base, path))
    if path.startswith(_NO_PLACES) or (os.path.exists(path) and not os.path.isfile(path)):
        raise ValueError("names what is not a file, and cannot be replaced by one")
    return f"{name}:{path}"


def report_parts(parsed: str) -> tuple[str, str]:
    """Type and file of what `parse_report` has given."""
    name, _, path = parsed.partition(":")
    return name, path
