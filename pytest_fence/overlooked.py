"""Fence configuration that is not in force for the tests that lie beside it or below it: see `docs/reference`.

One run has one policy, that of pytest's root directory. A monorepo may have more of them, in the directories of its
packages, and a run from the top reads none of those: rules that somebody wrote would not be kept, and nobody would be
told. So it is an error, raised before anything of that directory is imported.

Imported in every pytest process, fenced or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from fence_core.config_files import Directories, mentions_fence

if TYPE_CHECKING:
    from pytest_fence.engine import Config, Problem


def of_arguments(config: pytest.Config) -> Iterator[str]:
    """The directories of what the command line names, or pytest takes instead, and those between them and the root.

    The working directory too, if the root lies below and has no configuration of pytest's: some empty `setup.py` is
    enough to make a directory the root.
    """
    here = os.fspath(config.invocation_params.dir)
    root = os.fspath(config.rootpath)
    directories = Directories(root)
    if config.inipath is None and root.startswith(here.rstrip(os.sep) + os.sep):
        yield from directories.up(here)
    for path in given(config):
        if not os.path.isdir(path):
            yield from directories.up(os.path.dirname(path))
            continue
        yield from directories.up(path)
        for below in _with_early_conftests(path):
            yield from directories.up(below)


def given(config: pytest.Config) -> list[str]:
    """What the command line names, or pytest takes instead, as absolute paths."""
    here = os.fspath(config.invocation_params.dir)
    testpaths = config.getini("testpaths") if here == os.fspath(config.rootpath) else ()
    words = config.known_args_namespace.file_or_dir or testpaths or ("",)
    return [os.path.normpath(os.path.join(here, str(word).partition("::")[0])) for word in words]


def _with_early_conftests(directory: str) -> list[str]:
    """Where pytest looks for a conftest as it does in a directory that it was given, before it collects anything."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.name.startswith("test") and entry.is_dir()]
    except OSError:
        return []


def problem(directory: str, config: pytest.Config, chosen: Config | None, *, fenced: bool = True) -> Problem | None:
    """What is wrong if this directory holds a config, beside the one that was `chosen` and those of the packages that
    it names; None if it holds none.

    Without a fence only a config that asks for one is missed. Raises PolicyError for one that cannot be read.
    """
    from pytest_fence import engine

    if chosen is not None and any(directory == package.directory for package in chosen.packages):
        return None
    found = engine.config_in(directory)
    if found is None or not (fenced or found[2]):
        return None
    path, source, _ = found
    here = config.invocation_params.dir
    place = os.path.relpath(directory, here)
    own = os.path.relpath(path, here)
    without = f"policy of this run: {chosen.source}" if chosen is not None and fenced else "this run has no fence"
    below = os.path.relpath(directory, config.rootpath)
    listed = "" if below.startswith("..") else f'packages = ["{below}"] in the root\'s own, to have its tests keep it; '
    return engine.Problem(
        os.path.normpath(os.path.join(place, source)),
        "",
        f"is not read, since pytest's rootdir is {config.rootpath} ({without})",
        f"{listed}--rootdir={place} to run the tests there by it; --fence-config={own}, or another file, to name the "
        f"policy of the whole run{'' if fenced else '; --no-fence'}",
    )


class Lookout:
    """In a fenced process: looks at the directories of what is collected."""

    def __init__(self, config: pytest.Config, chosen: Config) -> None:
        self._config = config
        self._chosen = chosen
        self._directories = Directories(os.fspath(config.rootpath))
        self._last = ""

    def problems(self, directory: str) -> list[str]:
        """What is wrong with this directory and those above it, as far as not told before."""
        if directory == self._last:
            return []
        self._last = directory
        found = (problem(each, self._config, self._chosen) for each in self._directories.up(directory))
        return [str(each) for each in found if each is not None]


class _UnfencedRun:
    """In a run without a fence: looks for a config that asks for one, in each directory that is collected."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._directories = Directories(os.fspath(config.rootpath))
        self._last = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        """Before anything of its directory is collected or imported."""
        if isinstance(collector, pytest.Directory):
            directory = str(collector.path)
        elif isinstance(collector, pytest.File):
            directory = str(collector.path.parent)
        else:
            return
        if directory != self._last:
            self._last = directory
            for each in self._directories.up(directory):
                if mentions_fence(each) is not None:
                    self._ask_for(each)

    def _ask_for(self, directory: str) -> None:
        """Slowly, with the parser."""
        from pytest_fence import engine, unusable

        try:
            found = problem(directory, self._config, None, fenced=False)
        except engine.PolicyError as error:
            problems = [str(each) for each in error.problems]
        else:
            problems = [] if found is None else [str(found)]
        if problems:
            unusable.refuse(self._config, "the fence's policy cannot be used:", problems)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """A worker of pytest-xdist collects the tests, and may have found such a config."""
        from pytest_fence import unusable

        unusable.heed(node)


def look_out_unfenced(config: pytest.Config) -> None:
    """Nobody has asked for a fence so far, nor said that there is to be none."""
    config.pluginmanager.register(_UnfencedRun(config), "fence-overlooked")
