"""Programs of this Python in a process of their own: with the same paths, and nothing of the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SECONDS", "last_line", "python", "run"]

SECONDS = 120


def python(module: str) -> list[str]:
    """A command that calls the function `main` of this module, with the words that are put behind it."""
    return [
        sys.executable, "-I", "-c",
        f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; sys.exit(main())",
    ]  # fmt: skip


def run(
    argv: Sequence[str], env: Mapping[str, str], *, stdin: str = "", cwd: str | None = None
) -> tuple[int, str, str]:
    """Exit status, and what it has written. What fails here is told on the standard error that is returned."""
    try:
        ended = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, errors="replace", timeout=SECONDS, env=env, cwd=cwd
        )
    except subprocess.TimeoutExpired:
        return 1, "", f"it has not ended within {SECONDS} s"
    except OSError as error:
        return 1, "", f"{os.path.basename(argv[0])} could not be started: {error.strerror}"
    return ended.returncode, ended.stdout, ended.stderr


def last_line(text: str) -> str:
    """The last line that says something, as one line of ours."""
    lines = [line for line in text.splitlines() if line.strip()]
    return escape(lines[-1].strip().removeprefix("fence: ").removeprefix("ERROR: ")) if lines else ""
