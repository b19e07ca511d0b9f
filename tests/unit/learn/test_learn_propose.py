"""From what was let through to rules: what is proposed, what never is, and what is listed as without a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from fence_core.events.lessons import Lesson, Lessons
from fence_core.learn.comments import comment
from fence_core.learn.model import Evidence, Outcome, Place
from fence_core.learn.propose import as_table, propose
from fence_core.learn.text import entries, summary, without_rule
from fence_core.policy.decide import Judge
from fence_core.policy.model import Entry, FilesystemRules, NetworkRules, Policy, Source
from fence_core.policy.requests import Bind, Connect, Request, Resolve, UnixConnect, Write

ROOT, HOME = "/home/u/project", "/home/u"
FILES = FilesystemRules(root=ROOT, base=ROOT, home=HOME)
BASE = Policy(filesystem=FILES)


def lesson(request: Request, *tests: str, program: str = "", absent: bool = False) -> Lesson:
    found = Lesson(request, absent=absent)
    for test in tests or ("",):
        found.add(test, program)
    return found


def wrote(*paths: str, op: str = "open", tests: Sequence[str] = ()) -> list[Lesson]:
    return [lesson(Write(op, path), *tests) for path in paths]


def learnt(
    *lessons: Lesson,
    policy: Policy = BASE,
    there: Mapping[str, Sequence[str]] | None = None,
    runs: Sequence[Sequence[Lesson]] = (),
    searched: Sequence[str] = (),
    wildcards: bool = False,
) -> Outcome:
    """`there`: what lies in which directory now."""
    place = Place((there or {}).get, tuple(searched), wildcards)
    return propose(runs or [list(lessons)], policy, place)


def rules(outcome: Outcome) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for each in outcome.proposals:
        found.setdefault(each.key.rpartition(".")[2], []).append(each.value)
    return found


def writes(*lessons: Lesson, **options: object) -> list[object]:
    return rules(learnt(*lessons, **options)).get("allow_write", [])  # type: ignore[arg-type]


# ---------------------------------------------------------------- files


def test_nothing() -> None:
    outcome = learnt()
    assert outcome == Outcome()
    assert summary(outcome) == "nothing to learn: the policy allows all that this run did"


@pytest.mark.parametrize(
    ("lessons", "expected"),
    [
        (wrote(f"{ROOT}/a.txt"), ["a.txt"]),
        (wrote(f"{HOME}/thing"), ["~/thing"]),
        (wrote("/srv/data/x"), ["/srv/data/x"]),
        # made by the run: the topmost such directory
        (
            [*wrote(f"{ROOT}/out", f"{ROOT}/out/deep", op="mkdir"), *wrote(f"{ROOT}/out/a", f"{ROOT}/out/deep/b")],
            ["out"],
        ),
        # names of the moment, by what they look like
        (wrote(f"{ROOT}/logs/2026-11-30T10_34-debug-0.log"), ["logs"]),
        (wrote(f"{ROOT}/cache/0123456789abcdef"), ["cache"]),
        (wrote(f"{ROOT}/cache/tmp8x_a1b2c/file"), ["cache"]),
        # and by what becomes of them
        ([*wrote(f"{ROOT}/d/part", op="create"), *wrote(f"{ROOT}/d/part", op="rename"), *wrote(f"{ROOT}/d/x")], ["d"]),
        # four in a directory
        (wrote(*(f"{ROOT}/d/{name}" for name in "abc")), ["d/a", "d/b", "d/c"]),
        (wrote(*(f"{ROOT}/d/{name}" for name in "abcd")), ["d"]),
        (wrote(*(f"{ROOT}/d/{at}/{name}" for at in "wxyz" for name in "abcd")), ["d"]),
        # the project itself is never one: a glob where they are of a kind
        (wrote(*(f"{ROOT}/{name}.o" for name in "abcd")), ["./*.o"]),
        (wrote(*(f"{ROOT}/{name}" for name in "abcd")), ["a", "b", "c", "d"]),
        # temporary files
        (wrote("/tmp/x/y", "/tmp/z"), ["/tmp"]),
        (wrote("/tmp/(unnamed temporary file)"), ["/tmp"]),
        (wrote(f"{ROOT}/d/(unnamed temporary file)"), ["d"]),
        # a lock beside its file
        (wrote(f"{ROOT}/db.lock", f"{ROOT}/db"), ["db", "db.lock"]),
        # shared directories are made, not given away
        (
            [*wrote(f"{HOME}/.cache", f"{HOME}/.cache/thing", op="mkdir"), *wrote(f"{HOME}/.cache/thing/x")],
            ["~/.cache/thing"],
        ),
        (wrote(f"{HOME}/.cache/thing/3.11/x/y"), ["~/.cache/thing"]),
    ],
)  # fmt: skip
def test_files(lessons: list[Lesson], expected: list[str]) -> None:
    outcome = learnt(*lessons)
    assert rules(outcome)["allow_write"] == expected
    assert not outcome.unlearnt


@pytest.mark.parametrize(
    ("directory", "there"),
    [
        ("/", {}),
        ("/etc", {}),
        ("/etc/thing", {}),
        ("/usr/share/thing", {}),
        ("/var/lib", {}),
        ("/opt", {}),
        (HOME, {}),
        (f"{HOME}/.config", {}),
        (f"{HOME}/.cache", {}),
        (f"{HOME}/.local", {}),
        (f"{HOME}/.local/share", {}),
        ("/home", {}),
        (f"{HOME}/tools/bin", {}),
        (f"{HOME}/on-path", {}),
        (f"{HOME}/around", {}),  # on-path lies in it
        (ROOT, {}),
        (f"{ROOT}/repo", {f"{ROOT}/repo": [".git"], f"{ROOT}/repo/.git": ["hooks"]}),
        (f"{ROOT}/denied", {}),
        (f"{HOME}/full", {f"{HOME}/full": ["a", "b", "c", "d", "untouched"]}),
    ],
)
def test_what_is_never_proposed_as_a_whole(directory: str, there: dict[str, list[str]]) -> None:
    denied = Entry("denied/secret", Source("test"), f"{ROOT}/denied/secret")
    policy = Policy(filesystem=FILES._replace(deny_write=(denied,)))
    above = directory.rstrip("/")
    names = [f"{above}/{name}" for name in ("a", "b", "c", "d")]
    found = learnt(
        *wrote(*names),
        policy=policy,
        there=there,
        searched=[f"{HOME}/on-path", f"{HOME}/around/on-path"],
    )
    judge = Judge(policy)
    proposed = rules(found).get("allow_write", [])
    assert all(str(value).rpartition("/")[2] in ("a", "b", "c", "d") for value in proposed), found
    assert len(proposed) == (0 if directory in ("/", "/home") else 4)  # there each name is a shared directory
    assert not judge.decide(Write("open", names[0])).allowed  # the policy itself has nothing to do with it


def test_a_name_of_the_moment_in_a_shared_directory_becomes_a_glob() -> None:
    assert writes(*wrote(f"{HOME}/.lesshst-1234567")) == ["~/.lesshst-*"]


def test_a_part_of_the_name_that_changes_is_not_all_of_it() -> None:
    outcome = learnt(*wrote(f"{HOME}/123456789"))
    assert rules(outcome)["allow_write"] == ["~/123456789"]  # a glob would be the whole home directory


def test_what_is_in_one_run_and_not_in_the_other_is_of_the_moment() -> None:
    first, second = wrote(f"{ROOT}/d/one", f"{ROOT}/d/both"), wrote(f"{ROOT}/d/two", f"{ROOT}/d/both")
    assert writes(runs=[first, second]) == ["d"]
    assert writes(runs=[first]) == ["d/both", "d/one"]


def test_what_is_opened_besides_is_said() -> None:
    names = [f"{ROOT}/d/{name}" for name in "abcd"]
    (found,) = learnt(*wrote(*names), there={f"{ROOT}/d": ["a", "b", "c", "d", "else"]}).proposals
    assert (found.value, found.evidence.opens, found.evidence.why) == ("d", ("else",), "many names")
    lines = list(entries([found], tests=False))
    assert "opens as well: else" in lines[1]


def test_a_shared_directory_has_no_rule_even_if_the_run_has_made_it() -> None:
    outcome = learnt(*wrote(f"{HOME}/.cache", op="mkdir"))
    assert not outcome.proposals
    assert "programs share" in outcome.unlearnt[0].why


def test_protected_names_have_no_rule() -> None:
    outcome = learnt(*wrote(f"{HOME}/.bashrc"))
    assert not outcome.proposals
    (found,) = outcome.unlearnt
    assert found.what == f"write {HOME}/.bashrc"
    assert ".bashrc" in "".join(without_rule([found]))


@pytest.mark.parametrize("path", ["/dev/ptmx", "/dev/pts/3", "/dev/tty"])
def test_terminals(path: str) -> None:
    assert rules(learnt(*wrote(path))) == {"allow_pty": [True]}


def test_names_that_are_no_text() -> None:
    """A rule for them can be typed, and means them."""
    paths = [f"{ROOT}/a\nb", f"{ROOT}/q\"'[tool.fence]", f"{ROOT}/\udcff", f"{ROOT}/x\u2028y", f"{ROOT}/#c"]
    outcome = learnt(*wrote(*paths))
    assert not outcome.unlearnt
    for value in rules(outcome)["allow_write"]:
        assert str(value).isprintable()


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([Resolve("api.example.com")], {"allowed_domains": ["api.example.com"]}),
        ([Resolve("api.example.com"), Connect("api.example.com", 443)], {"allowed_domains": ["api.example.com"]}),
        ([Resolve("api.example.com"), Connect("api.example.com", 8443)], {"allowed_domains": ["api.example.com:8443"]}),
        ([Connect("93.184.216.34", 443)], {"allowed_domains": ["93.184.216.34:443"]}),
        ([Connect("127.0.0.1", 6379)], {"allow_local_outbound_ports": [6379]}),
        ([Connect("127.0.0.1", 45678)], {"allow_local_outbound": [True]}),
        ([Connect("127.0.0.1", 45678), Connect("127.0.0.1", 6379)], {"allow_local_outbound": [True]}),
        ([Bind("127.0.0.1", 8000)], {"allow_local_binding": [True]}),
        ([Bind("127.0.0.1", 8000), Connect("127.0.0.1", 45678)], {"allow_local_binding": [True]}),
        ([UnixConnect("/run/postgresql/.s.PGSQL.5432")], {"allow_unix_sockets": ["/run/postgresql/.s.PGSQL.5432"]}),
        (
            [Connect("db", 5432), Connect("10.0.0.3", 5432, name="db")],
            {"allowed_domains": ["db:5432"], "allow_private": ["db:5432"]},
        ),
    ],
)
def test_network(requests: list[Request], expected: dict[str, list[object]]) -> None:
    outcome = learnt(*map(lesson, requests))
    found = rules(outcome)
    if "allow_private" in expected:
        assert found.get("allow_private") == expected["allow_private"]
    else:
        assert found == expected
    assert not outcome.unlearnt


def test_a_name_that_does_not_exist() -> None:
    outcome = learnt(lesson(Resolve("gone.example.org"), absent=True))
    assert [(each.key, each.value) for each in outcome.proposals] == [("network.hosts", "gone.example.org")]
    assert as_table(outcome.proposals) == {"network": {"hosts": {"gone.example.org": False}}}


def test_wildcards_only_if_they_are_wanted() -> None:
    lessons = [lesson(Resolve(f"shard{number}.cdn.example.net")) for number in range(3)]
    outcome = learnt(*lessons)
    assert len(outcome.proposals) == 3
    assert '"*.cdn.example.net" would cover these 3 names' in outcome.remarks[0]
    assert rules(learnt(*lessons, wildcards=True)) == {"allowed_domains": ["*.cdn.example.net"]}
    few = [lesson(Resolve(f"x{number}9.example")) for number in range(5)]
    assert "*" not in str(rules(learnt(*few, wildcards=True)))  # not a whole top-level domain


def test_what_only_a_switch_for_everything_opens() -> None:
    outcome = learnt(lesson(UnixConnect("\0bus")), lesson(Connect("8.8.8.8", 53, "udp")))
    assert not outcome.proposals
    assert [each.what for each in outcome.unlearnt] == ["connect 8.8.8.8:53/udp", "connect unix:@bus"]


def test_what_the_user_has_switched_off_stays_off() -> None:
    source = Source("pyproject.toml", file="/x/pyproject.toml")
    network = NetworkRules(sources=(("allow_local_binding", source),))
    outcome = learnt(lesson(Bind("127.0.0.1", 8000)), policy=Policy(network=network, filesystem=FILES))
    assert not outcome.proposals
    assert "is switched off in pyproject.toml" in outcome.unlearnt[0].why


# ---------------------------------------------------------------- evidence


def test_a_second_look_proposes_nothing() -> None:
    """With the proposals in force, all of it is allowed: the fixed point, without a kernel."""
    from fence_core.policy.sources.merge import merge
    from fence_core.policy.sources.validate import parse_overlay

    lessons = [
        *wrote(*(f"{ROOT}/d/{name}" for name in "abcde"), f"{HOME}/.lesshst-1234567", "/srv/x/y", "/etc/thing"),
        *map(lesson, (Resolve("a.example.com"), Connect("a.example.com", 8443), Bind("0.0.0.0", 80))),
    ]
    table = as_table(learnt(*lessons).proposals)
    overlay = parse_overlay({**table.pop("", {}), **table}, source=Source("x"), base_dir=ROOT, settings=True, home=HOME)
    after = merge(BASE, overlay)
    judge = Judge(after)
    assert all(judge.decide(each.request).allowed for each in lessons)
    assert not learnt(*(each for each in lessons if not judge.decide(each.request).allowed), policy=after).proposals


@pytest.mark.parametrize(
    ("tests", "programs", "why", "of_tests", "of_command"),
    [
        (("t.py::test_a[1]", "t.py::test_a[2]"), (), "", "t.py::test_a", "learnt"),
        (("t.py::test_a", "t.py::test_b"), ("git",), "", "several tests", "git"),
        (("",), ("a", "b", "c", "d"), "many names", "outside of tests; many names", "a, b, c and 1 more; many names"),
        (("t.py::x\n[evil]\u2028",), ("p\nq",), "", "t.py::x\\n", "p\\nq"),
    ],
)
def test_comments(tests: tuple[str, ...], programs: tuple[str, ...], why: str, of_tests: str, of_command: str) -> None:
    evidence = Evidence(1, tests, programs, "x", why)
    assert comment(evidence, tests=True) == of_tests
    assert comment(evidence, tests=False) == of_command


def test_a_comment_is_short() -> None:
    assert len(comment(Evidence(1, ("t" * 5000,)), tests=True)) == 100


def test_lessons_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from fence_core.events import lessons as module

    monkeypatch.setattr(module, "LESSONS_MAX", 2)
    kept = Lessons()
    for name in ("a", "b", "c", "a"):
        kept.add(Resolve(name), "t", "p")
    assert [each.count for each in kept.all()] == [2, 1]
    assert kept.dropped == 1
