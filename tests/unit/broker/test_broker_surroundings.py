"""Environments of Python and sockets of others: what the policy allows and what lies there forbids."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fence_core.broker.call import Call
from fence_core.broker.paths import repositories, surroundings
from fence_core.broker.paths.resolve import Located
from tests.unit.broker.kit import Sessions, call, sessions


@pytest.fixture
def nested() -> Iterator[Sessions]:
    with sessions() as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path.resolve()


Asked = Callable[..., Call]


@pytest.fixture
def asked(nested: Sessions, place: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setattr(repositories, "is_free_place", lambda call, path: False)
    account = nested.account({"filesystem": {"allow_write": [str(place)]}})

    def make(*, started: float, of_others: bool = False) -> Call:
        unix = SimpleNamespace(is_of_others=lambda status, path: of_others)
        return call(account, started=started, unix=unix)

    return make


LATER, EARLIER = 1e6, -1e6
"""The run began so long after, or before, what lies there was made."""


def environment(place: Path, mark: str = "pyvenv.cfg") -> Path:
    root = place / "env"
    (root / mark).parent.mkdir(parents=True, exist_ok=True)
    (root / mark).touch()
    (root / "bin").mkdir(exist_ok=True)
    (root / "lib" / "python3" / "site-packages").mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("op", "path", "refused"),
    [
        ("create", "bin/python", True),
        ("open", "bin/activate", True),
        ("unlink", "bin/python", True),
        ("create", "lib/python3/site-packages/evil.pth", True),
        ("open", "lib/python3/site-packages/package/__init__.py", True),
        ("open", "pyvenv.cfg", True),
        ("rename", "bin", True),
        ("rename", "lib", True),
        ("rename", "lib/python3/site-packages", True),
        ("rename", "", True),
        ("create", "share/man/x", False),
        ("create", "etc/conda/activate.d/x", True),
        ("create", "conda-meta/history", True),
        ("create", "binary", False),
    ],
)
@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta/history"])
def test_an_environment_that_was_there_is_left_alone(
    asked: Asked, place: Path, op: str, path: str, refused: bool, mark: str
) -> None:
    root = environment(place, mark)
    located = Located(f"{root}/{path}".rstrip("/"))
    found = surroundings.objection(asked(started=time.time() + LATER), op, located)
    assert (found is not None) == refused
    if found is not None:
        assert (found.known, found.around) == ("environment", str(root))
    assert surroundings.objection(asked(started=time.time() + EARLIER), op, located) is None, "it is the test's own"


def test_what_has_no_mark_is_none(asked: Asked, place: Path) -> None:
    root = environment(place)
    (root / "pyvenv.cfg").unlink()
    assert surroundings.objection(asked(started=time.time() + LATER), "create", Located(f"{root}/bin/python")) is None


def test_the_project_may_lie_below_a_bin(asked: Asked, place: Path) -> None:
    (place / "bin").mkdir()
    root = environment(place / "bin")
    found = surroundings.objection(asked(started=time.time() + LATER), "create", Located(f"{root}/bin/python"))
    assert found is not None
    assert found.around == str(root)


@pytest.mark.parametrize(
    ("op", "gets", "refused"),
    [("mkdir", True, True), ("rename", False, False), ("chmod", True, False), ("symlink", True, True)],
)
def test_nobody_takes_the_name_that_editors_look_for(
    asked: Asked, place: Path, op: str, gets: bool, refused: bool
) -> None:
    found = surroundings.objection(asked(started=0), op, Located(f"{place}/.venv"), gets=gets)
    assert (found is not None) == refused


@pytest.mark.parametrize(
    ("op", "refused"),
    [
        ("unlink", True),
        ("rename", True),
        ("chmod", True),
        ("open", False),
        ("create", False),
        ("link", False),
    ],
)
def test_sockets_of_others(asked: Asked, place: Path, op: str, refused: bool) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{place}/socket")
    handle = os.open(place / "socket", os.O_PATH)
    for located in (Located(f"{place}/socket"), Located(f"{place}/by another name", handle=handle)):
        found = surroundings.objection(asked(started=0, of_others=True), op, located)
        assert (found is not None and found.known == "socket") == refused
        assert surroundings.objection(asked(started=0), op, located) is None
    os.close(handle)


@pytest.mark.parametrize(("op", "refused"), [("rename", True), ("chmod", True), ("rmdir", False), ("utime", False)])
def test_directories_that_hold_one(asked: Asked, place: Path, op: str, refused: bool) -> None:
    holder = place / "tmux"
    holder.mkdir()
    assert surroundings.objection(asked(started=0, of_others=True), op, Located(str(holder))) is None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{holder}/default")
    found = surroundings.objection(asked(started=0, of_others=True), op, Located(str(holder)))
    assert (found is not None) == refused


def test_a_file_is_no_socket(asked: Asked, place: Path) -> None:
    (place / "file").touch()
    assert surroundings.objection(asked(started=0, of_others=True), "unlink", Located(f"{place}/file")) is None


@pytest.mark.parametrize(
    ("op", "path", "telling"),
    [
        ("open", "/project/env/bin/python", True),
        ("open", "/project/env/lib/python3/site-packages/x.py", True),
        ("open", "/project/pyvenv.cfg", True),
        ("mkdir", "/project/.venv", True),
        ("open", "/project/module.py", False),
        ("open", "/project/binary", False),
        ("unlink", "/project/missing", False),
    ],
)
def test_what_is_looked_at_closer(op: str, path: str, telling: bool) -> None:
    assert surroundings.is_telling(op, path) == telling


def test_whatever_is_refused_is_looked_at(asked: Asked, place: Path) -> None:
    """The quick question may say yes too often, and never no where `objection` has something to say."""
    root = environment(place)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{place}/socket")
    paths = [*(str(path) for path in root.rglob("*")), f"{place}/socket", f"{place}/.venv", f"{root}/bin/new"]
    for path in paths:
        for op in ("create", "open", "unlink", "mkdir"):
            asking = asked(started=time.time() + LATER, of_others=True)
            if surroundings.objection(asking, op, Located(path)) is not None:
                assert surroundings.is_telling(op, path), (op, path)
        if os.path.lexists(path) and surroundings.objection(asking, "rename", Located(path)) is not None:
            assert surroundings.is_telling_move(path, "/elsewhere") or surroundings.is_telling_move("/elsewhere", path)
