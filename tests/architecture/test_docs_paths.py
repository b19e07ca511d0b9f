"""Paths, links and options that the documentation names exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = ("fence_core", "pytest_fence", "tests", "docs", "examples", "benchmarks", "changelog.d", ".ci")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def named_paths(text: str) -> Iterator[str]:
    """Inline code that is a path of this repository."""
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        candidate = re.sub(r"(::|:\d).*$", "", span)
        if re.fullmatch(r"[\w.*{},/-]+", candidate) and candidate.startswith(tuple(f"{top}/" for top in TOP)):
            yield candidate


def links(text: str) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            yield target.partition("#")[0]


def there(base: Path, pattern: str) -> bool:
    braces = re.search(r"\{([^}]*)\}", pattern)
    if braces:
        return all(there(base, pattern.replace(braces[0], choice.strip(), 1)) for choice in braces[1].split(","))
    return any(base.glob(pattern.rstrip("/"))) if "*" in pattern else (base / pattern).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_paths_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    gone = [name for name in named_paths(text) if not there(ROOT, name)]
    gone += [target for target in links(text) if not there(page.parent, target)]
    assert not gone, f"{page.relative_to(ROOT)} names what does not exist: {gone}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        todo += [(page.parent / target).resolve() for target in links(page.read_text(encoding="utf-8"))]
    lost = {page for page in PAGES if page.parent != ROOT} - reached
    assert not lost, sorted(page.relative_to(ROOT).as_posix() for page in lost)


def test_a_missing_path_is_found() -> None:
    text = "see `fence_core/nowhere.py`, `docs/{a,b}.md`, [x](gone.md) and `tests/architecture/test_docs_paths.py::x`"
    assert [there(ROOT, name) for name in named_paths(text)] == [False, False, True]
    assert list(links(text)) == ["gone.md"]
