"""Way out: giving a directory another name, and with it all that lies in it, so that rules do not find it any more."""

from __future__ import annotations

import textwrap

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.faults import faulty
from tests.end_to_end.support import Runs

HEAD = """
import ctypes, os
import pytest

libc = ctypes.CDLL(None, use_errno=True)

def exchange(one, other):
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

def write(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write("planted")
"""

POLICY = """
[tool.fence]
extends = "pytest"
allow_write = ["."]
"""


def test_denied_for_writing(fenced: Fenced) -> None:
    """By the name of the file itself, of a directory around it, and by a glob."""
    for name in "a/b/kept", "c/d/x.key", "e/deep/er/kept", "free/file":
        fenced.write(name, "as it was")
    run = fenced.run(
        HEAD
        + """
MOVES = {
    "directory": lambda: os.rename("a", "a2"),
    "exchanged": lambda: exchange("free", "a"),
    "exchanged back": lambda: exchange("a", "free"),
    "glob": lambda: os.rename("c", "c2"),
    "deep": lambda: os.rename("e", "e3"),
    "the file": lambda: os.rename("c/d/x.key", "c/d/y"),
}

@pytest.mark.parametrize("how", MOVES)
def test_move(how):
    with pytest.raises(PermissionError):
        MOVES[how]()

def test_to_a_denied_name():
    write("mine/deep/er/kept")
    with pytest.raises(PermissionError):
        os.rename("mine", "e3")

def test_others():
    write("other/file")
    os.rename("other", "another")
    exchange("another", "free")
    assert os.path.exists("free/file")
    exchange("another", "free")
""",
        policy=POLICY + 'deny_write = ["a/b", "*.key", "./e*/deep/er/kept"]\n',
    )
    here = fenced.directory
    for how, what in {
        "directory": "rename {}/a, which holds b",
        "exchanged": "rename {}/a, which holds b",
        "exchanged back": "rename {}/a, which holds b",
        "glob": "rename {}/c, which holds d/x.key",
        "deep": "rename {}/e, which holds deep/er/kept",
        "the file": "rename {}/c/d/x.key",
    }.items():
        run.refused(f"test_move[{how}]", what.format(here))
    run.refused("test_to_a_denied_name", f"rename {here}/mine, which holds deep/er/kept")
    run.clean("test_others")
    assert 'filesystem.deny_write "a/b"' in run.out


def test_protected_names_from_a_free_place(fenced: Fenced, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Below the directories for temporary files the names are free: what has been made there stays there."""
    fenced.write("kept/.vscode/tasks.json", "as it was")
    free = tmp_path_factory.mktemp("free")
    run = fenced.run(
        HEAD
        + """
HERE = os.getcwd()

@pytest.mark.parametrize("name", [".git/hooks/pre-commit", "deep/.vscode/tasks.json", ".git/config"])
@pytest.mark.parametrize("how", ["rename", "exchange"])
def test_in(name, how, tmp_path):
    write(f"{tmp_path}/tree/{name}")
    os.makedirs("mine", exist_ok=True)
    with pytest.raises(PermissionError):
        exchange("mine", f"{tmp_path}/tree") if how == "exchange" else os.rename(f"{tmp_path}/tree", "new")

@pytest.mark.parametrize("kind", ["link", "file"])
def test_in_as_a_link(tmp_path, kind):
    write(f"{tmp_path}/hooks/pre-commit")
    os.mkdir(f"{tmp_path}/tree")
    os.symlink(tmp_path, f"{tmp_path}/tree/.git") if kind == "link" else write(f"{tmp_path}/tree/.git")
    with pytest.raises(PermissionError):
        os.rename(f"{tmp_path}/tree", "new")

def test_out(tmp_path):
    with pytest.raises(PermissionError):
        os.rename("kept", f"{tmp_path}/kept")

def test_among_free_places(tmp_path):
    write(f"{tmp_path}/tree/.git/hooks/pre-commit")
    os.rename(f"{tmp_path}/tree", f"{tmp_path}/other")
    write(f"{tmp_path}/other/.git/hooks/pre-push")

def test_within_the_project():
    os.rename("kept", "kept2")
    with pytest.raises(PermissionError):
        open("kept2/.vscode/tasks.json", "w")
    os.rename("kept2", "kept")

def test_harmless(tmp_path):
    write(f"{tmp_path}/tree/package/module.py")
    os.rename(f"{tmp_path}/tree", "tree")
    os.rename("tree", f"{tmp_path}/tree")
""",
        f"--basetemp={free}",
        policy=POLICY,
    )
    for how in "rename", "exchange":
        for name, holds in (
            (".git/hooks/pre-commit", ".git/hooks"),
            ("deep/.vscode/tasks.json", "deep/.vscode"),
            (".git/config", ".git/config"),
        ):
            (found,) = run.attempts(f"test_in[{how}-{name}]")
            assert found.what.endswith(f"/tree, which holds {holds}"), run
            run.blamed(f"test_in[{how}-{name}]")
    for kind in "link", "file":
        (found,) = run.attempts(f"test_in_as_a_link[{kind}]")
        assert found.what.endswith("/tree, which holds .git"), run
    run.refused("test_out", f"rename {fenced.directory}/kept, which holds .vscode")
    run.clean("test_among_free_places", "test_harmless")
    run.refused("test_within_the_project", f"write {fenced.directory}/kept2/.vscode/tasks.json")
    assert (fenced.directory / "kept/.vscode/tasks.json").read_text() == "as it was"


BOUNDS = {
    "entries": ("trees.ENTRIES_MAX = 4", "it has more than 4 entries"),
    "time": ("trees.SECONDS_MAX = -1", "that takes longer than -1 seconds"),
    "just enough": ("trees.ENTRIES_MAX = 5", ""),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_too_much_to_look_through(runs: Runs, bound: str) -> None:
    fault, says = BOUNDS[bound]
    for name in "many/a", "many/b", "many/c/d/e":
        (runs.directory / name).mkdir(parents=True)
    (runs.directory / "pyproject.toml").write_text(POLICY + 'deny_write = ["*.key"]\n')
    test = """
        def test_move():
            os.rename("many", "more")

        def test_file():
            open("one", "w").close()
            os.rename("one", "other")
    """
    fault = "from fence_core.broker.calls import trees\n" + fault
    ended = faulty(runs, fault, "import os\n" + textwrap.dedent(test), "-rA")
    assert "PASSED test_it.py::test_file" in ended.out, ended
    assert (runs.directory / "more/c/d/e").is_dir() == (not says), ended
    if says:
        assert f"refused: what lies in it has to be looked through, and {says}" in ended.out, ended
        assert f"rename {runs.directory}/many" in ended.out, ended
