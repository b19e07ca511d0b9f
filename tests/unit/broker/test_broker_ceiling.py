"""The ceiling: what the kernel's own rules can be told of, and what of it can be relied on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fence_core.broker.paths.ceiling import DEVICES, FILE, TREE, Ceiling, existing


@pytest.fixture
def place(tmp_path: Path) -> Path:
    root = tmp_path.resolve()
    (root / "tree" / "inner").mkdir(parents=True)
    (root / "trees").mkdir()
    (root / "file").touch()
    (root / "link").symlink_to("tree")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize(
    ("name", "only_open", "what"),
    [
        ("tree", False, TREE),
        ("tree", True, DEVICES),
        ("file", False, FILE),
        ("file", True, FILE),
        ("missing", False, None),
        ("link", False, None),
        ("link/inner", False, None),
        ("pipe", False, None),
    ],
)
def test_what_a_place_is(place: Path, name: str, only_open: bool, what: str | None) -> None:
    assert existing([(f"{place}/{name}", only_open)]) == ([(f"{place}/{name}", what)] if what else [])


def test_what_lies_in_a_tree_needs_no_rule(place: Path) -> None:
    given = [(f"{place}/tree/inner", False), (f"{place}/tree", False), (f"{place}/trees", False), (f"{place}", True)]
    assert existing(given) == [(f"{place}", DEVICES), (f"{place}/tree", TREE), (f"{place}/trees", TREE)]


def test_the_whole_is_a_tree(place: Path) -> None:
    assert existing([("/", False), (f"{place}/tree", False)]) == [("/", TREE)]
    everything = Ceiling([("/", TREE)])
    assert everything.covers("/anything/at/all")


def test_a_device_is_a_file() -> None:
    assert existing([("/dev/null", True)]) == [("/dev/null", FILE)]


@pytest.fixture
def ceiling(place: Path) -> Ceiling:
    return Ceiling([(f"{place}/tree", TREE), (f"{place}/file", FILE), (f"{place}/trees", DEVICES)])


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        ("tree/x", True),
        ("tree/inner/x/y", True),
        ("tree", False),
        ("treetop", False),
        ("file", False),
        ("trees/x", False),
        ("other", False),
    ],
)
def test_where_names_may_be_made(ceiling: Ceiling, place: Path, path: str, covered: bool) -> None:
    assert ceiling.covers(f"{place}/{path}") == covered


def test_which_files_may_be_written(ceiling: Ceiling, place: Path) -> None:
    assert ceiling.covers_file(f"{place}/tree/x", -1)
    assert ceiling.covers_file(f"{place}/trees/tty", -1)
    assert not ceiling.covers_file(f"{place}/file", -1), "it must be that very file"
    with open(place / "file", "rb") as file:
        assert ceiling.covers_file(f"{place}/file", file.fileno())
        assert not ceiling.covers_file(f"{place}/other", file.fileno())
    (place / "new").touch()
    os.replace(place / "new", place / "file")
    with open(place / "file", "rb") as file:
        assert not ceiling.covers_file(f"{place}/file", file.fileno()), "a rule binds an inode"


def test_no_floor_covers_everything() -> None:
    nothing = Ceiling(None)
    assert not nothing.floor
    assert nothing.covers("/etc/passwd")
    assert nothing.covers_file("/etc/passwd", -1)
    assert Ceiling([]).floor
    assert not Ceiling([]).covers("/etc/passwd")


@pytest.mark.parametrize(
    ("moved", "left"),
    [
        ("tree", {"file", "trees"}),
        ("file", {"tree", "trees"}),
        ("", {"file", "trees"}),
        ("tree/inner", {"tree", "file", "trees"}),
        ("tre", {"tree", "file", "trees"}),
    ],
)
def test_what_was_moved_is_relied_on_no_longer(ceiling: Ceiling, place: Path, moved: str, left: set[str]) -> None:
    ceiling.forget(f"{place}/{moved}".rstrip("/"))
    assert {os.path.relpath(path, place) for path, _ in ceiling.places()} == left
    assert ceiling.covers(f"{place}/tree/x") == ("tree" in left)


PLACES = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts)))


@given(PLACES, st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)))
def test_what_is_covered_lies_in_a_tree(places: list[str], path: str) -> None:
    ceiling = Ceiling([(place, TREE) for place in places])
    assert ceiling.covers(path) == any(path != place and path.startswith(place + "/") for place in places)
    assert sorted(ceiling.places()) == sorted((place, TREE) for place in places)
    ceiling.forget(path)
    left = [place for place in places if place != path and not place.startswith(path + "/")]
    assert sorted(ceiling.places()) == sorted((place, TREE) for place in left)
