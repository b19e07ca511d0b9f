"""Ways out by the spelling of a path: through a directory that was removed, through the dots at its end, through a
file that the broker opens for its caller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced

MAKES = ("write", "mkdir")
SOMEBODY_ELSE = "os.setgroups([])"
"""As root: from then on the broker acts with the rights of each caller."""


@pytest.mark.parametrize("first", ["", pytest.param(SOMEBODY_ELSE, marks=pytest.mark.needs("user:root"))])
@pytest.mark.parametrize("gone", ["gone", "gone/deeper"])
def test_through_a_removed_directory(fenced: Fenced, gone: str, first: str) -> None:
    """`..` leads on from a directory that is gone, whatever took its name: the kernel knows where to, the text of no
    link does."""
    up = "/".join([".."] * (gone.count("/") + 1))
    run = fenced.run(
        f"""
        import os
        import pytest
        from here import OUTSIDE

        {first}

        @pytest.fixture(params=[False, True], ids=["there", "removed"])
        def above(request):
            os.makedirs({gone!r})
            fd = os.open({gone!r}, os.O_RDONLY | os.O_DIRECTORY)
            if request.param:
                os.removedirs({gone!r})
            yield f"/proc/self/fd/{{fd}}/{up}"
            os.close(fd)
            if not request.param:
                os.removedirs({gone!r})

        def test_outside(above):
            path = f"{{above}}/{{os.path.relpath(OUTSIDE)}}/new"
            with pytest.raises(PermissionError):
                open(path, "w")
            with pytest.raises(PermissionError):
                os.mkdir(path)

        def test_inside(above):
            with open(above + "/new", "w"):
                pass
            os.unlink("new")
            os.mkdir(above + "/new")
            os.rmdir("new")
        """,
        policy=ONLY_HERE,
    )
    for how in ("there", "removed"):
        found = {attempt.what for attempt in run.attempts(f"test_outside[{how}]")}
        assert found == {f"{what} {fenced.outside}/new" for what in MAKES}, run
        run.clean(f"test_inside[{how}]")
    assert fenced.untouched()


def test_nothing_is_made_in_a_removed_directory(fenced: Fenced) -> None:
    """Neither in it nor in one with its name."""
    run = fenced.run(
        """
        import os
        import pytest

        @pytest.mark.parametrize("below", ["new", "../new"])
        def test_it(below, tmp_path):
            os.makedirs("gone/deeper")
            fd = os.open("gone/deeper", os.O_RDONLY | os.O_DIRECTORY)
            os.removedirs("gone/deeper")
            os.makedirs("gone/deeper")
            for make in (os.mkdir, lambda path: open(path, "w")):
                with pytest.raises(FileNotFoundError):
                    make(f"/proc/self/fd/{fd}/{below}")
            assert os.listdir("gone") == ["deeper"]
            os.removedirs("gone/deeper")
            os.close(fd)
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_it[new]", "test_it[../new]")


@pytest.mark.parametrize("end", ["/.", "/", "/..", "/sub/.."])
def test_dots_at_the_end(fenced: Fenced, end: str) -> None:
    """A path that ends so is followed, AT_SYMLINK_NOFOLLOW or not."""
    (fenced.outside / "sub").mkdir()
    times = [os.stat(path).st_mtime_ns for path in (fenced.outside, fenced.outside.parent)]
    run = fenced.run(
        f"""
        import os
        from here import OUTSIDE

        def change(directory):
            os.symlink(directory, "link")
            os.utime("link" + {end!r}, (1, 1), follow_symlinks=False)

        def test_outside():
            try:
                change(OUTSIDE)
            except PermissionError:
                pass

        def test_inside():
            os.unlink("link")
            os.makedirs("tmp/here/sub")
            change("tmp/here")
            assert 1 in (os.stat("tmp/here").st_mtime, os.stat("tmp").st_mtime)
        """,
        policy=ONLY_HERE,
    )
    changed = fenced.outside.parent if end == "/.." else fenced.outside
    run.refused(
        "test_outside", f"utime {changed}", line='os.utime("link" + ' + f"{end!r}, (1, 1), follow_symlinks=False)"
    )
    run.clean("test_inside")
    assert times == [os.stat(path).st_mtime_ns for path in (fenced.outside, fenced.outside.parent)]


def test_unnamed_file(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import os
        from here import OUTSIDE

        FLAGS = os.O_TMPFILE | os.O_RDWR | os.O_NOFOLLOW

        def test_outside():
            try:
                os.open(OUTSIDE + "/.", FLAGS)
            except PermissionError:
                pass

        def test_inside():
            os.close(os.open("tmp/.", FLAGS))
        """,
        policy=ONLY_HERE,
    )
    run.refused("test_outside", f"write {fenced.outside}/(unnamed temporary file)")
    run.clean("test_inside")


CREATE = os.O_RDONLY | os.O_CREAT


def test_waiting_for_a_writer(fenced: Fenced) -> None:
    """The broker opens existing files for their openers, but nothing that would keep it waiting."""
    os.mkfifo(fenced.outside / "pipe")
    (fenced.outside / "file").write_text("text")
    run = fenced.run(
        f"""
        import os, signal
        from here import OUTSIDE

        class Interrupted(Exception):
            pass

        def interrupt(*_):
            raise Interrupted

        def test_pipe():
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            try:
                os.open(OUTSIDE + "/pipe", {CREATE})
            except Interrupted:
                pass
            else:
                raise AssertionError("nobody writes to it")

        def test_file():
            fd = os.open(OUTSIDE + "/file", {CREATE})
            assert os.read(fd, 10) == b"text" and os.get_blocking(fd)
            os.set_blocking(fd, False)
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_pipe", "test_file")
    assert run.status == 0, run


@pytest.mark.needs("user:root")
def test_rights_of_the_broker(fenced: Fenced, tmp_path: Path) -> None:
    secret = fenced.outside / "secret"
    secret.write_text("text")
    secret.chmod(0o600)
    for directory in (fenced.outside, *fenced.outside.parents):
        if directory.stat().st_uid == 0 and not directory.stat().st_mode & 1:
            directory.chmod(directory.stat().st_mode | 0o111)
    run = fenced.run(
        f"""
        import ctypes, os
        import pytest
        from here import OUTSIDE

        def opened_by(uid):
            pid = os.fork()
            if pid == 0:
                try:
                    os.setgroups([])
                    os.setresuid(uid, uid, uid)
                    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: root in a container may look into it
                    os.close(os.open(OUTSIDE + "/secret", {CREATE}))
                    os._exit(0)
                except PermissionError:
                    os._exit(1)
                finally:
                    os._exit(2)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        def test_without():
            assert opened_by(1000) == 1

        def test_with():
            assert opened_by(0) == 0
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_without", "test_with")
    assert run.status == 0, run
