"""Which directories are looked at for configs that are not in force."""

from __future__ import annotations

from fence_core.config_files import Directories


def test_each_directory_once() -> None:
    directories = Directories("/top")
    assert list(directories.up("/top/a/b/c")) == ["/top/a/b/c", "/top/a/b", "/top/a"]
    assert list(directories.up("/top/a/b/c")) == []
    assert list(directories.up("/top/a/d")) == ["/top/a/d"]


def test_the_root_is_not_looked_at() -> None:
    assert list(Directories("/top").up("/top")) == []


def test_outside_of_the_root() -> None:
    """Up to what both lie in, which may be the project."""
    assert list(Directories("/top/ci").up("/top/tests/a")) == ["/top/tests/a", "/top/tests", "/top"]
    assert list(Directories("/top/ci").up("/top/ci2")) == ["/top/ci2", "/top"]
    assert list(Directories("/top/ci").up("/")) == ["/"]
    assert list(Directories("/top").up("/other")) == ["/other", "/"]
    assert list(Directories("/").up("/a")) == ["/a"]
