"""`fence explain last`: the violations of the last run, from pytest's cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.command.conftest import Command
from tests.end_to_end.support import Runs

TESTS = """
import os, socket, pytest

@pytest.mark.parametrize("n", range(7))
def test_many(n):
    with pytest.raises(OSError):
        socket.getaddrinfo("api.nosuch.test", 443)

def test_write():
    with pytest.raises(OSError):
        os.mkdir("OUTSIDE/x")
"""


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")])
def test_the_last_run(runs: Runs, tmp_path_factory: pytest.TempPathFactory, workers: tuple[str, ...]) -> None:
    outside = tmp_path_factory.mktemp("outside")
    fence = Command(runs)
    ended = fence("explain", "last")
    assert (ended.status, ended.out) == (2, ""), ended
    assert ended.err.startswith("fence: no run of pytest --fence has been refused anything here"), ended
    path = Path(runs.directory, "test_x.py")
    path.write_text(TESTS.replace("OUTSIDE", str(outside)))
    Path(runs.directory, "pyproject.toml").write_text(f'[tool.fence]\ndeny_write = ["{outside}"]\n')
    assert runs.pytest(*workers).status == 1
    (runs.directory / "sub").mkdir()
    ended = fence("explain", "last", cwd=runs.directory / "sub")
    assert (ended.status, ended.err) == (1, ""), ended
    ended.has(
        "^refused: resolve api.nosuch.test$",
        "^  no rule in network.allowed_domains allows it",
        r"^  in test_x.py::test_many\[0\]$",
        "^  and 2 more tests$",
        r'^  to allow it: @pytest.mark.fence\(allowed_domains=\["api.nosuch.test"\]\)$',
        f"^refused: mkdir {outside}/x$",
        r"^  in test_x.py::test_write \(\.\./test_x.py:11\)$",
    )
    told = json.loads(fence("explain", "--json", "last").out)
    assert {each["what"] for each in told} == {"resolve api.nosuch.test", f"mkdir {outside}/x"}
    path.write_text("def test_nothing(): pass")
    assert runs.pytest(*workers).status == 0
    assert fence("explain", "last").out == "the last run was refused nothing\n"
    kept = next(Path(runs.directory).glob(".pytest_cache/v/fence/last"))
    for text in "{", "[]", '{"v": 1, "violations": [{"number": 0}]}', '{"v": 2, "violations": []}':
        kept.write_text(text)
        ended = fence("explain", "last")
        assert (ended.status, ended.out) == (2, ""), ended
        assert " cannot be read: " in ended.err


def test_nothing_is_kept_of_a_clean_run(runs: Runs) -> None:
    Path(runs.directory, "test_x.py").write_text("def test_nothing(): pass")
    assert runs.pytest().status == 0
    assert (runs.directory / ".pytest_cache").exists()
    assert not (runs.directory / ".pytest_cache" / "v" / "fence").exists()
