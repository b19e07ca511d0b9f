"""Which flags there are, what they say, and what is wrong with a command line."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fence_core.command import help as help_text
from fence_core.command.options import OPTIONS, UsageError, parse


def given_by(*arguments: str) -> tuple[dict[str, list[str]], list[str]]:
    asked = parse(arguments)
    return asked.given, asked.words


@pytest.mark.parametrize(
    ("arguments", "flags", "words"),
    [
        (["true"], {}, ["true"]),
        (["ls", "-s", "--nosuch"], {}, ["ls", "-s", "--nosuch"]),
        (["--", "-m"], {}, ["-m"]),
        (["-"], {}, ["-"]),
        (["-mm", "true"], {"monitor": ["", ""]}, ["true"]),
        (["-mc", "exit 1", "x"], {"monitor": [""], "command": ["exit 1"]}, ["x"]),
        (["-sfile", "true"], {"settings": ["file"]}, ["true"]),
        (["--settings=a=b", "true"], {"settings": ["a=b"]}, ["true"]),
        (["-c", ""], {"command": [""]}, []),
        (["-s", "--", "true"], {"settings": ["--"]}, ["true"]),
        (["-p", "1", "-p", "2"], {"port": ["1", "2"]}, []),
        (["--fence-log-file", "f"], {"log-file": ["f"]}, []),
        (["--linux-features"], {"features": [""]}, []),
        (["--expose-host-path-rw", "/x"], {"allow-write": ["/x"]}, []),
        (["-m", "-m"], {"monitor": ["", ""]}, []),
    ],
)
def test_what_is_asked_for(arguments: list[str], flags: dict[str, list[str]], words: list[str]) -> None:
    assert given_by(*arguments) == (flags, words)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--monitr"], r"unknown option --monitr \(did you mean --monitor\?\)"),
        (["--mon"], r"unknown option --mon\b"),  # what is unique today is not tomorrow
        (["-x"], r"unknown option -x"),
        (["-s"], r"-s needs a value: -s FILE"),
        (["--settings="], r"needs a value that is not empty"),
        (["--monitor=yes"], r"--monitor takes no value"),
        (["-s", "a", "-s", "b"], r"-s is given twice"),
        (["--a\nb"], r"unknown option --a\\nb"),
        (["--control-fd", "3"], r"--control-fd is not supported: whoever"),
        (["--service-execution-model=x"], r"is not supported: containers"),
    ],
)
def test_what_is_wrong(arguments: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse([*arguments, "true"] if arguments != ["-s"] else arguments)


@pytest.mark.parametrize("word", ["--force-new-session", "--expose-host-path=/x"])
def test_what_has_no_effect_is_said(word: str) -> None:
    asked = parse([word, "true"])
    assert asked.given == {}
    assert len(asked.notes) == 1
    assert "has no effect" in asked.notes[0]


def test_names_mean_one_thing() -> None:
    names = [name for option in OPTIONS for name in (option.name, *option.aliases)]
    letters = [option.short for option in OPTIONS if option.short]
    assert len(set(names)) == len(names)
    assert len(set(letters)) == len(letters)
    assert all(option.help or option.refused or option.accepted for option in OPTIONS)


def test_the_help_fits_a_screen() -> None:
    lines = help_text.text(["check"]).splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 86 for line in lines)
    for option in OPTIONS:
        assert bool(re.search(rf"--{option.name}\b", help_text.text(["check"]))) is bool(option.help)


WORDS = st.one_of(
    st.sampled_from([f"--{option.name}" for option in OPTIONS] + [f"-{option.short}" for option in OPTIONS]),
    st.builds(lambda option, value: f"--{option.name}={value}", st.sampled_from(OPTIONS), st.text(max_size=4)),
    st.text(st.characters(codec="utf-8"), max_size=6).map(lambda text: f"-{text}"),
    st.text(max_size=4),
    st.sampled_from(["--", "-", "", "true", "\udcff", "-\udcff", "--\udcff=\0"]),
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(WORDS, max_size=8))
def test_no_command_line_is_a_riddle(arguments: list[str]) -> None:
    """It is understood, or one printable line says what is wrong."""
    said = ""
    try:
        asked = parse(arguments)
    except UsageError as error:
        said = str(error)
    assert said.isprintable()
    if said:
        return
    assert asked.words == arguments[len(arguments) - len(asked.words) :]
    known = {option.name for option in OPTIONS if not (option.refused or option.accepted)}
    assert asked.given.keys() <= known
