"""Domains for curl, wget and git: programs in C, with libc's resolver."""

from __future__ import annotations

import pytest

from tests.end_to_end.domains.cells import Matrix, Row, cells

ROWS = {
    "curl_http": Row("http", ["curl"], ["program:curl"]),
    "curl_https": Row("https", ["curl"], ["program:curl"]),
    "wget_http": Row("http", ["wget"], ["program:wget"]),
    "wget_https": Row("https", ["wget"], ["program:wget"]),
    "git_http": Row("http", ["git", "git", "git-remote-http"], ["program:git"]),
    "git_https": Row("https", ["git", "git", "git-remote-http"], ["program:git"]),
}

PROGRAMS = """
import os, tempfile

def curl_http(at):
    return run("curl", "-sSf", "--max-time", "10", "--cacert", CA, at.url)

def wget_http(at):
    return run("wget", "-q", "-O-", "--tries=1", "--timeout=10", f"--ca-certificate={CA}", at.url)

def git_http(at):
    given = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0", "GIT_SSL_CAINFO": CA}
    with tempfile.TemporaryDirectory() as directory:
        run("git", "init", "-q", "--bare", "--template=", directory)
        fetch = ["git", f"--git-dir={directory}", "fetch", "-q", f"{at.url}/repo.git", "main"]
        run(*fetch, env={**os.environ, **given})
        return run("git", f"--git-dir={directory}", "show", "FETCH_HEAD:hello")

curl_https, wget_https, git_https = curl_http, wget_http, git_http
"""


@pytest.mark.parametrize(("name", "row", "column"), cells(ROWS))
def test_domains(matrix: Matrix, name: str, row: Row, column: str) -> None:
    matrix.check(name, row, column)
