"""Suffixes of resolv.conf: the name that was meant is judged and reported, each as libc asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fence_core.dns.resolv_conf import ResolvConf, parse_resolv_conf, read_resolv_conf
from fence_core.dns.search import Judge, SearchList, Verdict

REFUSE, ALLOW, QUIET = Verdict.REFUSE, Verdict.ALLOW, Verdict.QUIET


def judge_of(*patterns: str) -> Judge:
    def judge(name: str) -> Verdict:
        for pattern in patterns:
            if name == pattern or (pattern.startswith("*") and name.endswith(pattern[1:])):
                return ALLOW
        return REFUSE

    return judge


def look_up(
    name: str, suffixes: list[str], judge: Judge, ndots: int = 1, search: SearchList | None = None
) -> tuple[str | None, list[str]]:
    """What glibc does (resolv/res_query.c): the name under which it was found, and the names that were reported."""
    search = search or SearchList(suffixes, ndots)
    suffixed = [f"{name}.{suffix}" for suffix in suffixes]
    reported: list[str] = []
    for tried in [name, *suffixed] if name.count(".") >= ndots else [*suffixed, name]:
        verdict, meant = search.decide(tried, judge)
        if verdict is ALLOW:
            return tried, reported
        if verdict is REFUSE:
            reported.append(meant)
    return None, reported


CORP = ["corp.example"]


def test_the_machines_own_name_with_a_suffix_and_without() -> None:
    def judge(name: str) -> Verdict:
        return Verdict.HERE if name == "runner" else ALLOW if name.endswith("corp.example") else REFUSE

    search = SearchList(CORP)
    for name in "runner", "runner.corp.example":
        assert search.decide(name, judge)[0] is Verdict.HERE
    assert search.decide("x.runner.corp.example", judge)[0] is ALLOW
    assert search.decide("runner.other.example", judge)[0] is REFUSE


def test_the_domain_of_the_machines_name_is_the_suffix_where_no_line_has_one() -> None:
    for lines, suffixes in [
        ([], ("corp.example",)), (["nameserver 1.2.3.4"], ("corp.example",)), (["search a.b c"], ("a.b", "c")),
        (["domain a.b"], ("a.b",)), (["search ."], ()),
    ]:  # fmt: skip
        assert parse_resolv_conf(lines, "Runner.Corp.Example").suffixes == suffixes
    assert parse_resolv_conf([], "runner").suffixes == ()


def test_a_refused_short_name_is_reported_as_it_was_written() -> None:
    found, reported = look_up("api", CORP, judge_of())
    assert found is None
    assert set(reported) == {"api"}


def test_a_refused_long_name_is_reported_without_suffix() -> None:
    found, reported = look_up("evil.test", CORP, judge_of())
    assert found is None
    assert set(reported) == {"evil.test"}


def test_an_allowed_short_name_is_found_bare_without_noise() -> None:
    assert look_up("api", CORP, judge_of("api")) == ("api", [])


def test_an_allowed_long_name_makes_no_noise_when_its_other_records_are_looked_for() -> None:
    """AAAA has no data, so that libc goes on to the suffixes."""
    search = SearchList(CORP)
    judge = judge_of("api.test")
    assert search.decide("api.test", judge) == (ALLOW, "api.test")
    assert search.decide("api.test.corp.example", judge)[0] is QUIET


@pytest.mark.parametrize("rule", ["api.corp.example", "*.corp.example"])
def test_a_short_name_is_found_where_the_rules_allow_its_long_form(rule: str) -> None:
    assert look_up("api", CORP, judge_of(rule)) == ("api.corp.example", [])
    assert look_up("api.corp.example", CORP, judge_of(rule)) == ("api.corp.example", [])


def test_both_forms_can_be_allowed() -> None:
    judge = judge_of("api", "api.corp.example")
    assert look_up("api", CORP, judge) == ("api.corp.example", [])
    assert look_up("api.corp.example", CORP, judge) == ("api.corp.example", [])


def test_a_refused_name_is_not_found_by_way_of_an_allowed_suffix() -> None:
    found, reported = look_up("evil.test", CORP, judge_of("*.corp.example"))
    assert found is None
    assert set(reported) == {"evil.test"}


def test_long_names_below_an_allowed_suffix_are_found() -> None:
    """Of which `db.prod` nobody has asked for."""
    assert look_up("db.prod.corp.example", CORP, judge_of("*.corp.example")) == ("db.prod.corp.example", [])


def test_the_refusal_of_a_name_is_forgotten_soon() -> None:
    now = 100.0

    def clock() -> float:
        return now

    search = SearchList(CORP, clock=clock)
    judge = judge_of("*.corp.example")
    assert search.decide("db.prod", judge) == (REFUSE, "db.prod")
    assert search.decide("db.prod.corp.example", judge) == (REFUSE, "db.prod")
    now += 60
    assert search.decide("db.prod.corp.example", judge) == (ALLOW, "db.prod.corp.example")


def test_no_more_than_some_refusals_are_remembered() -> None:
    search = SearchList(CORP)
    judge = judge_of("*.corp.example")
    for number in range(1000):
        search.decide(f"{number}.test", judge)
    assert search.decide("999.test.corp.example", judge)[0] is REFUSE
    assert search.decide("0.test.corp.example", judge)[0] is ALLOW


def test_a_name_of_the_own_domain_that_was_meant_in_full_comes_out_as_such() -> None:
    """The first query looks like `www` with its suffix. The next one tells."""
    found, reported = look_up("www.corp.example", CORP, judge_of())
    assert found is None
    assert reported[-1] == "www.corp.example"
    found, reported = look_up("www.corp.example", CORP, judge_of("www"))
    assert (found, reported) == (None, ["www.corp.example"])


CLUSTER = ["default.svc.cluster.test", "svc.cluster.test", "cluster.test"]


def test_many_dots_make_the_suffixes_come_first() -> None:
    """As in Kubernetes (ndots:5), where every name is tried with them."""
    judge = judge_of("api.example.com", "*.cluster.test")
    assert look_up("api.example.com", CLUSTER, judge, ndots=5) == ("api.example.com", [])
    assert look_up("db", CLUSTER, judge, ndots=5) == ("db.default.svc.cluster.test", [])


def test_many_dots_and_nothing_allowed_is_one_name_in_the_report() -> None:
    found, reported = look_up("evil.example", CLUSTER, judge_of("api.example.com"), ndots=5)
    assert found is None
    assert set(reported) == {"evil.example"}


def test_a_suffix_within_a_suffix_does_not_shorten_the_name() -> None:
    found, reported = look_up("api.corp", ["corp.example", "example"], judge_of())
    assert found is None
    assert set(reported) == {"api.corp"}


@pytest.mark.parametrize("name", ["localhost", "db.localhost", "nowhere.invalid", "1.0.0.127.in-addr.arpa"])
def test_what_leads_nowhere_leads_nowhere_with_a_suffix(name: str) -> None:
    assert SearchList(CORP).decide(f"{name}.corp.example", judge_of("*.corp.example"))[0] is QUIET


def test_a_name_that_is_refused_quietly_is_so_with_a_suffix() -> None:
    def judge(name: str) -> Verdict:
        return QUIET if name == "probe" else REFUSE

    assert look_up("probe", CORP, judge) == (None, [])


def test_an_address_with_a_suffix_is_reported_in_full() -> None:
    assert SearchList(CORP).decide("10.0.0.1.corp.example", judge_of()) == (REFUSE, "10.0.0.1.corp.example")


def test_without_suffixes_every_name_is_itself() -> None:
    assert look_up("api", [], judge_of()) == (None, ["api"])
    assert SearchList([".", ""]).bases("api.corp.example") == []


def test_the_suffix_alone_is_a_name() -> None:
    assert SearchList(CORP).decide("corp.example", judge_of()) == (REFUSE, "corp.example")
    assert SearchList(CORP).decide("notcorp.example", judge_of()) == (REFUSE, "notcorp.example")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ResolvConf((), (), 1)),
        ("nameserver ::1\nsearch Corp.Example. b.test\n", ResolvConf(("::1",), ("corp.example", "b.test"))),
        ("search a.test\ndomain b.test c.test", ResolvConf((), ("b.test",))),
        ("domain b.test\nsearch a.test", ResolvConf((), ("a.test",))),
        ("search .", ResolvConf()),
        ("options edns0 ndots:5 trust-ad", ResolvConf((), (), 5)),
        ("options ndots:99999999", ResolvConf((), (), 15)),
        ("options ndots: ndots:x ndots:-1", ResolvConf()),
        ("# search a.test\n;nameserver 1.1.1.1\nnameserver", ResolvConf()),
        ("nameserver 1\nnameserver 2\nnameserver 3\nnameserver 4", ResolvConf(("1", "2", "3"))),
        ("options ndots:0", ResolvConf((), (), 0)),
    ],
)  # fmt: skip
def test_resolv_conf_is_read_as_libc_reads_it(text: str, wanted: ResolvConf) -> None:
    assert parse_resolv_conf(text.splitlines()) == wanted


def test_a_resolv_conf_that_is_not_there_says_nothing(tmp_path: object) -> None:
    assert read_resolv_conf(f"{tmp_path}/missing") == ResolvConf()


def test_a_resolv_conf_is_read_from_disk(make: Callable[[bytes], str]) -> None:
    assert read_resolv_conf(make(b"nameserver ::1\nsearch \xff corp.example\n")).nameservers == ("::1",)


@pytest.fixture
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], str]:
    def write(content: bytes) -> str:
        path = tmp_path_factory.mktemp("etc") / "resolv.conf"
        path.write_bytes(content)
        return str(path)

    return write
