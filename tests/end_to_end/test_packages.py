"""`packages` in the root's configuration: the tests of each have a policy of their own, in one run."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent

import pytest

from tests.end_to_end.support import Ended, Runs

WRITES = """
    import pathlib, pytest

    @pytest.mark.parametrize("name", ["root", "a", "b"])
    def test_in_{package}(name): pathlib.Path({outside!r}, name).touch()
"""
MARKED = """
    @pytest.mark.fence(deny_write=["kept"])
    @pytest.mark.parametrize("name", ["root", "a", "b"])
    def test_marked_in_{package}(name): pathlib.Path({outside!r}, name).touch()
"""


class Mono:
    """Two packages below a root with a test of its own. Nothing may be written but what the configs name: in each, one
    file of a directory outside of the project."""

    def __init__(self, runs: Runs, outside: Path) -> None:
        self.runs = runs
        self.root = runs.directory
        self.outside = outside
        self.tmp = self.root / "tmp"
        self.tmp.mkdir()
        (self.root / "pytest.ini").write_text("[pytest]\n")
        self.config(
            "", f"packages = ['packages/*']\nextends = 'default-deny'\nallow_write = ['tmp', '{outside}/root']\n"
        )
        self.tests("", WRITES)
        for name in ("a", "b"):
            self.config(name, f"allow_write = ['{outside}/{name}']\n")
            self.tests(name, WRITES + MARKED)

    def path(self, package: str) -> Path:
        path = self.root / "packages" / package if package else self.root
        path.mkdir(parents=True, exist_ok=True)
        return path

    def config(self, package: str, text: str, *, name: str = "pyproject.toml") -> None:
        head = "[tool.fence]\n" if name.endswith(".toml") else ""
        (self.path(package) / name).write_text(head + text)

    def more(self, package: str, text: str) -> None:
        """A line for its config."""
        with (self.path(package) / "pyproject.toml").open("a") as file:
            file.write(text + "\n")

    def tests(self, package: str, text: str, *, file: str = "") -> None:
        own = package or "root"
        path = self.path(package) / (file or f"test_{own}.py")
        path.write_text(dedent(text.replace("{package}", own).replace("{outside!r}", repr(str(self.outside)))))

    def run(self, *args: str, fenced: bool = True, cwd: Path | None = None) -> Ended:
        args = ("-rA", "-p", "no:cacheprovider", f"--basetemp={self.tmp}/base", *args)
        env = {"TMPDIR": str(self.tmp), "PYTHONDONTWRITEBYTECODE": "1"}
        return self.runs.pytest(*args, fenced=fenced, env=env, cwd=cwd or self.root)

    def refused(self, *said: str, args: tuple[str, ...] = (), fenced: bool = True) -> None:
        """The run is a usage error that says all this, before anything is imported."""
        for name in ("a", "b"):
            self.tests(name, f"open({str(self.root / 'imported')!r}, 'w')", file="conftest.py")
        ended = self.run(*args, fenced=fenced)
        assert ended.status == 4, ended
        for text in said:
            assert text in ended.err, (text, ended)
        assert "Traceback" not in ended.err
        assert not (self.root / "imported").exists()


@pytest.fixture
def mono(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Mono:
    return Mono(runs, tmp_path_factory.mktemp("outside"))


def passed(ended: Ended) -> set[str]:
    """`in_a[root]`: a test of a has written the root's file."""
    return {line.rpartition("::test_")[2] for line in ended.outcomes() if line.startswith("PASSED")}


ITS_OWN = {
    *("in_root[root]",),
    *("in_a[root]", "in_a[a]", "marked_in_a[root]", "marked_in_a[a]"),
    *("in_b[root]", "in_b[b]", "marked_in_b[root]", "marked_in_b[b]"),
}


@pytest.mark.parametrize("how", ["one process", "workers", "a process for each test", "nested"])
def test_each_has_its_own_policy(mono: Mono, how: str) -> None:
    """The root's rules and its own, and nobody else's; markers add to them."""
    args = []
    if how == "workers":
        mono.runs.load("xdist.plugin")
        args = ["-n2"]
    elif how == "a process for each test":
        args = ["--fence-scope=test"]
    if how == "nested":
        mono.config("", "packages = ['packages/*']\nallow_write = ['/']\n")
        words = mono.runs.argv(["-rA", "-p", "no:cacheprovider"], fenced=True)
        outer = mono.root / "outer"
        outer.mkdir()
        text = (
            f"import subprocess\ndef test(): assert subprocess.run({words!r}, cwd={str(mono.root)!r}).returncode == 1"
        )
        (outer / "pytest.ini").write_text("[pytest]\n")
        (outer / "test_it.py").write_text(text)
        (outer / "fence.json").write_text('{"extends": "default-deny", "filesystem": {"allowWrite": ["/"]}}')
        ended = mono.run("-s", cwd=outer)
        assert "inside another fence" in ended.out
        return
    ended = mono.run(*args)
    assert ended.status == 1, ended
    assert passed(ended) == ITS_OWN, ended
    ended.has(r"^fence: enforce; .*; pyproject.toml \[tool.fence\] and those of 2 packages$")


