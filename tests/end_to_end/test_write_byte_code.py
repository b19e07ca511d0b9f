"""Byte code: kept where tests may write; elsewhere Python does without, and nobody is blamed."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_byte_code(fenced: Fenced) -> None:
    (fenced.outside / "installed.py").write_text("", encoding="utf-8")
    (fenced.outside / "ready/__pycache__").mkdir(parents=True)
    run = fenced.run(
        """
        import importlib, os, py_compile, subprocess, sys, tempfile
        import pytest
        from here import OUTSIDE

        NAMES = [
            "m.cpython-311.opt-1.pyc", "m.cpython-311.pyc.140212", "m.cpython-311-pytest-8.3.4.pyc.4711",
            "m.f-3.py311.nbi", "m.f-3.py311.1.nbc", "m.f-3.py311.nbi.tmp.1f0c9a527c1e11ef", "tmpab12cd34",
        ]
        READY = OUTSIDE + "/ready/__pycache__"

        def test_import():
            sys.path.insert(0, OUTSIDE)
            sys.dont_write_bytecode = False
            import installed
            assert not os.path.exists(OUTSIDE + "/__pycache__")
            env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
            subprocess.run([sys.executable, "-c", "import installed"], check=True, cwd=OUTSIDE, env=env)
            assert not os.path.exists(OUTSIDE + "/__pycache__")

        def test_names_of_the_moment():
            os.mkdir("kept")  # the control: the same is written where tests may
            for place in OUTSIDE, "kept":
                made = []
                for name in NAMES:
                    try:
                        os.makedirs(f"{place}/__pycache__", exist_ok=True)
                        with open(f"{place}/__pycache__/{name}", "xb"):
                            made.append(name)
                    except PermissionError:
                        pass
                assert made == (NAMES if place == "kept" else [])

        def test_is_it_writable():
            # What numba and others do to know: TemporaryFile, by O_TMPFILE and by a name.
            os.makedirs("kept2/__pycache__")
            with tempfile.TemporaryFile(dir="kept2/__pycache__"):
                pass
            with pytest.raises(OSError):
                tempfile.TemporaryFile(dir=READY)
            with pytest.raises(PermissionError):
                tempfile.mkstemp(dir=READY)

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
    run.clean("test_import", "test_import_inside", "test_names_of_the_moment", "test_is_it_writable")
    run.refused("test_other_file", f"write {fenced.outside}/x.pyc")
    assert sorted(path.name for path in fenced.outside.iterdir()) == ["installed.py", "ready"], run
    assert not list((fenced.outside / "ready/__pycache__").iterdir())
