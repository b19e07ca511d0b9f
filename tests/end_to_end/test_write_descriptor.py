"""Way out: changes by a descriptor that was opened for reading only, and by the names that /proc has for it."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_descriptor_open_for_reading(fenced: Fenced) -> None:
    old = fenced.outside / "old"
    old.write_text("as it was\n")
    old.chmod(0o644)
    run = fenced.run(
        """
        import os
        import pytest
        from here import OUTSIDE

        def reading(path):
            return os.open(path, os.O_RDONLY)

        def test_fchmod():
            with pytest.raises(PermissionError):
                os.fchmod(reading(f"{OUTSIDE}/old"), 0o600)

        def test_fchown():
            with pytest.raises(PermissionError):
                os.fchown(reading(f"{OUTSIDE}/old"), os.getuid(), os.getgid())

        def test_futimens():
            with pytest.raises(PermissionError):
                os.utime(reading(f"{OUTSIDE}/old"), (1, 1))

        def test_reopened_for_writing():
            with pytest.raises(PermissionError):
                os.open(f"/proc/self/fd/{reading(OUTSIDE + '/old')}", os.O_WRONLY)

        def test_reopened_through_a_link(tmp_path):
            os.symlink(f"/proc/self/fd/{reading(OUTSIDE + '/old')}", tmp_path / "link")
            with pytest.raises(PermissionError):
                os.open(tmp_path / "link", os.O_WRONLY)

        def test_inside(tmp_path):
            path = tmp_path / "file"
            path.write_text("x")
            fd = reading(path)
            os.fchmod(fd, 0o600)
            os.fchown(fd, os.getuid(), os.getgid())
            os.utime(fd, (1, 1))
            assert (path.stat().st_mode & 0o777, path.stat().st_mtime) == (0o600, 1)
            os.write(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY), b"yy")
            assert path.read_text() == "yy"
        """,
        policy=ONLY_HERE,
    )
    run.refused("test_fchmod", f"chmod {old}", line='os.fchmod(reading(f"{OUTSIDE}/old"), 0o600)')
    run.refused("test_fchown", f"chown {old}")
    run.refused("test_futimens", f"utime {old}")
    run.refused("test_reopened_for_writing", f"write {old}")
    run.refused("test_reopened_through_a_link", f"write {old}")
    run.clean("test_inside")
    assert fenced.untouched(old="as it was\n")
    assert old.stat().st_mode & 0o777 == 0o644
    assert old.stat().st_mtime > 1
