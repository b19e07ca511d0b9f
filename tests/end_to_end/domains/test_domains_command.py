"""Domains for a fenced command: real servers by name, TLS end to end, through the filter as a proxy and without."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.domains import world as there
from tests.end_to_end.domains.cells import SERVERS_NEED, World
from tests.end_to_end.support import Ended, Runs
from tests.proxy.peers import CONNECT_REFUSED

pytestmark = pytest.mark.needs(*SERVERS_NEED)

DIRECT = """
const url = process.argv[1];
require('https').get(url, {agent: false}, answer => answer.pipe(process.stdout)).on('error', e => console.log(e.code));
"""
BY_UNDICI = """
const {fetch, ProxyAgent} = require(process.argv[2]);
fetch(process.argv[1], {dispatcher: new ProxyAgent({uri: process.env.HTTPS_PROXY})})
    .then(answer => answer.text()).then(console.log, e => console.log(e.message, '|', e.cause && e.cause.message));
"""
"""Certificates are checked by what NODE_EXTRA_CA_CERTS names: the server's own reaches the program."""


class Commands:
    """`fence` where the servers are."""

    def __init__(self, runs: Runs, world: World) -> None:
        self._runs = runs
        self._world = world
        self.directory = runs.directory
        hosts = {} if world.own_network else {"allowed.test": "127.0.0.1", "api.wild.test": "127.0.0.1"}
        network = {"allowedDomains": ["allowed.test", "*.wild.test"], "hosts": hosts}
        self.policy = {"network": network}
        (self.directory / "p.json").write_text(json.dumps(self.policy))

    def url(self, name: str, service: str = "https") -> str:
        return f"{service}://{name}:{self._world.ports[service]}/"

    def __call__(self, *words: str) -> Ended:
        ca = str(self._world.files / "ca.pem")
        command = [sys.executable, "-m", "fence_core", "-s", "p.json", *words]
        variables = {"CURL_CA_BUNDLE": ca, "NODE_EXTRA_CA_CERTS": ca, "NODE_NO_WARNINGS": "1"}
        return self._runs.command(*self._world.prefix(self.directory), *command, env=variables)


@pytest.fixture
def fence(runs: Runs, world: World) -> Iterator[Commands]:
    asked = set(world.asked())
    yield Commands(runs, world)
    assert not {name for name in world.asked() - asked if name.startswith("other.")}, "a refused name was looked up"


def said(ended: Ended) -> list[str]:
    """Our lines, without the time of day and the programs."""
    lines = re.findall(r"\[fence[^\n]*", ended.err)
    return [f"{line.partition('] ')[0]}] {line.partition(' ✗ ')[2].partition(' (')[0]}" for line in lines]


@pytest.mark.needs("program:curl")
@pytest.mark.parametrize("direct", [[], ["--noproxy", "*"]])
def test_curl(fence: Commands, direct: list[str]) -> None:
    for name in ("allowed.test", "api.wild.test"):
        for service in ("https", "http"):
            ended = fence("-m", "curl", "-sS", *direct, fence.url(name, service))
            assert (ended.status, ended.err) == (0, ""), ended
            assert there.HELLO in ended.out
    url = fence.url("other.test")
    ended = fence("-m", "curl", "-sS", *direct, url)
    if direct:
        assert ended.status == 6, ended
        assert said(ended) == ["[fence:dns] resolve other.test NXDOMAIN"]
    else:
        assert ended.status in CONNECT_REFUSED, ended
        assert ended.out == ""
        assert "CONNECT tunnel failed, response 403" in ended.err
        assert said(ended) == [f"[fence:http] CONNECT 403 other.test {url.rstrip('/')}"]


@pytest.mark.needs("program:curl", "user:root")
def test_a_domain_of_a_flag(fence: Commands) -> None:
    if not fence._world.own_network:
        pytest.skip("kernel: no network namespaces for this user")
    ended = fence("-m", "--allow-domain", "flagged.test", "curl", "-sS", fence.url("flagged.test"))
    assert (ended.status, ended.err) == (0, ""), ended
    assert there.HELLO in ended.out


@pytest.mark.needs("program:node")
def test_node_without_a_proxy(fence: Commands) -> None:
    """What reads no variables reaches an allowed name all the same, and no other."""
    allowed = fence("-m", "node", "-e", DIRECT, fence.url("allowed.test"))
    assert (allowed.status, allowed.err) == (0, ""), allowed
    assert there.HELLO in allowed.out
    refused = fence("-m", "node", "-e", DIRECT, fence.url("other.test"))
    assert (refused.status, refused.out) == (0, "ENOTFOUND\n"), refused
    assert said(refused) == ["[fence:dns] resolve other.test NXDOMAIN"]


def undici() -> Path:
    """The real one, which npm comes with."""
    npm = shutil.which("npm")
    places = [Path(os.path.realpath(npm)).parents[1] / "node_modules/undici"] if npm else []
    return next((place for place in places if place.is_dir()), Path())


@pytest.mark.needs("program:node", "program:npm")
def test_undici_by_the_proxy(fence: Commands) -> None:
    module = undici()
    if module == Path():
        pytest.skip("npm: comes without undici")
    allowed = fence("-m", "node", "-e", BY_UNDICI, fence.url("allowed.test"), str(module))
    assert (allowed.status, allowed.err) == (0, ""), allowed
    assert there.HELLO in allowed.out
    url = fence.url("other.test")
    refused = fence("-m", "node", "-e", BY_UNDICI, url, str(module))
    assert refused.out.startswith("fetch failed | "), refused
    assert set(said(refused)) == {f"[fence:http] CONNECT 403 other.test {url.rstrip('/')}"}


@pytest.mark.needs("program:curl")
def test_an_address_of_an_allowed_name(fence: Commands) -> None:
    address = fence._world.address
    ended = fence("-m", "curl", "-sSk", "--noproxy", "*", fence.url(address))
    assert ended.status == 7, ended
    assert said(ended) == [f"[fence:net] connect {address}:{fence._world.ports['https']}/tcp EACCES"]
