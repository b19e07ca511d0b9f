"""What Python loads before the fence of the next run: no test puts anything there, and beside it all is as before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import filters

OUTER = sysconfig.get_paths()["purelib"]


@pytest.fixture
def environment(fenced: Fenced) -> Path:
    """The packages of a virtual environment in the project, which has those of the outer one besides."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", fenced.directory / ".venv"], check=True)
    (packages,) = (fenced.directory / ".venv" / "lib").glob("python*/site-packages")
    (packages / "outer.pth").write_text(f"import site; site.addsitedir({OUTER!r})\n", encoding="utf-8")
    (packages / "installed.py").write_text("", encoding="utf-8")
    (packages / "early.py").write_text("", encoding="utf-8")
    (fenced.directory / "early_plugin.py").write_text("import early\n", encoding="utf-8")
    return packages


def in_environment(fenced: Fenced) -> list[str]:
    return [str(fenced.directory / ".venv" / "bin" / "python")]


PLANTS = """
    import os, pathlib, sys
    import pytest

    PACKAGES = pathlib.Path(sys.prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")

    def plant(path, text=""):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
"""


def test_start_up_file_planted(fenced: Fenced, environment: Path) -> None:
    """The attack as it would be done. Without a fence it works: the next run executes what the test has left."""
    test = f"""{PLANTS}
    def test_plant():
        plant(PACKAGES / "x.pth", "import os; open('ran-unfenced', 'w').close()\\n")
    """
    ran = fenced.directory / "ran-unfenced"
    run = fenced.run(test, program=in_environment(fenced))
    run.refused("test_plant", f"write {environment}/x.pth", line="path.write_text(text)", fails_itself=True)
    run = fenced.run("def test(): pass", program=in_environment(fenced))
    assert run.status == 0, run
    assert not ran.exists()

    assert fenced.run(test, flags=(), program=in_environment(fenced)).status == 0
    assert not ran.exists()
    fenced.run("def test(): pass", program=in_environment(fenced))
    assert ran.exists()


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("(PACKAGES / 'pluggy.py').touch()", "write {packages}/pluggy.py"),
        ("(PACKAGES / 'new' / '__init__.py').parent.mkdir()", "mkdir {packages}/new"),
        ("(PACKAGES / 'x-1.dist-info').mkdir()", "mkdir {packages}/x-1.dist-info"),
        ("(PACKAGES / 'early.py').unlink()", "unlink {packages}/early.py"),
        ("open(PACKAGES / 'early.py', 'a').close()", "write {packages}/early.py"),
        ("os.chmod(PACKAGES / 'early.py', 0o777)", "chmod {packages}/early.py"),
        ("os.rename(PACKAGES, PACKAGES.with_name('old'))", "rename {packages}"),
        ("os.rename('.venv/lib', '.venv/old')", "rename {venv}/lib"),
        ("os.rename('.venv', 'old')", "rename {venv}"),
        ("open('.venv/pyvenv.cfg', 'a').close()", "write {venv}/pyvenv.cfg"),
        ("os.unlink('.venv/bin/python')", "unlink {venv}/bin/python"),
        ("(PACKAGES / '__pycache__' / 'x').touch()", "write {packages}/__pycache__/x"),
    ],
)
def test_environment(fenced: Fenced, environment: Path, code: str, what: str) -> None:
    (environment / "__pycache__").mkdir(exist_ok=True)
    before = sorted(path for path in (fenced.directory / ".venv").rglob("*") if "__pycache__" not in path.parts)
    run = fenced.run(
        f"""{PLANTS}
    def test_it():
        with pytest.raises(PermissionError):
            {code}

    def test_beside(tmp_path):
        for place in (pathlib.Path(sys.prefix, "share"), tmp_path, pathlib.Path.cwd() / "data"):
            plant(place / "pluggy.py")
        os.rename("data", "results")
    """,
        program=in_environment(fenced),
    )
    run.refused("test_it", what.format(packages=environment, venv=fenced.directory / ".venv"))
    run.clean("test_beside")
    run.nothing_else("test_it")
    (fenced.directory / ".venv" / "share" / "pluggy.py").unlink()
    (fenced.directory / ".venv" / "share").rmdir()
    after = sorted(path for path in (fenced.directory / ".venv").rglob("*") if "__pycache__" not in path.parts)
    assert after == before


