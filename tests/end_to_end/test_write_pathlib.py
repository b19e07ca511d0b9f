"""Way out: pathlib."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_pathlib(fenced: Fenced) -> None:
    (fenced.outside / "old").write_text("as it was")
    (fenced.outside / "directory").mkdir()
    run = fenced.run(
        """
        import pathlib
        import pytest
        from here import OUTSIDE

        WAYS = {
            "write_text": lambda d: (d / "new").write_text("x"),
            "write_bytes": lambda d: (d / "old").write_bytes(b"x"),
            "open": lambda d: (d / "new").open("w").close(),
            "touch": lambda d: (d / "new").touch(),
            "touch old": lambda d: (d / "old").touch(),
            "mkdir": lambda d: (d / "new").mkdir(),
            "mkdir parents": lambda d: (d / "new" / "newer").mkdir(parents=True),
            "unlink": lambda d: (d / "old").unlink(),
            "rmdir": lambda d: (d / "directory").rmdir(),
            "rename": lambda d: (d / "old").rename(d / "new"),
            "symlink_to": lambda d: (d / "new").symlink_to("anything"),
            "hardlink_to": lambda d: (d / "new").hardlink_to(d / "old"),
            "chmod": lambda d: (d / "old").chmod(0o600),
        }

        @pytest.mark.parametrize("way", WAYS)
        def test_outside(way):
            with pytest.raises(PermissionError):
                WAYS[way](pathlib.Path(OUTSIDE))

        @pytest.mark.parametrize("way", WAYS)
        def test_inside(way, tmp_path):
            (tmp_path / "old").write_text("mine")
            (tmp_path / "directory").mkdir()
            WAYS[way](tmp_path)

        def test_what_changes_nothing():
            (pathlib.Path(OUTSIDE) / "directory").mkdir(exist_ok=True)
            (pathlib.Path(OUTSIDE) / "missing").unlink(missing_ok=True)
        """,
        policy=ONLY_HERE,
    )
    out = fenced.outside
    expected = {
        "write_text": f"write {out}/new",
        "write_bytes": f"write {out}/old",
        "open": f"write {out}/new",
        "touch": f"write {out}/new",
        "touch old": f"utime {out}/old",
        "mkdir": f"mkdir {out}/new",
        "mkdir parents": f"mkdir {out}/new",
        "unlink": f"unlink {out}/old",
        "rmdir": f"rmdir {out}/directory",
        "rename": f"rename {out}/old",
        "symlink_to": f"symlink {out}/new",
        "hardlink_to": f"link {out}/old",
        "chmod": f"chmod {out}/old",
    }
    for way, what in expected.items():
        if way == "touch old":
            assert f"utime {out}/old" in [v.what for v in run.attempts("test_outside[touch old]")]
        else:
            run.refused(f"test_outside[{way}]", what)
        run.clean(f"test_inside[{way}]")
    run.clean("test_what_changes_nothing")
    assert fenced.untouched(old="as it was", directory=None)
