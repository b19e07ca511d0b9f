"""`fence doctor` and `pytest --fence-doctor`: what they say of this machine, and of worse ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from fence_core.kernel import arch, bpf
from tests.end_to_end.command.conftest import Command
from tests.end_to_end.support import REFUSING, Ended, Runs
from tests.kernel.children import Supervised

TRIED = {
    "connections": "tried: a refused connect gave EACCES, an allowed one connected",
    "files": "tried: a refused write gave EACCES, an allowed one wrote",
    "names": "tried: an allowed name led to 198.18.0.1, another did not exist",
    "proxy": "tried: CONNECT to a name that is not allowed gave 403",
    "stacks": "tried: pytest named the line, test_doctor.py:5",
}


def marks(out: str) -> dict[str, tuple[str, str]]:
    """Mark and text of each line by its name."""
    rows = re.findall(r"^  (\S[\w ]*?)  +(yes|no|-)(?: +(.*))?$", out, re.MULTILINE)
    return {name: (mark, text) for name, mark, text in rows}


def all_tried(ended: Ended) -> None:
    told = marks(ended.out)
    assert {name: told.get(name) for name in TRIED} == {name: ("yes", text) for name, text in TRIED.items()}, ended


def test_of_the_command(runs: Runs) -> None:
    fence = Command(runs)
    fence.write("fence.json", '{"network": {"allowedDomains": ["a.test"]}}')
    (runs.directory / "pytest.py").write_text("raise SystemExit('a module of the working directory')")
    ended = fence("doctor")
    assert (ended.status, ended.err) == (0, ""), ended
    all_tried(ended)
    assert f"policy: {runs.directory}/fence.json, template command, template default-deny; 1 name, " in ended.out
    assert "\nReady" in ended.out
    assert "please report it" not in ended.out
    wrong = fence("doctor", "true")
    assert (wrong.status, wrong.out) == (2, "")
    assert wrong.err == "fence: doctor takes flags only, and true is none of them\n"


def test_of_pytest(runs: Runs) -> None:
    """No conftest is imported, since that would be outside of a fence. `-c /dev/null` does not close /dev/null."""
    Path(runs.directory, "conftest.py").write_text("raise SystemExit('imported')")
    config = runs.directory / "own.toml"
    config.write_text('[tool.fence]\nallowed_domains = ["a.test", "b.test"]\n')
    ended = runs.pytest("--fence-doctor", f"--fence-config={config}", fenced=False)
    assert (ended.status, ended.err) == (0, ""), ended
    all_tried(ended)
    assert re.search(r"Python 3\S+, pytest \d", ended.out), ended
    assert "own.toml" in ended.out
    assert "; 2 names, " in ended.out
    config.write_text('[tool.fence]\nallowed_domains = ["https://a.test"]\nrequire = ["landlok"]\n')
    ended = runs.pytest("--fence-doctor", f"--fence-config={config}", fenced=False)
    assert ended.status == 1, ended
    assert "the fence's policy cannot be used:\n" in ended.out
    assert ended.out.endswith("Not ready: the policy.\n"), ended


def test_without_landlock(runs: Runs) -> None:
    """The fence stands without, unless the policy asks for it."""
    Path(runs.directory, "fence.toml").write_text(
        '[tool.fence]\nrequire = ["landlock"]\nenv_deny = ["FENCE_NO_SUCH_VARIABLE"]\n'
    )
    refusing = [sys.executable, str(REFUSING), "landlock_create_ruleset,pidfd_getfd"]
    ended = runs.command(*refusing, *Command(runs).argv("doctor"))
    assert ended.status == 0, ended
    all_tried(ended)
    told = marks(ended.out)
    for name in "landlock", "landlock_network", "landlock_scopes", "pidfd_getfd":
        assert told[name][0] == "no", ended
        assert "; without it " in told[name][1], ended
    assert ended.out.count("to get it: ") == 4, ended
    assert "Ready, with less than there could be (4 missing)." in ended.out
    assert '"landlock' not in ended.out.splitlines()[-1]
    ended = runs.command(*refusing, *Command(runs).argv("doctor", "-s", "fence.toml"))
    assert ended.status == 1, ended
    assert ended.out.endswith("Not ready: require, env_deny.\n"), ended


def test_without_a_fence(runs: Runs) -> None:
    """Where there can be none, nothing is tried, and what is missing is said."""
    ended = runs.command(sys.executable, str(REFUSING), "seccomp", *Command(runs).argv("doctor"))
    assert ended.status == 1, ended
    assert "to get it: Linux 5.9 or newer" in ended.out
    assert "tried" not in ended.out
    assert ended.out.endswith("Not ready: seccomp.\n")


def test_under_another_supervisor(runs: Runs) -> None:
    """One that listens for what nobody calls."""
    argv, env, directory = Command(runs).argv("doctor"), runs.environ(), runs.directory

    def doctor() -> tuple[int, str, str]:
        ended = subprocess.run(argv, env=env, cwd=directory, capture_output=True, text=True)
        return ended.returncode, ended.stdout, ended.stderr

    child = Supervised({arch.current().calls["swapon"]: bpf.RET_USER_NOTIF}, doctor, wait_killable=False)
    try:
        ended = Ended(*child.result())
    finally:
        child.close()
    assert (ended.status, ended.err) == (1, ""), ended
    assert marks(ended.out)["another supervisor"][0] == "no", ended
    assert "to get it: run outside of it" in ended.out
    assert ended.out.endswith("Not ready: another supervisor.\n"), ended


def test_in_a_second_fence(runs: Runs) -> None:
    """It only narrows: what the fence around it refuses, it cannot show to be allowed."""
    fence = Command(runs)
    inner = fence.argv("doctor")
    ended = fence("--allow-write", os.environ.get("TMPDIR", "/tmp"), "--", *inner)
    told = marks(ended.out)
    assert ended.status == 0, ended
    assert "a fence is around this process" in told["another supervisor"][1], ended
    assert told["files"] == ("yes", TRIED["files"]), ended
    assert told["connections"][0] == "-"
    assert told["connections"][1].startswith("not tried in the fence around this one: only what is outside")
    assert told["names"] == ("-", "tried: another name did not exist; the fence around this one allows none")
    assert "\nReady" in ended.out
    wide = '{"network": {"allowedDomains": ["*"], "allowLocalBinding": true}, "filesystem": {"allowWrite": ["/tmp"]}}'
    fence.write("wide.json", wide)
    ended = fence("-s", "wide.json", "--", *inner, env={"TMPDIR": "/tmp"})
    assert ended.status == 0, ended
    told = marks(ended.out)
    assert [told[name] for name in ("files", "stacks")] == [("yes", TRIED[name]) for name in ("files", "stacks")], ended
    assert told["names"][0] == "yes", ended
