"""Way out: giving a file that may not be read, or what it lies in, a name that no rule speaks of."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_no_other_name(fenced: Fenced) -> None:
    for name in "keys/deep/secret.pem", "keys/deep/other", "own/secret", "free/x":
        fenced.write(name, "as it was")
    run = fenced.run(
        """
        import ctypes, os
        import pytest

        libc = ctypes.CDLL(None, use_errno=True)

        def exchange(one, other):
            if libc.renameat2(-100, one, -100, other, 2):
                raise OSError(ctypes.get_errno(), "renameat2")

        def link_of(fd):
            if libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, b"own/other", 0x400):
                raise OSError(ctypes.get_errno(), "linkat")

        CALLS = {
            "rename": lambda: os.rename("own/secret", "own/other"),
            "link": lambda: os.link("own/secret", "own/other"),
            "link of a descriptor": lambda: link_of(os.open("own/secret", os.O_PATH)),
            "parent": lambda: os.rename("own", "mine"),
            "grandparent": lambda: os.rename("keys", "moved"),
            "exchange": lambda: exchange(b"free", b"keys"),
            "onto": lambda: os.rename("free/x", "free/y.pem"),
        }

        @pytest.mark.parametrize("call", CALLS)
        def test_refused(call):
            with pytest.raises(PermissionError):
                CALLS[call]()

        def test_others():
            os.rename("keys/deep/other", "keys/deep/moved")
            os.link("keys/deep/moved", "keys/deep/other")
            os.mkdir("new")
            os.rename("new", "newer")
            exchange(b"newer", b"free")
            assert open("newer/x").read() == "as it was"
        """,
        policy=ONLY_HERE + 'deny_read = ["*.pem", "own/secret"]\n',
    )
    here = fenced.directory
    for call, what in {
        "rename": f"rename {here}/own/secret",
        "link": f"link {here}/own/secret",
        "link of a descriptor": f"link {here}/own/secret",
        "parent": f"rename {here}/own, which holds secret",
        "grandparent": f"rename {here}/keys, which holds deep/secret.pem",
        "exchange": f"rename {here}/keys, which holds deep/secret.pem",
        "onto": f"rename {here}/free/x",
    }.items():
        run.refused(f"test_refused[{call}]", what)
    run.clean("test_others")
    assert 'refused: denied: filesystem.deny_read "own/secret"' in run.out
