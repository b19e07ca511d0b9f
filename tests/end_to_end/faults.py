"""Runs of an engine that a script has changed before it calls pytest: no switch for such faults exists."""

from __future__ import annotations

import textwrap
from typing import Any

from tests.end_to_end.support import Ended, Runs

HEAD = """
    import errno, os, sys
    import pytest
    from fence_core.broker import assemble, delivery, loop, table
    from fence_core.broker.services import control, name_server
    from fence_core.errors import KernelCallError
    from fence_core.kernel import seccomp
    from fence_core.launcher import supervisor
"""


def faulty_command(runs: Runs, fault: str, test: str, *args: str) -> list[str]:
    """The command for a run of an engine to which `fault` was done."""
    script = textwrap.dedent(HEAD) + textwrap.dedent(fault) + "\nsys.exit(pytest.main(sys.argv[1:]))\n"
    (runs.directory / "faulty.py").write_text(script, encoding="utf-8")
    (runs.directory / "test_it.py").write_text(textwrap.dedent(test), encoding="utf-8")
    python, *rest = runs.argv(["-p", "no:cacheprovider", *args], fenced=True)
    return [python, "faulty.py", *rest[2:]]


def faulty(runs: Runs, fault: str, test: str, *args: str, **options: Any) -> Ended:
    """Such a run."""
    return runs.command(*faulty_command(runs, fault, test, *args), **options)
