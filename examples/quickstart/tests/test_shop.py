"""Tests as they are everywhere. Without the fence all of them pass, on the developer's machine."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import shop


def test_total() -> None:
    assert shop.total([9.99, 0.01]) == 10.0


def test_usage_is_reported_quietly() -> None:
    """Calls home, and the code under test swallows the error."""
    shop.report_usage("order-placed")


def test_failed_upload_is_noticed() -> None:
    """A shell, and a program that has never heard of Python, try to reach another machine."""
    assert shop.export_orders(["order 1"], host="192.0.2.7") is False


def test_deployment_host_is_trusted() -> None:
    """Writes to the home directory of whoever runs the tests, and to a sensitive place at that."""
    shop.trust_host("shop.example.com", "ssh-ed25519 AAAA")


def test_payment_is_queued_or_charged() -> None:
    """Looks up the real payment service."""
    assert shop.charge(1999) in ("charged 1999", "queued 1999")


class Rates(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"rate": 1.25}')

    def log_message(self, *ignored: object) -> None: ...


@pytest.fixture
def rates() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Rates) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_exchange_rate(rates: str) -> None:
    """A server of the test's own, on this machine: that is what loopback is for."""
    assert shop.exchange_rate(rates) == 1.25


@pytest.mark.fence(allow_write=["~/shop-receipts"])
def test_receipt_is_filed() -> None:
    """Outside the project, and allowed: by this test, for this test."""
    folder = Path.home() / "shop-receipts"
    assert shop.file_receipt(folder, 7).read_text(encoding="utf-8") == "receipt 7\n"
    shutil.rmtree(folder)
