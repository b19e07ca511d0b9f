"""Domains for a headless browser, which looks up and connects much on its own account.

What its user does about that, here: the browser is told to look up nothing but the names under test, and two things it
does all the same are named in the policy. With each page that cannot be found it tries whether `google.com` can be:
that name is pinned to a port where nobody listens. And it opens a UDP socket towards a public address to learn whether
there is IPv6; nothing is sent there, and that address may be allowed. TLS is trusted by the server's key.
"""

from __future__ import annotations

import pytest

from tests.end_to_end.domains.cells import Matrix, Row, cells

NEEDS = ["program:chromium", "module:xdist"]
BY = ["chromium", "chromium"]  # one process looks up names and connects for the whole browser
PROBED = {"ip_literal": "connect {address}:443/udp"}  # at times, and in spite of --disable-quic
ROWS = {
    "chromium_https": Row("https", BY, NEEDS, beside=PROBED),
    "chromium_http": Row("http", BY, NEEDS, columns=("allowed", "not_allowed", "stub")),
}

ALLOWED = ["[2001:4860:4860::8888]:443", "[2001:4860:4860::8888]:53"]
PINNED = {"google.com": "127.0.0.1:9"}
WORKERS = 2  # a browser takes a second, and most of it is waiting

PROGRAMS = """
import os, tempfile

ALONE = [
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE *.test, EXCLUDE {ADDRESS}",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
    "--disable-features=HttpsUpgrades",  # one attempt is enough to see what becomes of it
]

def chromium_http(at):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        buses = {f"DBUS_{bus}_BUS_ADDRESS": "disabled:" for bus in ("SESSION", "SYSTEM")}
        how = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={home}/data"]
        trust = f"--ignore-certificate-errors-spki-list={SPKI}"
        page = run("chromium", *how, *ALONE, trust, "--dump-dom", at.url, env={**os.environ, **buses, "HOME": home})
    if HELLO not in page:
        raise RuntimeError(page)  # what says that the site cannot be reached is a page, too
    return page

chromium_https = chromium_http
"""


@pytest.mark.parametrize(("name", "row", "column"), cells(ROWS))
def test_domains(matrix: Matrix, name: str, row: Row, column: str) -> None:
    matrix.check(name, row, column)
