"""The reference pages name every option, key, layer and preset there is, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fence_core.kernel import features
from fence_core.policy.model import NOT_SUPPORTED_YET
from fence_core.policy.templates import template_names
from fence_core.policy.validate import KEYS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def section(page: Path, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"{page.name} has no section {title!r}"
    return found[1]


def first_column(text: str) -> set[str]:
    """Everything in backquotes in the first cells of the tables."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_options(pytestconfig: pytest.Config) -> None:
    documented = {name.partition("=")[0] for name in first_column((REFERENCE / "options.md").read_text("utf-8"))}
    options = {name for name in documented if name.startswith("--")}
    parser = pytestconfig._parser  # there is no public list of options
    real = {name for option in parser.getgroup("fence").options for name in option.names()}
    assert options == real


def test_layers() -> None:
    assert first_column(section(REFERENCE / "options.md", "Layers")) == set(features.NAMES)


@pytest.mark.parametrize(("title", "of"), [("How to run", ""), ("network", "network"), ("filesystem", "filesystem")])
def test_keys(title: str, of: str) -> None:
    documented = first_column(section(REFERENCE / "configuration.md", title))
    real = {key.name for key in KEYS if key.section == of and key.path not in NOT_SUPPORTED_YET}
    assert documented == real - {"allow_pty"}  # a shorthand, in the text


def test_keys_that_are_not_enforced_yet() -> None:
    text = section(REFERENCE / "configuration.md", "Understood, but not enforced yet")
    assert set(re.findall(r"`([a-z_.]+)`", text)) == NOT_SUPPORTED_YET


def test_presets() -> None:
    assert first_column(section(ROOT / "docs" / "concepts.md", "The policy")) == set(template_names())
