"""The matrix: who asks, for what, and what is to come of it.

A column is a name (or an address) and what the policy says of it. A row is a program that speaks to one server, written
as a function in the module of its family. A cell is one test within the fence, and one out here that questions it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.end_to_end.caught import AWAY, Attempt, Caught
from tests.end_to_end.domains import world as there


class Column(NamedTuple):
    host: str
    """With the server's kind in it where that is `{}`."""
    refused: str = ""
    """What the fence reports; empty where the real bytes are to come."""


STUB_PORT = 8999
"""Nothing listens there: a stub is at another port of this machine."""

COLUMNS = {
    "allowed": Column("allowed.test"),
    "not_allowed": Column("other.test", "resolve other.test"),
    "by_wildcard": Column("api.wild.test"),
    "denied_under_wildcard": Column("bad.wild.test", "resolve bad.wild.test"),
    "at_another_port": Column("ported.test", "connect ported.test:{port}/tcp"),
    "ip_literal": Column("{address}", "connect {address}:{port}/tcp"),
    "stub": Column("{service}.stub.test"),
}


class Row(NamedTuple):
    """One program asking one kind of server."""

    service: str
    by: Sequence[str] = ()
    """The programs that it starts as, seen from the test."""
    needs: Sequence[str] = ()
    columns: Sequence[str] = tuple(COLUMNS)
    beside: Mapping[str, str] = {}
    """What may be reported there besides."""


SERVERS_NEED = ("module:asyncssh", "module:dns", "module:grpc", "module:trustme")


def cells(rows: Mapping[str, Row]) -> list[Any]:
    """What the tests of a module are parametrized with."""
    return [
        pytest.param(name, row, column, id=f"{name}-{column}", marks=pytest.mark.needs(*SERVERS_NEED, *row.needs))
        for name, row in rows.items()
        for column in row.columns
    ]


class World:
    """Servers that listen, and what it takes to be where they are."""

    def __init__(self, files: Path, ports: Mapping[str, int], prefix: Callable[[Path], list[str]] | None) -> None:
        self.files = files
        self.ports = ports
        self.own_network = prefix is not None
        self.prefix = prefix or (lambda directory: [])
        self.address = there.ADDRESS if self.own_network else AWAY

    def asked(self) -> set[str]:
        """Names that somebody wanted to know of the real name server."""
        log = self.files / "asked"
        return set(log.read_text(encoding="ascii").split()) if log.exists() else set()


def policy(world: World, *, allowed: Sequence[str], pinned: Mapping[str, str]) -> str:
    """What every cell runs under. Where there is no name server of ours, all allowed names are pinned to loopback."""
    hosts = {f"{service}.stub.test": f"127.0.0.1:{port}" for service, port in world.ports.items()}
    if not world.own_network:
        hosts |= {"allowed.test": "127.0.0.1", "api.wild.test": "127.0.0.1"}
    table = ", ".join(f'"{name}" = "{address}"' for name, address in (hosts | dict(pinned)).items())
    return f"""
[tool.fence]
allow_git_config = true

[tool.fence.network]
allowed_domains = {["allowed.test", "*.wild.test", "ported.test:9", *allowed]!r}
denied_domains = ["bad.wild.test"]
hosts = {{{table}}}
"""


class Matrix:
    """One fenced run of all cells of a module, to be questioned cell by cell."""

    def __init__(self, run: Caught, world: World) -> None:
        self.run = run
        self.world = world

    def check(self, name: str, row: Row, column: str) -> None:
        test = f"test[{name}-{column}]"
        host, what = COLUMNS[column]
        place = {"address": self.world.address, "port": self.world.ports[row.service]}
        found = [v for v in self.run.attempts(test) if self._is_about_us(v)]
        report = self.run.report(test)
        # Whether the page came is what the test within asserts, whatever else the program was refused.
        if report["outcome"] != "passed":
            self.run.blamed(test)
        if not what:
            assert not found, self.run
            if self.world.own_network and column != "stub":
                assert host in self.world.asked(), "the filter is to resolve it"
            return
        beside = row.beside.get(column, "").format(**place)
        expected = what.format(**place)
        assert {v.what for v in found} - {beside} == {expected}, self.run
        assert {tuple(v.chain[1:]) for v in found if v.what == expected} == {tuple(row.by)}, self.run
        assert expected in report["text"], self.run
        assert host not in self.world.asked(), "nobody is to hear of a name that is refused"

    def _is_about_us(self, attempt: Attempt) -> bool:
        """Not what a program does on its own account, another thing in each version: a directory of its own, a name
        of its maker's."""
        target = attempt.what.partition(" ")[2]
        is_a_path = target.startswith(("/", "~", "unix:"))
        return not is_a_path and (".test" in target or self.world.address in target)