def test_asked_for_by_a_package(mono: Mono) -> None:
    """One `enabled = true` fences the run, and exempts nobody; without any there is no fence."""
    assert mono.run(fenced=False).status == 0
    mono.more("a", "enabled = true")
    mono.more("b", "enabled = false")
    ended = mono.run(fenced=False)
    assert ended.status == 1, ended
    assert passed(ended) == ITS_OWN, ended
    assert mono.run("--no-fence", fenced=False).status == 0


def test_what_is_not_listed(mono: Mono) -> None:
    """A config below or beside the packages is no less overlooked than without any, and the way out is named."""
    mono.config("", "packages = ['packages/b']\n")
    listed = "is not read, since pytest's rootdir is"
    mono.refused(f"packages/a/pyproject.toml [tool.fence]: {listed}", 'packages = ["packages/a"]', args=("packages",))
    mono.config("", "packages = ['packages/*']\n")
    mono.tests("a/below", WRITES, file="test_below.py")
    mono.config("a/below", "enabled = true\n")
    mono.refused(f"packages/a/below/pyproject.toml [tool.fence]: {listed}", args=("packages/a/below",))


def test_relative_paths(mono: Mono) -> None:
    """Of its config and of the markers of its tests: they count from the package."""
    mono.more("a", "deny_write = ['./here']")
    mono.tests(
        "a",
        """
        import pathlib, pytest
        HERE = pathlib.Path(__file__).parent

        @pytest.mark.fence(allow_write=["build"])
        def test_marked(): (HERE / "build").touch()
        @pytest.mark.fence(allow_write=["build"])
        def test_of_the_root(): (HERE.parents[1] / "build").touch()
        def test_not_marked(): (HERE / "build").touch()
        """,
    )
    mono.config("a", "allow_write = ['made', 'packages/a/wrong', '../up']\n")
    ended = mono.run("packages/a")
    assert passed(ended) == {"marked"}, ended
    mono.tests("a", 'import pathlib\nHERE = pathlib.Path(__file__).parent\ndef test_made(): (HERE / "made").touch()\n')
    assert passed(mono.run("packages/a")) == {"made"}


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("pyproject.toml", "deny_write = ['./no']\n", "[tool.fence]"),
        ("fence.yaml", "filesystem:\n  deny_write: ['./no']\n", "allow_write: ["),
        ("fence.json", '{"filesystem": {"denyWrite": ["./no"]}}', '{"filesystem": {"allowWrite": ['),
    ],
)
def test_a_refusal_names_the_package(mono: Mono, name: str, text: str, remedy: str) -> None:
    """The rule is that of the package's own config, and what would allow something is in its syntax."""
    (mono.path("a") / "pyproject.toml").unlink()
    mono.config("a", text, name=name)
    mono.tests("a", WRITES + "    def test_no(): (pathlib.Path(__file__).parent / 'no').touch()\n")
    ended = mono.run("packages/a")
    where = f"packages/a/{name}" + (" [tool.fence]" if name.endswith(".toml") else "")
    assert f'denied: filesystem.deny_write "./no" ({where})' in ended.out, ended
    assert f"or:          {remedy}" in ended.out, ended
    assert f"pyproject.toml [tool.fence], {where})" in ended.out, ended


def test_a_preset_of_its_own(mono: Mono) -> None:
    """`extends` in a package chooses what its tests start from, in place of the root's."""
    mono.config("", "packages = ['packages/*']\n")
    mono.config("a", f"extends = 'default-deny'\nallow_write = ['{mono.tmp}']\n")
    for name in ("a", "b"):
        mono.tests(name, f"import pathlib\ndef test_{name}(): (pathlib.Path(__file__).parent / 'made').touch()\n")
    assert passed(mono.run("packages")) == {"b"}


def test_what_runs_before_and_after_the_tests(mono: Mono) -> None:
    """A package's modules and conftests are imported under its policy, and what its fixtures leave is cleaned up under
    it, though that is done when the tests of another one have been run."""
    touch = f"import pathlib, pytest\nOWN = pathlib.Path({str(mono.outside)!r}, 'a')\n"
    fixture = """
        @pytest.fixture(scope="session")
        def shared():
            OWN.touch()
            yield
            OWN.touch()
        """
    mono.tests("a", touch + "OWN.touch()" + dedent(fixture), file="conftest.py")
    mono.tests("a", touch + "OWN.touch()\ndef test_a(shared): pass\n")
    mono.tests("b", "def test_b(): pass\n")
    for args in ((), ("packages/a",), ("packages/a/test_a.py", "packages/a/test_a.py::test_a")):
        mono.tests("", "def test_root(): pass\n")
        ended = mono.run(*args)
        assert ended.status == 0, ended
    assert mono.run("packages/b", cwd=mono.root).status == 0


