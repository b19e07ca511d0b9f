"""Importing `kernel` is safe anywhere and cheap; only calling it may fail."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from fence_core import kernel

ROOT = Path(kernel.__file__).parents[2]
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(kernel.__path__, f"{kernel.__name__}.") if not module.ispkg
)


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_importing_elsewhere_is_safe_and_calling_says_why(platform) -> None:
    """The platform's name is all that is changed, since the rest of such a machine is not here."""
    out = run(
        f"import ctypes, signal, sys; sys.platform = {platform!r}\n"
        "import importlib\n"
        f"for name in {MODULES!r}: importlib.import_module(name)\n"
        "from fence_core.errors import FenceUnavailable\n"
        "from fence_core.kernel import features, libc, memory\n"
        "for call in (features.detect, libc.set_no_new_privs, lambda: libc.syscall(0), lambda: memory.read(1, 1, 1)):\n"
        "    try: call()\n"
        "    except FenceUnavailable as error: print(error)\n"
    )
    lines = out.splitlines()
    assert len(lines) == 4
    assert all("Linux" in line for line in lines)


def test_importing_pulls_in_nothing_heavy() -> None:
    """Every fenced run pays for it. `typing` and `signal` are loaded in every pytest anyway, and so is what they and
    `ctypes` load when they are used (from Python 3.14 on)."""
    out = run(
        "import ctypes, typing, signal\n"
        "class Used(ctypes.Structure): _fields_ = [('field', ctypes.c_int)]\n"
        "class Named(typing.NamedTuple): field: int\n"
        "before = set(sys.modules)\n"
        "import importlib\n"
        "print('|'.join(sorted(set(sys.modules) - before)))\n"
        "before = set(sys.modules)\n"
        f"for name in {MODULES!r}: importlib.import_module(name)\n"
        "print('|'.join(sorted(m for m in set(sys.modules) - before if not m.startswith('fence_core'))))\n"
    )
    assert set(out.splitlines()[-1].split("|")) <= {"__future__", "errno", "fcntl"}


def test_only_libc_loads_the_c_library() -> None:
    for path in Path(kernel.__file__).parent.rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert path.name == "libc.py" or not names & {"CDLL", "PyDLL", "pythonapi", "LoadLibrary"}, path
