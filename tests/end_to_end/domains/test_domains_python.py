"""Domains for Python's own clients, in the test's process."""

from __future__ import annotations

import pytest

from tests.end_to_end.domains.cells import Matrix, Row, cells

ROWS = {
    f"{client}_{service}": Row(service, needs=[f"module:{module}"])
    for client, module in {
        "urllib": "urllib",
        "urllib3": "urllib3",
        "requests": "requests",
        "httpx": "httpx",
        "aiohttp": "aiohttp",
        "streams": "asyncio",
    }.items()
    for service in ("http", "https")
}

PROGRAMS = """
import asyncio, ssl, urllib.request

def context():
    return ssl.create_default_context(cafile=CA)

def urllib_http(at):
    return urllib.request.urlopen(at.url, timeout=15).read().decode()

def urllib_https(at):
    return urllib.request.urlopen(at.url, timeout=15, context=context()).read().decode()

def urllib3_http(at):
    import urllib3
    with urllib3.PoolManager(ca_certs=CA, retries=False, timeout=15) as pool:
        return pool.request("GET", at.url).data.decode()

def requests_http(at):
    import requests
    return requests.get(at.url, timeout=15, verify=CA).text

def httpx_http(at):
    import httpx
    return httpx.get(at.url, timeout=15, verify=context()).text

def aiohttp_http(at):
    import aiohttp

    async def get():
        async with aiohttp.ClientSession() as session, session.get(at.url, ssl=context()) as response:
            return await response.text()

    return asyncio.run(get())

async def by_streams(at, **tls):
    reader, writer = await asyncio.open_connection(at.host, at.port, **tls)
    writer.write(f"GET / HTTP/1.0\\r\\nHost: {at.host}:{at.port}\\r\\n\\r\\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.decode()

def streams_http(at):
    return asyncio.run(by_streams(at))

def streams_https(at):
    return asyncio.run(by_streams(at, ssl=context()))

urllib3_https, requests_https, httpx_https, aiohttp_https = urllib3_http, requests_http, httpx_http, aiohttp_http
"""


@pytest.mark.parametrize(("name", "row", "column"), cells(ROWS))
def test_domains(matrix: Matrix, name: str, row: Row, column: str) -> None:
    matrix.check(name, row, column)