def test_byte_code_of_the_environment(fenced: Fenced, environment: Path) -> None:
    """The next run would execute it, its supervisor too; Python does without, and nobody is blamed."""
    run = fenced.run(
        f"""{PLANTS}
    def test_late():
        import installed
        assert not list((PACKAGES / "__pycache__").glob("installed.*"))
    """,
        plugins=["early_plugin"],
        env={"PYTHONDONTWRITEBYTECODE": None},
        program=in_environment(fenced),
    )
    assert list((environment / "__pycache__").glob("early.*.pyc")), "written before the fence stood"
    run.clean("test_late")
    assert run.status == 0, run


def test_byte_code_in_one_place(fenced: Fenced) -> None:
    """As PYTHONPYCACHEPREFIX has it: what the next run loads lies there, too."""
    place = fenced.directory / "bytes"
    run = fenced.run(
        f"""{PLANTS}
    import pluggy
    def test_import():
        plant(pathlib.Path("late.py"))
        import late
        assert not list(pathlib.Path("bytes").rglob("late.*"))

    def test_plant():
        from importlib.util import cache_from_source
        place = cache_from_source(pluggy.__file__)
        assert os.path.exists(place)
        with pytest.raises(PermissionError):
            open(place, "a").close()
    """,
        env={"PYTHONDONTWRITEBYTECODE": None, "PYTHONPYCACHEPREFIX": str(place)},
    )
    assert run.status == 0, run
    assert not run.ledger


def test_named_in_the_policy(fenced: Fenced, environment: Path) -> None:
    """As with an environment elsewhere: who wants tests to install something says so."""
    run = fenced.run(
        f"""{PLANTS}
    @pytest.mark.fence(allow_write=[str(PACKAGES)])
    def test_it():
        plant(PACKAGES / "module.py")
        os.rename(PACKAGES / "module.py", PACKAGES / "renamed.py")
        (PACKAGES / "renamed.py").unlink()

    def test_after():
        with pytest.raises(PermissionError):
            plant(PACKAGES / "module.py")
    """,
        program=in_environment(fenced),
    )
    run.clean("test_it")
    run.refused("test_after", f"write {environment}/module.py")


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("open('pluggy.py', 'w').close()", "write {here}/pluggy.py"),
        ("open('argparse.so', 'w').close()", "write {here}/argparse.so"),
        ("plant(pathlib.Path('json/__init__.py'))", "write {here}/json/__init__.py"),
        ("os.rename('package', 'json')", "rename {here}/package, which holds __init__.py"),
        ("os.symlink('package', 'json')", "symlink {here}/json"),
        ("open('sitecustomize.py', 'w').close()", "write {here}/sitecustomize.py"),
        ("os.mkdir('x-1.dist-info')", "mkdir {here}/x-1.dist-info"),
        ("os.rename('package', 'x.egg-info')", "rename {here}/x.egg-info"),
        ("open('mine/plugin.py', 'a').close()", "write {here}/mine/plugin.py"),
        ("open('mine/__init__.cpython-311-x86_64-linux-gnu.so', 'w').close()",
         "write {here}/mine/__init__.cpython-311-x86_64-linux-gnu.so"),
        ("os.rename('mine', 'old')", "rename {here}/mine"),
        ("os.rename('package', 'mine/plugin')", "rename {here}/package, which holds __init__.py"),
        ("os.link('mine/plugin.py', 'other.py')", "link {here}/mine/plugin.py"),
    ],
)  # fmt: skip
def test_on_the_path(fenced: Fenced, code: str, what: str) -> None:
    """``python -m pytest`` looks in the working directory before it looks anywhere else."""
    run = fenced.run(
        f"""{PLANTS}
    def test_it():
        with pytest.raises(PermissionError):
            {code}

    def test_beside(tmp_path):
        for path in "helper.py sub/pluggy.py mine/data/x mine/helper.py json/x.txt made/__init__.py".split():
            plant(pathlib.Path(path))
        os.rename("made", "moved")
        os.unlink("json/x.txt")
        import sub.pluggy
        os.rename("json", "glob")
        os.rename("glob", "sub/json")
    """,
        files={"mine/__init__.py": "", "mine/plugin.py": "", "package/__init__.py": ""},
        plugins=["mine.plugin"],
    )
    run.refused("test_it", what.format(here=fenced.directory))
    run.clean("test_beside")
    run.nothing_else("test_it")


@pytest.mark.parametrize("code", ["open('token.txt', 'w').close()", "os.mkdir('json')", "open('x.json', 'w').close()"])
def test_names_that_are_no_modules(fenced: Fenced, code: str) -> None:
    run = fenced.run(f"{PLANTS}\n    def test(): {code}", "--junitxml=pytest.xml")
    assert run.status == 0, run
    assert (fenced.directory / "pytest.xml").exists()


