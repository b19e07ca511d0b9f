"""The proposed change is small, can be pasted, and allows what was refused: each is applied and asked again."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from fence_core.policy import remedy as proposals
from fence_core.policy.decide import Judge
from fence_core.policy.model import FilesystemRules, Policy, Remedy, Source
from fence_core.policy.requests import Bind, Connect, OpenSocket, Read, Request, Resolve, UnixConnect, Write
from fence_core.policy.sources.merge import merge
from fence_core.policy.sources.validate import parse_overlay
from fence_core.report.words import config, marker

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLACES = FilesystemRules(root="/home/ci/proj", home="/home/ci", scratch=("/tmp",), locked=("/home/ci/proj/fence.json",))
EMPTY = Policy(filesystem=PLACES)


def remedy(request: Request, policy: Policy, syntax: str = "toml") -> Remedy | None:
    return proposals.remedy(request, policy, Judge(policy).decide(request), syntax)


def advice(request: Request, policy: Policy) -> tuple[Remedy | None, str]:
    return proposals.advice(request, policy, Judge(policy).decide(request))


def marker_arguments(text: str) -> dict[str, Any]:
    """The arguments of a marker as Python reads them."""
    assert text.startswith("@")
    call = ast.parse(text[1:], mode="eval").body
    assert isinstance(call, ast.Call)
    assert ast.unparse(call.func) == "pytest.mark.fence"
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


def config_table(text: str, syntax: str) -> Mapping[str, Any]:
    if syntax == "json":
        return json.loads(text)  # type: ignore[no-any-return]
    if syntax == "yaml":
        return yaml.safe_load(text)  # type: ignore[no-any-return]
    return tomllib.loads(text)["tool"]["fence"]  # type: ignore[no-any-return]


def with_change(raw: Mapping[str, Any], *, flat: bool = True) -> Policy:
    return merge(EMPTY, parse_overlay(raw, source=Source("s"), base_dir="/home/ci/proj", flat=flat, home="/home/ci"))


def check(request: Request) -> None:
    """Every form of the remedy, as the user would paste it, allows the request."""
    for syntax in ("toml", "json", "yaml"):
        found = remedy(request, EMPTY, syntax)
        assert found is not None
        for raw, flat in (
            (marker_arguments(marker(found)), True),
            (config_table(config(found), syntax), syntax != "json"),
        ):
            assert Judge(with_change(raw, flat=flat)).decide(request).allowed, raw
        assert marker(found).isprintable()
        assert config(found).replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("request_", "change"),
    [
        (Resolve("api.stripe.com"), 'allowed_domains=["api.stripe.com"]'),
        (Resolve("API.Stripe.com."), 'allowed_domains=["api.stripe.com"]'),
        (Connect("api.stripe.com", 443), 'allowed_domains=["api.stripe.com"]'),
        (Connect("api.stripe.com", 8443), 'allowed_domains=["api.stripe.com:8443"]'),
        (Connect("93.184.216.34", 443), 'allowed_domains=["93.184.216.34:443"]'),
        (Connect("2606::1", 443), 'allowed_domains=["[2606::1]:443"]'),
        (Connect("192.0.2.1", 0), 'allowed_domains=["192.0.2.1"]'),
        (Connect("127.0.0.1", 5432), "allow_local_outbound_ports=[5432]"),
        (Connect("localhost", 5432), "allow_local_outbound_ports=[5432]"),
        # A port of the kernel's choice is another one in the next run.
        (Connect("240.0.0.0", 39071), 'allowed_domains=["240.0.0.0"]'),
        (Connect("2001:db8::7", 60999), 'allowed_domains=["2001:db8::7"]'),
        (Connect("api.corp.net", 40001), 'allowed_domains=["api.corp.net"]'),
        (Connect("127.0.0.1", 39071), "allow_local_outbound=True"),
        (Connect("240.0.0.0", 0, "tcp"), 'allowed_domains=["240.0.0.0"]'),
        # Where an allowed name leads: the name, since the address is that of today.
        (Connect("10.9.9.9", 80, name="db"), 'allow_private=["db"]'),
        (Connect("172.18.0.3", 5432, name="db"), 'allow_private=["db:5432"]'),
        (Connect("172.18.0.3", 40000, name="db"), 'allow_private=["db"]'),
        (Connect("fd00::7", 80, name="db"), 'allow_private=["db"]'),
        (Connect("169.254.169.254", 80, name="db"), 'allowed_domains=["169.254.169.254:80"]'),
        (Connect("100.100.100.200", 80, name="db"), 'allowed_domains=["100.100.100.200:80"]'),
        (Connect("10.9.9.9", 80), 'allowed_domains=["10.9.9.9:80"]'),
        (Bind("127.0.0.1", 0), "allow_local_binding=True"),
        (Bind("0.0.0.0", 80), "allow_local_binding=True"),
        (Bind("192.0.2.1", 80), 'allowed_domains=["192.0.2.1:80"]'),
        (UnixConnect("/run/docker.sock"), 'allow_unix_sockets=["/run/docker.sock"]'),
        (UnixConnect("\0name"), "allow_all_unix_sockets=True"),
        (UnixConnect("/home/ci/.agent/s[1]"), 'allow_unix_sockets=["~/.agent/s[[]1]"]'),
        (Write("open", "/home/ci/.cache/tool/x"), 'allow_write=["~/.cache/tool/x"]'),
        (Write("mkdir", "/home/ci/.cache/tool"), 'allow_write=["~/.cache/tool"]'),
        (Write("create", "/home/ci/.cache/tool/x"), 'allow_write=["~/.cache/tool"]'),
        (Write("rename", "/home/ci/.cache/tool/x"), 'allow_write=["~/.cache/tool"]'),
        (Write("open", "/home/ci/.cache/tool/tmpab12cd34"), 'allow_write=["~/.cache/tool"]'),
        (Write("open", "/home/ci/.cache/tool/x.lock"), 'allow_write=["~/.cache/tool"]'),
        # A directory that holds more than the matter at hand is not given away.
        (Write("create", "/home/ci/x"), 'allow_write=["~/x"]'),
        (Write("rename", "/etc/x"), 'allow_write=["/etc/x"]'),
        (Write("create", "/home/x"), 'allow_write=["/home/x"]'),
        (Write("create", "/home/ci/proj/x"), 'allow_write=["x"]'),
        (Write("open", "/home/ci/proj/tests/out.txt"), 'allow_write=["tests/out.txt"]'),
        (Write("open", "/home/ci/proj/a*b"), 'allow_write=["./a[*]b"]'),
        (Write("open", "/home/ci/proj/~x"), 'allow_write=["./~x"]'),
        (Write("open", "/srv/data/x"), 'allow_write=["/srv/data/x"]'),
        (Write("chattr", "/srv/data/x"), 'allow_write=["/srv/data/x"]'),
        (Write("unlink", "/dev/mqueue/jobs"), 'allow_write=["/dev/mqueue/jobs"]'),
        (Write("open", "/srv/data/a\nb\udcff"), 'allow_write=["/srv/data/a?b?"]'),
        (Write("open", '/srv/data/q"\\u'), 'allow_write=["/srv/data/q\\"\\\\u"]'),
    ],
)
def test_the_smallest_change(request_: Request, change: str) -> None:
    found = remedy(request_, EMPTY)
    assert found is not None
    assert marker(found) == f"@pytest.mark.fence({change})"
    check(request_)


@pytest.mark.parametrize(
    ("request_", "change"),
    [
        # Names that no second run has.
        (Write("create", "/tmp/h6fxl65u"), ["/tmp"]),
        (Write("mkdir", "/tmp/abcdefgh"), ["/tmp"]),
        (Write("create", "/tmp/app/tmpab12cd34/x"), ["/tmp/app"]),
        (Write("create", "/tmp/app.log"), ["/tmp/app.log"]),
        (Write("create", "/home/ci/.npm/_logs/2026-11-30T10_34_36_154Z-debug-0.log"), ["~/.npm/_logs"]),
        (Write("open", "/home/ci/data/run.48213"), ["~/data"]),
        (Write("open", "/srv/data/1f0c9a52-7c1e-11ef-9f7a-0242ac120002/x"), ["/srv/data"]),
        (Write("create", "/home/ci/.lesshsQ1234567"), ["~/.lesshsQ*"]),
        # Not deeper than fits every machine.
        (
            Write("create", "/home/ci/.cache/python-tldextract/3.11.7.final__v__d614a8__tldextract-5.4.0/a/x.json"),
            ["~/.cache/python-tldextract"],
        ),
        (Write("mkdir", "/home/ci/.cache/tool/3.11.7"), ["~/.cache/tool"]),
        (
            Write("mkdir", "/home/ci/.local/share/virtualenv/wheel/3.11/image/1/CopyPipInstall"),
            ["~/.local/share/virtualenv/wheel"],
        ),
        (Write("open", "/home/ci/.cache/pip/http/a/b/c"), ["~/.cache/pip/http"]),
        # What is written beside it.
        (Write("create", "/home/ci/app.db"), ["~/app.db", "~/app.db-*"]),
        (Write("open", "/home/ci/app.sqlite3-wal"), ["~/app.sqlite3", "~/app.sqlite3-*"]),
        (Write("open", "/srv/data/app.db"), ["/srv/data/app.db", "/srv/data/app.db-*"]),
        (Write("create", "/home/ci/notes.txt.lock"), ["~/notes.txt", "~/notes.txt.lock"]),
        (Write("create", "/home/ci/.cache/thing/(unnamed temporary file)"), ["~/.cache/thing"]),
        # What the program is about to make.
        (Write("mkdir", "/home/ci/.cache", "/home/ci/.cache/thing"), ["~/.cache/thing"]),
        (Write("mkdir", "/home/ci/.local", "/home/ci/.local/share/thing/1.2/x"), ["~/.local/share/thing"]),
    ],
)
def test_it_fits_the_next_run_and_other_machines(request_: Write, change: list[str]) -> None:
    found = remedy(request_, EMPTY)
    assert found is not None
    assert marker_arguments(marker(found)) == {"allow_write": change}
    check(request_)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Write("mkdir", "/home/ci/.cache"), "XDG_CACHE_HOME"),
        (Write("mkdir", "/home/ci/.config"), "MPLCONFIGDIR"),
        (Write("mkdir", "/home/ci/.local"), "~/.local/NAME"),
        (Write("mkdir", "/home/ci/.local/share"), "XDG_DATA_HOME"),
        (Write("chmod", "/home/ci"), "HOME"),
        (Write("create", "/home/ci/.cache/(unnamed temporary file)"), "XDG_CACHE_HOME"),
        (Write("mkdir", "/etc"), "below it"),
        (Write("mkdir", "/usr/local/lib"), "below it"),
        (Write("chmod", "/var/log"), "below it"),
        (Write("create", "/home/ci/h6fxl65u"), "new in each run"),
    ],
)
def test_a_directory_that_many_share_is_never_offered(request_: Write, says: str) -> None:
    found, hint = advice(request_, EMPTY)
    assert found is None
    assert says in hint


@pytest.mark.parametrize(
    "path",
    [
        "/home/ci/.gitconfig",
        "/home/ci/.gitconfig.lock",
        "/home/ci/.gitconfig~",
        "/home/ci/.gitconfig.tmp.4711",
        "/home/ci/..gitconfig.swp",
        "/home/ci/.#.gitconfig",
        "/home/ci/.gitconfig.Ab12Cd",
        "/home/ci/.config/git.lock",
    ],
)
def test_a_lock_of_a_protected_file_is_as_protected(path: str) -> None:
    decision = Judge(EMPTY).decide(Write("create", path))
    assert (decision.allowed, decision.why) == (False, "protected")
    found, hint = advice(Write("create", path), EMPTY)
    assert found is None
    assert "GIT_CONFIG_GLOBAL" in hint


def test_a_lock_in_a_place_that_is_allowed_is_a_file_like_any_other() -> None:
    assert Judge(with_change({"allow_write": ["~"]})).decide(Write("create", "/home/ci/.gitconfig.lock")).allowed


def test_a_lock_of_what_is_denied_is_denied() -> None:
    policy = with_change({"deny_write": ["*.key"]})
    assert Judge(policy).decide(Write("create", "/srv/a.key.lock")).why == "denied"
    assert remedy(Write("create", "/srv/a.key.lock"), policy) is None


@pytest.mark.parametrize("path", ["/home/ci/.cargo/bin/x", "/home/ci/.pyenv/shims/x", "/opt/tools/x"])
def test_what_lies_on_the_search_path_is_offered_with_a_word(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/opt/tools")
    found, hint = advice(Write("create", path), EMPTY)
    assert found is not None
    assert "without a fence" in hint


def test_git_config_is_offered_by_its_setting() -> None:
    policy = with_change({"allow_write": ["."]})
    request = Write("rename", "/home/ci/proj/a/.git/config")
    found = remedy(request, policy)
    assert found is not None
    assert marker(found) == "@pytest.mark.fence(allow_git_config=True)"
    lifted = with_change({"allow_write": ["."], **marker_arguments(marker(found))})
    assert Judge(lifted).decide(request).allowed
    assert remedy(Write("open", "/home/ci/.git/config"), policy) is None  # the setting alone would not be enough
    assert remedy(Write("open", "/home/ci/proj/.git/hooks/post-commit"), policy) is None


def test_the_syntax_is_that_of_the_config() -> None:
    request = Resolve("api.stripe.com")
    texts = {syntax: config(found) for syntax in ("toml", "json", "yaml") if (found := remedy(request, EMPTY, syntax))}
    assert texts == {
        "toml": '[tool.fence]\nallowed_domains = ["api.stripe.com"]',
        "json": '{"network": {"allowedDomains": ["api.stripe.com"]}}',
        "yaml": 'allowed_domains: ["api.stripe.com"]',
    }


def test_a_config_outside_the_project_gets_full_paths() -> None:
    """Relative ones would count from where it lies."""
    policy = Policy(filesystem=PLACES._replace(base="/etc/fence"))
    found = remedy(Write("open", "/home/ci/proj/tests/x"), policy)
    assert found is not None
    assert marker(found) == '@pytest.mark.fence(allow_write=["~/proj/tests/x"])'


@pytest.mark.parametrize(
    "request_",
    [
        Write("open", "/home/ci/proj/.git/hooks/x"),
        Write("open", "/home/ci/.bashrc"),
        Write("open", "/home/ci/proj/fence.json"),
        Write("open", "/srv/x.key"),
        Write("open", "pipe:[1]"),
        Connect("10.0.0.1", 80),
        Resolve("bad.example"),
        Resolve("not a name"),
        Resolve("x.invalid"),
        OpenSocket(17, 3),
        Resolve("localhost"),
        Read("/etc/passwd"),
    ],
)
def test_what_nothing_may_allow_has_no_remedy(request_: Request) -> None:
    policy = with_change({"deny_write": ["*.key"], "denied_domains": ["10.0.0.0/8", "bad.example"]})
    assert remedy(request_, policy) is None


names = st.text(st.characters(exclude_characters="/\0", codec=None), min_size=1, max_size=10).filter(
    lambda name: name not in (".", "..")
)


@given(
    st.sampled_from(["/srv", "/home/ci", "/home/ci/proj", "/home/ci/proj/a", ""]),
    st.lists(names, min_size=1, max_size=3),
    st.sampled_from(["open", "create", "mkdir", "rename", "unlink"]),
)
def test_a_remedy_for_any_file_name_works(directory: str, parts: list[str], op: str) -> None:
    request = Write(op, f"{directory}/{'/'.join(parts)}")
    if Judge(EMPTY).decide(request).why == "unlisted":
        change, hint = advice(request, EMPTY)
        if change is None:
            assert hint, "neither a remedy nor what helps instead"
        else:
            check(request)


@given(st.ip_addresses(), st.integers(1, 65535), st.booleans())
def test_a_remedy_for_any_address_works(address: object, port: int, bind: bool) -> None:
    assume(bind or port not in (53, 853))  # a name server: the remedy is a rule for the name
    request = Bind(str(address), port) if bind else Connect(str(address), port)
    if Judge(EMPTY).decide(request).why == "unlisted":
        check(request)
