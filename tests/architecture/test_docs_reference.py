"""The reference pages name every option, key, layer and preset there is, and none that is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fence_core.command.doctor import DOCTOR_OPTIONS
from fence_core.command.explain import EXPLAIN_OPTIONS
from fence_core.command.help import spelled
from fence_core.command.init import INIT_OPTIONS
from fence_core.command.learn import LEARN_OPTIONS
from fence_core.command.main import SUBCOMMANDS, run
from fence_core.command.options import OPTIONS
from fence_core.command.proxy import PROXY_OPTIONS
from fence_core.doctor.layers import LAYERS
from fence_core.kernel import features
from fence_core.policy.keys import KEYS, PRESETS, Key, of_section

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def section(page: Path, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"{page.name} has no section {title!r}"
    return found[1]


def first_column(text: str) -> set[str]:
    """Everything in backquotes in the first cells of the tables."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_options(pytestconfig: pytest.Config) -> None:
    documented = {name.partition("=")[0] for name in first_column((REFERENCE / "options.md").read_text("utf-8"))}
    options = {name for name in documented if name.startswith("--")}
    parser = pytestconfig._parser  # there is no public list of options
    real = {name for option in parser.getgroup("fence").options for name in option.names()}
    assert options == real


def test_options_and_the_keys_that_say_the_same(pytestconfig: pytest.Config) -> None:
    options = {option.names()[0]: option.attrs() for option in pytestconfig._parser.getgroup("fence").options}
    for key in KEYS:
        if key.flag:
            assert tuple(options[key.flag].get("choices") or ()) == key.choices
            assert f"`{key.name}" in options[key.flag]["help"]


def test_flags_of_the_command() -> None:
    """In the order of `options.py`, with the same meaning."""
    text = (REFERENCE / "command.md").read_text("utf-8")
    rows = [f"| `{spelled(option).strip()}` | {option.help} |" for option in OPTIONS if option.help]
    rows += [
        f"| `{spelled(option).strip()}` | has no effect: {option.accepted} |" for option in OPTIONS if option.accepted
    ]
    rows += [f"| `{spelled(option).strip()}` | is refused: {option.refused} |" for option in OPTIONS if option.refused]
    assert [line for line in text.splitlines() if line.startswith("| `-")] == [
        *rows,
        *(line for line in section(REFERENCE / "command.md", "Ports").splitlines() if line.startswith("| `-")),
        *(
            f"| `{spelled(option).strip()}` | {option.help} |"
            for option in (*DOCTOR_OPTIONS, *EXPLAIN_OPTIONS, *INIT_OPTIONS, *LEARN_OPTIONS, *PROXY_OPTIONS)
        ),
    ]
    aliases = {f"`--{alias}`" for option in OPTIONS for alias in option.aliases}
    assert all(alias in text for alias in aliases)


def test_subcommands() -> None:
    """Each is on the page, and its own help is a screen that names all its flags, which the page has as above."""
    text = (REFERENCE / "command.md").read_text("utf-8")
    missing = [name for name in SUBCOMMANDS if f"`fence {name}" not in text]
    assert not missing, f"write into command.md what they do: {missing}"


@pytest.mark.parametrize("name", ["", *SUBCOMMANDS])
def test_help_is_a_screen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*([name] if name else []), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: fence")
    wide = [line for line in lines if len(line) > (102 if name else 80)]
    assert len(lines) <= 24, lines
    assert not wide, wide
    if not name:
        assert all(each in lines[1] for each in SUBCOMMANDS)


def test_layers() -> None:
    assert first_column(section(REFERENCE / "options.md", "Layers")) == set(features.NAMES)
    assert tuple(LAYERS) == features.NAMES  # those of the doctor


def default(key: Key) -> str:
    """As the reference writes it."""
    if key.unset or key.default is None:
        return key.unset or "none"
    if key.default == ():
        return "`{}`" if key.kind.words.startswith("table") else "`[]`"
    return f"`{json.dumps(key.default)}`"


def row(key: Key) -> str:
    """The row of the reference, without links, and without what may follow the meaning."""
    choices = key.choices if key.kind.words == "choice" else ()
    kind = ", ".join(f'`"{each}"`' for each in choices) or key.kind.words
    return f"| `{key.name}` | {kind} | {default(key)} | {key.help}"


@pytest.mark.parametrize(("title", "of"), [("How to run", ""), ("network", "network"), ("filesystem", "filesystem")])
def test_keys(title: str, of: str) -> None:
    """In the order of `keys.py`, with type, default and meaning as there."""
    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", section(REFERENCE / "configuration.md", title))
    documented = [line for line in plain.splitlines() if line.startswith("| `")]
    real = [row(key) for key in of_section(of) if not (key.foreign or key.refused or key.writes)]
    missing = [line for line in real if not any(each.startswith(line) for each in documented)]
    assert not missing, "\n".join(["", "write into the page, with links and more to say as need be:", *missing])
    assert [line.split("|")[1] for line in documented] == [line.split("|")[1] for line in real]


def test_what_is_short_for_others() -> None:
    text = (REFERENCE / "configuration.md").read_text("utf-8")
    for key in KEYS:
        if key.writes:
            assert re.search(rf"^`{key.name} = .*, is {re.escape(key.help)}", text, re.MULTILINE), key.name


def test_keys_of_the_go_tool() -> None:
    """In the order of `keys.py`, with what they may be set to, and why they may not be set to anything else."""
    text = section(REFERENCE / "configuration.md", "Keys of the Go tool")
    rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("| `")]
    documented = [(name.strip(" `"), why[-1].strip() if len(why) > 1 else "") for name, *why in rows]
    listed = [key for key in KEYS if key.foreign or key.refused]
    assert documented == [(key.path, key.refused) for key in listed]
    for key, (_, taken, *_) in zip(listed, rows, strict=True):
        assert key.refused == "" or re.findall(r"`([^`]+)`", taken) == [json.dumps(each) for each in key.harmless]


def test_what_a_marker_cannot_set() -> None:
    text = (REFERENCE / "marker.md").read_text("utf-8")
    listed = re.search(r"What is set for the run as a whole \((.*?)\)", text, re.DOTALL)
    assert listed
    assert set(re.findall(r"`([a-z_]+)`", listed[1])) == {key.name for key in KEYS if not (key.marker or key.foreign)}


def test_presets() -> None:
    assert first_column(section(ROOT / "docs" / "concepts.md", "The policy")) == set(PRESETS)
