"""Variables that are kept from the tests, what a run cannot do without, and who may be fenced at all."""

from __future__ import annotations

import gc
import os
import sys
import threading

import pytest

from fence_core.errors import FenceUnavailable, PolicyError
from fence_core.kernel import environment, features, process
from fence_core.kernel.features import NAMES, Feature, Features
from fence_core.launcher import needed, obstacles, set_aside, withhold
from fence_core.launcher.needed import Kept, check_needed
from fence_core.launcher.plan import Host
from fence_core.policy.model import Config, Entry, FilesystemRules, Policy, Settings, Source

SOURCE = Source("pyproject.toml [tool.fence]")
HOST = Host("pytest", starts_by=("PYTEST_", "PYTHON"))


def settings(*patterns: str, **more: object) -> Settings:
    return Settings(env_deny=tuple(Entry(text, SOURCE) for text in patterns), **more)  # type: ignore[arg-type]


def config(found: Settings, **files: tuple[str, ...]) -> Config:
    rules = {key: tuple(Entry(text, SOURCE) for text in texts) for key, texts in files.items()}
    return Config(Policy(filesystem=FilesystemRules(**rules)), found, SOURCE.name)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name in ("API_TOKEN", "PATH", "PYTHONPATH", "PYTEST_PLUGINS"):
        monkeypatch.setenv(name, "x")


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Instead of removing them from this process."""
    found: list[str] = []

    def remove(chosen: object) -> tuple[str, ...]:
        found.extend(sorted(filter(chosen, os.environ)))  # type: ignore[arg-type]
        return tuple(found)

    monkeypatch.setattr(environment, "remove", remove)
    return found


def on_kernel(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    found = Features((Feature(name, name not in missing, "ABI 5") for name in NAMES), 5)
    monkeypatch.setattr(features, "detect", lambda: found)


def test_names_are_matched_whatever_the_mode() -> None:
    assert withhold.variables_denied(settings("*TOKEN", "P?TH", mode="audit")) == ("API_TOKEN", "PATH")
    assert withhold.variables_denied(settings()) == ()


def test_they_are_withheld(monkeypatch: pytest.MonkeyPatch, removed: list[str]) -> None:
    on_kernel(monkeypatch)
    assert withhold.withhold(settings("*TOKEN")) == ("API_TOKEN",)


@pytest.mark.parametrize("found", [settings("*", mode="audit"), settings()])
def test_nothing_to_withhold(found: Settings, monkeypatch: pytest.MonkeyPatch, removed: list[str]) -> None:
    on_kernel(monkeypatch, "landlock_scopes")
    assert withhold.withhold(found) == ()
    assert removed == []


def test_where_others_environments_are_open_it_is_refused(monkeypatch: pytest.MonkeyPatch, removed: list[str]) -> None:
    """The shell that started pytest has the same variables."""
    on_kernel(monkeypatch, "landlock_scopes")
    with pytest.raises(FenceUnavailable, match="ABI 5"):
        withhold.withhold(settings("*TOKEN"))
    assert removed == []


def test_a_command_that_is_started_again_keeps_what_it_starts_by() -> None:
    with pytest.raises(PolicyError) as caught:
        withhold.check_restart(config(settings("PYTHON*", "API_*", "PY*NS")), HOST)
    assert [problem.found.partition(",")[0] for problem in caught.value.problems] == [
        '"PYTHON*" takes PYTHONPATH away',
        '"PY*NS" takes PYTEST_PLUGINS away',
    ]
    withhold.check_restart(config(settings("API_*")), HOST)
    withhold.check_restart(config(settings("*", mode="audit")), HOST)
    withhold.check_restart(config(settings("PYTHON*")), Host("make", starts_by=("MAKE",)))


# ---------------------------------------------------------------- what a run needs


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needed, "_loaded", lambda: iter(()))
    monkeypatch.setattr(needed, "_mapped", lambda library: iter(()))


def problems(found: Config, places: tuple[tuple[str, str], ...] = (), kept: Kept | None = None) -> list[str]:
    try:
        check_needed(found, places, captures=False, kept=kept)
    except PolicyError as error:
        return [problem.found for problem in error.problems]
    return []


WRITES_NULL = {"allow_write": ("/dev/null",)}


def test_the_null_device_is_written() -> None:
    assert problems(config(settings(), **WRITES_NULL)) == []
    assert "/dev/null" in "".join(problems(config(settings())))


def test_places_are_read_where_reading_is_judged(nothing_loaded: None) -> None:
    place = ("the project", "/srv/project")
    assert problems(config(settings(), **WRITES_NULL), (place,)) == []
    found = problems(config(settings(), deny_read=("/srv/**",), **WRITES_NULL), (place,))
    assert len(found) == 1
    assert "the project" in found[0]


def test_an_audit_needs_nothing() -> None:
    assert problems(config(settings(mode="audit"), deny_read=("/**",)), (("x", "/x"),)) == []


def test_variables_that_must_stay() -> None:
    kept = Kept(frozenset({"PYTEST_PLUGINS", "PYTHONHOME"}), "or workers do not start")
    found = problems(config(settings("PY*"), **WRITES_NULL), kept=kept)
    assert found == ['"PY*" takes PYTEST_PLUGINS away, or workers do not start']
    assert problems(config(settings("API_*"), **WRITES_NULL), kept=kept) == []


@pytest.mark.parametrize(("withheld", "expected"), [((), "/t1"), (("TMPDIR",), "/t2"), (("T*MP*",), "/tmp")])
def test_where_temporary_files_go(withheld: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variables that are left."""
    monkeypatch.setenv("TMPDIR", "/t1")
    monkeypatch.setenv("TEMP", "/t2")
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    if withheld == ("T*MP*",):
        monkeypatch.delenv("TMPDIR")
        monkeypatch.delenv("TEMP")
    assert needed._temporary(settings(*withheld)) == expected


