"""What importing the policy costs: every start of a fenced run pays it, and a run without the fence almost nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ALREADY = "import json, pathlib"  # pytest has done that long ago; on some versions it brings ipaddress along
HEAVY = ("dataclasses", "idna", "ipaddress", "yaml", "tomllib", "tomli", "difflib", "socket", "inspect", "tempfile")


def loaded(code: str) -> set[str]:
    """What a fresh interpreter has imported after running the code."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_the_whole_package_imports_nothing_heavy() -> None:
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "fence_core/policy").rglob("*.py"))
    # `public` knows the networks of the world, and is loaded when it is asked about an address of a name.
    modules = [".".join(path.parts) for path in paths if path.name not in ("__init__", "public")]
    assert {"fence_core.policy.decide", "fence_core.policy.sources.load"} <= set(modules)
    found = loaded("".join(f"import {name}\n" for name in modules)) - loaded(ALREADY)
    assert "fence_core.policy.decide" in found
    assert "fence_core.policy.public" not in found
    assert not found & set(HEAVY)


def test_looking_for_a_config_imports_no_part_of_the_policy() -> None:
    found = loaded("from fence_core.config_files import mentions_fence\nmentions_fence('/')")
    assert {name for name in found if name.startswith("fence_core.")} == {"fence_core.config_files"}


PARSE = """
from fence_core.policy.model import Source
from fence_core.policy.sources.validate import parse_overlay
parse_overlay({'allowed_domains': ['a.b']}, source=Source(''), base_dir='')
"""


@pytest.mark.parametrize(
    "code",
    [
        "from fence_core.policy.domains import *; canonical_host('example.com'); canonical_host('10.0.0.1')",
        PARSE,
    ],
)
def test_ordinary_rules_need_no_help(code: str) -> None:
    assert not (loaded(code) - loaded(ALREADY)) & set(HEAVY)
