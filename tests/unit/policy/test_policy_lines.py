"""On which line of its file a rule stands, in every syntax, found only when somebody asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fence_core.errors import PolicyError
from fence_core.policy.model import Config, Source
from fence_core.policy.sources import files
from fence_core.policy.sources.lines import located
from fence_core.policy.sources.load import find_config

# Each line that holds something has its number in it.
TEXTS = {
    "pyproject.toml": '''
        [project]
        description = """
        [tool.fence]
        allow_write = ["not this"]
        """

        [tool.fence]  # 8
        mode = "warn"
        allowed_domains = ["ten.test", "ten.too.test"]
        # Nothing here.
        allow_write = [
          "/13", # "]"
          "/14", "/14/too",

          # "/16"
          "/17]", \'\'\'/17/too\'\'\'
          ,"/17/or/18"]
        [tool.fence.network]
        expose_ports = [2000,
          2100]
        "allow_local_\\u0062inding" = false
        hosts = { "23.test" = "127.0.0.1", "23.too.test" = false }
        [tool.fence.filesystem]
        deny_write = [
          "/26", "/26/too",
        ]
        [tool.other]
        allow_write = ["/30"]
    ''',
    "fence.json": """{
        "mode": "warn",
        "network": {"allowedDomains": ["three.test",
            "four.test"], "allowLocalBinding": false,
        \t"hosts": {
                "six.test": "127.0.0.1",
                "seven.test": false
            }, "exposePorts": [800]},
        "filesystem":
        {
            "allowWrite"
            :["/12", "/12/\\ud83d\\ude00"
            , "/13"]
        }
    }""",
    "fence.jsonc": """// 1
    { /* 2
         3 */ "network": {"expose_ports": [300, // 3
                4, ],
        "allowedDomains": ["/* five.test".replace],},
    }""".replace('"/* five.test".replace', '"five.test"'),
    "fence.yaml": """
mode: warn  # 2
network:
  allowed_domains:
  - five.test
  - &x "six.test"
  hosts: {seven.test: 127.0.0.1,
    eight.test: false}
allow_local_binding: false
deny_write: ['/10', /10/too,
  /11]
