"""The report as data: its order, its sums, what it leaves out, and that it fits its schema."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from fence_core.events.model import Doing, Program, Target
from fence_core.report.files import arrange, schema
from fence_core.report.files.merge import diff, merge
from fence_core.report.files.redact import Redactor, secrets_of
from fence_core.report.files.told import read
from tests.unit.report.reports import report, resolve, shared, told, write

SOME = [
    resolve(),
    resolve(nodeid="tests/test_shop.py::test_other", count=3),
    resolve("b.test", program=Program("curl", 9, chain=("pytest", "curl"), argv=("curl", "http://b.test"))),
    write("/srv/out.txt"),
    resolve("late.test", nodeid="", phase="session"),
]


def strict(part: Any) -> Any:
    """The schema as it is for us: what it does not name must not be there."""
    if isinstance(part, dict):
        found = {name: strict(each) for name, each in part.items()}
        if "properties" in found:
            found["additionalProperties"] = False
        return found
    return [strict(each) for each in part] if isinstance(part, list) else part


@pytest.mark.needs("module:jsonschema")
@pytest.mark.parametrize("found", [report(), report(*SOME), report(shared(), said=read(None), complete=False)])
def test_it_is_valid_by_its_schema(found: dict[str, Any]) -> None:
    import jsonschema

    whole = json.loads(schema.text())
    jsonschema.Draft202012Validator.check_schema(whole)
    # One of the two it must name all, of the other it takes more.
    jsonschema.Draft202012Validator(strict(whole)).validate(found)
    jsonschema.Draft202012Validator(whole).validate({**found, "more": 1})


def test_our_own_reading_of_the_schema_finds_what_is_wrong() -> None:
    found = report(*SOME)
    assert schema.misfit(found) == ""
    assert schema.misfit({**found, "more": 1}) == ""
    assert schema.misfit([]) == "the report is not of type object"
    assert schema.misfit({**found, "version": 2}) == "the report.version is none of 1"
    del found["violations"][0]["text"]
    assert schema.misfit(found) == "the report.violations[0] has no 'text'"
    assert "by_state.failing is not of type integer" in schema.misfit(
        {**report(*SOME), "summary": {**report(*SOME)["summary"], "by_state": {"failing": True}}}
    )


def test_keys_and_lists_have_one_order() -> None:
    shuffled = list(SOME)
    random.Random(1).shuffle(shuffled)
    first, second = report(*SOME), report(*shuffled)
    assert arrange.as_text(first) == arrange.as_text(second)
    assert list(first) == [
        "schema", "version", "tool", "run", "policy", "summary", "destinations", "violations", "rules_used", "baseline",
        "errors",
    ]  # fmt: skip
    assert [each["id"] for each in first["violations"]] == ["v1", "v2", "v3", "v4", "v5"]
    # Networks before files; those of most tests first.
    assert [(each["name"], each["tests"]) for each in first["destinations"]] == [
        ("api.stripe.com", 2), ("b.test", 1), ("late.test", 0), ("/srv/out.txt", 1),
    ]  # fmt: skip
    assert arrange.as_text(first).endswith("}\n")


def test_sums() -> None:
    summary = report(*SOME, dropped=4)["summary"]
    assert summary == {
        "violations": 9, "attempts": 11, "tests": 2, "outside": 1, "destinations": 4, "dropped": 4,
        "by_state": {"failing": 5}, "by_operation": {"resolve": 4, "write": 1},
    }  # fmt: skip


def test_more_than_it_keeps() -> None:
    many = [resolve(f"h{n}.test") for n in range(arrange.VIOLATIONS_MAX + 5)]
    found = report(*many)
    assert len(found["violations"]) == arrange.VIOLATIONS_MAX
    assert found["summary"]["violations"] == len(many)
    assert found["summary"]["dropped"] == 5


def test_what_a_violation_says() -> None:
    found = report(resolve(nodeid="tests/test_shop.py::TestPay::test_charge[1-a::b]"))["violations"][0]
    assert found["test"] == {
        "nodeid": "tests/test_shop.py::TestPay::test_charge[1-a::b]", "file": "tests/test_shop.py", "line": 2,
        "function": "test_charge", "class": "TestPay", "parameters": "1-a::b", "outcome": "failed", "worker": None,
    }  # fmt: skip
    assert found["location"] == {
        "file": "shop.py", "line": 3, "function": "charge", "column": 5, "end_column": 46,
    }  # fmt: skip
    assert [each["source"] for each in found["stack"]] == [
        "shop.charge()", "socket.getaddrinfo('api.stripe.com', 443)",
    ]  # fmt: skip
    assert found["remedy"]["marker"] == '@pytest.mark.fence(allowed_domains=["api.stripe.com"])'
    assert found["error"] == "ENOENT"


def test_without_a_line_of_its_own_it_is_that_of_the_test() -> None:
    found = report(resolve(stack=()))["violations"][0]["location"]
    assert (found["file"], found["line"], found["function"]) == ("tests/test_shop.py", 2, None)


def test_paths_are_named_as_one_would_type_them() -> None:
    paths = ("/home/kim/.gitconfig", "/home/kim/shop/out", "/srv/x")
    found = report(*map(write, paths))
    assert [each["name"] for each in found["destinations"]] == ["/srv/x", "out", "~/.gitconfig"]
    assert [each["target"]["path"] for each in found["violations"]] == list(paths)


def test_what_ran_meanwhile() -> None:
    """Only where that is not what is blamed."""
    both = (Doing(1, "tests/test_shop.py::test_charge", "call"), Doing(2, "tests/test_b.py::test_b", "setup"))
    found = report(resolve(during=both), resolve("late.test", late=True, during=both))["violations"]
    assert [each["during"] for each in found] == [None, {"nodeid": "tests/test_b.py::test_b", "phase": "setup"}]


def test_workers_make_no_difference() -> None:
    """A fixture of the session is set up in each of them, for another test."""
    one = report(shared(), resolve())
    two = report(
        shared(nodeid="tests/test_shop.py::test_a", count=2),
        shared(nodeid="tests/test_shop.py::test_b"),
        resolve(program=Program("pytest", 8, is_pytest=True, chain=("pytest",))),
        said=told("tests/test_shop.py::test_charge", workers=2),
    )
    assert two["summary"]["violations"] == 2 + 1  # which test was first is another thing
    assert not diff(one, report(resolve(), shared(), said=told("tests/test_shop.py::test_charge", workers=2))).new


def test_what_comes_from_inside_is_checked() -> None:
    rows: list[Any] = [
        ["a.py::t", "a.py", 3, "passed", "gw0"],
        ["b.py::t", 7, -1, "splendid", ["x"]],
        ["c.py::t", "c.py", True, "failed", ""],
        "nonsense",
        [1, 2, 3, 4, 5],
    ]
    found = read({"tests": -1, "workers": "many", "of": rows})
    assert (found.is_whole, found.tests, found.workers) == (True, None, 0)
    assert {name: tuple(row) for name, row in found.of.items()} == {
        "a.py::t": ("a.py", 3, "passed", "gw0"),
        "b.py::t": (None, None, None, None),
        "c.py::t": ("c.py", None, "failed", None),
    }
    assert not read(None).is_whole


# ---------------------------------------------------------------- several reports


def test_shards_are_what_one_run_would_have_said() -> None:
    one = report(*SOME)
    parts = [report(*SOME[:2], said=told(*(v.nodeid for v in SOME[:2]))), report(*SOME[2:])]
    merged = merge(parts, 2, "linux")
    for key in ("summary", "destinations", "violations"):
        assert merged[key] == one[key]
    assert merged["run"]["complete"]
    assert merged["run"]["tests"] == 360
    assert merged["run"]["shard"] == {"name": "linux", "merged": 2, "expected": 2}
    assert not schema.misfit(merged)


def test_a_part_that_is_missing() -> None:
    merged = merge([report(), report(complete=False)], 2)
    assert not merged["run"]["complete"]
    merged = merge([report(), report()], 3)
    assert not merged["run"]["complete"]
    assert merged["errors"] == ["2 of 3 parts are there"]


def test_differences_are_known_by_fingerprints() -> None:
    old = report(resolve(), resolve("gone.test"))
    moved = [each._replace(line=each.line + 4) for each in resolve().stack]
    found = diff(old, report(resolve(stack=tuple(moved), count=9), resolve("new.test")))
    assert [[each["text"] for each in part] for part in found] == [
        ["resolve new.test"], ["resolve gone.test"], ["resolve api.stripe.com"],
    ]  # fmt: skip


# ---------------------------------------------------------------- secrets


def test_secrets_are_those_of_the_environment() -> None:
    environ = {"API_TOKEN": "t0k3n-long", "B_TOKEN": "short", "HOME": "/home/kim", "C_TOKEN": "t0k3n-longer"}
    assert secrets_of(environ, lambda name: name.endswith("_TOKEN")) == ["t0k3n-longer", "t0k3n-long"]


@pytest.mark.parametrize(
    ("argv", "clean"),
    [
        ("curl -H Authorization:_Bearer_t0k3n-long", "curl -H Authorization:_Bearer_***"),
        ("curl http://u:pw@x.example/a@b", "curl http://***@x.example/a@b"),
        ("curl -u kim:pw x.example", "curl -u kim:*** x.example"),
        ("tool --password pw --token=abc", "tool --password *** --token=***"),
        ("sh run(['x',_'--token',_'pw'])", "sh run(['x',_'--token',_'***'])"),
        ("tool --api-key k --pat p", "tool --api-key *** --pat ***"),
        ("mysql -psecret -p other", "mysql -p*** -p ***"),
        ("mkdir -p dir", "mkdir -p dir"),
        ("ssh -p 22 host", "ssh -p 22 host"),
        ("pytest -p no:cacheprovider --path x", "pytest -p no:cacheprovider --path x"),
    ],
)  # fmt: skip
def test_command_lines(argv: str, clean: str) -> None:
    words = [word.replace("_", " ") for word in argv.split(" ")]
    assert Redactor(["t0k3n-long"]).words(words) == [word.replace("_", " ") for word in clean.split(" ")]


def test_no_secret_is_anywhere_in_a_report() -> None:
    secret = "resolve-me-not"
    program = Program("sh", 9, chain=("pytest", secret), argv=("sh", "-c", f"echo {secret} --password geheim"))
    found = report(
        resolve(f"{secret}.test", program=program, hint=secret),
        write(f"/srv/{secret}", nodeid=f"tests/test_shop.py::test[{secret}]"),
        resolve(target=Target("command", detail=f"git push https://u:{secret}@x.test")),
        command=["pytest", "-k", secret],
    )
    clean = Redactor([secret]).report(found)
    text = arrange.as_text(clean)
    assert secret not in text
    assert "geheim" not in text
    assert secret in arrange.as_text(found)
    assert schema.misfit(clean) == ""
    # What is never a stranger's word stays as it is.
    assert Redactor(["failing", "resolve"]).report(found)["violations"][0]["state"] == "failing"
