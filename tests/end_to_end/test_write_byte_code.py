"""Byte code: kept where tests may write; elsewhere Python does without, and nobody is blamed."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_byte_code(fenced: Fenced) -> None:
    (fenced.outside / "installed.py").write_text("", encoding="utf-8")
    run = fenced.run(
        """
        import importlib, os, py_compile, subprocess, sys
        import pytest
        from here import OUTSIDE

        def test_import():
            sys.path.insert(0, OUTSIDE)
            sys.dont_write_bytecode = False
            import installed
            assert not os.path.exists(OUTSIDE + "/__pycache__")
            env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
            subprocess.run([sys.executable, "-c", "import installed"], check=True, cwd=OUTSIDE, env=env)
            assert not os.path.exists(OUTSIDE + "/__pycache__")

        def test_import_inside(tmp_path):
            (tmp_path / "own.py").write_text("")
            sys.path.insert(0, str(tmp_path))
            sys.dont_write_bytecode = False
            import own
            assert (tmp_path / "__pycache__").is_dir()

        def test_other_file():
            with pytest.raises(PermissionError):
                open(OUTSIDE + "/__pycache__", "w").close()
            with pytest.raises(FileNotFoundError):
                open(OUTSIDE + "/__pycache__/x.py", "w")
            with pytest.raises(PermissionError):
                open(OUTSIDE + "/x.pyc", "w")
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_import", "test_import_inside")
    run.refused("test_other_file", f"write {fenced.outside}/x.pyc")
    assert sorted(path.name for path in fenced.outside.iterdir()) == ["installed.py"], run
