"""Way out: `os.open` and the other calls of `os` that change a file or directory."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_os_open(fenced: Fenced) -> None:
    (fenced.outside / "old").write_text("as it was")
    run = fenced.run(
        """
        import errno, os
        import pytest
        from here import OUTSIDE

        FLAGS = {
            "create": os.O_CREAT | os.O_WRONLY,
            "create to read": os.O_CREAT | os.O_RDONLY,
            "truncate": os.O_CREAT | os.O_TRUNC | os.O_RDWR,
            "unnamed": os.O_TMPFILE | os.O_WRONLY,
        }

        @pytest.mark.parametrize("how", FLAGS)
        def test_new(how):
            with pytest.raises(PermissionError) as caught:
                os.open(OUTSIDE if how == "unnamed" else f"{OUTSIDE}/new", FLAGS[how])
            assert caught.value.errno == errno.EACCES

        def test_truncate_by_reading():
            with pytest.raises(PermissionError):
                os.open(f"{OUTSIDE}/old", os.O_RDONLY | os.O_TRUNC)

        def test_relative_to_a_directory():
            directory = os.open(OUTSIDE, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with pytest.raises(PermissionError):
                    os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=directory)
            finally:
                os.close(directory)

        def test_create_what_is_there_changes_nothing():
            fd = os.open(f"{OUTSIDE}/old", os.O_CREAT | os.O_RDONLY)
            assert os.read(fd, 99) == b"as it was"
            os.close(fd)

        def test_reopened_for_writing():
            fd = os.open(f"{OUTSIDE}/old", os.O_RDONLY)
            try:
                with pytest.raises(PermissionError):
                    os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
                with pytest.raises(PermissionError):
                    os.open(f"/dev/fd/{fd}", os.O_WRONLY)
            finally:
                os.close(fd)

        def test_inside(tmp_path):
            directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
            fd = os.open("new", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o640, dir_fd=directory)
            assert os.write(fd, b"x") == 1
            os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC))
            os.close(fd)
            os.close(os.open(tmp_path, os.O_TMPFILE | os.O_WRONLY))
            os.close(directory)
            assert os.stat(tmp_path / "new").st_size == 0
        """,
        policy=ONLY_HERE,
    )
    out = fenced.outside
    for how in "create", "create to read", "truncate":
        run.refused(f"test_new[{how}]", f"write {out}/new")
    run.refused("test_new[unnamed]", f"write {out}/(unnamed temporary file)")
    run.refused("test_truncate_by_reading", f"write {out}/old")
    run.refused("test_relative_to_a_directory", f"write {out}/new")
    run.refused("test_reopened_for_writing", f"write {out}/old", count=2)
    run.clean("test_create_what_is_there_changes_nothing", "test_inside")
    assert fenced.untouched(old="as it was")


def test_calls_of_os(fenced: Fenced) -> None:
    """Each call that goes by path, once outside and once inside."""
    (fenced.outside / "old").write_text("as it was")
    (fenced.outside / "directory").mkdir()
    before = fenced.outside.stat().st_mtime_ns, (fenced.outside / "old").stat()
    run = fenced.run(
        """
        import errno, os, pathlib
        import pytest
        from here import OUTSIDE

        CALLS = {
            "mkdir": lambda d, i: os.mkdir(f"{d}/new"),
            "makedirs": lambda d, i: os.makedirs(f"{d}/new/newer"),
            "mkfifo": lambda d, i: os.mkfifo(f"{d}/new"),
            "mknod": lambda d, i: os.mknod(f"{d}/new"),
            "unlink": lambda d, i: os.unlink(f"{d}/old"),
            "rmdir": lambda d, i: os.rmdir(f"{d}/directory"),
            "rename": lambda d, i: os.rename(f"{d}/old", f"{d}/new"),
            "rename out": lambda d, i: os.rename(f"{d}/old", f"{i}/new"),
            "rename in": lambda d, i: os.rename(f"{i}/mine", f"{d}/new"),
            "replace": lambda d, i: os.replace(f"{i}/mine", f"{d}/old"),
            "link": lambda d, i: os.link(f"{i}/mine", f"{d}/new"),
            "link of": lambda d, i: os.link(f"{d}/old", f"{i}/new"),
            "symlink": lambda d, i: os.symlink("anything", f"{d}/new"),
            "truncate": lambda d, i: os.truncate(f"{d}/old", 1),
            "chmod": lambda d, i: os.chmod(f"{d}/old", 0o600),
            "chown": lambda d, i: os.chown(f"{d}/old", os.getuid(), os.getgid()),
            "lchown": lambda d, i: os.lchown(f"{d}/old", os.getuid(), os.getgid()),
            "utime": lambda d, i: os.utime(f"{d}/old", (1, 1)),
            "setxattr": lambda d, i: os.setxattr(f"{d}/old", "user.fence", b"x"),
        }

        @pytest.mark.parametrize("call", CALLS)
        def test_outside(call, tmp_path):
            (tmp_path / "mine").write_text("mine")
            with pytest.raises(PermissionError) as caught:
                CALLS[call](OUTSIDE, tmp_path)
            assert caught.value.errno == errno.EACCES
            assert os.listdir(tmp_path) == ["mine"]

        @pytest.mark.parametrize("call", CALLS)
        def test_inside(call, tmp_path):
            mine, other = tmp_path / "i", tmp_path / "d"
            mine.mkdir()
            other.mkdir()
            (mine / "mine").write_text("mine")
            (other / "old").write_text("old")
            (other / "directory").mkdir()
            try:
                CALLS[call](other, mine)
            except OSError as error:
                assert call == "setxattr" and error.errno == errno.EOPNOTSUPP  # a file system that has none

        def test_what_the_kernel_refuses_anyway():
            for call, error in (
                (lambda: os.mkdir(OUTSIDE), FileExistsError),
                (lambda: os.makedirs(OUTSIDE), FileExistsError),
                (lambda: os.mkdir(f"{OUTSIDE}/missing/new"), FileNotFoundError),
                (lambda: os.unlink(f"{OUTSIDE}/missing"), FileNotFoundError),
                (lambda: os.rmdir(f"{OUTSIDE}/old"), NotADirectoryError),
                (lambda: os.rename(f"{OUTSIDE}/missing", f"{OUTSIDE}/new"), FileNotFoundError),
                (lambda: os.link(f"{OUTSIDE}/old", f"{OUTSIDE}/directory"), FileExistsError),
                (lambda: os.truncate(f"{OUTSIDE}/directory", 0), IsADirectoryError),
                (lambda: os.chmod(f"{OUTSIDE}/missing", 0), FileNotFoundError),
            ):
                with pytest.raises(error):
                    call()
            os.makedirs(f"{OUTSIDE}/directory", exist_ok=True)
        """,
        policy=ONLY_HERE,
    )
    out = fenced.outside
    expected = {
        "mkdir": f"mkdir {out}/new",
        "makedirs": f"mkdir {out}/new",
        "mkfifo": f"mknod {out}/new",
        "mknod": f"mknod {out}/new",
        "unlink": f"unlink {out}/old",
        "rmdir": f"rmdir {out}/directory",
        "rename": f"rename {out}/old",
        "rename out": f"rename {out}/old",
        "rename in": f"rename {out}/new",
        "replace": f"rename {out}/old",
        "link": f"link {out}/new",
        "link of": f"link {out}/old",
        "symlink": f"symlink {out}/new",
        "truncate": f"truncate {out}/old",
        "chmod": f"chmod {out}/old",
        "chown": f"chown {out}/old",
        "lchown": f"chown {out}/old",
        "utime": f"utime {out}/old",
        "setxattr": f"setxattr {out}/old",
    }
    for call, what in expected.items():
        run.refused(f"test_outside[{call}]", what)
        run.clean(f"test_inside[{call}]")
    run.clean("test_what_the_kernel_refuses_anyway")
    assert fenced.untouched(old="as it was", directory=None)
    assert (fenced.outside.stat().st_mtime_ns, (fenced.outside / "old").stat().st_mode) == (
        before[0],
        before[1].st_mode,
    )
    assert (fenced.outside / "old").stat().st_ctime_ns == before[1].st_ctime_ns
