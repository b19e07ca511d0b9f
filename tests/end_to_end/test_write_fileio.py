"""Way out: `io.FileIO`, below all that `open` does, and an opener of the test's own."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_fileio(fenced: Fenced) -> None:
    (fenced.outside / "old").write_text("as it was")
    run = fenced.run(
        """
        import _io, io, os
        import pytest
        from here import OUTSIDE

        def test_new():
            with pytest.raises(PermissionError):
                io.FileIO(f"{OUTSIDE}/new", "w")

        def test_old():
            with pytest.raises(PermissionError):
                _io.FileIO(f"{OUTSIDE}/old", "r+")

        def test_opener():
            with pytest.raises(PermissionError):
                open(f"{OUTSIDE}/new", "w", opener=lambda path, flags: os.open(path, flags))

        def test_inside(tmp_path):
            with io.FileIO(tmp_path / "new", "w") as file:
                file.write(b"x")
            assert (tmp_path / "new").read_bytes() == b"x"
        """,
        policy=ONLY_HERE,
    )
    run.refused("test_new", f"write {fenced.outside}/new", line='io.FileIO(f"{OUTSIDE}/new", "w")')
    run.refused("test_old", f"write {fenced.outside}/old", line='_io.FileIO(f"{OUTSIDE}/old", "r+")')
    run.refused("test_opener", f"write {fenced.outside}/new")
    run.clean("test_inside")
    assert fenced.untouched(old="as it was")
