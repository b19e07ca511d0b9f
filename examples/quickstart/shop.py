"""A little shop, written as code under test often is: it calls home, shells out and remembers things."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path


def total(prices: list[float]) -> float:
    return round(sum(prices), 2)


def report_usage(event: str) -> None:
    """Tell the vendor. A failure must never reach the customer, so nobody ever notices that tests do it too."""
    try:
        urllib.request.urlopen(f"http://telemetry.example.com/{event}", timeout=2).close()
    except OSError:
        pass


def export_orders(orders: list[str], host: str) -> bool:
    """Upload by a shell command, as deployment scripts do."""
    upload = f"curl --silent --max-time 2 --data @- http://{host}/orders"
    if shutil.which("curl") is None:
        code = f"import socket; socket.create_connection(({host!r}, 80), 2)"
        upload = f"{sys.executable} -c '{code}' 2>/dev/null"
    done = subprocess.run(["sh", "-c", f"{upload} || exit 1"], input="\n".join(orders), text=True)
    return done.returncode == 0


def trust_host(name: str, key: str) -> None:
    """Let ssh accept the machine that we deploy to, without asking."""
    known = Path.home() / ".ssh" / "known_hosts"
    known.parent.mkdir(exist_ok=True)
    with open(known, "a", encoding="utf-8") as file:
        file.write(f"{name} {key}\n")


def charge(cents: int) -> str:
    """Ask the payment service, or queue the payment until it can be reached."""
    try:
        socket.getaddrinfo("api.stripe.com", 443)
    except OSError:
        return f"queued {cents}"
    return f"charged {cents}"


def exchange_rate(url: str) -> float:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return float(json.load(answer)["rate"])


def file_receipt(folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    receipt = folder / f"{number}.txt"
    receipt.write_text(f"receipt {number}\n", encoding="utf-8")
    return receipt
