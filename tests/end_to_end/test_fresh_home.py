"""A home without ``~/.cache`` and the like, as on a new machine: what is made there, and what the report proposes."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_missing_directories_above(fenced: Fenced) -> None:
    """Those above an allowed path may be made, whoever allows it and however they are made, but nothing more."""
    run = fenced.run(
        """
        import os, pathlib, subprocess
        import pytest

        HOME = pathlib.Path.home()

        @pytest.mark.fence(allow_write=["~/.cache/thing"])
        def test_marker():
            place = HOME / ".cache" / "thing"
            place.mkdir(parents=True, exist_ok=True)
            (place / "x").write_text("1")

        def test_configuration():
            os.makedirs(HOME / ".local/share/app/deep")
            (HOME / ".local/share/app/deep/x").write_text("1")

        @pytest.mark.fence(allow_write=["~/.state/app/*.log"])
        def test_glob():
            subprocess.run(["mkdir", "-p", HOME / ".state/app"], check=True)
            (HOME / ".state/app/a.log").write_text("1")

        @pytest.mark.fence(allow_write=["~/a/b/c"])
        def test_beside():
            os.mkdir(HOME / "a")
            with pytest.raises(PermissionError):
                os.mkdir(HOME / "a/other")

        @pytest.mark.fence(allow_write=["~/d/e"])
        def test_file_of_that_name():
            with pytest.raises(PermissionError):
                open(HOME / "d", "w")

        @pytest.mark.fence(allow_write=["~/f/g"])
        def test_link_of_that_name():
            with pytest.raises(PermissionError):
                os.symlink("/tmp", HOME / "f")

        @pytest.mark.fence(allow_write=["~/h/i"])
        def test_move_to_that_name(tmp_path):
            with pytest.raises(PermissionError):
                os.rename(tmp_path, HOME / "h")

        @pytest.mark.fence(allow_write=["~/j/k/l"], deny_write=["~/j/k"])
        def test_denied():
            os.mkdir(HOME / "j")
            with pytest.raises(PermissionError):
                os.mkdir(HOME / "j/k")

        @pytest.mark.fence(allow_write=["~/.ssh/x/y"])
        def test_protected():
            with pytest.raises(PermissionError):
                os.mkdir(HOME / ".ssh")
        """,
        env={"HOME": str(fenced.outside)},
        policy=ONLY_HERE.replace('["./*"', '["~/.local/share/app", "./*"'),
    )
    run.clean("test_marker", "test_configuration", "test_glob")
    assert (fenced.outside / ".cache/thing/x").exists()
    assert (fenced.outside / ".local/share/app/deep/x").exists()
    assert (fenced.outside / ".state/app/a.log").exists()
    home = fenced.outside
    run.refused("test_beside", f"mkdir {home}/a/other")
    run.refused("test_file_of_that_name", f"write {home}/d")
    run.refused("test_link_of_that_name", f"symlink {home}/f")
    run.refused("test_move_to_that_name", f"rename {home}/h")
    run.refused("test_denied", f"mkdir {home}/j/k")
    run.refused("test_protected", f"mkdir {home}/.ssh")
    assert not [name for name in ("d", "f", "h", "j/k", ".ssh") if (home / name).exists()]


def test_remedies(fenced: Fenced) -> None:
    """Never a rule for all of ``~/.cache``: for what is made below, if that is known, or what else helps."""
    run = fenced.run(
        """
        import os, pathlib, sqlite3, subprocess
        import pytest

        HOME = pathlib.Path.home()

        def test_pathlib():
            with pytest.raises(PermissionError):
                (HOME / ".cache/thing/sub").mkdir(parents=True)

        def test_makedirs():
            with pytest.raises(PermissionError):
                os.makedirs(HOME / ".cache/thing")

        def test_git():
            assert subprocess.run(["git", "config", "--global", "user.name", "x"], stderr=-1).returncode

        def test_sqlite():
            with pytest.raises(sqlite3.OperationalError):
                sqlite3.connect(HOME / "app.db").execute("create table t (a)")
        """,
        env={"HOME": str(fenced.outside), "XDG_CONFIG_HOME": None, "GIT_CONFIG_GLOBAL": None},
        policy=ONLY_HERE,
    )
    known = run.attempts("test_pathlib")[0]
    assert known.marker == '@pytest.mark.fence(allow_write=["~/.cache/thing"])'
    unknown = run.refused("test_makedirs", f"mkdir {fenced.outside}/.cache")
    assert (unknown.marker, unknown.config) == ("", "")
    assert "~/.cache/NAME" in unknown.plain["hint"]
    assert "XDG_CACHE_HOME" in unknown.plain["hint"]
    run.has(r"instead: .*XDG_CACHE_HOME")
    git = run.refused("test_git", f"write {fenced.outside}/.gitconfig.lock", by=["git"])
    assert git.rule.startswith('protected: ".gitconfig"')
    assert (git.marker, git.config) == ("", "")
    assert "GIT_CONFIG_GLOBAL" in git.plain["hint"]
    sqlite = run.attempts("test_sqlite")[0]
    assert sqlite.marker == '@pytest.mark.fence(allow_write=["~/app.db", "~/app.db-*"])'
    assert not list(fenced.outside.iterdir()), run


def test_one_remedy_is_enough_for_sqlite(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import pathlib, sqlite3
        import pytest

        @pytest.mark.fence(allow_write=["~/app.db", "~/app.db-*"])
        @pytest.mark.parametrize("journal", ["delete", "wal"])
        def test_it(journal):
            with sqlite3.connect(pathlib.Path.home() / "app.db") as db:
                db.execute(f"pragma journal_mode = {journal}")
                db.execute("create table if not exists t (a)")
                db.execute("insert into t values (1)")
        """,
        env={"HOME": str(fenced.outside)},
        policy=ONLY_HERE,
    )
    run.clean("test_it[delete]", "test_it[wal]")


@pytest.mark.parametrize("name", ["GIT_CONFIG_GLOBAL", "HOME"])
def test_what_the_hint_says_works(fenced: Fenced, name: str) -> None:
    run = fenced.run(
        f"""
        import subprocess

        def test_it(tmp_path, monkeypatch):
            monkeypatch.setenv("{name}", str(tmp_path / "config" if "{name}" != "HOME" else tmp_path))
            subprocess.run(["git", "config", "--global", "user.name", "x"], check=True)
            assert subprocess.check_output(["git", "config", "user.name"], text=True) == "x\\n"
        """,
        env={"HOME": str(fenced.outside), "XDG_CONFIG_HOME": None, "GIT_CONFIG_GLOBAL": None},
        policy=ONLY_HERE,
    )
    run.clean("test_it")
