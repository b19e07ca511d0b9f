"""What the section at the end of a run says, and that it never grows without bounds."""

from __future__ import annotations

from typing import Any

import pytest

from fence_core.events.model import Frame, Program, Target, Violation
from fence_core.policy.model import Remedy, Rule, Source
from fence_core.report import terminal
from fence_core.report.stack import View
from tests.unit.plugin.fakes import violation

VIEW = View(root="/proj", read_lines=lambda path: {"/proj/t.py": ["fetch('x')\n"]}.get(path, []))


def at(nodeid: str, number: int = 0, what: str = "connect 192.0.2.1:80/tcp", **changes: Any) -> Violation:
    return violation(what, nodeid=nodeid, number=number, **changes)


def section(*violations: Violation, **options: Any) -> list[str]:
    return [line.text for line in terminal.section(violations, VIEW, **options)]


def test_long_command_lines_are_cut() -> None:
    argv = ("chromium", *(f"--switch-{number}" for number in range(100)))
    (line,) = [line for line in section(at("t.py::test_a", program=Program("chromium", 77, argv=argv))) if "$ " in line]
    assert line.strip().startswith("$ chromium --switch-0 ")
    assert len(line.strip()) == len("$ ") + 120
    assert line.endswith("...")


def test_node_ids_can_be_pasted_where_pytest_was_started() -> None:
    """pytest prints them relative to where it was started, though they are relative to the root directory."""
    for cwd, shown in (("/proj", "a/t.py::test_a[x/y]"), ("/", "proj/a/t.py::test_a[x/y]"), ("/proj/b", "../a/t.py::")):
        view = View(root="/proj", cwd=cwd, stdlib=(), read_lines=lambda path: ())
        lines = list(terminal.section([at("a/t.py::test_a[x/y]")], view))
        assert lines[0].text.startswith(shown)


def test_everything_that_is_known_is_said() -> None:
    lines = section(
        at(
            "t.py::test_a",
            count=3,
            program=Program("curl", 77, chain=("pytest", "sh", "curl"), argv=("curl", "-s", "http://x/?a b")),
            stack=(Frame("/proj/t.py", 1, "test_a"),),
        )
    )
    assert lines == [
        "t.py::test_a",
        "  call: connect 192.0.2.1:80/tcp, 3 times",
        "    t.py:1: in test_a",
        "        fetch('x')",
        "    by curl (pytest -> sh -> curl)",
        "      $ curl -s 'http://x/?a b'",
        "    refused: no rule in network.allowed_domains allows it (preset pytest)",
        '    to allow it: @pytest.mark.fence(allowed_domains=["93.184.216.34:443"])',
        "    or:          [tool.fence]",
        '                 allowed_domains = ["93.184.216.34:443"]',
    ]


def test_the_test_process_itself_needs_no_introduction() -> None:
    assert not any("python" in line or "process" in line for line in section(at("t.py::test_a")))


def test_what_nothing_may_allow_says_so() -> None:
    lines = section(at("t.py::test_a", remedy=None))
    assert "    nothing can allow this" in lines
    assert not any("to allow it" in line for line in lines)


@pytest.mark.parametrize(
    ("verdict", "rule", "said"),
    [
        ("denied", Rule("filesystem.deny_write", "src", reason="x"), ["a denial overrides every permission"]),
        ("protected", Rule("filesystem.allow_git_config", ".git/config", reason="x"), []),
        ("protected", Rule("", ".gitconfig", reason="x"), ["nothing can allow this"]),
        ("unlisted", Rule("filesystem.allow_write", reason="x"), ["nothing can allow this"]),
    ],
)
def test_nothing_more_is_ruled_out_than_the_rule_does(verdict: str, rule: Rule, said: list[str]) -> None:
    lines = section(at("t.py::test_a", verdict=verdict, rule=rule, remedy=None))
    assert [line.strip().partition(":")[0] for line in lines[3:]] == said