expose_ports: [1200]
""",
}
PLACES = {
    "pyproject.toml": {
        "mode": 9, "ten.test": 10, "ten.too.test": 10, "/13": 13, "/14": 14,
        "/14/too": 14, "/17]": 17, "/17/too": 17, "2000": 20, "2100": 21, "allow_local_binding": 22, "23.test": 23,
        "23.too.test": 23,
    },
    "fence.json": {
        "mode": 2, "three.test": 3, "four.test": 4, "allow_local_binding": 4, "six.test": 6, "seven.test": 7, "800": 8,
        "/12": 12, "/13": 13,
    },
    "fence.jsonc": {"300": 3, "4": 4, "five.test": 5},
    "fence.yaml": {
        "mode": 2, "five.test": 5, "six.test": 6, "seven.test": 7, "eight.test": 8, "allow_local_binding": 9,
        "/10": 10, "/10/too": 10, "/11": 11, "1200": 12,
    },
}  # fmt: skip


def config_of(path: Path, text: str) -> Config:
    path.write_text(text)
    return find_config(path.parent)


def places(config: Config) -> dict[str, Source]:
    """What the file says, entries by their text and others by their name or item, with where."""
    rules = (config.policy.network, config.policy.filesystem, config.settings)
    entries = (item for each in rules for value in each if isinstance(value, tuple) for item in value)
    found = {item.text: item.source for item in entries if hasattr(item, "text")}
    found.update({name.split(" ")[-1]: source for each in rules for name, source in each.sources})
    return {name: source for name, source in found.items() if source.file}


@pytest.mark.parametrize("name", TEXTS)
def test_every_entry_has_its_line(tmp_path: Path, name: str) -> None:
    text = TEXTS[name]
    found = places(config_of(tmp_path / name, dedent(text) if name == "pyproject.toml" else text))
    assert {source.line for source in found.values()} == {None}, "it costs something, so nobody has looked yet"
    assert {source.file for source in found.values()} == {str(tmp_path / name)}
    lines = {entry: located(found[entry]).line for entry in PLACES[name]}
    assert lines == PLACES[name]


def test_the_config_itself_has_a_line(tmp_path: Path) -> None:
    config = config_of(tmp_path / "pyproject.toml", dedent(TEXTS["pyproject.toml"]))
    assert [located(source).line for source in config.policy.sources] == [None, 8]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('tool.fence.mode = "warn"\ntool.fence.allow_write = ["/a"]\n', {"mode": 1, "/a": 2}),
        ('[tool]\nfence.mode = "warn"\n\nfence.allow_write = [\n"/a"]\n', {"mode": 2, "/a": 5}),
        ('[tool]\nx = 1\nfence = { mode = "warn", allow_write = ["/a"] }\n', {"mode": 3, "/a": 3}),
        ('x = [\n[1],\n[2]]\n["tool" . fence]\r\nmode = "warn"\r\nallow_write = [\r\n"/a"]', {"mode": 5, "/a": 7}),
    ],
)
def test_tables_in_toml_in_every_spelling(tmp_path: Path, text: str, lines: dict[str, int]) -> None:
    found = places(config_of(tmp_path / "pyproject.toml", text))
    assert {entry: located(found[entry]).line for entry in lines} == lines


def test_what_cannot_be_told_apart_has_the_line_of_its_list(tmp_path: Path) -> None:
    """TOML may have the comma first; then items are no lists by themselves."""
    found = places(config_of(tmp_path / "pyproject.toml", '[tool.fence]\nallow_write = [\n "/a"\n , "/b"\n , "/c" ]\n'))
    assert [located(found[entry]).line for entry in ("/a", "/b", "/c")] == [3, 2, 2]


def test_the_line_is_that_of_the_text_that_was_read(tmp_path: Path) -> None:
    found = places(config_of(tmp_path / "fence.json", TEXTS["fence.json"]))
    (tmp_path / "fence.json").write_text("{")
    assert located(found["four.test"]).line == 4


def test_nothing_is_read_for_a_place_that_comes_from_elsewhere(tmp_path: Path) -> None:
    """A nested session may name any file, and a pipe would be waited for."""
    os.mkfifo(tmp_path / "x.json")
    source = Source("x", str(tmp_path / "x.json"), None, ("mode",))
    assert located(source) == source


def test_what_has_a_line_keeps_it() -> None:
    source = Source("@pytest.mark.fence of the test", __file__, 7)
    assert located(source) == source


def test_all_problems_name_their_lines(tmp_path: Path) -> None:
    text = '[tool.fence]\nmoed = "warn"\nallow_write = [\n  "ok",\n  "~bob/x",\n]\n[tool.fence.network]\nzzz = 1\n'
    with pytest.raises(PolicyError) as caught:
        config_of(tmp_path / "pyproject.toml", text)
    assert [(problem.key, problem.line) for problem in caught.value.problems] == [
        ("moed", 2), ("allow_write[1]", 5), ("network.zzz", 8),
    ]  # fmt: skip
    assert str(caught.value).startswith("pyproject.toml [tool.fence], line 2: moed: is not a key")


def test_a_run_in_which_nothing_is_refused_does_without(tmp_path: Path) -> None:
    (tmp_path / "fence.json").write_text(TEXTS["fence.json"])
    code = (
        "import sys, pathlib; from fence_core.policy.sources.load import find_config;"
        "find_config(pathlib.Path(sys.argv[1])); print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert not {"fence_core.policy.sources.lines", "yaml"} & set(ran.stdout.split())


words = st.text("ab#]['\",\\ \t", max_size=4)
gaps = st.sampled_from(["", " ", "\n", " # ],\n", "\r\n"])


@given(st.lists(st.tuples(gaps, words), min_size=1, max_size=8), st.lists(words, max_size=3))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_list_of_strings_in_toml(tmp_path: Path, items: list[tuple[str, str]], before: list[str]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t") + '"'

    text = "".join(f"a{place} = {quoted(word)}\n" for place, word in enumerate(before)) + "[tool.fence]\nx = ["
    lines = []
    for gap, word in items:
        text += gap
        lines.append(text.count("\n") + 1)
        text += quoted(word) + ","
    path = str(tmp_path / "pyproject.toml")
    files.texts[path] = text + "]\n"
    files.parse_toml(text + "]\n")
    found = [located(Source("", path, None, ("x", place))).line for place in range(len(items))]
    assert found == lines
