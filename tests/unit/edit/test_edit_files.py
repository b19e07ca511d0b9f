"""Rules are added to a file: what it said before it still says, with the same comments, and in the same order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fence_core.edit.files import EditError, Target, difference
from fence_core.policy.sources import files

WANTED = [
    ("filesystem.allow_write", "build", "t.py::test_a"),
    ("filesystem.allow_write", '~/x "y" # z', "two"),
    ("network.allowed_domains", "a.example.com", "2 tests"),
    ("network.allow_local_binding", True, "a server"),
    ("network.hosts", "no.example.com", "there is no such name"),
    ("network.allow_local_outbound_ports", 6379, "redis"),
    ("allow_pty", True, "a terminal"),
]
TEXTS = {
    "a.toml": [
        "",
        "[tool.x]\na=1  # hi\n",
        '[tool.fence]\nenabled = true # on\nallow_write = ["old"]\n\n[tool.z]\nq = 1\n',
        '[tool.fence]\nallow_write = [\n  "old", # why\n  # end\n]\nallowed_domains = ["x.org",\n "y.org"]\n'
        '[tool.fence.hosts]\n"g.example" = false\n',
        "[tool]\nfence.enabled = true\n[tool.fence.network]\nallow_local_binding = false\n",
        '[tool.fence]\r\nallow_write = [\r\n    "old",\r\n]\r\n',
        '[tool.fence.filesystem]\nallowWrite = ["old"]\n',
    ],
    "a.yaml": [
        "",
        "# only\n",
        "filesystem:\n  allow_write:   # w\n    - old  # a\n    # before network\nnetwork:\n"
        "  allowed_domains: [x.org, y.org]  # d\n# end\n",
        "allow_write:\n- old\nhosts:\n  g.example: false\nnetwork:\n",
        "network: {}\nfilesystem: {allow_write: []}\n",
        "filesystem:\n  allow_write:\n  - |\n    x\nextends: strict\n",
        "network:\n    denied_domains:\n        - x.org # no\n\n\nallow_pty: false # never\n",
        "extends: strict",
    ],
    "a.jsonc": [
        "",
        "// c\n",
        "{}",
        '{\n  "network": {\n    "allowedDomains": ["x.org"], // d\n    "allowLocalBinding": false\n  }, // n\n'
        '  "filesystem": {\n    "allowWrite": [\n      "old" // o\n      // e\n    ]\n  }\n}\n',
        '{"filesystem": {"allowWrite": ["x",],},}',
        '{\n\t"network": {\n\t}\n}\n',
        '{\n  "filesystem": {\n    "allow_write": [\n      "\\u00e4, ]", // x ]\n    ],\n  },\n}\n',
    ],
    "a.json": ['{\n  "filesystem": {"denyWrite": []}\n}\n', '{\n  "network": {"hosts": {"a.test": "127.0.0.1"}}\n}\n'],
}
CASES = [(name, text) for name, texts in TEXTS.items() for text in texts]


def target(directory: Path, name: str, text: str) -> Target:
    (directory / name).write_bytes(text.encode())
    return Target(str(directory / name))


def spelled(text: str, kind: str) -> object:
    return files.parse(text, kind, "test")


@pytest.mark.parametrize(("name", "text"), CASES)
def test_all_that_was_there_stays(tmp_path: Path, name: str, text: str) -> None:
    found = target(tmp_path, name, text)
    after = found.edited(found.additions(WANTED))  # which checks what it says
    # What is taken away are at most lines that are put back with something added: a comma, an item, `true`.
    taken = [line[1:] for line in difference(text, after, name)[2:] if line.startswith("-")]
    comments = [part.strip() for line in taken for part in line.split("#" if name != "a.jsonc" else "//")[1:]]
    assert all(comment in after for comment in comments)
    assert text.count("\r\n") == 0 or after.count("\n") == after.count("\r\n")
    kept = [line.strip().rstrip(",") for line in text.splitlines() if "#" in line or "//" in line]
    sign = "//" if name.startswith("a.json") else "#"
    places = [after.find(sign + line.partition(sign)[2]) for line in kept]
    assert places == sorted(places)
    assert -1 not in places
    found.write(after)
    again = Target(found.path)
    assert again.additions(WANTED) == ()
    assert again.text() == after


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "filesystem:\n  allow_write:\n  - old  # a\n  # mine\n\nnetwork:\n  allowed_domains:\n  - x.org\n"),
        ("a.toml", '[tool.fence]\nallow_write = [\n    "old", # a\n]\nallowed_domains = [\n    "x.org",\n]\n# end\n'),
        (
            "a.jsonc",
            '{\n  "filesystem": {\n    "allowWrite": [\n      "old", // a\n    ],\n  },\n'
            '  "network": {\n    "allowedDomains": [\n      "x.org",\n    ],\n  },\n}\n',
        ),
    ],
)
def test_only_lines_are_added(tmp_path: Path, name: str, text: str) -> None:
    found = target(tmp_path, name, text)
    after = found.edited(found.additions(WANTED[:3]))
    changes = [line for line in difference(text, after, name)[2:] if line[:1] in "+-"]
    assert len(changes) == 3, after
    assert all(line.startswith("+") for line in changes), after


def test_a_new_file_names_its_base(tmp_path: Path) -> None:
    for name in ("a.toml", "a.yaml", "a.json"):
        found = Target(str(tmp_path / name), extends="code")
        after = found.edited(found.additions(WANTED))
        said = spelled(after, found.kind)
        assert isinstance(said, dict)
        assert said["extends"] == "code"
        found.write(after)
        assert (tmp_path / name).read_text() == after


@pytest.mark.parametrize("name", ["a.toml", "a.yaml", "a.jsonc"])
def test_text_of_strangers_stays_text(tmp_path: Path, name: str) -> None:
    """What a test calls its files and itself is escaped before; and whatever is not, the file says what is meant."""
    odd = ['x"]\nenabled = false\n[', "]", "# x", "// y", "- z", "{a: b}", "true", "1.5", "~", "*.x", "&a", "é ü", "'"]
    wanted = [("filesystem.allow_write", value, "t") for value in odd]
    found = Target(str(tmp_path / name))
    after = found.edited(found.additions(wanted))
    said = spelled(after, found.kind)
    assert odd in (said.get("allow_write"), (said.get("filesystem") or {}).get("allow_write"),
                   (said.get("filesystem") or {}).get("allowWrite"))  # type: ignore[attr-defined]  # fmt: skip


@pytest.mark.parametrize("name", ["a.toml", "a.yaml", "a.jsonc"])
def test_a_comment_that_breaks_out_is_noticed(tmp_path: Path, name: str) -> None:
    """None is made like that (`comment` escapes it). If one were, nothing would be written."""
    escape = {"a.toml": "x\nenabled = false", "a.yaml": "x\nenabled: false", "a.jsonc": 'x\n"enabled": false,'}[name]
    found = target(tmp_path, name, "{}" if name == "a.jsonc" else "")
    with pytest.raises(EditError):
        found.edited(found.additions([("filesystem.allow_write", "a", escape)]))


def test_a_file_that_has_changed_is_left_alone(tmp_path: Path) -> None:
    found = target(tmp_path, "a.yaml", "extends: strict\n")
    after = found.edited(found.additions(WANTED))
    (tmp_path / "a.yaml").write_text("extends: code\n")
    with pytest.raises(EditError, match="changed meanwhile"):
        found.write(after)
    assert (tmp_path / "a.yaml").read_text() == "extends: code\n"
    assert os.listdir(tmp_path) == ["a.yaml"]


def test_a_new_file_that_is_there_by_now_is_left_alone(tmp_path: Path) -> None:
    found = Target(str(tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text("mine")
    with pytest.raises(EditError, match="changed meanwhile"):
        found.write("x")
    assert (tmp_path / "a.yaml").read_text() == "mine"


def test_a_link_that_is_put_in_its_place_leads_nowhere(tmp_path: Path) -> None:
    """Neither a link in the place of the file, nor another directory in the place of its own."""
    (tmp_path / "there").mkdir()
    (tmp_path / "elsewhere").mkdir()
    found = target(tmp_path / "there", "a.yaml", "extends: strict\n")
    victim = tmp_path / "elsewhere" / "a.yaml"
    victim.write_text("extends: strict\n")
    (tmp_path / "there").rename(tmp_path / "away")
    (tmp_path / "there").symlink_to("elsewhere")
    found.write("extends: code\n")
    assert victim.read_text() == "extends: strict\n"
    assert (tmp_path / "away" / "a.yaml").read_text() == "extends: code\n"
    found = Target(str(tmp_path / "away" / "a.yaml"))
    (tmp_path / "away" / "a.yaml").unlink()
    (tmp_path / "away" / "a.yaml").symlink_to(victim)
    with pytest.raises(EditError):
        found.write("x")
    assert victim.read_text() == "extends: strict\n"


def test_mode_and_link_of_the_file_stay(tmp_path: Path) -> None:
    found = target(tmp_path, "real.yaml", "extends: strict\n")
    (tmp_path / "real.yaml").chmod(0o640)
    (tmp_path / "a.yaml").symlink_to("real.yaml")
    found = Target(str(tmp_path / "a.yaml"))
    found.write("extends: code\n")
    assert (tmp_path / "a.yaml").is_symlink()
    assert (tmp_path / "real.yaml").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "real.yaml").read_text() == "extends: code\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "filesystem: 3\n"),
        ("a.yaml", "filesystem:\n  allow_write: x\n"),
        ("a.yaml", "a: [\n"),
        ("a.jsonc", '{"filesystem": []}'),
        ("a.jsonc", '{"filesystem": {"allowWrite": [/* c */]}}'),
        ("a.toml", "[tool.fence\n"),
        ("a.toml", '[tool.fence]\nallow_write = "x"\n'),
        ("a.yaml", "x: &a [1]\n---\ny: 2\n"),
    ],
)
def test_what_cannot_be_edited_is_said(tmp_path: Path, name: str, text: str) -> None:
    found = target(tmp_path, name, text)
    with pytest.raises(EditError):
        found.edited(found.additions(WANTED))