def test_no_marker_is_proposed_where_no_test_is() -> None:
    lines = section(at("", phase="startup"))
    assert lines[-2:] == [
        "    to allow it: [tool.fence]",
        '                 allowed_domains = ["93.184.216.34:443"]',
    ]


def test_a_fault_of_the_fence_is_not_blamed_on_the_test() -> None:
    lines = section(at("t.py::test_a", kind="error", what="openat", verdict="error", rule=Rule(reason="KeyError: 'x'")))
    assert "    a fault of the fence, not of the test: KeyError: 'x'" in lines
    assert not any("allow" in line for line in lines)


def test_audit_says_that_nothing_was_refused() -> None:
    found = at("t.py::test_a", state="listed", errno=0)
    assert any(line.startswith("    let through (audit): ") for line in section(found))
    assert terminal.title([found]) == "fence: 1 note (audit: nothing was refused)"


def test_audit_inside_a_fence_that_enforces() -> None:
    found = at("t.py::test_a", state="listed", errno=13)
    assert any(line.startswith("    refused: ") for line in section(found))
    assert terminal.title([found]) == "fence: 1 note (audit)"


@pytest.mark.parametrize(
    ("nodeid", "phase", "place"),
    [
        ("t.py::test_a", "teardown", "t.py::test_a"),
        ("t.py", "collect", "collecting t.py"),
        ("", "collect", "collecting tests"),
        ("", "startup", "starting (plugins and conftest files)"),
        ("", "session", "outside any test"),
        ("", "finish", "finishing the session"),
    ],
)
def test_each_place_has_a_name(nodeid: str, phase: str, place: str) -> None:
    assert section(at(nodeid, phase=phase))[0] == place


def test_the_title_counts_tests_and_what_is_outside_of_them() -> None:
    inside = [at("t.py::test_a"), at("t.py::test_a", what="read /x"), at("t.py::test_b")]
    outside = [at("t.py", phase="collect")]
    assert terminal.title(inside) == "fence: 3 violations in 2 tests"
    assert terminal.title(inside[:1]) == "fence: 1 violation in 1 test"
    assert terminal.title(outside) == "fence: 1 violation outside any test"
    assert terminal.title(inside + outside) == "fence: 3 violations in 2 tests and 1 outside any test"


def test_a_process_that_outlived_its_test_is_named_as_such() -> None:
    assert section(at("t.py::test_a", late=True))[1].startswith("  call, by a process that outlived it: connect")


def test_what_is_the_same_in_many_tests_is_explained_once() -> None:
    lines = section(*(at(f"t.py::test_{n}", n) for n in range(5)))
    assert sum("to allow it" in line for line in lines) == 1
    assert sum("connect" in line for line in lines) == 5


def test_what_was_shown_before_is_only_listed_with_its_line() -> None:
    found = at("t.py::test_a", 7, stack=(Frame("/proj/t.py", 1, "test_a"),))
    lines = section(found, shown={7})
    assert lines[1] == "  call: connect 192.0.2.1:80/tcp, t.py:1"
    assert not any("refused" in line for line in lines)
    assert any("to allow it" in line for line in lines)  # what one came for is at the end, too


def test_a_thousand_tests_fit_on_a_page_with_exact_totals() -> None:
    found = [at(f"t.py::test_{n}", n, count=2) for n in range(1000)]
    lines = section(*found)
    assert len(lines) < 100
    assert f"... and {1000 - terminal.PLACES_MAX} more violations in {1000 - terminal.PLACES_MAX} more places:" in lines
    assert f"  connect 192.0.2.1:80/tcp, {2 * (1000 - terminal.PLACES_MAX)} times" in lines
    assert terminal.title(found) == "fence: 1000 violations in 1000 tests"


def test_one_test_with_a_thousand_different_ones_is_bounded_too() -> None:
    found = [at("t.py::test_a", n, what=f"connect 192.0.2.1:{n}/tcp") for n in range(1000)]
    assert f"  ... and {1000 - terminal.PER_PLACE_MAX} more violations here" in section(*found)
    block = [line.text for line in terminal.block(found, VIEW)]
    assert f"... and {1000 - terminal.PER_PLACE_MAX} more violations in this test" in block
    assert len(block) < 100


