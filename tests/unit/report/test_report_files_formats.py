"""What is made of the report: each format within the limits of its readers, and a stranger's text as text."""

from __future__ import annotations

import html.parser
import json
import re
from typing import Any

import pytest

from fence_core.events.model import Frame, Program, Target
from fence_core.policy.reports import TYPES
from fence_core.report.files import formats
from fence_core.report.files.markdown import code
from tests.unit.report.reports import ROOT, report, resolve, write

EVIL = [
    "</script><img src=x onerror=alert(1)>",
    "a\n::error::x",
    "\r\n::stop-commands::x",
    "\x1b[31m\x1b]0;t\x07",
    "\u202eevil",
    "\udc80\ud83d",
    "a|b\n| c |",
    "```\n# h\n[a](javascript:x)",
    "@kim #1 www.evil.test http://evil.test",
    "a,b:c%0A::error::y",
]
GUILTY = resolve(stack=())


def hostile(text: str) -> dict[str, Any]:
    """A report with a stranger's text wherever there is any."""
    return report(
        resolve(
            nodeid=f"tests/test_{text}.py::test[{text}]",
            target=Target("path", path=f"/srv/{text}", detail=text),
            operation="write",
            program=Program(text, 9, path=text, chain=("pytest", text), argv=("sh", "-c", text), thread=text),
            stack=(Frame(f"{ROOT}/{text}.py", 3, text),),
            hint=text,
        ),
        resolve(text),
    )


