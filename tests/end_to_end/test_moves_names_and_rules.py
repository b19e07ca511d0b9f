"""Moves of files with odd names, under rules of every form, and in a run that only audits."""

from __future__ import annotations

import os

from tests.end_to_end.caught import ONLY_HERE, Fenced

NAME = b"line\nbreak \x1b[31m\xff"
SHOWN = r"line\nbreak \x1b[31m\xff"


def test_names_that_a_terminal_would_act_upon(fenced: Fenced) -> None:
    """Judged as they are, shown escaped."""
    out = os.fsencode(fenced.outside)
    for place in b"refused", b"allowed":
        os.mkdir(out + b"/" + place)
        os.close(os.open(out + b"/" + place + b"/" + NAME, os.O_CREAT | os.O_WRONLY))
        os.mkdir(out + b"/" + place + b"/tree " + NAME)
    run = fenced.run(
        f"""
        import os
        import pytest
        from here import OUTSIDE

        NAME = {NAME!r}
        """
        """
        CALLS = {
            "rename": lambda d: os.rename(d + NAME, d + NAME + b"2"),
            "link": lambda d: os.link(d + NAME + b"2", d + NAME),
            "symlink": lambda d: os.symlink(NAME, d + NAME + b"3"),
            "mkdir": lambda d: os.mkdir(d + NAME + b"4"),
            "rename directory": lambda d: os.rename(d + b"tree " + NAME, d + b"other " + NAME),
        }

        @pytest.mark.parametrize("call", ["rename", "symlink", "mkdir", "rename directory"])
        def test_refused(call):
            with pytest.raises(PermissionError):
                CALLS[call](os.fsencode(OUTSIDE) + b"/refused/")

        @pytest.mark.fence(allow_write=[OUTSIDE + "/allowed/*"])
        def test_allowed():
            for call in CALLS.values():
                call(os.fsencode(OUTSIDE) + b"/allowed/")
        """,
        policy=ONLY_HERE,
    )
    place = f"{fenced.outside}/refused"
    run.refused("test_refused[rename]", f"rename {place}/{SHOWN}")
    run.refused("test_refused[symlink]", f"symlink {place}/{SHOWN}3")
    run.refused("test_refused[mkdir]", f"mkdir {place}/{SHOWN}4")
    run.refused("test_refused[rename directory]", f"rename {place}/tree {SHOWN}")
    run.clean("test_allowed")
    assert sorted(os.listdir(out + b"/refused")) == sorted([NAME, b"tree " + NAME])
    made = [NAME, NAME + b"2", NAME + b"3", NAME + b"4", b"other " + NAME]
    assert sorted(os.listdir(out + b"/allowed")) == sorted(made)
    assert "\x1b" not in run.out


def test_such_names_inside_of_a_directory(fenced: Fenced) -> None:
    os.makedirs(os.fsencode(fenced.directory) + b"/tree/" + NAME)
    with open(os.fsencode(fenced.directory) + b"/tree/" + NAME + b"/x.key", "w"):
        pass
    run = fenced.run(
        """
        import os
        import pytest

        def test_move():
            with pytest.raises(PermissionError):
                os.rename("tree", "other")
        """,
        policy=ONLY_HERE + 'deny_write = ["*.key"]\n',
    )
    run.refused("test_move", f"rename {fenced.directory}/tree, which holds {SHOWN}/x.key")


def test_rules_in_every_form(fenced: Fenced) -> None:
    """A directory that holds what is denied by a path, from home, by a glob or by a bare name stays where it is."""
    home = fenced.directory / "home"
    for name in "home/kept/x", "path/x/y", "glob/a/b.key", "bare/a/secret/y", "deep/a/b/c/last", "none/x":
        fenced.write(name, "as it was")
    run = fenced.run(
        """
        import os
        import pytest

        @pytest.mark.parametrize("name", ["home/kept", "path", "glob", "bare", "deep"])
        def test_move(name):
            with pytest.raises(PermissionError):
                os.rename(name, "moved")
            with pytest.raises(PermissionError):
                os.rename(name, "none/moved")

        @pytest.mark.fence(allow_write=["path", "bare"])
        def test_no_permission_beats_it():
            with pytest.raises(PermissionError):
                os.rename("path", "moved")

        @pytest.mark.fence(deny_write=["none/x"])
        def test_of_a_marker():
            with pytest.raises(PermissionError):
                os.rename("none", "moved")

        def test_none():
            os.rename("none", "moved")
            os.rename("moved", "none")
        """,
        policy=ONLY_HERE + 'deny_write = ["~/kept/x", "path/x/y", "./glob/*/*.key", "secret", "deep/**/last"]\n',
        env={"HOME": str(home)},
    )
    here = fenced.directory
    for name, holds in {
        "home/kept": "x",
        "path": "x/y",
        "glob": "a/b.key",
        "bare": "a/secret",
        "deep": "a/b/c/last",
    }.items():
        run.refused(f"test_move[{name}]", f"rename {here}/{name}, which holds {holds}", count=2)
    run.refused("test_no_permission_beats_it", f"rename {here}/path, which holds x/y")
    run.refused("test_of_a_marker", f"rename {here}/none, which holds x")
    run.clean("test_none")


def test_only_audited(fenced: Fenced) -> None:
    """Carried out, and reported once for each name or tree that the policy would have kept."""
    fenced.write("tree/x.key", "x")
    (fenced.outside / "old").write_text("old")
    run = fenced.run(
        """
        import os
        from here import OUTSIDE

        def test_tree():
            os.rename("tree", "moved")
            assert os.path.exists("moved/x.key")

        def test_file():
            os.rename(OUTSIDE + "/old", "new")
            os.link("new", OUTSIDE + "/back")
        """,
        "--fence-mode=audit",
        policy=ONLY_HERE + 'deny_write = ["*.key"]\n',
    )
    assert run.status == 0, run
    assert [attempt.what for attempt in run.attempts("test_tree")] == [
        f"rename {fenced.directory}/tree, which holds x.key"
    ]
    assert {attempt.what for attempt in run.attempts("test_file")} == {
        f"rename {fenced.outside}/old",
        f"link {fenced.outside}/back",
    }
    assert (fenced.outside / "back").read_text() == "old"


def test_a_place_of_the_session_that_a_marker_lets_be_moved(fenced: Fenced) -> None:
    """The kernel's rule goes with the directory; what takes its place is as writable as it was."""
    place = fenced.outside / "place"
    place.mkdir()
    (fenced.outside / "other").mkdir()
    run = fenced.run(
        """
        import os
        import pytest
        from here import OUTSIDE

        PLACE, MOVED, OTHER = OUTSIDE + "/place", OUTSIDE + "/moved", OUTSIDE + "/other"

        def test_before():
            with pytest.raises(PermissionError):
                os.rename(PLACE, MOVED)

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_moved():
            os.rename(PLACE, MOVED)
            os.mkdir(PLACE)
            open(PLACE + "/one", "w").close()
            os.rename(PLACE + "/one", PLACE + "/two")
            os.replace(OTHER, MOVED)

        def test_afterwards():
            open(PLACE + "/three", "w").close()
            os.mkdir(PLACE + "/four")
            os.rename(PLACE + "/three", PLACE + "/four/five")
            with pytest.raises(PermissionError):
                open(MOVED + "/six", "w")
        """,
        policy=ONLY_HERE.replace('"./*"', f'"./*", "{place}"'),
    )
    run.refused("test_before", f"rename {fenced.outside}/moved")
    run.clean("test_moved")
    run.refused("test_afterwards", f"write {fenced.outside}/moved/six")
    assert (place / "four/five").exists()