def test_many_different_kinds_beyond_the_page_are_counted() -> None:
    found = [at(f"t.py::test_{n}", n, what=f"connect 192.0.2.1:{n}/tcp") for n in range(100)]
    rest = 100 - terminal.PLACES_MAX - terminal.KINDS_MAX
    assert section(*found)[-1] == f"  {rest} others, {rest} times"


def test_a_deep_stack_shows_both_ends() -> None:
    stack = tuple(Frame("/proj/t.py", n, f"f{n}") for n in range(1, 101))
    lines = section(at("t.py::test_a", stack=stack))
    assert "    ... 92 more calls" in lines
    shown = [line for line in lines if ": in f" in line]
    assert len(shown) == 8
    assert shown[0].endswith("in f1")
    assert shown[-1].endswith("in f100")


def test_equal_ones_of_several_workers_are_one() -> None:
    found = [at("", n, phase="startup", count=2) for n in range(3)]
    assert [v.count for v in terminal.merge(found, VIEW)] == [6]
    different = [at("t.py::test_a"), at("t.py::test_b"), at("t.py::test_a", phase="setup")]
    assert terminal.merge(different, VIEW) == different


EVIL = "x\x1b[2J\r\n\u202e\udc80"


def test_nothing_that_strangers_chose_reaches_the_terminal_raw() -> None:
    found = at(
        f"t.py::test_{EVIL}",
        program=Program(EVIL, 1, chain=("pytest", EVIL), argv=("sh", EVIL)),
        rule=Rule(EVIL, EVIL, Source(EVIL), EVIL, (Source(EVIL),)),
        remedy=Remedy("network.allowed_domains", (EVIL.replace("\r\n", ""),)),
        stack=(Frame(f"/proj/{EVIL}", 1, EVIL),),
    )
    for text in (*section(found), terminal.title([found]), terminal.headline([found])):
        assert text.isprintable(), ascii(text)


def test_the_headline_is_one_line_however_many_there_are() -> None:
    assert terminal.headline([at("t.py::test_a")]) == "fence: connect 192.0.2.1:80/tcp"
    found = [at("t.py::test_a", count=2), at("t.py::test_a"), at("t.py::test_a")]
    assert terminal.headline(found) == "fence: connect 192.0.2.1:80/tcp, 2 times, and 2 more"


def test_what_is_endless_is_cut() -> None:
    lines = section(at("t.py::test_a", what="write /" + "x" * 5000, rule=Rule(reason="y" * 5000)))
    assert max(map(len, lines)) < 500


def test_no_line_stands_there_twice() -> None:
    """What was shown above is a line each; the rest of what told them apart stands there."""
    same = at("t.py::test_a", stack=(Frame("/proj/t.py", 1, "test_a"),))
    several = [
        same,
        same._replace(number=1, rule=Rule(reason="another rule"), count=2),
        same._replace(number=2, program=Program("curl", 7)),
        same._replace(number=3, target=Target("other", detail="connect 192.0.2.2:80/tcp")),
        same._replace(number=4, stack=(Frame("/proj/t.py", 3, "test_a"), *same.stack)),
    ]
    lines = section(*several, shown=range(5))
    assert [line for line in lines if line.startswith("  call: ")] == [
        "  call: connect 192.0.2.1:80/tcp, 4 times, by python, t.py:1",
        "  call: connect 192.0.2.1:80/tcp, by curl, t.py:1",
        "  call: connect 192.0.2.2:80/tcp, t.py:1",
    ]


def test_what_was_not_shown_yet_is_explained_though_its_line_is_there() -> None:
    lines = section(
        at("t.py::test_a"), at("t.py::test_a", 1, verdict="protected", rule=Rule(reason="another rule")), shown=[0]
    )
    assert "    refused: another rule" in lines
