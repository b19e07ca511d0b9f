"""The settings about names and ports: hosts, proxy_env, http_proxy_port, expose_ports; and a filter that dies."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from tests.end_to_end.caught import Fenced

SERVER = """
import http.server, threading
import pytest

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"{self.path} of {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

@pytest.fixture(scope="session", autouse=True)
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", %d), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
"""


def free_port() -> int:
    """One that the kernel gives to nobody who asks for any (`net.ipv4.ip_local_port_range`)."""
    while True:
        port = random.SystemRandom().randrange(15000, 30000)  # pytest-randomly gives all workers the same seed
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def test_hosts(fenced: Fenced) -> None:
    """A name leads to the address that is listed, for whoever asks, in the file or by a marker, and nowhere else."""
    port = free_port()
    run = fenced.run(
        f"""
        import socket, subprocess, urllib.request
        import pytest

        def fetch(url):
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()

        def test_file():
            assert fetch("http://API.stripe.example./v1") == "/v1 of API.stripe.example."

        def test_subprocess():
            done = subprocess.run(["curl", "-sS", "http://api.stripe.example:8080/x"], stdout=-1, text=True)
            assert done.stdout == "/x of api.stripe.example:8080"

        @pytest.mark.fence(hosts={{"other.example": "127.0.0.1:{port}"}})
        def test_marker():
            assert fetch("http://other.example/y") == "/y of other.example"
            assert fetch("http://api.stripe.example/z") == "/z of api.stripe.example"

        def test_without_marker():
            with pytest.raises(OSError):
                fetch("http://other.example/y")

        def test_address_of_another_test():
            with socket.socket() as s, pytest.raises(PermissionError):
                s.connect(("198.18.0.2", 80))  # which the test with the marker was given

        @pytest.mark.fence(denied_domains=["api.stripe.example"])
        def test_denied_wins():
            with pytest.raises(OSError):
                fetch("http://api.stripe.example/v1")
        """,
        files={"conftest.py": SERVER % port},
        policy=f'[tool.fence.network]\nhosts = {{"api.stripe.example" = "127.0.0.1:{port}"}}\n',
    )
    run.clean("test_file", "test_subprocess", "test_marker")
    run.refused("test_without_marker", "resolve other.example")
    run.refused("test_address_of_another_test", "connect other.example:80/tcp")
    run.refused("test_denied_wins", "resolve api.stripe.example")


def test_proxy_env(fenced: Fenced) -> None:
    """Programs that read proxy variables are told; what they may not reach is answered with 403."""
    port, proxy = free_port(), free_port()
    run = fenced.run(
        f"""
        import os, subprocess

        def curl(url):
            return subprocess.run(["curl", "-sS", url], stdout=-1, stderr=-1, text=True)

        def test_variables():
            for name in "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY":
                assert os.environ[name] == os.environ[name.lower()] == "http://127.0.0.1:{proxy}"
            assert "127.0.0.1" in os.environ["NO_PROXY"]

        def test_pinned():
            assert curl("http://api.example/a").stdout == "/a of api.example"

        def test_not_pinned():
            assert "CONNECT tunnel failed, response 403" in curl("https://away.example/").stderr

        def test_reason():
            assert "away.example" in curl("http://away.example/").stdout
        """,
        files={"conftest.py": SERVER % port},
        policy=f"""
        [tool.fence.network]
        proxy_env = true
        http_proxy_port = {proxy}
        hosts = {{"api.example" = "127.0.0.1:{port}"}}
        """,
    )
    run.clean("test_variables", "test_pinned")
    run.refused("test_not_pinned", "connect away.example:443/tcp", by=["curl"])
    run.refused("test_reason", "connect away.example:80/tcp", by=["curl"])


def test_proxy_for_those_who_were_not_told(fenced: Fenced) -> None:
    """The filter is no proxy for whoever finds its port."""
    port, proxy = free_port(), free_port()
    run = fenced.run(
        f"""
        import socket, urllib.request
        import pytest

        def test_first():
            with urllib.request.urlopen("http://api.example/", timeout=10) as answer:
                assert answer.status == 200

        def test_by_hand():
            with pytest.raises(PermissionError):
                socket.create_connection(("127.0.0.1", {proxy}), timeout=10)
        """,
        files={"conftest.py": SERVER % port},
        policy=f"""
        [tool.fence.network]
        http_proxy_port = {proxy}
        hosts = {{"api.example" = "127.0.0.1:{port}"}}
        """,
    )
    run.clean("test_first")
    run.refused("test_by_hand", f"connect 127.0.0.1:{proxy}/tcp")


def test_name_in_etc_hosts(fenced: Fenced) -> None:
    """A program that finds a name there asks nobody: the report says why it is an address, and of which name."""
    lines = [line.partition("#")[0].split() for line in Path("/etc/hosts").read_text().splitlines()]
    assert any(words[:1] == ["127.0.0.1"] and "localhost" in words for words in lines), "the file lacks what is usual"
    run = fenced.run(
        """
        import socket
        import pytest
        from here import PORT

        @pytest.mark.parametrize("host", ["localhost", "127.0.0.2"])
        def test_refused(host):
            found, *_ = socket.getaddrinfo(host, PORT, socket.AF_INET, socket.SOCK_STREAM)
            with pytest.raises(PermissionError), socket.socket() as client:
                client.connect(found[4])
        """,
        policy='[tool.fence.network]\nallow_local_outbound = false\nhosts = {"localhost" = "127.0.0.1:1"}\n',
    )
    port = fenced.loopback.hello
    remark = "/etc/hosts gives localhost this address, so network.hosts is not asked where it is"
    by_name = run.refused("test_refused[localhost]", f"connect 127.0.0.1:{port}/tcp")
    assert by_name.rule.endswith(f": {remark}")
    by_address = run.refused("test_refused[127.0.0.2]", f"connect 127.0.0.2:{port}/tcp")
    assert remark not in by_address.rule


def test_filter_dies(fenced: Fenced) -> None:
    """What went through it ends, and the run says so; the next connection has another one."""
    port = free_port()
    run = fenced.run(
        """
        import os, signal, urllib.request
        import pytest

        def fetch():
            with urllib.request.urlopen("http://api.example/", timeout=10) as answer:
                return answer.read()

        def test_before():
            assert fetch() == b"/ of api.example"

        def test_kill(tmp_path_factory):
            # The fenced test may not: whoever can from outside has put a script in its way.
            with open("kill", "w") as kill:
                kill.write("now\\n")
            with open("killed") as killed:
                killed.read()
            for attempt in range(100):
                try:
                    assert fetch() == b"/ of api.example"
                    break
                except OSError:
                    pass
            else:
                pytest.fail("no new filter")

        def test_after():
            assert fetch() == b"/ of api.example"
        """,
        files={"conftest.py": SERVER % port},
        policy=f'[tool.fence.network]\nhosts = {{"api.example" = "127.0.0.1:{port}"}}\n',
        prefix=[
            "sh",
            "-c",
            # Beside the run, and no child of it: when it is told so, end the filter, and say when that is done.
            "mkfifo kill killed; run=$$; ((read x <kill; for p in /proc/[0-9]*; do "
            'if grep -qs fence-filter "$p/comm" && grep -qs "^PPid:.$run$" "$p/status"; '
            'then kill -9 "${p#/proc/}"; fi; done; : >killed) &); exec "$0" "$@"',
        ],
    )
    run.clean("test_before", "test_after")
    run.refused("test_kill", "fence error in the filter: it has ended")
