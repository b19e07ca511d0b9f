"""How the supervisor leaves a report file: checked at the start, in one step at the end, and from what it may read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fence_core.launcher.report_files import _append, _held, _replace, unwritable
from fence_core.launcher.run_facts import ci, policy_digest, read_source
from fence_core.policy.model import Entry, FilesystemRules, NetworkRules, Policy, Source
from fence_core.policy.reports import parse_report, report_parts


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("json", "json:/base/fence-report.json"),
        ("json:build/a.json", "json:/base/build/a.json"),
        ("sarif:/x/../y.sarif", "sarif:/y.sarif"),
        ("concise", "concise"),
        ("concise:c.txt", "concise:/base/c.txt"),
        ("github", "github"),
        ("markdown:a:b", "markdown:/base/a:b"),
    ],
)
def test_what_is_asked_for(text: str, parsed: str) -> None:
    assert parse_report(text, "/base") == parsed
    assert parse_report(parsed, "/other") == parsed
    assert ":".join(filter(None, report_parts(parsed))) == parsed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("jsno", "is not a type of report (json, html, markdown"),
        ("", "is not a type of report"),
        ("json:", "has no file after its colon"),
        ("github:x", "GitHub's step has its own channels"),
        ("json:/", "names what is not a file"),
        ("json:/dev/null", "names what is not a file"),
        ("json:/dev/stdout", "names what is not a file"),
        ("json:/proc/self/fd/1", "names what is not a file"),
    ],
)
def test_what_cannot_be_asked_for(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse_report(text, "/base")
    assert why in str(caught.value)


def test_directories_are_made_and_checked(tmp_path: Path) -> None:
    assert unwritable(["concise", "github", f"json:{tmp_path}/a/b/c.json"]) == ""
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    assert unwritable([f"json:{tmp_path}/file/c.json"]).endswith("file is not a directory")
    assert "cannot be written: " in unwritable([f"json:{tmp_path}/file/b/c.json"])


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    old, other = tmp_path / "r.json", tmp_path / "other"
    other.write_text("other")
    old.symlink_to(other)
    directory, problem = _held(str(old))
    assert (problem, old.is_symlink()) == ("", False)  # what an earlier run has left
    old.symlink_to(other)
    _replace("r.json", b"new", directory)
    assert old.read_bytes() == b"new"
    assert not old.is_symlink()
    assert other.read_text() == "other"
    assert sorted(os.listdir(tmp_path)) == ["other", "r.json"]
    # Whatever has become of the path to the directory.
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    tmp_path.mkdir()
    _replace("r.json", b"newer", directory)
    assert (moved / "r.json").read_bytes() == b"newer"
    os.close(directory)


def test_what_is_in_the_way_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.json").mkdir()
    directory, _ = _held(str(tmp_path / "r.json"))
    with pytest.raises(OSError):
        _replace("r.json", b"new", directory)
    assert os.listdir(tmp_path) == ["r.json"]
    os.close(directory)
    assert _held(str(tmp_path / "gone" / "r.json")) == (-1, "No such file or directory")


def test_what_others_write_to_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("theirs\n")
    directory, _ = _held(str(path), keep=True)
    _append("summary.md", b"ours\n", directory)
    assert path.read_text() == "theirs\nours\n"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        _append("summary.md", b"ours\n", directory)
    os.close(directory)


def test_only_modules_of_the_project_are_read(tmp_path: Path) -> None:
    """The path comes from inside."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "a.py").write_text("a\nb\n")
    (root / ".env").write_text("SECRET")
    (tmp_path / "out.py").write_text("SECRET")
    (root / "link.py").symlink_to(tmp_path / "out.py")
    (root / "env.py").symlink_to(root / ".env")
    os.mkfifo(root / "pipe.py")
    assert list(read_source(str(root / "a.py"), str(root)))[:2] == ["a\n", "b\n"]
    others = (".env", "link.py", "env.py", "pipe.py", "../out.py", "gone.py", "a\0.py")
    assert [list(read_source(f"{root}/{name}", str(root))) for name in others] == [[]] * len(others)
    assert not read_source(str(root / "a.py"), "")


def test_the_digest_is_that_of_the_project() -> None:
    """Equal on each machine that a shard runs on."""
    mine = Entry("api.test", Source("pyproject.toml [tool.fence]", "/a/pyproject.toml"))
    one = Policy(NetworkRules((mine,)), FilesystemRules(root="/a", home="/root", locked=("/a/pyproject.toml",)))
    preset = Entry("/root/.cache/**", Source("preset pytest"))
    other = Policy(NetworkRules((mine,)), FilesystemRules((preset,), root="/b", home="/home/kim"))
    assert policy_digest(one) == policy_digest(other)
    assert policy_digest(one) != policy_digest(Policy(NetworkRules((mine._replace(text="b.test"),))))


def test_where_it_ran() -> None:
    github = {"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "kim/shop",
              "GITHUB_RUN_ID": "7", "GITHUB_SHA": "3f2c", "GITHUB_REF_NAME": "main"}  # fmt: skip
    assert ci(github) == {
        "provider": "github", "url": "https://github.com/kim/shop/actions/runs/7", "commit": "3f2c", "branch": "main",
    }  # fmt: skip
    assert ci({"GITLAB_CI": "true", "CI_COMMIT_SHA": "3f2c"}) == {
        "provider": "gitlab", "url": None, "commit": "3f2c", "branch": None,
    }  # fmt: skip
    assert ci({}) is None
