"""`fence proxy`: the filter alone, in front of a machine that has no other way out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.end_to_end.command.conftest import Command
from tests.end_to_end.wire import needs

# Two networks: in this one is the filter, and a server on its loopback; in the other a machine that reaches both the
# filter and this machine, and nobody else.
WORLD = r"""
set -e
ip link set lo up
mkfifo ready
unshare --net sh -c 'echo > ready; exec sleep 600' &
other=$!
cat ready > /dev/null
ip link add here type veth peer name there
ip link set there netns $other
ip address add 198.51.100.1/24 dev here
ip link set here up
over() { nsenter --net=/proc/$other/ns/net "$@"; }
over ip link set lo up
over ip address add 198.51.100.2/24 dev there
over ip link set there up
PYTHON -c '
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"the page of " + self.headers["Host"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler)
print(flush=True)
server.serve_forever()' > served &
server=$!
PYTHON -m fence_core proxy -s fence.json -d --listen 198.51.100.1:0 --log-file log.jsonl > listening 2> told &
filter=$!
until [ -s listening ] && [ -s served ]; do kill -0 $filter $server; sleep 0.05; done
url=$(cat listening)
ask() { echo "== $*"; over curl -sS -m 10 "$@" 2>&1 || echo "curl: $?"; echo; }
ask -x "$url" http://a.test/
ask -x "$url" http://x.wild.test/
ask -p -x "$url" http://a.test/
ask -x "$url" http://b.test/
ask -x "$url" https://b.test/
ask -x "$url" http://127.0.0.1:8000/
ask -p -x "$url" http://port.test:81/
ask -x "$url" http://a.test/ http://b.test/ http://a.test/
ask -x "http://fence:wrong@${url#*@}" http://a.test/
ask -x "http://${url#*@}" http://a.test/
ask http://198.51.100.1:8000/
kill $filter
wait $filter && echo "filter ended: 0"
kill $server $other
"""
POLICY = {
    "network": {
        "allowedDomains": ["*.wild.test", "port.test:80"],
        "hosts": {"a.test": "127.0.0.1:8000", "x.wild.test": "127.0.0.1:8000"},
    }
}


@needs
@pytest.mark.needs("program:curl", "program:nsenter")
def test_in_front_of_another_machine(fence: Command) -> None:
    inside = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*inside, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("kernel: no network namespaces for this user")
    fence.write("fence.json", json.dumps(POLICY))
    fence.write("world.sh", WORLD.replace("PYTHON", sys.executable))
    ended = fence.runs.command(*inside, "sh", "world.sh")
    assert ended.status == 0, ended
    told = [part.split("\n", 1)[1].strip() for part in ended.out.split("== ")[1:]]
    told[-1] = told[-1].removesuffix("filter ended: 0").strip()
    blocked = "Connection blocked by network allowlist"
    assert told[:3] == ["the page of a.test", "the page of x.wild.test", "the page of a.test"], ended
    assert told[3].startswith(f"{blocked}\nb.test:80 is not allowed: no rule in network.allowed_domains"), ended
    assert "CONNECT tunnel failed, response 403" in told[4]
    assert told[5].startswith(f"{blocked}\n127.0.0.1:8000 is not allowed"), ended
    assert "CONNECT tunnel failed, response 403" in told[6]
    assert re.fullmatch(f"the page of a.test{blocked}\n.*\nthe page of a.test", told[7]), ended
    assert told[8] == told[9] == "this proxy wants its token", ended
    assert "curl: (7)" in told[10], "the other machine has another way to the server"
    assert "filter ended: 0" in ended.out
    lines = [json.loads(line) for line in (fence.directory / "log.jsonl").read_text().splitlines()]
    refused = [line for line in lines if line["verdict"] == "refused"]
    assert [(each["host"], each["port"], each["status"]) for each in refused] == [
        ("b.test", 80, 403), ("b.test", 443, 403), ("127.0.0.1", 8000, 403), ("port.test", 81, 403),
        ("b.test", 80, 403), ("", 0, 407), ("", 0, 407),
    ]  # fmt: skip
    assert refused[0]["remedy"] == {"network": {"allowedDomains": ["b.test"]}}
    told_by = (fence.directory / "told").read_text()
    assert "✗ CONNECT 403 b.test https://b.test:443 (0s, client=198.51.100.2:" in told_by
    assert "✓ CONNECT 200 a.test https://a.test:80 (0s" in told_by
    assert told_by.endswith("[fence] 7 requests were refused\n")


Start = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def start(fence: Command) -> Start:
    """A filter that has said where it listens."""

    def begin(*words: str, **env: str) -> tuple[subprocess.Popen[str], str]:
        fence.write("fence.json", json.dumps(POLICY))
        process = fence.runs.start(fence.argv("proxy", *words), env=env)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    return begin


def test_tokens(fence: Command, start: Start) -> None:
    """This machine needs none; others do, unless it is said otherwise."""
    for words, env, user in (
        (("-l", "127.0.0.1:0"), {}, ""),
        (("-l", "127.0.0.1:0"), {"FENCE_PROXY_TOKEN": "abc"}, "fence:abc@"),
        (("-l", "0.0.0.0:0"), {"FENCE_PROXY_TOKEN": "abc"}, "fence:abc@"),
        (("-l", "0.0.0.0:0", "--no-token"), {}, ""),
    ):
        process, url = start(*words, **env)
        assert url.startswith(f"http://{user}{words[1].removesuffix('0')}"), (words, url)
        process.send_signal(signal.SIGINT)
        assert fence.runs.finish(process).status == 0
    process, url = start("-l", "0.0.0.0:0")
    token = url.partition("fence:")[2].partition("@")[0]
    assert len(token) >= 32
    process.terminate()
    assert fence.runs.finish(process).status == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--listen", "example.com:80"), "does not begin with an address"),
        (("--listen", "127.0.0.1:x"), "is not a port"),
        (("--listen", "192.0.2.77:0"), "it cannot listen on port 0 of 192.0.2.77: Cannot assign requested address"),
        (("--lissten", "x"), "unknown option --lissten (did you mean --listen?)"),
        (("curl",), "proxy takes no command"),
        (("-s", "none.json"), "none.json cannot be read: No such file or directory"),
        (("-m",), "unknown option -m"),
    ],
)
def test_what_is_wrong(fence: Command, words: tuple[str, ...], told: str) -> None:
    ended = fence("proxy", *words)
    assert ended.status == 1, ended
    assert ended.err.startswith("fence: ")
    assert told in ended.err, ended
    assert "Traceback" not in ended.err


def test_a_token_that_does_not_fit_into_a_url(fence: Command) -> None:
    ended = fence("proxy", "-l", "127.0.0.1:0", env={"FENCE_PROXY_TOKEN": "a@b"})
    assert (ended.status, "do not fit into a URL" in ended.err) == (1, True), ended


def test_help_fits_a_screen(fence: Command) -> None:
    ended = fence("proxy", "--help")
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 100


def test_a_port_that_is_taken(fence: Command, start: Start) -> None:
    """A second filter on the same port says so."""
    process, url = start("-l", "127.0.0.1:0")
    port = url.rpartition(":")[2]
    ended = fence("proxy", "-l", f"127.0.0.1:{port}")
    assert (ended.status, ended.err) == (
        1,
        f"fence: it cannot listen on port {port} of 127.0.0.1: Address already in use\n",
    )
    process.terminate()
    assert fence.runs.finish(process).status == 0
