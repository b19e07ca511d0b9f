"""Domains for what is no HTTP: databases, gRPC, ssh, and TLS by hand.

PostgreSQL's server is a few lines that speak its protocol; the others are real. gRPC in clear is HTTP/2 in clear, whose
requests cannot be judged one by one: it reaches a stub on this machine, and nothing else.
"""

from __future__ import annotations

import pytest

from tests.end_to_end.domains.cells import Matrix, Row, cells

IN_CLEAR = ("not_allowed", "denied_under_wildcard", "at_another_port", "ip_literal", "stub")
ROWS = {
    "openssl_https": Row("https", ["openssl"], ["program:openssl"]),
    "ssh": Row("ssh", ["ssh"], ["program:ssh"]),
    "psycopg2_postgres": Row("postgres", [], ["module:psycopg2"]),
    "redis": Row("redis", ["redis-cli"], ["program:redis-cli", "program:redis-server"]),
    "grpc_tls": Row("grpcs"),
    "grpc_clear": Row("grpc", columns=IN_CLEAR),
}

PROGRAMS = """
from pathlib import Path

def openssl_https(at):
    request = f"GET / HTTP/1.0\\r\\nHost: {at.host}\\r\\n\\r\\n"
    where = ["-connect", f"{at.host}:{at.port}", "-servername", at.host]
    return run("openssl", "s_client", *where, "-CAfile", CA, "-verify_return_error", "-quiet", input=request)

def ssh(at):
    known = ["-o", f"UserKnownHostsFile={FILES}/known_hosts", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
    key = ["-o", "IdentitiesOnly=yes", "-i", f"{FILES}/client.key"]
    return run("ssh", "-F", "/dev/null", *known, *key, "-p", str(at.port), f"u@{at.host}", "hello")

def psycopg2_postgres(at):
    import psycopg2
    given = {"user": "u", "dbname": "d", "sslmode": "disable", "gssencmode": "disable", "connect_timeout": 10}
    connection = psycopg2.connect(host=at.host, port=at.port, **given)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT hello")
        (row,) = cursor.fetchone()
    connection.close()
    return row

def redis(at):
    return run("redis-cli", "-h", at.host, "-p", str(at.port), "-e", "GET", "hello")

def same(data):
    return data

def ask(channel):
    with channel:
        return channel.unary_unary("/here.Greeter/Hello", same, same)(b"", timeout=10).decode()

def grpc_tls(at):
    import grpc
    trust = grpc.ssl_channel_credentials(Path(CA).read_bytes())
    return ask(grpc.secure_channel(f"{at.host}:{at.port}", trust))

def grpc_clear(at):
    import grpc
    return ask(grpc.insecure_channel(f"{at.host}:{at.port}"))
"""


@pytest.mark.parametrize(("name", "row", "column"), cells(ROWS))
def test_domains(matrix: Matrix, name: str, row: Row, column: str) -> None:
    matrix.check(name, row, column)
