"""What others use, tomorrow or right now: environments of Python, sockets of services, settings of tools."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced


def environment(place: Path) -> None:
    """As `python -m venv` makes it, as far as anybody looks."""
    (place / "bin").mkdir(parents=True)
    (place / "lib/python3.11/site-packages").mkdir(parents=True)
    (place / "bin/python").write_text("", encoding="utf-8")
    (place / "pyvenv.cfg").write_text("", encoding="utf-8")


@pytest.mark.parametrize("place", ["w/env", "packages/a/.tox/py311", "my/bin/.nox/tests"])
def test_environment_that_is_there(fenced: Fenced, place: str) -> None:
    """At any depth and of any name: what Python runs from it comes from no test. The rest of it is not closed."""
    environment(fenced.directory / place)
    run = fenced.run(
        f"""
        import os, pathlib, subprocess, sys
        import pytest

        ENV = pathlib.Path({place!r})
        PACKAGES = ENV / "lib/python3.11/site-packages"
        REFUSED = pytest.raises(PermissionError)

        def test_package():
            with REFUSED:
                (PACKAGES / "x.pth").write_text("import os")

        def test_directory():
            with REFUSED:
                (PACKAGES / "package").mkdir()

        def test_program():
            with REFUSED:
                (ENV / "bin/pip").write_text("")

        def test_python_itself():
            with REFUSED:
                (ENV / "bin/python").unlink()

        def test_home():
            with REFUSED:
                (ENV / "pyvenv.cfg").write_text("home = /tmp")

        def test_mode():
            with REFUSED:
                (ENV / "pyvenv.cfg").chmod(0o600)

        def test_moved():
            with REFUSED:
                ENV.rename("moved")

        def test_exchanged():
            with REFUSED:
                (ENV / "lib").rename("lib")

        @pytest.mark.fence(allow_write=["{place}/lib/python3.11/site-packages"])
        def test_allowed():
            (PACKAGES / "y.py").write_text("")

        def test_elsewhere():
            (ENV / "log").mkdir()
            (ENV / "log/x").write_text("")
            os.makedirs("other/bin")
            pathlib.Path("other/bin/x").write_text("")

        def test_made_by_a_test():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", "made"], check=True)
            pathlib.Path("made/bin/tool").write_text("")
            next(pathlib.Path("made/lib").glob("python*/site-packages")).joinpath("x.py").write_text("")
            os.rename("made", "made2")
        """,
        env={"HOME": str(fenced.outside)},
    )
    here = fenced.directory / place
    run.refused("test_package", f"write {here}/lib/python3.11/site-packages/x.pth")
    run.refused("test_directory", f"mkdir {here}/lib/python3.11/site-packages/package")
    run.refused("test_program", f"write {here}/bin/pip")
    run.refused("test_python_itself", f"unlink {here}/bin/python")
    run.refused("test_home", f"write {here}/pyvenv.cfg")
    run.refused("test_mode", f"chmod {here}/pyvenv.cfg")
    run.refused("test_moved", f"rename {here}")
    run.refused("test_exchanged", f"rename {here}/lib")
    run.clean("test_allowed", "test_elsewhere", "test_made_by_a_test")


def test_environment_of_conda(fenced: Fenced) -> None:
    """Which has no `pyvenv.cfg`; so has one of pixi. What the shell runs when it is activated is closed, too."""
    place = fenced.directory / ".pixi/envs/dev"
    environment(place)
    (place / "pyvenv.cfg").unlink()
    fenced.write(".pixi/envs/dev/conda-meta/history", "")
    run = fenced.run(
        """
        import os, pathlib
        import pytest

        ENV = pathlib.Path(".pixi/envs/dev")
        REFUSED = pytest.raises(PermissionError)

        def test_package():
            with REFUSED:
                (ENV / "lib/python3.11/site-packages/x.pth").write_text("import os")

        def test_program():
            with REFUSED:
                (ENV / "bin/python").unlink()

        def test_activation():
            os.makedirs(ENV / "etc/conda")
            with REFUSED:
                (ENV / "etc/conda/activate.d").mkdir()

        def test_activation_by_a_move():
            os.mkdir("conda")
            with REFUSED:
                os.rename("conda", ENV / "etc/conda")

        def test_mark():
            with REFUSED:
                (ENV / "conda-meta/history").unlink()

        def test_mark_with_its_directory():
            with REFUSED:
                os.rename(ENV / "conda-meta", ENV / "x")

        def test_moved():
            with REFUSED:
                os.rename(ENV, "x")

        def test_made_by_a_test():
            for part in "made/bin", "made/etc/conda/activate.d", "made/conda-meta":
                os.makedirs(part)
            pathlib.Path("made/conda-meta/history").write_text("")
            pathlib.Path("made/bin/x").write_text("")
            pathlib.Path("made/etc/conda/activate.d/x.sh").write_text("")
        """,
        env={"HOME": str(fenced.outside)},
    )
    run.refused("test_package", f"write {place}/lib/python3.11/site-packages/x.pth")
    run.refused("test_program", f"unlink {place}/bin/python")
    run.refused("test_activation", f"mkdir {place}/etc/conda/activate.d")
    run.refused("test_activation_by_a_move", f"rename {place}/etc/conda")
    run.refused("test_mark", f"unlink {place}/conda-meta/history")
    run.refused("test_mark_with_its_directory", f"rename {place}/conda-meta")
    run.refused("test_moved", f"rename {place}")
    run.clean("test_made_by_a_test")


def test_environment_that_is_not_there_yet(fenced: Fenced) -> None:
    """A `.venv` that tools take without asking; a rule that names it allows it."""
    run = fenced.run(
        """
        import os
        import pytest

        @pytest.mark.parametrize("place", [".venv", "packages/a/.venv"])
        def test_made(place):
            os.makedirs(os.path.dirname(place) or ".", exist_ok=True)
            with pytest.raises(PermissionError):
                os.mkdir(place)

        def test_moved():
            os.mkdir("x")
            with pytest.raises(PermissionError):
                os.rename("x", ".venv")

        def test_link():
            with pytest.raises(PermissionError):
                os.symlink("x", ".venv")

        def test_temporary(tmp_path):
            (tmp_path / ".venv/bin").mkdir(parents=True)

        @pytest.mark.fence(allow_write=[".venv"])
        def test_allowed():
            os.makedirs(".venv/bin")
        """,
        env={"HOME": str(fenced.outside)},
    )
    here = fenced.directory
    refused = run.refused("test_made[.venv]", f"mkdir {here}/.venv")
    assert refused.marker == '@pytest.mark.fence(allow_write=[".venv"])'
    run.refused("test_made[packages/a/.venv]", f"mkdir {here}/packages/a/.venv")
    run.refused("test_moved", f"rename {here}/.venv")
    run.refused("test_link", f"symlink {here}/.venv")
    run.clean("test_temporary", "test_allowed")


@contextmanager
def service(path: Path) -> Iterator[socket.socket]:
    """One of the same user, outside."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield server


