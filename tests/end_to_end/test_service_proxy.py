"""`service_proxy`: beside a run, a proxy for what cannot be fenced; what it refuses is in the run's report."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.support import Runs, until
from tests.end_to_end.wire import needs

POLICY = """
[tool.fence]
service_proxy = "{at}"
hosts = {{ "a.test" = "127.0.0.1:8000" }}
"""
WAITING = """
import os, time
import pytest

def test_waits():
    open("ready", "w").close()
    deadline = time.monotonic() + 60
    while not os.path.exists("done"):
        assert time.monotonic() < deadline
        time.sleep(0.01)

@pytest.mark.parametrize("n", range(3))
def test_other(n):
    pass
"""
# Two networks: in this one is the run, with a server on its loopback; in the other a client that nobody has fenced.
WORLD = r"""
set -e
ip link set lo up
mkfifo there
unshare --net sh -c 'echo > there; exec sleep 600' &
other=$!
cat there > /dev/null
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
        self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"the page")
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler)
print(flush=True)
server.serve_forever()' > served &
server=$!
RUN > told 2>&1 &
run=$!
until [ -s served ] && [ -e ready ]; do kill -0 $run $server; sleep 0.05; done
url=$(sed -n 's/.*by the same policy: //p' told)
ask() { over curl -sS -m 10 "$@" 2>&1 || echo "curl: $?"; echo; }
ask -x "$url" http://a.test/
ask -x "$url" https://b.test/
ask -x "$url" http://b.test/ -o /dev/null
ask -x "http://${url#*@}" http://a.test/
ask http://198.51.100.1:8000/
touch done
wait $run && echo "ended: 0" || echo "ended: $?"
ask -x "$url" http://a.test/
kill $server $other
"""


@needs
@pytest.mark.needs("program:curl", "program:nsenter")
@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")])
def test_for_another_machine(runs: Runs, workers: tuple[str, ...]) -> None:
    inside = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*inside, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("kernel: no network namespaces for this user")
    Path(runs.directory, "pyproject.toml").write_text(POLICY.format(at="198.51.100.1:0"))
    Path(runs.directory, "test_x.py").write_text(WAITING)
    words = runs.argv(["-s", *workers], fenced=True)
    world = WORLD.replace("PYTHON", sys.executable).replace("RUN", " ".join(words))
    Path(runs.directory, "world.sh").write_text(world)
    ended = runs.command(*inside, "sh", "world.sh")
    assert ended.status == 0, ended
    told = [line for line in ended.out.splitlines() if line]
    run = Path(runs.directory, "told").read_text()
    assert told[0] == "the page", (ended, run)
    assert told[1] == "curl: (56) CONNECT tunnel failed, response 403", ended
    assert "pytest-fence: this proxy wants its token" in told, ended
    assert "ended: 1" in told, (ended, run)
    assert told[-1] == "curl: 7", ended  # the proxy has ended, and before that there was no other way
    assert len(re.findall("^fence: a proxy beside this run", run, re.MULTILINE)) == 1, run
    assert "http://fence:" in run
    assert "4 passed" in run
    section = run.partition("outside any test")[2]
    assert "connect b.test:443/tcp" in section, run
    assert "connect b.test:80/tcp" in section, run
    assert 'allowed_domains = ["b.test' in section, run
    assert "a request without the token of this proxy" in section, run
    assert "by the proxy beside the run, for 198.51.100.2" in section, run
    assert "a.test" not in section, run


def test_on_loopback(runs: Runs) -> None:
    """No token, and a run that nobody has asked for anything passes; what is killed takes its proxy along."""
    Path(runs.directory, "pyproject.toml").write_text(POLICY.format(at="127.0.0.1:0"))
    Path(runs.directory, "test_x.py").write_text(WAITING)
    process = runs.start(runs.argv(["-s"], fenced=True))
    until(lambda: Path(runs.directory, "ready").exists(), "start of the run")
    Path(runs.directory, "done").touch()
    ended = runs.finish(process)
    assert ended.status == 0, ended
    url = re.search(r"by the same policy: http://127.0.0.1:(\d+)$", ended.out, re.MULTILINE)
    assert url, ended
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", int(url[1]))) != 0
    Path(runs.directory, "done").unlink()
    Path(runs.directory, "ready").unlink()
    process = runs.start(runs.argv(["-s"], fenced=True))
    until(lambda: Path(runs.directory, "ready").exists(), "start of the run")
    process.kill()
    runs.finish(process)  # and nothing is left


def test_what_is_wrong(runs: Runs) -> None:
    Path(runs.directory, "test_x.py").write_text("def test_x(): pass")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for at, told in (
            (
                f"127.0.0.1:{port}",
                f"the proxy cannot listen on 127.0.0.1:{port}: Address already in use",
            ),
            ("192.0.2.1:0", "service_proxy: the proxy cannot listen on 192.0.2.1:0: Cannot assign requested address"),
            ("example.com:80", 'accepted: an address and a port, such as "127.0.0.1:8899"'),
            ("8899", 'accepted: an address and a port, such as "127.0.0.1:8899"'),
        ):
            Path(runs.directory, "pyproject.toml").write_text(POLICY.format(at=at))
            ended = runs.pytest()
            assert ended.status == 4, ended
            assert told in ended.err, ended
