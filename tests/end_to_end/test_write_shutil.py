"""Way out: shutil, which copies by calls of its own (sendfile, copystat)."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_shutil(fenced: Fenced) -> None:
    (fenced.outside / "old").write_text("as it was")
    (fenced.outside / "tree").mkdir()
    (fenced.outside / "tree" / "leaf").write_text("leaf")
    run = fenced.run(
        """
        import os, pathlib, shutil
        import pytest
        from here import OUTSIDE

        @pytest.fixture
        def mine(tmp_path):
            (tmp_path / "mine").mkdir()
            (tmp_path / "mine" / "leaf").write_text("mine")
            return tmp_path / "mine"

        def test_copy(mine):
            with pytest.raises(PermissionError):
                shutil.copy(mine / "leaf", f"{OUTSIDE}/new")

        def test_copyfile_over(mine):
            with pytest.raises(PermissionError):
                shutil.copyfile(mine / "leaf", f"{OUTSIDE}/old")

        def test_copytree(mine):
            with pytest.raises(PermissionError):
                shutil.copytree(mine, f"{OUTSIDE}/new")

        def test_move_there(mine):
            with pytest.raises(PermissionError):
                shutil.move(mine / "leaf", f"{OUTSIDE}/new")
            assert (mine / "leaf").read_text() == "mine"

        def test_rmtree():
            shutil.rmtree(f"{OUTSIDE}/tree", ignore_errors=True)
            assert pathlib.Path(OUTSIDE, "tree", "leaf").read_text() == "leaf"

        def test_copystat(mine):
            with pytest.raises(PermissionError):
                shutil.copymode(mine / "leaf", f"{OUTSIDE}/old")

        def test_inside(mine, tmp_path):
            shutil.copytree(OUTSIDE, tmp_path / "copy")
            assert (tmp_path / "copy" / "tree" / "leaf").read_text() == "leaf"
            shutil.copy2(f"{OUTSIDE}/old", tmp_path / "new")
            assert os.stat(tmp_path / "new").st_mtime_ns == os.stat(f"{OUTSIDE}/old").st_mtime_ns
            shutil.move(tmp_path / "copy", tmp_path / "moved")
            shutil.make_archive(tmp_path / "archive", "gztar", tmp_path / "moved")
            shutil.rmtree(tmp_path / "moved")
            assert sorted(os.listdir(tmp_path)) == ["archive.tar.gz", "mine", "new"]
        """,
        policy=ONLY_HERE,
    )
    out = fenced.outside
    run.refused("test_copy", f"write {out}/new")
    run.refused("test_copyfile_over", f"write {out}/old")
    run.refused("test_copytree", f"mkdir {out}/new")
    assert f"rename {out}/new" in [v.what for v in run.attempts("test_move_there")]
    assert f"unlink {out}/tree/leaf" in [v.what for v in run.attempts("test_rmtree")]
    run.refused("test_copystat", f"chmod {out}/old")
    run.clean("test_inside")
    assert fenced.untouched(old="as it was", tree=None)
    assert (out / "tree" / "leaf").read_text() == "leaf"
