"""Way out: a program started in another directory, with paths that mean something only there."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_subprocess_in_another_directory(fenced: Fenced) -> None:
    (fenced.outside / "old").write_text("as it was")
    run = fenced.run(
        """
        import pathlib, subprocess, sys
        import pytest
        from here import OUTSIDE

        def python(code, cwd):
            return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)

        WRITE = "open('new', 'w').write('x')"

        def test_cwd():
            assert "PermissionError" in python(WRITE, OUTSIDE).stderr

        def test_chdir(tmp_path):
            assert "PermissionError" in python(f"import os; os.chdir({OUTSIDE!r}); {WRITE}", tmp_path).stderr

        def test_fchdir(tmp_path):
            code = f"import os; os.fchdir(os.open({OUTSIDE!r}, os.O_RDONLY)); {WRITE}"
            assert "PermissionError" in python(code, tmp_path).stderr

        def test_one_thread_elsewhere(tmp_path):
            # unshare(CLONE_FS): threads may have directories of their own; needs no privileges.
            code = f'''
        import ctypes, os, threading
        CLONE_FS = 0x200
        error = []
        def run():
            assert ctypes.CDLL(None).unshare(CLONE_FS) == 0
            os.chdir({OUTSIDE!r})
            try:
                open("new", "w")
            except OSError as caught:
                error.append(caught.errno)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        open("mine", "w").close()
        print(error)
        '''
            import textwrap
            done = python(textwrap.dedent(code), tmp_path)
            assert done.stdout == "[13]\\n", done
            assert (tmp_path / "mine").exists()

        def test_directory_that_is_gone(tmp_path):
            code = f"import os; os.rmdir(os.getcwd()); {WRITE}"
            (tmp_path / "gone").mkdir()
            assert "FileNotFoundError" in python(code, tmp_path / "gone").stderr

        def test_inside(tmp_path):
            assert python(WRITE, tmp_path).returncode == 0
            assert (tmp_path / "new").read_text() == "x"
        """,
        policy=ONLY_HERE,
    )
    for test in "test_cwd", "test_chdir", "test_fchdir", "test_one_thread_elsewhere":
        run.refused(test, f"write {fenced.outside}/new", by=[Path(sys.executable).name])
    run.clean("test_directory_that_is_gone", "test_inside")
    assert fenced.untouched(old="as it was")