def test_imports_of_the_supervisor(fenced: Fenced) -> None:
    """It has no fence, and imports what names and connections need when a test first asks: not from the project."""
    run = fenced.run(
        f"""{PLANTS}
    import socket

    @pytest.mark.fence(allow_write=["."])
    @pytest.mark.parametrize("name", ["dns", "proxy", "idna", "resource", "asyncio"])
    def test_plant(name):
        with pytest.raises(PermissionError):
            plant(pathlib.Path(name + ".py"), "raise SystemExit")

    def test_names():
        with pytest.raises(OSError):
            socket.getaddrinfo("nowhere.example.com", 80)
    """,
        policy="[tool.fence]\nallowed_domains = ['x.example.com']\nhosts = {'x.example.com' = '127.0.0.1'}\n",
        # Rules that come later than the plants: these are there already.
        files={"dns_.py": ""},
    )
    assert {attempt.what.rpartition("/")[2] for attempt in run.ledger if attempt.what.startswith("write")} == {
        "dns.py",
        "proxy.py",
        "idna.py",
        "resource.py",
        "asyncio.py",
    }, run
    run.refused("test_names", "resolve nowhere.example.com")


def test_modules_that_were_there_already(fenced: Fenced) -> None:
    """Code of the project under the name of what only the supervisor imports: that is not what it gets."""
    ran = fenced.directory / "ran"
    outside = f"{filters(fenced=False)!r} in open('/proc/self/status').read()"
    trap = f"import os\nif {outside}: open({str(ran)!r}, 'w').close()\n"
    run = fenced.run(
        """
    import socket

    def test_names():
        socket.getaddrinfo("x.example.com", 80)
        try:
            socket.create_connection(("x.example.com", 9), 5).close()
        except OSError:
            pass
    """,
        policy="[tool.fence]\nallowed_domains = ['x.example.com']\nhosts = {'x.example.com' = '127.0.0.1'}\n",
        files={"dns.py": trap, "proxy.py": trap, "idna.py": trap},
    )
    assert run.status == 0, run
    assert not ran.exists()


def test_by_the_script(fenced: Fenced) -> None:
    """``pytest`` itself does not look in the working directory, but the next run may be another."""
    script = os.path.join(os.path.dirname(sys.executable), "pytest")
    test = "import pytest\ndef test():\n    with pytest.raises(PermissionError): open('pluggy.py', 'w')\n"
    run = fenced.run(test + "    open('helper.py', 'w').close()\n", program=[sys.executable, script])
    run.refused("test", f"write {fenced.directory}/pluggy.py")


def test_options_files(fenced: Fenced) -> None:
    """What this run takes its options from is locked, wherever it lies."""
    run = fenced.run(
        f"""{PLANTS}
    @pytest.mark.parametrize("name", ["ci/fast.ini", "opts.txt"])
    def test_plant(name):
        with pytest.raises(PermissionError):
            open(name, "a")

    def test_beside():
        plant(pathlib.Path("ci/other.ini"))
    """,
        "-c",
        "ci/fast.ini",
        "@opts.txt",
        files={"ci/fast.ini": "[pytest]\n", "opts.txt": "-q\n"},
    )
    here = fenced.directory
    assert [attempt.what for attempt in run.ledger] == [f"write {here}/ci/fast.ini", f"write {here}/opts.txt"], run
    run.clean("test_beside")


def test_fence_itself_in_the_project(fenced: Fenced) -> None:
    """The supervisor imports a handler with the first call of its family: that one is not a test's to write."""
    for package in "fence_core", "pytest_fence":
        shutil.copytree(Path(__file__).parents[2] / package, fenced.directory / "own" / package)
    run = fenced.run(
        """
        import errno, os, pathlib
        import pytest

        LATE = pathlib.Path("own/fence_core/broker/calls/xattrs.py").absolute()
        PLANTED = "def setxattr(call):\\n    open('ran-unfenced', 'w').close()\\n    return 0\\n"

        def test_plant():
            with pytest.raises(PermissionError):
                LATE.write_text(PLANTED)
            try:
                os.setxattr("data", "user.x", b"1")
            except OSError as error:  # a file system without them
                assert error.errno == errno.ENOTSUP

        def test_beside():
            pathlib.Path("own/xattrs.py").write_text("")
        """,
        files={"data": ""},
        env={"PYTHONPATH": str(fenced.directory / "own")},
    )
    place = fenced.directory / "own" / "fence_core" / "broker" / "calls"
    run.refused("test_plant", f"write {place}/xattrs.py")
    run.clean("test_beside")
    assert not (fenced.directory / "ran-unfenced").exists()
