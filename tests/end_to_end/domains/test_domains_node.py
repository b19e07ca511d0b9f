"""Domains for node: sockets of an event loop, names looked up in threads."""

from __future__ import annotations

import pytest

from tests.end_to_end.domains.cells import Matrix, Row, cells

ROWS = {
    f"{api}_{service}": Row(service, ["node"], ["program:node"])
    for api in ("node_http", "node_fetch")
    for service in ("http", "https")
}

PROGRAMS = """
import os

def node(script):
    return run("node", "-e", script, env={**os.environ, "NODE_EXTRA_CA_CERTS": CA})

def node_http_http(at):
    scheme = at.url.partition(":")[0]
    return node(f"require('{scheme}').get('{at.url}', {{agent: false}}, answer => answer.pipe(process.stdout))")

def node_fetch_http(at):
    return node(f"fetch('{at.url}').then(answer => answer.text()).then(console.log)")

node_http_https, node_fetch_https = node_http_http, node_fetch_http
"""


@pytest.mark.parametrize(("name", "row", "column"), cells(ROWS))
def test_domains(matrix: Matrix, name: str, row: Row, column: str) -> None:
    matrix.check(name, row, column)
