"""Way out: the built-in `open`, in every mode that changes something."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_open(fenced: Fenced) -> None:
    (fenced.outside / "old").write_text("as it was")
    run = fenced.run(
        """
        import errno, os
        import pytest
        from here import OUTSIDE

        @pytest.mark.parametrize("mode", ["w", "a", "x", "w+", "a+b"])
        def test_new(mode):
            with pytest.raises(PermissionError) as caught:
                open(f"{OUTSIDE}/new", mode)
            assert caught.value.errno == errno.EACCES
            assert caught.value.filename == f"{OUTSIDE}/new"

        @pytest.mark.parametrize("mode", ["w", "a", "r+", "w+", "r+b"])
        def test_old(mode):
            with pytest.raises(PermissionError):
                open(f"{OUTSIDE}/old", mode)

        def test_what_the_kernel_refuses_anyway():
            with pytest.raises(FileExistsError):
                open(f"{OUTSIDE}/old", "x")
            with pytest.raises(FileNotFoundError):
                open(f"{OUTSIDE}/missing", "r+")
            with pytest.raises(FileNotFoundError):
                open(f"{OUTSIDE}/missing/new", "w")
            with pytest.raises(IsADirectoryError):
                open(OUTSIDE, "w")
            with pytest.raises(NotADirectoryError):
                open(f"{OUTSIDE}/old/new", "w")

        def test_reading():
            with open(f"{OUTSIDE}/old") as file:
                assert file.read() == "as it was"

        @pytest.mark.parametrize("mode", ["w", "a", "x", "w+"])
        def test_inside(tmp_path, mode):
            with open(tmp_path / "new", mode) as file:
                file.write("written")
            with open(tmp_path / "new", "r+") as file:
                assert file.read() == "written"
        """,
        policy=ONLY_HERE,
    )
    for mode in "w", "a", "x", "w+", "a+b":
        run.refused(f"test_new[{mode}]", f"write {fenced.outside}/new", line='open(f"{OUTSIDE}/new", mode)')
    for mode in "w", "a", "r+", "w+", "r+b":
        run.refused(f"test_old[{mode}]", f"write {fenced.outside}/old", line='open(f"{OUTSIDE}/old", mode)')
    run.clean("test_what_the_kernel_refuses_anyway", "test_reading")
    run.clean(*(f"test_inside[{mode}]" for mode in ("w", "a", "x", "w+")))
    assert fenced.untouched(old="as it was")


def test_roundabout(fenced: Fenced) -> None:
    """However the path is put, it is judged by where it leads."""
    ways = ("symlink", "parent", "relative", "descriptor")
    run = fenced.run(
        f"""
        import os
        import pytest
        from here import OUTSIDE

        @pytest.mark.parametrize("way", {ways!r})
        def test_it(way, tmp_path, monkeypatch):
            name = {{
                "symlink": str(tmp_path / "link" / "new"),
                "parent": f"{{tmp_path}}/" + os.path.relpath(OUTSIDE, tmp_path) + "/new",
                "relative": "new",
                "descriptor": f"/proc/self/fd/{{os.open(OUTSIDE, os.O_RDONLY)}}/new",
            }}[way]
            (tmp_path / "link").symlink_to(OUTSIDE)
            monkeypatch.chdir(OUTSIDE)
            with pytest.raises(PermissionError):
                open(name, "w")

        def test_into_the_directory_of_the_run(tmp_path):
            (tmp_path / "real").mkdir()
            (tmp_path / "link").symlink_to("real")
            (tmp_path / "link" / "new").write_text("x")
            assert (tmp_path / "real" / "new").read_text() == "x"
        """,
        policy=ONLY_HERE,
    )
    for way in ways:
        run.refused(f"test_it[{way}]", f"write {fenced.outside}/new", line='open(name, "w")')
    run.clean("test_into_the_directory_of_the_run")
    assert fenced.untouched()


def test_with_the_preset_that_plugins_use(fenced: Fenced) -> None:
    """Temporary directories and the project are free there; protected names are not."""
    run = fenced.run(
        """
        import os, pathlib, tempfile
        import pytest

        def test_project():
            pathlib.Path("in-the-project").write_text("x")

        def test_temporary(tmp_path):
            (tmp_path / "f").write_text("x")
            with tempfile.NamedTemporaryFile() as file:
                file.write(b"x")

        @pytest.mark.parametrize("name", [".bashrc", ".git/hooks/pre-commit", ".vscode/tasks.json", "pyproject.toml"])
        def test_protected(name):
            with pytest.raises(PermissionError):
                open(name, "w")
        """,
        files={".git/hooks/keep": "", ".vscode/keep": ""},
    )
    run.clean("test_project", "test_temporary")
    for name in ".bashrc", ".git/hooks/pre-commit", ".vscode/tasks.json", "pyproject.toml":
        run.refused(f"test_protected[{name}]", f"write {fenced.directory}/{name}")
        assert not (fenced.directory / name).exists()
