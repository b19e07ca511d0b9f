"""`@pytest.mark.fence(...)`: what it allows or forbids, for this test and no other."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_a_rule_names_the_marker_that_it_comes_from(fenced: Fenced) -> None:
    """Not the closest one, where several hold."""
    run = fenced.run(
        """
        import pytest
        from here import OUTSIDE

        pytestmark = pytest.mark.fence(deny_write=[f"{OUTSIDE}/x"])

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_it():
            with pytest.raises(PermissionError):
                open(f"{OUTSIDE}/x", "w")
            open(f"{OUTSIDE}/y", "w").close()
        """,
        policy=ONLY_HERE,
    )
    run.refused("test_it", f"write {fenced.outside}/x")
    assert f'denied: filesystem.deny_write "{fenced.outside}/x" (@pytest.mark.fence of the module)' in run.out


def test_nothing_leaks_into_the_next_test(fenced: Fenced) -> None:
    for name in "own", "module", "class", "a", "b":
        (fenced.outside / name).mkdir()
    run = fenced.run(
        """
        import pathlib
        import pytest
        from here import OUTSIDE

        def write(*names):
            done = []
            for name in names:
                try:
                    pathlib.Path(OUTSIDE, name, "f").write_text("x")
                    done.append(name)
                except PermissionError:
                    pass
            return done

        ALL = "own", "module", "class"
        pytestmark = pytest.mark.fence(allow_write=[f"{OUTSIDE}/module"])

        def test_before():
            assert write(*ALL) == ["module"]

        @pytest.mark.fence(allow_write=[f"{OUTSIDE}/own"])
        def test_own():
            assert write(*ALL) == ["own", "module"]

        def test_after():
            assert write(*ALL) == ["module"]

        @pytest.mark.fence(allow_write=[f"{OUTSIDE}/class"])
        class TestClass:
            def test_class(self):
                assert write(*ALL) == ["module", "class"]

            @pytest.mark.fence(allow_write=[f"{OUTSIDE}/own"])
            def test_all(self):
                assert write(*ALL) == ["own", "module", "class"]

            @pytest.mark.fence(deny_write=[f"{OUTSIDE}/class"])
            def test_denied(self):
                assert write(*ALL) == ["module"]

        def test_last():
            assert write(*ALL) == ["module"]

        @pytest.mark.parametrize("name", [
            pytest.param("a", marks=pytest.mark.fence(allow_write=[f"{OUTSIDE}/a"])),
            pytest.param("b", marks=pytest.mark.fence(allow_write=[f"{OUTSIDE}/b"])),
        ])
        def test_parameter(name):
            assert write("a", "b") == [name]
        """,
        policy=ONLY_HERE,
    )

    def tried(test: str) -> list[str]:
        prefix, suffix = f"write {fenced.outside}/", "/f"
        return [v.what.removeprefix(prefix).removesuffix(suffix) for v in run.attempts(test)]

    assert tried("test_before") == tried("test_after") == tried("test_last") == ["own", "class"]
    assert tried("test_own") == ["class"]
    assert tried("test_class") == ["own"]
    assert tried("test_all") == []
    assert tried("test_denied") == ["own", "class"]
    assert (tried("test_parameter[a]"), tried("test_parameter[b]")) == (["b"], ["a"])
    # No assertion of theirs failed: what each could do and could not is as they say.
    assert "AssertionError" not in run.out
    run.clean("test_all")


def test_fixtures_run_under_the_policy_of_the_test_that_sets_them_up(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import pathlib
        import pytest
        from here import OUTSIDE

        @pytest.fixture
        def around():
            pathlib.Path(OUTSIDE, "setup").write_text("x")
            yield
            pathlib.Path(OUTSIDE, "teardown").touch()

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_allowed(around):
            pathlib.Path(OUTSIDE, "call").touch()

        def test_not_allowed(around):
            pass
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_allowed")
    assert fenced.untouched("setup", "call", "teardown")
    run.refused("test_not_allowed", f"write {fenced.outside}/setup", phase="setup", fails_itself=True)


def test_processes_keep_the_policy_of_their_test(fenced: Fenced) -> None:
    """A program that is allowed to write goes on being allowed when its test is over; nobody else is."""
    run = fenced.run(
        """
        import os, pathlib, subprocess, sys
        import pytest
        from here import OUTSIDE

        CODE = "import sys; open('go').read(); open(sys.argv[1], 'w'); open('done', 'w').close()"

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_allowed():
            os.mkfifo("go")
            os.mkfifo("done")
            subprocess.Popen([sys.executable, "-c", CODE, f"{OUTSIDE}/late"], start_new_session=True)

        def test_not_allowed():
            with pytest.raises(PermissionError):
                open(f"{OUTSIDE}/own", "w")
            open("go", "w").close()
            open("done").read()
        """,
        policy=ONLY_HERE,
    )
    run.clean("test_allowed")
    run.refused("test_not_allowed", f"write {fenced.outside}/own")
    assert fenced.untouched("late")


def test_added_while_collecting(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import pathlib
        from here import OUTSIDE

        def test_chosen():
            pathlib.Path(OUTSIDE, "chosen").write_text("x")

        def test_other():
            pathlib.Path(OUTSIDE, "other").write_text("x")
        """,
        policy=ONLY_HERE,
        files={
            "conftest.py": """
            import pytest
            from here import OUTSIDE

            def pytest_collection_modifyitems(items):
                for item in items:
                    if item.name == "test_chosen":
                        item.add_marker(pytest.mark.fence(allow_write=[OUTSIDE]))
            """
        },
    )
    run.clean("test_chosen")
    run.refused("test_other", f"write {fenced.outside}/other", fails_itself=True)
    assert fenced.untouched("chosen")


