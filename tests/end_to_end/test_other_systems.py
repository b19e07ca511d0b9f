"""On other systems than Linux nothing of the plugin fails: a fence is skipped, or the run refused, as was chosen.

Imitated here: Python says that it is on another system, and what that does not have cannot be imported.
"""

from __future__ import annotations

import sys

import pytest

from tests.end_to_end.support import Ended, Runs

ELSEWHERE = """\
import os, pdb, shutil, signal, sys, time, pytest, _pytest.tmpdir, _pytest.terminal

system = sys.argv.pop(1)
missing = ["fcntl", "grp", "pwd", "resource", "termios", "posix"] if system == "win32" else []
attributes = {os: ["memfd_create", "eventfd", "pidfd_open", "sched_getaffinity", "getxattr", "listxattr"],
              signal: ["SIGRTMIN", "SIGRTMAX"]}
if system == "win32":
    attributes[os] += ["O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "geteuid", "getuid", "fork", "pipe2",
                       "register_at_fork", "waitid", "getpgid", "killpg"]
    attributes[signal] += ["pthread_sigmask", "SIGKILL", "SIGCHLD"]
    attributes[time] = ["clock_gettime", "CLOCK_MONOTONIC"]
for module, names in attributes.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for name in missing:
    sys.modules[name] = None
sys.platform = system
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture
def elsewhere(runs: Runs) -> Runs:
    (runs.directory / "elsewhere.py").write_text(ELSEWHERE)
    (runs.directory / "test_it.py").write_text("def test_it(): pass\n")
    return runs


def run(runs: Runs, system: str, *args: str) -> Ended:
    # -s: pytest's own capture on Windows needs what only Windows has.
    return runs.command(sys.executable, "elsewhere.py", system, "-s", "-p", "no:cacheprovider", *runs.plugins, *args)


def config(runs: Runs, *lines: str) -> None:
    (runs.directory / "pyproject.toml").write_text("\n".join(["[tool.fence]", *lines, "[tool.pytest.ini_options]", ""]))


systems = pytest.mark.parametrize("system", ["darwin", "win32"])


def runs_unfenced(ended: Ended, header: str) -> None:
    assert ended.status == 0, ended
    assert [line for line in ended.out.splitlines() if line.startswith("fence:")] == ([header] if header else []), ended
    assert "1 passed" in ended.out


def refuses(ended: Ended, system: str, why: str) -> None:
    assert ended.status == 4, ended
    assert f"ERROR: this run cannot be fenced: the fence needs Linux, and this is {system}; {why}" in ended.err, ended
    assert "Traceback" not in ended.err + ended.out
    assert "passed" not in ended.out


@systems
def test_nobody_asks(elsewhere: Runs, system: str) -> None:
    """The plugin is imported, and its options and its marker are known."""
    (elsewhere.directory / "test_it.py").write_text(
        "import pytest\n@pytest.mark.fence(deny_write=['x'])\ndef test(): pass\n"
    )
    runs_unfenced(run(elsewhere, system, "--strict-markers"), "")
    note = "fence: off (--fence-mode does nothing without --fence)"
    runs_unfenced(run(elsewhere, system, "--fence-mode=warn"), note)


@systems
def test_the_configuration_asks(elsewhere: Runs, system: str) -> None:
    """`enabled` alone is for machines that can; what it allows need not mean anything here."""
    config(elsewhere, "enabled = true", "allow_write = ['~/x', '/y']", "allowed_domains = ['a.example']")
    runs_unfenced(run(elsewhere, system), f"fence: off (this is {system})")
    runs_unfenced(run(elsewhere, system, "--no-fence"), "fence: off (--no-fence)")
    config(elsewhere, "enabled = false", "mode = 'warn'")
    runs_unfenced(run(elsewhere, system), "")


@systems
def test_refused(elsewhere: Runs, system: str) -> None:
    """By whatever says that this run is not to go on without a fence; nothing of the project is imported."""
    (elsewhere.directory / "conftest.py").write_text("print('1 passed')\n")
    refuses(run(elsewhere, system, "--fence"), system, "--fence is given")
    config(elsewhere, "enabled = true")
    refuses(run(elsewhere, system, "--fence-require=seccomp"), system, "--fence-require is given")
    config(elsewhere, "enabled = true", "unsupported = 'refuse'")
    refuses(run(elsewhere, system), system, 'the configuration says unsupported = "refuse"')
    config(elsewhere, "enabled = true", "require = ['landlock']")
    refuses(run(elsewhere, system), system, "the configuration has `require`")


@systems
def test_skipped_whatever_asks(elsewhere: Runs, system: str) -> None:
    """`unsupported = "skip"`: but for --fence-require, which is for where a fence is a must."""
    config(elsewhere, "enabled = true", "unsupported = 'skip'", "require = ['landlock']")
    runs_unfenced(run(elsewhere, system, "--fence"), f'fence: off (this is {system}; unsupported = "skip")')
    refuses(run(elsewhere, system, "--fence", "--fence-require=seccomp"), system, "--fence-require is given")


@systems
def test_packages(elsewhere: Runs, system: str) -> None:
    """What a package says counts as the root's word does."""
    config(elsewhere, "packages = ['a*']")
    (elsewhere.directory / "a").mkdir()
    (elsewhere.directory / "a" / "fence.json").write_text('{"enabled": true}')
    runs_unfenced(run(elsewhere, system), f"fence: off (this is {system})")
    (elsewhere.directory / "a" / "fence.json").write_text('{"enabled": true, "unsupported": "refuse"}')
    refuses(run(elsewhere, system), system, 'the configuration says unsupported = "refuse"')


@systems
def test_wrong(elsewhere: Runs, system: str) -> None:
    """What is wrong with how to run is said as it is on Linux."""
    config(elsewhere, "enabled = true", "unsupported = 'maybe'")
    ended = run(elsewhere, system)
    assert ended.status == 4, ended
    assert 'pyproject.toml [tool.fence], line 3: unsupported: is "maybe" (a string); accepted: "refuse" or "skip"' in (
        ended.err
    ), ended


def test_on_linux_it_changes_nothing(elsewhere: Runs) -> None:
    """The same project is fenced here. And the imitation does take away what the fence needs."""
    config(elsewhere, "enabled = true", "unsupported = 'skip'")
    ended = elsewhere.pytest(fenced=False)
    assert ended.status == 0, ended
    ended.has("^fence: enforce; ")
    (elsewhere.directory / "test_it.py").write_text("def test_it(): import fence_core.untouched\n")
    assert run(elsewhere, "win32", "--no-fence").status == 1
