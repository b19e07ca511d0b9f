"""Ways out by the spelling of a path: through a directory that was removed, through the dots at its end, through a
file that the broker opens for its caller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced

MAKES = ("write", "mkdir")


def test_through_a_removed_directory(fenced: Fenced) -> None:
    """`..` leads on from a directory that is gone: the kernel knows where to, the text of no link does."""
    run = fenced.run(
        """
        import os
        import pytest
        from here import OUTSIDE

        def through(name, *, removed):
            os.mkdir("gone")
            fd = os.open("gone", os.O_RDONLY | os.O_DIRECTORY)
            if removed:
                os.rmdir("gone")
            return f"/proc/self/fd/{fd}/../{name}"

        def test_outside():
            path = through(os.path.relpath(OUTSIDE), removed=True)
            with pytest.raises(OSError):
                open(path + "/new", "w")
            with pytest.raises(OSError):
                os.mkdir(path + "/new")

        def test_inside():
            with open(through("new", removed=False), "w"):
                pass
            assert os.path.exists("new")
        """,
        policy=ONLY_HERE,
    )
    # Where the broker knows the place, it is reported; where it does not, the caller hears that there is none.
    assert {attempt.what for attempt in run.ledger} in (set(), {f"{what} {fenced.outside}/new" for what in MAKES})
    run.clean("test_inside")
    assert fenced.untouched()


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