def test_sockets_of_others(fenced: Fenced, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a directory for temporary files, where everything else may be removed."""
    place = tmp_path_factory.mktemp("s")
    (place / "agent").mkdir()
    with service(place / "a"), service(place / "b"), service(place / "agent/c"), service(place / "closed"):
        pass
    (place / "a").unlink()
    (place / "b").unlink()
    (place / "agent/c").unlink()
    with service(place / "a") as a, service(place / "b"), service(place / "agent/c"):
        run = fenced.run(
            f"""
            import os, pathlib, shutil, socket, stat
            import pytest

            PLACE = pathlib.Path({str(place)!r})
            REFUSED = pytest.raises(PermissionError)

            def test_removed():
                with REFUSED:
                    os.unlink(PLACE / "a")

            def test_replaced():
                with socket.socket(socket.AF_UNIX) as own:
                    own.bind(str(PLACE / "own"))
                    with REFUSED:
                        os.rename(PLACE / "own", PLACE / "b")

            def test_moved_away():
                with REFUSED:
                    os.rename(PLACE / "b", PLACE / "c")

            def test_moved_with_its_directory():
                with REFUSED:
                    os.rename(PLACE / "agent", PLACE / "agent2")

            def test_mode():
                with REFUSED:
                    os.chmod(PLACE / "a", 0o777)

            def test_mode_of_its_directory():
                with REFUSED:
                    os.chmod(PLACE / "agent", 0o777)

            def test_mode_of_its_directory_by_descriptor():
                directory = os.open(PLACE / "agent", os.O_RDONLY)
                with REFUSED:
                    os.fchmod(directory, 0o777)

            def test_owner_of_its_directory():
                with REFUSED:
                    os.chown(PLACE / "agent", os.getuid(), os.getgid())

            def test_beside_it():
                (PLACE / "agent/log").write_text("")
                os.utime(PLACE / "agent")
                os.mkdir(PLACE / "other")
                os.chmod(PLACE / "other", 0o700)

            def test_left_by_nobody():
                os.unlink(PLACE / "closed")

            def test_own():
                with socket.socket(socket.AF_UNIX) as own:
                    own.bind(str(PLACE / "mine"))
                    own.listen()
                    os.chmod(PLACE / "mine", 0o600)
                    os.rename(PLACE / "mine", PLACE / "mine2")
                    os.unlink(PLACE / "mine2")

            @pytest.mark.fence(allow_write=[str(PLACE / "a")])
            def test_allowed():
                os.chmod(PLACE / "a", 0o600)
            """,
            env={"HOME": str(fenced.outside), "TMPDIR": str(place)},
        )
        assert (place / "a").is_socket()
        assert a.fileno() >= 0
    run.refused("test_removed", f"unlink {place}/a")
    run.refused("test_replaced", f"rename {place}/b")
    run.refused("test_moved_away", f"rename {place}/b")
    run.refused("test_moved_with_its_directory", f"rename {place}/agent")
    run.refused("test_mode", f"chmod {place}/a")
    run.refused("test_mode_of_its_directory", f"chmod {place}/agent")
    run.refused("test_mode_of_its_directory_by_descriptor", f"chmod {place}/agent")
    run.refused("test_owner_of_its_directory", f"chown {place}/agent")
    run.clean("test_beside_it", "test_left_by_nobody", "test_own", "test_allowed")


@pytest.mark.parametrize(
    "name",
    [
        ".husky/pre-commit",
        ".pre-commit-config.yaml",
        "lefthook.yml",
        ".pdbrc",
        "sub/AGENTS.md",
        ".zed/tasks.json",
        "sub/.Rprofile",
        ".mypy.ini",
        ".mvn/extensions.xml",
        ".github/prompts/x.md",
    ],
)
def test_settings_of_tools(fenced: Fenced, name: str) -> None:
    run = fenced.run(
        f"""
        import pathlib
        import pytest

        def test_project():
            with pytest.raises(PermissionError):
                path = pathlib.Path({name!r})
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("")

        def test_temporary(tmp_path):
            path = tmp_path / {name!r}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        """,
        env={"HOME": str(fenced.outside)},
    )
    assert len(run.attempts("test_project")) == 1, run
    run.clean("test_temporary")
    assert not (fenced.directory / name).exists()
