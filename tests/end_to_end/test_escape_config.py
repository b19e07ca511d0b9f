"""Way out: moving the fence's config out of its place, changing it there and moving it back."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced

POLICY = '[tool.fence]\nextends = "strict"\n'


def test_config_is_moved_with_its_directory(fenced: Fenced) -> None:
    """The run's directory lies in the one for temporary files, where everything else may be moved about."""
    run = fenced.run(
        """
        import os

        HERE = os.path.dirname(os.path.abspath(__file__))

        def test_move():
            try:
                os.rename(HERE, HERE + "-moved")
            except PermissionError:
                return
            os.rename(HERE + "-moved", HERE)

        def test_other_directory():
            os.makedirs("tmp/one/sub")
            os.rename("tmp/one", "tmp/two")
            os.rename("tmp/two/sub", "tmp/sub")
        """,
        policy=POLICY,
    )
    run.refused("test_move", f"rename {fenced.directory}", line='os.rename(HERE, HERE + "-moved")')
    run.clean("test_other_directory")


def test_config_of_another_place(fenced: Fenced) -> None:
    fenced.write("conf/policy.toml", "[tool.fence]\n")
    run = fenced.run(
        """
        import os

        def test_move():
            try:
                os.rename("conf", "moved")
            except PermissionError:
                pass

        def test_within():
            open("conf/other", "w").close()
            os.rename("conf/other", "conf/another")
        """,
        "--fence-config=conf/policy.toml",
    )
    run.refused("test_move", f"rename {fenced.directory}/conf")
    run.clean("test_within")