class Tags(html.parser.HTMLParser):
    """Which there are."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.add(tag)


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "html"])
def test_a_strangers_text_is_text(kind: str, text: str) -> None:
    made = formats.render(kind, hostile(text), {})
    data = made.encode()  # no lone surrogate
    if kind in ("json", "sarif", "gitlab"):
        json.loads(data)
        return
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", made)
    if kind == "github":
        lines = made.split("\n")
        assert all(line.startswith("::error ") or not line for line in lines)
        assert sum(map(bool, lines)) == 2
    elif kind == "concise":
        assert all(re.search(r"\[network.allowed_domains\]$", line) for line in made.splitlines())
        assert len(made.splitlines()) == 2
    else:
        outside = re.sub(r"^```diff$.*?^```$", "", made, flags=re.DOTALL | re.MULTILINE)
        tags = Tags()
        tags.feed(outside)
        assert tags.found == {"code", "details", "summary", "br"}
        assert "http://" not in outside
        assert "www.e" not in outside
        assert "@kim" not in outside
        assert not re.search(r"^#[^#]", made, re.MULTILINE)
        table = [line for line in made.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in table} == {6}


def test_markdown_shows_what_it_was_given() -> None:
    assert html.unescape(code("a|b<c>`d`_e_*f*")) == "<code>a|b<c>`d`_e_*f*</code>"
    assert "|" not in code("a|b")


def test_concise() -> None:
    lines = formats.render("concise", report(resolve(), write("/srv/x", stack=())), {}).splitlines()
    assert lines == [
        "shop.py:3: tests/test_shop.py::test_charge: resolve api.stripe.com; no rule in network.allowed_domains allows "
        "it (preset pytest) [network.allowed_domains]",
        "tests/test_shop.py:2: tests/test_shop.py::test_charge: write /srv/x; no rule in filesystem.allow_write allows "
        "it (the policy is empty) [filesystem.allow_write]",
    ]
    assert formats.render("concise", report(), {}) == ""


# ---------------------------------------------------------------- GitHub


def commands(count: int, environ: dict[str, str] | None = None, **changes: Any) -> list[str]:
    found = report(*(resolve(f"h{n}.test", **changes) for n in range(count)))
    return formats.render("github", found, environ or {}).split("\n")[1:-1]


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (9, 9), (10, 10), (11, 10), (530, 10)])
def test_github_shows_ten(count: int, shown: int) -> None:
    lines = commands(count)
    assert len(lines) == shown
    assert all(line.startswith("::error ") for line in lines)
    if count > 10:
        assert lines[-1] == (
            f"::error title=fence::and {count - 9} more places; {count} violations in all: see the step's summary"
        )


def test_github_finds_the_file() -> None:
    """From the top of the repository, in which the project may lie somewhere."""
    line = commands(1, {"GITHUB_WORKSPACE": "/home/kim"})[0]
    assert line == (
        "::error file=shop/shop.py,line=3,title=fence%3A h0.test::tests/test_shop.py::test_charge: resolve h0.test; no "
        'rule in network.allowed_domains allows it (preset pytest). To allow it: allowed_domains = ["h0.test"]'
    )
    assert commands(1)[0].startswith("::error file=shop.py,line=3,")
    assert commands(1, {"GITHUB_WORKSPACE": "/home/ki"})[0].startswith("::error file=shop.py,")


@pytest.mark.parametrize(("state", "level"), [("warned", "warning"), ("listed", "notice"), ("failing", "error")])
def test_github_has_levels(state: str, level: str) -> None:
    assert commands(1, state=state)[0].startswith(f"::{level} ")


def test_a_summary_is_never_too_large() -> None:
    many = []
    for n in range(2000):
        stack = (Frame(f"{ROOT}/a.py", n, "f"),)
        many.append(resolve(f"{'x' * 60}{n}.test", nodeid=f"tests/test_shop.py::test[{'y' * 3000}{n}]", stack=stack))
    made = formats.render("markdown", report(*many), {})
    assert len(made.encode()) < 1 << 20
    assert "2000 tests reached for 2000 things" in made
    assert "| and 1950 more |" in made


def test_a_summary_of_a_clean_run_is_a_line() -> None:
    assert formats.render("markdown", report(), {}) == (
        "## fence: 180 tests kept to the policy (0 rules used)\n\nenforce; 180 tests; 41.7 s\n"
    )


def test_a_summary_leads_to_the_whole_report() -> None:
    url = "https://ci.test/artefacts/7"
    assert f"[The whole report]({url})" in formats.render("markdown", report(GUILTY), {"FENCE_REPORT_URL": url})
    evil = {"FENCE_REPORT_URL": "javascript:alert(1)"}
    assert "javascript" not in formats.render("markdown", report(GUILTY), evil)


# ---------------------------------------------------------------- GitLab, SARIF


def test_gitlab() -> None:
    found = json.loads(
        formats.render(
            "gitlab",
            report(
                resolve(),
                resolve(nodeid="tests/test_shop.py::test_other"),
                write("/srv/x", state="warned"),
                write("/srv/y", verdict="protected", stack=()),
            ),
            {},
        )
    )
    assert [(each["location"], each["severity"], each["check_name"]) for each in found] == [
        ({"path": "shop.py", "lines": {"begin": 3}}, "major", "network.allowed_domains"),
        ({"path": "shop.py", "lines": {"begin": 3}}, "minor", "filesystem.allow_write"),
        ({"path": "tests/test_shop.py", "lines": {"begin": 2}}, "critical", "protected"),
    ]
    assert len({each["fingerprint"] for each in found}) == 3
    assert formats.render("gitlab", report(), {}) == "[]\n"


def test_gitlab_tells_lines_of_one_function_apart() -> None:
    stacks = [(Frame(f"{ROOT}/shop.py", line, "charge"),) for line in (2, 3)]
    found = json.loads(formats.render("gitlab", report(*(resolve(stack=stack) for stack in stacks)), {}))
    assert len({each["fingerprint"] for each in found}) == 2


def sarif(*violations: Any) -> Any:
    return json.loads(formats.render("sarif", report(*violations), {}))["runs"][0]


def test_sarif() -> None:
    run = sarif(resolve(count=3), resolve(nodeid="tests/test_shop.py::test_other"), write("/srv/x", stack=()))
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [
        "filesystem.allow_write", "network.allowed_domains",
    ]  # fmt: skip
    first, second = run["results"]
    assert first["occurrenceCount"] == 4
    assert first["properties"] == {"fence/destination": "api.stripe.com", "fence/tests": 2}
    assert first["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "shop.py", "uriBaseId": "SRCROOT"},
        "region": {"startLine": 3, "startColumn": 5, "endLine": 3, "endColumn": 46},
    }
    flow = first["codeFlows"][0]["threadFlows"][0]["locations"]
    assert [each["location"]["message"]["text"] for each in flow] == ["in test_charge", "in charge"]
    for result in (first, second):
        known_by = result["partialFingerprints"]
        assert known_by["primaryLocationLineHash"] == f"{known_by['fence/v1'][:16]}:1"
        assert set(result["locations"][0]["physicalLocation"]["region"]) == {
            "startLine", "startColumn", "endLine", "endColumn",
        }  # fmt: skip
    assert "codeFlows" not in second


def test_a_line_that_has_moved_has_the_same_fingerprint() -> None:
    moved = tuple(each._replace(line=each.line + 1) for each in resolve().stack)
    before, after = (sarif(resolve(stack=stack))["results"][0] for stack in (resolve().stack, moved))
    assert before["partialFingerprints"] == after["partialFingerprints"]
    assert before["locations"] != after["locations"]


def test_sarif_of_a_clean_run_closes_what_was_open() -> None:
    assert sarif()["results"] == []


def test_nothing_is_empty_in_sarif() -> None:
    """GitHub takes an empty text for a missing one."""

    def texts(part: Any) -> Any:
        if isinstance(part, dict):
            for name, each in part.items():
                yield from texts(each) if not isinstance(each, str) else [(name, each)]
        elif isinstance(part, list):
            for each in part:
                yield from texts(each)

    run = sarif(resolve(), write("/srv/x", nodeid="", phase="session"), resolve("x", stack=(), nodeid="a.py::b"))
    assert not [name for name, text in texts(run) if not text]


def test_what_lies_outside_of_the_project_is_the_test() -> None:
    found = sarif(resolve(stack=(Frame("/elsewhere/lib.py", 9, "f"),)))["results"][0]
    at = found["locations"][0]["physicalLocation"]
    assert (at["artifactLocation"]["uri"], at["region"]["startLine"]) == ("tests/test_shop.py", 2)


def test_what_is_tolerated_is_no_alert() -> None:
    found = report(resolve())
    found["violations"][0]["state"] = "expected"
    assert json.loads(formats.render("sarif", found, {}))["runs"][0]["results"] == []
    assert formats.render("gitlab", found, {}) == "[]\n"
    assert formats.render("github", found, {}) == ""