def test_a_package_that_has_a_scope(mono: Mono) -> None:
    """`scope` is that of its tests; the flag has the last word."""
    for name in ("a", "b"):
        mono.tests(name, f"import os\ndef test_1(): print('pid', os.getpid(), '{name}')\ntest_2 = test_1\n")
    mono.more("a", "scope = 'test'")
    found = [line.split()[1:] for line in mono.run("packages").out.splitlines() if line.startswith("pid")]
    assert [len({pid for pid, name in found if name == package}) for package in ("a", "b")] == [2, 1], found
    found = [
        line.split()[1:]
        for line in mono.run("packages", "--fence-scope=session").out.splitlines()
        if line.startswith("pid")
    ]
    assert len({pid for pid, _ in found}) == 1, found


def test_the_configs_cannot_be_changed(mono: Mono) -> None:
    """Neither by its own tests, nor by those of another package, whatever the rules allow."""
    mono.config("", "packages = ['packages/*']\nallow_write = ['/']\n")
    text = f"import pathlib\ndef test_{{package}}(): pathlib.Path({str(mono.path('a') / 'pyproject.toml')!r}).touch()\n"
    control = f"def test_control_{{package}}(): pathlib.Path({str(mono.path('a') / 'other')!r}).touch()\n"
    for name in ("a", "b"):
        mono.tests(name, text + control)
    mono.tests("", text + control)
    os.utime(mono.path("a") / "pyproject.toml", (0, 0))
    assert passed(mono.run()) == {"control_a", "control_b", "control_root"}
    assert (mono.path("a") / "pyproject.toml").stat().st_mtime == 0


def test_what_narrows_holds_for_all(mono: Mono) -> None:
    """`env_deny` and `require` of a package are the run's."""
    text = "import os\ndef test_{package}(): assert 'SOME_TOKEN' not in os.environ\n"
    mono.tests("a", text)
    mono.tests("b", text)
    os.environ["SOME_TOKEN"] = "x"
    try:
        assert passed(mono.run("packages")) == set()
        mono.more("a", "env_deny = ['*_TOKEN']")
        assert passed(mono.run("packages")) == {"a", "b"}
    finally:
        del os.environ["SOME_TOKEN"]
    mono.more("b", "require = ['no_such_layer']")
    mono.refused("no_such_layer")


@pytest.mark.parametrize(
    ("package", "line", "said"),
    [
        ("a", "mode = 'warn'", "packages/a/pyproject.toml [tool.fence], line 3: mode: is set for the run as a whole"),
        ("a", "keep_fds = [9]", "packages/a/pyproject.toml [tool.fence], line 3: keep_fds: is set for the run"),
        ("a", "packages = ['x']", "packages/a/pyproject.toml [tool.fence], line 3: packages: is set in a package"),
        ("a", "allow_writ = ['x']", "packages/a/pyproject.toml [tool.fence], line 3: allow_writ: is not a key"),
        ("a", "allow_write = [", "packages/a/pyproject.toml: is not valid TOML"),
        ("a", "deny_write = ['/dev/null']", "packages/a/pyproject.toml [tool.fence], line 3: filesystem.deny_write: "),
    ],
)
def test_wrong_in_a_package(mono: Mono, package: str, line: str, said: str) -> None:
    mono.more(package, line)
    mono.refused(said)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("['packges/*']", 'line 2: packages: "packges/*" names no directory in '),
        ("['packages/c']", 'line 2: packages: "packages/c" names no directory in '),
        ("['../x']", 'line 2: packages[0]: "../x" leads out of the directory of the configuration'),
        ("['/x']", 'line 2: packages[0]: "/x" leads out of the directory of the configuration'),
        ("'packages/*'", "line 2: packages: "),
    ],
)
def test_wrong_in_the_root(mono: Mono, value: str, said: str) -> None:
    mono.config("", f"packages = {value}\n")
    mono.refused(f"pyproject.toml [tool.fence], {said}")


def test_the_same_mode_is_no_matter(mono: Mono) -> None:
    """Nor is one that a flag has the last word on."""
    mono.more("a", "mode = 'warn'")
    mono.tests("", "def test(): pass\n")
    assert mono.run("test_root.py", "--fence-mode=warn").status == 0
    mono.more("", "mode = 'warn'")
    assert mono.run("test_root.py").status == 0


def test_a_directory_without_a_config(mono: Mono) -> None:
    """It is a package like any other directory: by the root's rules."""
    (mono.path("b") / "pyproject.toml").unlink()
    ended = mono.run()
    assert passed(ended) == ITS_OWN - {"in_b[b]", "marked_in_b[b]"}, ended
    ended.has("and those of 1 package$")