# ---------------------------------------------------------------- who may be fenced


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda path: [str(os.getpid())])
    monkeypatch.setattr(process, "children", list)


def test_a_process_that_is_alone_may(alone: None) -> None:
    assert obstacles.obstacles() == ()


def test_what_a_fork_would_lose(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda path: [str(os.getpid()), "5000001"])
    monkeypatch.setattr(process, "children", lambda: [5000002, 5000003])

    def program_name(pid: int) -> str:
        if pid == 5000003:
            raise ProcessLookupError
        return "make"

    monkeypatch.setattr(process, "program_name", program_name)
    assert obstacles.obstacles() == (
        "another thread is running: not started by Python (native id 5000001)",
        "a child process exists already: make (pid 5000002)",
    )


def test_not_from_another_thread(alone: None) -> None:
    found: list[tuple[str, ...]] = []
    thread = threading.Thread(target=lambda: found.append(obstacles.obstacles()), name="other")
    thread.start()
    thread.join()
    assert found == [("this is not the main thread but 'other'",)]


def test_what_a_kernel_has_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    on_kernel(monkeypatch, "wait_killable")
    assert obstacles.check_layers(("", "landlock")).landlock_abi == 5
    with pytest.raises(FenceUnavailable, match="wait_killable"):
        obstacles.check_layers(("wait-killable",))
    on_kernel(monkeypatch, "ptrace")
    with pytest.raises(FenceUnavailable, match="ptrace"):
        obstacles.check_layers(())


@pytest.mark.parametrize("flags", ["t", "td"])
def test_free_threaded_builds_are_refused(flags: str) -> None:
    with pytest.raises(FenceUnavailable, match="free-threaded Python: the fence does not support this build"):
        obstacles.known_interpreter(flags)


@pytest.mark.parametrize("flags", ["", "d", sys.abiflags])
def test_other_builds_are_not(flags: str) -> None:
    obstacles.known_interpreter(flags)


# ---------------------------------------------------------------- what the collector is spared


def test_frozen_objects_come_back_when_they_are_asked_for() -> None:
    gc.unfreeze()
    gc.collect()
    apart = gc.get_freeze_count()  # Python 3.12 keeps from the collector what lives for ever
    set_aside.set_aside()
    set_aside.give_back_when_asked()
    try:
        assert gc.get_freeze_count() > apart
        set_aside._before_collection("start", {"generation": 0})
        set_aside._before_collection("stop", {"generation": 2})
        assert gc.get_freeze_count() > apart
        gc.collect()
        assert gc.get_freeze_count() == apart
        assert set_aside._before_collection not in gc.callbacks
    finally:
        set_aside.keep_set_aside()
        gc.unfreeze()


def test_after_the_session_they_stay() -> None:
    set_aside.set_aside()
    set_aside.give_back_when_asked()
    try:
        set_aside.keep_set_aside()
        before = gc.get_freeze_count()
        gc.collect()
        assert gc.get_freeze_count() > before // 2 > 0, "some of them have ended meanwhile"
    finally:
        gc.unfreeze()
