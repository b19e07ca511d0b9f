"""`fence config init`: a first policy of each kind, which is a policy without doubts, and never over another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from fence_core.command.options import UsageError
from fence_core.command.policies import check, config
from fence_core.policy.sources.discover import discover


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    place = home / "project"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return place


@pytest.mark.parametrize("name", ["fence.json", "fence.jsonc", "fence.yaml", "fence.yml", "pyproject.toml"])
def test_a_policy_of_each_kind(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert config(["init", "-o", name]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{name}: written; ")
    assert "`fence check`" in said
    found = discover(str(project))
    assert found.chain[0] == str(project / name)
    assert [entry.text for entry in found.config.policy.filesystem.deny_write if entry.source.file] == [".env", "*.key"]
    assert check([]) == 0
    assert ": ok " in capsys.readouterr().out
    before = (project / name).read_bytes()
    with pytest.raises(UsageError, match=f"^{name}.* is there already"):
        config(["init", "-o", name])
    assert (project / name).read_bytes() == before


def test_an_addition_to_a_project(project: Path) -> None:
    (project / "pyproject.toml").write_text("[project]\nname = 'x' # kept\n")
    assert config(["init", "-o", "pyproject.toml", "-t", "strict"]) == 0
    text = (project / "pyproject.toml").read_text()
    assert text.startswith("[project]\nname = 'x' # kept\n\n[tool.fence]\n")
    assert "template strict" in discover(str(project)).chain
    with pytest.raises(UsageError, match=r"pyproject.toml \[tool.fence\] is there already"):
        config(["init"])
    assert config(["init", "-o", "other.json"]) == 0  # nobody finds that one without being told


def test_shown_only(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert config(["init", "--print"]) == 0
    assert '"extends": "command"' in capsys.readouterr().out
    assert not list(project.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-o", "fence.ini"], "of no kind that fence reads; accepted: .json"),
        (["-t", "nosuch"], '"nosuch" is not a template; there are: pytest'),
        (["json"], "takes flags only, and json is none of them"),
    ],
)
def test_what_is_wrong(words: list[str], told: str, project: Path) -> None:
    with pytest.raises(UsageError, match=told):
        config(["init", *words])
    assert not list(project.iterdir())
