"""`fence explain`: what would be allowed, by which line, and what would change it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fence_core.command.explain import explain

POLICY = """\
{
  "network": {
    "allowedDomains": ["*.example.org"],
    "deniedDomains": ["bad.example.org"],
    "allowLocalOutboundPorts": [5432]
  },
  "filesystem": {
    "allowWrite": ["."],
    "denyWrite": ["*.key"],
    "denyRead": ["secret"]
  },
  "command": {"deny": ["git push"], "allow": ["git push origin docs"]}
}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    place = home / "project"
    place.mkdir(parents=True)
    (place / "fence.json").write_text(POLICY)
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return place


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("connect x.example.org:8080", 'network.allowedDomains "\\*.example.org" .*fence.json:3'),
        ("connect 127.0.0.1:5432", "network.allowLocalOutboundPorts.*fence.json:5"),
        ("connect localhost:5432", "network.allowLocalOutboundPorts"),
        ("resolve x.example.org", "network.allowedDomains"),
        ("write sub/new", 'filesystem.allowWrite "." .*fence.json:8'),
        ("read other", "no rule in filesystem.deny_read matches"),
        ("run git push origin docs", "no rule in command.deny speaks of it"),
        ("run git status", "no rule in command.deny speaks of it"),
        ("--allow-domain a.test connect a.test", 'network.allowedDomains "a.test" .*--allow-domain'),
        ("--allow-write /srv write /srv/x", 'filesystem.allowWrite "/srv"'),
    ],
)
def test_allowed(question: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(question.split()) == 0
    out = capsys.readouterr().out
    assert out.startswith("allowed: ")
    assert re.search(told, out), out


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("connect api.example.com", "no rule in network.allowedDomains allows it .*--allow-domain api.example.com"),
        ("connect api.example.com", '{"network": {"allowedDomains": \\["api.example.com"\\]}}'),
        ("connect bad.example.org", 'denied: network.deniedDomains "bad.example.org" .*fence.json:4.*a denial wins'),
        ("connect 127.0.0.1:6379", "network.allowLocalOutboundPorts .*only 5432"),
        ("connect [::1]:22", "network.allowLocalOutboundPorts"),
        ("connect 192.0.2.1:443", "network.allowedDomains"),
        ("resolve other.test", "network.allowedDomains"),
        ("bind 8080", "network.allowLocalBinding"),
        ("bind 0.0.0.0:8080", "network.allowLocalBinding"),
        ("write sub/p.key", 'denied: filesystem.denyWrite "\\*.key" .*fence.json:9'),
        ("write .bashrc", "protected"),
        ("write fence.json", "it decides what the next run allows"),
        ("write /etc/passwd", "--allow-write /etc/passwd for one run"),
        ("read secret", 'denied: filesystem.denyRead "secret" .*fence.json:10'),
        ("run secret", 'filesystem.denyRead "secret"'),
        ("run git push origin main", 'denied: command.deny "git push" .*fence.json:12'),
        ("run /usr/bin/git -C x push", 'denied: command.deny "git push"'),
    ],
)
def test_refused(question: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(question.split()) == 1
    out = capsys.readouterr().out
    assert out.startswith("refused: ")
    assert re.search(told, out, re.DOTALL), out


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("connect a.exmple.org", '  closest: "*.example.org" (fence.json:3)'),
        ("resolve exmple.org", '  closest: "*.example.org" (fence.json:3); one letter off?'),
        ("resolve eexample.org", '  closest: "*.example.org" (fence.json:3); one letter off?'),
        ("resolve exbnple.org", '  closest: "*.example.org" (fence.json:3)'),
        ("resolve other.test", ""),
        ("connect bad.example.org", ""),
    ],
)
def test_the_closest(question: str, told: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(question.split()) == 1
    out = capsys.readouterr().out.replace(f"{project}/", "")
    assert [line for line in out.splitlines() if line.startswith("  closest")] == ([told] if told else [])


def test_as_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(["--json", "connect", "exmple.org"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["rule"].startswith("no rule in network.allowedDomains allows it (")
    assert told | {"rule": ""} == {
        "v": 1,
        "question": ["connect", "exmple.org"],
        "test": "",
        "verdict": "refused",
        "rule": "",
        "rule_key": "network.allowed_domains",
        "entry": "",
        "source": None,
        "closest": "*.example.org",
        "remedy": {"network": {"allowedDomains": ["exmple.org"]}},
        "policy": [str(project / "fence.json"), "template command", "template default-deny"],
    }
    assert explain(["--json", "write", "sub/x"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["remedy"]) == ("allowed", None)
    assert told["source"] == {"file": str(project / "fence.json"), "line": 8}


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("", "explain what\\? There are: connect, resolve"),
        ("dance x", '"dance" cannot be explained'),
        ("connect", "takes one word"),
        ("write a b", "takes one word"),
        ("run", "takes a command"),
        ("connect a..b", "has an empty label"),
        ("connect x:99999", "does not end in a port"),
        ("connect x:y", "does not end in a port"),
        ("bind 0.0.0.0:x", "does not end in a port"),
        ("--what x", "unknown option --what"),
    ],
)
def test_wrong_questions(question: str, told: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert explain(question.split()) == 2
    captured = capfd.readouterr()
    assert not captured.out
    assert re.fullmatch(f"fence: .*{told}.*\\n", captured.err), captured.err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
