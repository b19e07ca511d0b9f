"""Way out: libc's own functions by ctypes, stdio among them, and bare system calls."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_ctypes(fenced: Fenced) -> None:
    (fenced.outside / "old").write_text("as it was")
    run = fenced.run(
        """
        import ctypes, errno, os
        import pytest
        from here import OUTSIDE
        from fence_core.kernel import arch

        libc = ctypes.CDLL(None, use_errno=True)
        libc.fopen.restype = ctypes.c_void_p
        AT_FDCWD = -100
        CALLS = arch.current().calls

        def fopen(path):
            file = libc.fopen(path, b"w")
            if not file:
                return -1
            return libc.fclose(ctypes.c_void_p(file))

        def close(fd):
            return libc.close(fd) if fd >= 0 else -1

        WAYS = {
            "fopen": lambda d: fopen(d + b"/new"),
            "open": lambda d: close(libc.open(d + b"/new", os.O_CREAT | os.O_WRONLY, 0o600)),
            "creat": lambda d: close(libc.creat(d + b"/new", 0o600)),
            "openat": lambda d: close(libc.syscall(
                CALLS["openat"], AT_FDCWD, d + b"/new", os.O_CREAT | os.O_WRONLY, 0o600)),
            "mkdirat": lambda d: libc.syscall(CALLS["mkdirat"], AT_FDCWD, d + b"/new", 0o700),
            "unlink": lambda d: libc.unlink(d + b"/old"),
            "renameat2": lambda d: libc.syscall(
                CALLS["renameat2"], AT_FDCWD, d + b"/old", AT_FDCWD, d + b"/new", 0),
            "symlink": lambda d: libc.symlink(b"anything", d + b"/new"),
            "chmod": lambda d: libc.chmod(d + b"/old", 0o600),
        }

        @pytest.mark.parametrize("way", WAYS)
        def test_outside(way):
            ctypes.set_errno(0)
            assert WAYS[way](OUTSIDE.encode()) == -1
            assert ctypes.get_errno() == errno.EACCES

        @pytest.mark.parametrize("way", WAYS)
        def test_inside(way, tmp_path):
            (tmp_path / "old").write_text("mine")
            assert WAYS[way](os.fsencode(tmp_path)) == 0

        def test_openat2_sends_libc_to_a_call_that_is_judged(tmp_path):
            how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, 0o600, 0)
            for directory in OUTSIDE.encode(), os.fsencode(tmp_path):
                ctypes.set_errno(0)
                assert libc.syscall(CALLS["openat2"], AT_FDCWD, directory + b"/new", how, 24) == -1
                assert ctypes.get_errno() == errno.ENOSYS
        """,
        policy=ONLY_HERE,
    )
    out = fenced.outside
    expected = {
        "fopen": f"write {out}/new",
        "open": f"write {out}/new",
        "creat": f"write {out}/new",
        "openat": f"write {out}/new",
        "mkdirat": f"mkdir {out}/new",
        "unlink": f"unlink {out}/old",
        "renameat2": f"rename {out}/old",
        "symlink": f"symlink {out}/new",
        "chmod": f"chmod {out}/old",
    }
    for way, what in expected.items():
        run.refused(f"test_outside[{way}]", what)
        run.clean(f"test_inside[{way}]")
    run.clean("test_openat2_sends_libc_to_a_call_that_is_judged")
    assert fenced.untouched(old="as it was")
