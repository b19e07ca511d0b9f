"""`fence check`: rules that say something, and probably not what was meant; and others, which are left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fence_core.command.policies import check


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    place = home / "project"
    (place / "build" / "out").mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return place


def checked(section: str, capsys: pytest.CaptureFixture[str], **lists: list[str]) -> list[str]:
    """The doubts about a file with an item of these lists on each line, the first on line 3."""
    items = [f'"{key}": [\n' + ",\n".join(map(json.dumps, values)) + "]" for key, values in lists.items()]
    Path("fence.json").write_text(f'{{"{section}": {{{", ".join(items)}}}}}')
    assert check([]) == 0
    return [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        ({"allowWrite": ["biuld"]}, ['fence.json:2: filesystem.allowWrite "biuld": does not exist; did you mean']),
        ({"allowWrite": ["dist"]}, ['fence.json:2: filesystem.allowWrite "dist": does not exist (yet)']),
        (
            {"allowWrite": ["build/out", "build"]},
            ['fence.json:2: filesystem.allowWrite "build/out": is covered by "build" (fence.json:3): it adds nothing'],
        ),
        ({"allowWrite": ["build", "build"]}, ['fence.json:3: filesystem.allowWrite "build": is there already (']),
        ({"allowWrite": ["build/*", "build/out"]}, []),
        (
            {"allowWrite": ["build"], "denyWrite": ["./docs"]},
            [
                'fence.json:3: filesystem.denyWrite "./docs": denies what filesystem.allowWrite does not allow'
            ],
        ),
        (
            {"allowWrite": ["build"], "denyWrite": ["./build/out", "*.key", ".env", "./build"]},
            ['fence.json:2: filesystem.allowWrite "build": has no effect: denied: filesystem.denyWrite "./build" ('],
        ),
        ({"denyRead": ["./biuld"]}, ['fence.json:2: filesystem.denyRead "./biuld": does not exist; did you mean']),
        ({"denyRead": ["./secrets", "secrets"]}, []),
    ],
)  # fmt: skip
def test_files(lists: dict[str, list[str]], told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = checked("filesystem", capsys, **lists)
    assert len(found) == len(told), found
    for line, wanted in zip(found, told, strict=True):
        assert line.startswith(wanted), found


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        (
            {"allowedDomains": ["a.example.com", "*.example.com"]},
            ['"a.example.com": is covered by "*.example.com" (fence.json:3): it adds nothing'],
        ),
        (
            {"allowedDomains": ["a.example.com:443", "a.example.com"]},
            ['"a.example.com:443": is covered by "a.ex'],
        ),
        ({"allowedDomains": ["10.0.0.7", "10.0.0.0/8"]}, ['"10.0.0.7": is covered by "10.0.0.0/8" (fence.json:3)']),
        ({"allowedDomains": ["example.com", "*.example.com", "example.org:80", "example.org:81"]}, []),
        ({"allowedDomains": ["a.test", "a.test"]}, ['"a.test": is there already (fence.json:2)']),
        (
            {"allowedDomains": ["*.github.io"]},
            ['"*.github.io": allows strangers: anybody can'],
        ),
        (
            {"allowedDomains": ["db"]},
            ['"db": leads to a private address in most networks'],
        ),
        ({"allowedDomains": ["db"], "allowPrivate": ["db"]}, []),
        (
            {"allowedDomains": ["b.test"], "deniedDomains": ["b.test"]},
            ['"b.test": has no effect: denied: net'],
        ),
        (
            {"allowedDomains": ["a.test"], "deniedDomains": ["b.test"]},
            ['"b.test": denies what network.allowedDomains does not allow'],
        ),
        ({"allowedDomains": ["*.c.test"], "deniedDomains": ["b.c.test", "*.c.test"]}, []),
    ],
)
def test_names(lists: dict[str, list[str]], told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = checked("network", capsys, **lists)
    assert len(found) == len(told), found
    for line, wanted in zip(found, told, strict=True):
        assert f" {wanted}" in line, found
        assert line.startswith("fence.json:")


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    found = checked("command", capsys, deny=["git push"], allow=["git push origin docs", "git pull"])
    assert found == [
        'fence.json:4: command.allow "git pull": excepts what command.deny does not deny: it changes nothing'
    ]


def test_spelled_as_the_file_does(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pyproject.toml").write_text('[tool.fence]\nallow_write = [\n  "biuld",\n]\n')
    assert check([]) == 0
    assert 'pyproject.toml:3: filesystem.allow_write "biuld": does not exist;' in capsys.readouterr().out
