"""Way out: psycopg2, that is libpq: sockets made in C, in the test's own process."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced


@pytest.mark.needs("module:psycopg2")
def test_psycopg2(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import psycopg2, pytest
        from here import AWAY, HELLO, POSTGRES

        def connect(host, port=5432):
            return psycopg2.connect(host=host, port=port, user="u", dbname="d", sslmode="disable", connect_timeout=10)

        def test_away():
            with pytest.raises(psycopg2.OperationalError, match="Permission denied"):
                connect(AWAY)  # away

        def test_name_away():
            with pytest.raises(psycopg2.OperationalError, match="could not translate host name"):
                connect("db.example.com")

        def test_loopback():
            with pytest.raises(psycopg2.OperationalError, match=HELLO.decode().strip()):  # the server's answer
                connect("127.0.0.1", POSTGRES)
        """
    )
    run.refused(
        "test_away",
        "connect 198.51.100.7:5432/tcp",
        line='return psycopg2.connect(host=host, port=port, user="u", dbname="d", sslmode="disable", '
        "connect_timeout=10)",
    )
    run.refused("test_name_away", "resolve db.example.com", count=None)
    run.clean("test_loopback")