def test_remedy_is_ready_to_paste(fenced: Fenced) -> None:
    """What the report proposes, pasted, makes the test pass; as a marker and as config."""
    test = """
import pathlib, socket
import pytest
from here import OUTSIDE, PORT

{marker}
def test_it():
    {body}
"""
    for body in (
        'pathlib.Path(OUTSIDE, "new").write_text("x")',
        'socket.create_connection(("127.0.0.1", PORT), timeout=5).close()',
    ):
        policy = ONLY_HERE + "allow_local_outbound = false\n"
        first = fenced.run(test.format(marker="", body=body), policy=policy)
        (found,) = first.attempts("test_it")
        marker, config = found.marker, found.config
        assert marker in first.out
        second = fenced.run(test.format(marker=marker, body=body), policy=policy)
        second.clean("test_it")
        section, line = config.split("\n")
        assert section == "[tool.fence]"
        if line.startswith("allow_write"):
            policy = policy.replace('allow_write = ["./*", ', f"{line[:-1]}, ".replace("= [", '= ["./*", '))
        else:
            kept = [each for each in policy.splitlines() if not each.startswith(line.partition(" =")[0] + " =")]
            policy = "\n".join([*kept, line, ""])
        third = fenced.run(test.format(marker="", body=body), policy=policy)
        third.clean("test_it")
        assert (first.status, second.status, third.status) == (1, 0, 0)


WRONG = {
    "unknown key": ("allowed_domain=['x.example']", "allowed_domain"),
    "wrong type": ("allow_write='/tmp'", "allow_write"),
    "not for markers": ("mode='warn'", "mode"),
    "positional": ("['x.example']", "keyword"),
    "nothing": ("", "without arguments"),
    "bad pattern": ("allowed_domains=['*.com']", "*.com"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_a_usage_error(fenced: Fenced, name: str) -> None:
    """Before any test is run, with file and line."""
    arguments, word = WRONG[name]
    run = fenced.run(
        f"""
        import pathlib
        import pytest

        def test_first():
            pathlib.Path("ran").touch()

        @pytest.mark.fence({arguments})
        def test_wrong():
            pathlib.Path("ran").touch()
        """
    )
    assert run.status == 4, run
    assert word in run.err + run.out
    assert "test_it.py:8" in run.err + run.out or "test_it.py:9" in run.err + run.out, run
    assert not (fenced.directory / "ran").exists()


def test_all_wrong_markers_at_once(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import pytest

        @pytest.mark.fence(one=1)
        def test_a(): pass

        @pytest.mark.fence(two=2)
        def test_b(): pass
        """
    )
    assert run.status == 4
    for word in "one", "two", "test_a", "test_b":
        assert word in run.err + run.out


def test_unfenced_the_marker_means_nothing(fenced: Fenced) -> None:
    """Registered all the same: no complaint about an unknown marker."""
    run = fenced.run(
        "import pytest\n@pytest.mark.fence(allow_write=['/x'])\ndef test_it(): pass\n", "--strict-markers", flags=()
    )
    assert run.status == 0
