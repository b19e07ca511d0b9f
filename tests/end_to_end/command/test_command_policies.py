"""`fence config` and `fence check`: what is shown is read again, and what is wrong is told without running anything."""

from __future__ import annotations

import json

from tests.end_to_end.command.conftest import Command

POLICY = """{
  "extends": "offline",
  "network": {"allowedDomains": ["a.test"]},
  "filesystem": {"allowWrite": ["out",
    "biuld"]}
}"""


def test_a_fixed_point(fence: Command) -> None:
    fence.write("p.json", POLICY)
    shown = fence("config", "show", "-s", "p.json", "--allow-domain", "b.test")
    assert shown.status == 0, shown
    assert json.loads(shown.out)["network"]["allowedDomains"] == ["a.test", "b.test"]
    assert shown.err.splitlines()[1:] == [
        "policy: template offline", "policy: template command", "policy: template default-deny",
    ]  # fmt: skip
    with (fence.directory / fence.write("shown", shown.out)).open() as piped:
        again = fence("config", "show", "-s", "/dev/stdin", stdin=piped)
    assert again.out == shown.out, again
    named = fence("config", "show", "-s", "p.json", "--sources")
    assert '"a.test"  // p.json:3' in named.out
    assert named.out != shown.out


def test_the_schema(fence: Command) -> None:
    ended = fence("config", "schema")
    assert json.loads(ended.out)["$schema"].endswith("2020-12/schema"), ended


def test_a_policy_that_is_one(fence: Command) -> None:
    fence.write("p.json", POLICY)
    (fence.directory / "out").mkdir()
    (fence.directory / "build").mkdir()
    ended = fence("check", "-s", "p.json")
    assert (ended.status, ended.err) == (0, ""), ended
    first, *odd = ended.out.splitlines()
    assert first.startswith(f"{fence.directory}/p.json: ok (extends template offline, template command, ")
    assert odd == ['  p.json:5: filesystem.allowWrite "biuld": does not exist; did you mean "build"?']


def test_a_policy_that_is_none(fence: Command) -> None:
    fence.write("p.json", POLICY.replace('"out"', '""').replace("a.test", "*.com"))
    for words in ("check",), ("config", "show"):
        ended = fence(*words, "-s", "p.json")
        assert (ended.status, ended.out) == (1, ""), ended
        assert "p.json:3: network.allowedDomains[0]:" in ended.err
        assert "p.json:4: filesystem.allowWrite[0]:" in ended.err


def test_what_else_is_asked(fence: Command) -> None:
    for words, said in (
        (("config",), "config takes `init`"),
        (("config", "shwo"), "config takes `init`"),
        (("config", "show", "true"), "true has no meaning here; nothing is run"),
        (("check", "-m"), "--monitor has no meaning here"),
        (("check", "-t", "nosuch"), '"nosuch" is not a template; there are: '),
    ):
        ended = fence(*words)
        assert (ended.status, ended.out) == (1, ""), ended
        assert ended.err.startswith(f"fence: {said}"), ended
        assert ended.err.count("\n") == 1


def test_help(fence: Command) -> None:
    for words in ("config", "--help"), ("check", "-h"), ("config", "show", "-h"):
        ended = fence(*words)
        assert (ended.status, ended.err) == (0, ""), ended
        assert "fence config show [flags] [--sources]" in ended.out


def test_commands_of_these_names(fence: Command) -> None:
    ended = fence("--", "check")
    assert (ended.status, ended.err) == (127, "fence: check: command not found\n"), ended
