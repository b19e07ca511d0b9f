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

from fence_core.policy.decide import Judge
from fence_core.policy.merge import merge
from fence_core.policy.model import FilesystemRules, Policy
from fence_core.policy.remedy import remedy
from fence_core.policy.requests import Bind, Connect, OpenSocket, Read, Request, Resolve, UnixConnect, Write
from fence_core.policy.validate import parse_overlay

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLACES = FilesystemRules(root="/home/ci/proj", home="/home/ci", scratch=("/tmp",), locked=("/home/ci/proj/fence.json",))
EMPTY = Policy(filesystem=PLACES)


def marker_arguments(marker: str) -> dict[str, Any]:
    """The arguments of a marker as Python reads them."""
    assert marker.startswith("@")
    call = ast.parse(marker[1:], mode="eval").body
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
    return merge(EMPTY, parse_overlay(raw, source="s", base_dir="/home/ci/proj", flat=flat, home="/home/ci"))


def check(request: Request) -> None:
    """Every form of the remedy, as the user would paste it, allows the request."""
    for syntax in ("toml", "json", "yaml"):
        found = remedy(request, EMPTY, syntax)
        assert found is not None
        for raw, flat in (
            (marker_arguments(found.marker), True),
            (config_table(found.config, syntax), syntax != "json"),
        ):
            assert Judge(with_change(raw, flat=flat)).decide(request).allowed, raw
        assert found.marker.isprintable()
        assert found.config.replace("\n", "").isprintable()


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
    assert found.marker == f"@pytest.mark.fence({change})"
    check(request_)


def test_the_syntax_is_that_of_the_config() -> None:
    request = Resolve("api.stripe.com")
    texts = {syntax: found.config for syntax in ("toml", "json", "yaml") if (found := remedy(request, EMPTY, syntax))}
    assert texts == {
        "toml": '[tool.fence]\nallowed_domains = ["api.stripe.com"]',
        "json": '{"network": {"allowedDomains": ["api.stripe.com"]}}',
        "yaml": 'allowed_domains: ["api.stripe.com"]',
    }


def test_a_config_outside_the_project_gets_full_paths() -> None:
    """Relative ones would count from where it lies."""
    policy = Policy(filesystem=PLACES._replace(locked=("/home/ci/proj/fence.json", "/etc/fence/ci.json")))
    found = remedy(Write("open", "/home/ci/proj/tests/x"), policy)
    assert found is not None
    assert found.marker == '@pytest.mark.fence(allow_write=["~/proj/tests/x"])'


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
        check(request)


@given(st.ip_addresses(), st.integers(1, 65535), st.booleans())
def test_a_remedy_for_any_address_works(address: object, port: int, bind: bool) -> None:
    assume(bind or port not in (53, 853))  # a name server: the remedy is a rule for the name
    request = Bind(str(address), port) if bind else Connect(str(address), port)
    if Judge(EMPTY).decide(request).why == "unlisted":
        check(request)
