"""What a run imports for the sake of names: nothing where none is asked for, and the filter's part only in the filter.

`-X importtime` tells it, of every process that shares the run's standard error: of pytest until it captures output, and
of the supervisor until its end.
"""

from __future__ import annotations

import re
import sys

from tests.end_to_end.caught import Fenced
from tests.end_to_end.test_names_settings import SERVER, free_port

LOCAL = """
import socket, subprocess, sys

def test_files(tmp_path):
    (tmp_path / "file").write_text("text")
    subprocess.run([sys.executable, "-c", "pass"], check=True)

def test_loopback():
    assert ("127.0.0.1", 80) in [info[4] for info in socket.getaddrinfo("localhost", 80)]
    with socket.create_server(("127.0.0.1", 0)) as server, \\
            socket.create_connection(server.getsockname()) as client:
        client.sendall(b"hello")
        assert server.accept()[0].recv(9) == b"hello"

def test_nothing_in_here_either():
    without = {"asyncio", "dns", "proxy", "fence_core.dns", "fence_core.proxy"}
    assert not (without - ({"asyncio"} if sys.version_info >= (3, 14) else set())) & set(sys.modules)
"""
NEVER = {"proxy", "idna"} if sys.version_info >= (3, 14) else {"asyncio", "proxy", "idna"}
"""From Python 3.14 on pdb imports asyncio, and pytest imports pdb."""


def imported(fenced: Fenced, test: str, files: dict[str, str] | None = None, policy: str = "") -> set[str]:
    """All modules that a run imports, without the name of a module below a package."""
    run = fenced.run(test, files=files, policy=policy, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert run.status == 0, run
    modules = set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", run.err, re.MULTILINE))
    assert "fence_core.broker.loop" in modules, run
    return {name if name.startswith("fence_core.") else name.partition(".")[0] for name in modules}


def test_a_suite_without_names(fenced: Fenced) -> None:
    """Neither dnspython nor proxy.py nor asyncio, nor what of ours would need them."""
    found = imported(fenced, LOCAL)
    assert not found & {*NEVER, "dns"}
    assert not [name for name in found if name.startswith(("fence_core.dns", "fence_core.proxy"))]


def test_a_suite_with_names(fenced: Fenced) -> None:
    """The same question where the answer is yes: the supervisor reads queries, and leaves the rest to the filter."""
    port = free_port()
    test = """
    import urllib.request

    def test_fetch():
        with urllib.request.urlopen("http://api.example/", timeout=10) as answer:
            assert answer.read() == b"/ of api.example"
    """
    policy = f'[tool.fence.network]\nhosts = {{"api.example" = "127.0.0.1:{port}"}}\n'
    found = imported(fenced, test, {"conftest.py": SERVER % port}, policy)
    assert {"dns", "fence_core.dns.responder"} <= found
    assert not found & NEVER
    assert "fence_core.proxy.hub" not in found
