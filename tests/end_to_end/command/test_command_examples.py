"""The policies of `examples/commands`, each with the real program; and what is refused beside it.

What a policy allows by name is a server of the test's own here: a file that extends the example places the name there.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import importlib.util
import io
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.command.conftest import ROOT, Command, has
from tests.end_to_end.support import Ended, port_below_those_given_out, until

EXAMPLES = ROOT / "examples" / "commands"
PORT = port_below_those_given_out()
POLICIES = ("fence.json", "fence.yaml")


def program(name: str) -> None:
    """What is too large to be installed for each run of CI: `dev.py machines commands` has it."""
    if shutil.which(name) is None:
        pytest.skip(f"elsewhere: {name} is not installed; the row `commands` of the machines needs it")


class Example:
    """A copy of an example, in the directory of the test."""

    def __init__(self, fence: Command, name: str) -> None:
        shutil.copytree(EXAMPLES / name, fence.directory, dirs_exist_ok=True)
        self._fence = fence
        self.directory = fence.directory
        self.home = self.directory / "home"
        self.home.mkdir()

    def place(self, **hosts: int) -> None:
        """These names are servers at ports of this machine."""
        (policy,) = [name for name in POLICIES if (self.directory / name).exists()]
        (self.directory / policy).rename(self.directory / f"example-{policy}")
        here = {name: f"127.0.0.1:{port}" for name, port in hosts.items()}
        text = json.dumps({"extends": f"./example-{policy}", "network": {"hosts": here}})
        self._fence.write("fence.json", text)

    def run(self, *words: str, **env: str) -> Ended:
        return self._fence("-m", *words, env=self.environ(env))

    def environ(self, more: Mapping[str, str]) -> dict[str, str | None]:
        """Settings of the machine that this runs on are none of the example."""
        ours = re.compile("(pip|npm_config|git|cargo)_", re.IGNORECASE)
        given: dict[str, str | None] = {name: None for name in os.environ if ours.match(name)}
        rest = {"PIP_CONFIG_FILE": os.devnull, "npm_config_update_notifier": "false", "LC_ALL": "C"}
        return {**given, "HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1", **rest, **more}

    def clean(self, *words: str, **env: str) -> Ended:
        """It works, and nothing is refused."""
        ended = self.run(*words, **env)
        assert (ended.status, self.refusals(ended)) == (0, []), ended
        return ended

    def refusals(self, ended: Ended) -> list[str]:
        """Without the programs that tried it."""
        return [line.partition(" (")[0] for line in self._fence.refusals(ended)]


@contextmanager
def serve(pages: Mapping[str, bytes | str]) -> Iterator[tuple[int, list[str]]]:
    """A web server: its port, and the paths that it was asked for. What ends in "/" is a page."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            found = pages.get(path)
            body = found.encode() if isinstance(found, str) else found or b""
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def test_each_example_is_run_here_and_named() -> None:
    here, named = Path(__file__).read_text("utf-8"), (EXAMPLES / "README.md").read_text("utf-8")
    for directory in (path for path in EXAMPLES.iterdir() if path.is_dir()):
        assert f'Example(fence, "{directory.name}")' in here
        assert f"]({directory.name})" in named
        assert "$ fence " in (directory / "README.md").read_text("utf-8")


def test_npm_install(fence: Command) -> None:
    program("npm")
    example = Example(fence, "npm-install")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in (("package.json", '{"name": "left", "version": "1.0.0"}'), ("index.js", "// left\n")):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    registry = "http://registry.npmjs.org"
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
    dist = {"tarball": f"{registry}/left.tgz", "integrity": integrity}
    version = {"name": "left", "version": "1.0.0", "dist": dist}
    listed = json.dumps({"name": "left", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}})
    words = ["npm", "install", "--registry", f"{registry}/", "--no-audit", "--no-fund"]
    refused = example.run("--no-project-config", *words)
    assert refused.status == 1, refused
    assert "npm error code E403" in refused.err
    kinds = {re.sub(r"/(_logs|_cacache)/.*", r"/\1", line) for line in example.refusals(refused)}
    logs = [f"[fence:file] ✗ write {example.home}/.npm/{name} EACCES" for name in ("_logs", "_cacache")]
    assert {line for line in kinds if "[fence:file] ✗ write" in line} <= set(logs), refused
    assert "[fence:http] ✗ GET 403 registry.npmjs.org http://registry.npmjs.org/left" in kinds
    with serve({"/left": listed, "/left.tgz": packed.getvalue()}) as (port, asked):
        example.place(**{"registry.npmjs.org": port})
        example.clean(*words)
        assert asked == ["/left", "/left.tgz"]
    assert (fence.directory / "node_modules/left/index.js").read_text() == "// left\n"


def test_npm_run_dev(fence: Command) -> None:
    program("npm")
    example = Example(fence, "npm-run-dev")
    words = ["npm", "run", "dev"]
    refused = example.run(*words, PORT=str(PORT))
    assert refused.status == 1, refused
    assert example.refusals(refused) == [f"[fence:net] ✗ bind [::]:{PORT}/tcp EACCES"]
    started = fence.runs.start(fence.argv("-m", "-p", str(PORT), *words), env=example.environ({"PORT": str(PORT)}))
    assert started.stdout
    assert any(line == f"listening on {PORT}\n" for line in started.stdout)
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=60) as answer:
        assert answer.read() == b"the shop\n"
    started.terminate()
    assert example.refusals(fence.runs.finish(started)) == []


def test_pip_venv(fence: Command) -> None:
    """Also where the project has the environment: nothing of it is loaded by the fence of a command."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("elsewhere: this environment is without a pip of its own")
    example = Example(fence, "pip-venv")
    packed, about = io.BytesIO(), "left_shop-1.0.dist-info"
    files = {
        "left_shop.py": "ANSWER = 42\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: left-shop\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: kim\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(packed, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    name = "left_shop-1.0-py3-none-any.whl"
    pages = {"/simple/left-shop/": f'<a href="http://files.pythonhosted.org/{name}">{name}</a>'}
    trusted = [word for host in ("pypi.org", "files.pythonhosted.org") for word in ("--trusted-host", host)]
    pip = [sys.executable, "-m", "pip", "--python", ".venv/bin/python", "--disable-pip-version-check", "install"]
    pip += ["--retries", "0", "--index-url", "http://pypi.org/simple", *trusted]
    with serve({**pages, f"/{name}": packed.getvalue()}) as (port, asked):
        example.place(**{"pypi.org": port, "files.pythonhosted.org": port})
        example.clean(sys.executable, "-m", "venv", "--without-pip", ".venv")
        example.clean(*pip, "-r", "requirements.txt")
        assert asked == ["/simple/left-shop/", f"/{name}"]
    ended = example.clean(".venv/bin/python", "-c", "import left_shop; print(left_shop.ANSWER)")
    assert ended.out == "42\n"
    refused = example.run("--no-project-config", "--allow-write", "/tmp", *pip, "left-other")
    assert refused.status == 1, refused
    assert "[fence:http] ✗ GET 403 pypi.org http://pypi.org/simple/left-other/" in example.refusals(refused)


def test_git(fence: Command) -> None:
    example = Example(fence, "git")
    made = """
        git init -q first && echo 1 > first/price && cd first && git add price && git commit -q -m "Name a price" &&
        git clone -q --bare . ../bare && cd ../bare && git update-server-info
    """
    kim = {f"GIT_{who}_{what}": "kim" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    example.clean("-c", made, **kim)
    bare = fence.directory / "bare"
    pages = {f"/you/shop.git/{path.relative_to(bare)}": path.read_bytes() for path in bare.rglob("*") if path.is_file()}
    clone = ["git", "clone", "-q", "http://github.com/you/shop.git"]
    with serve(pages) as (port, asked):
        example.place(**{"github.com": port})
        refused = example.run("--no-project-config", "--allow-write", ".", *clone)
        assert (refused.status, asked) == (128, []), refused
        assert "The requested URL returned error: 403" in refused.err
        example.clean(*clone)
    assert (fence.directory / "shop/price").read_text() == "1\n"
    config = (fence.directory / "shop/.git/config").read_text()
    hook = example.run("-c", "echo x > shop/.git/hooks/pre-commit; git -C shop config core.hooksPath x")
    assert hook.status, hook
    assert example.refusals(hook) == [
        f"[fence:file] ✗ {what} {fence.directory}/shop/.git/{name} EACCES"
        for what, name in (("write", "hooks/pre-commit"), ("rename", "config"))
    ]
    assert (fence.directory / "shop/.git/config").read_text() == config


@pytest.mark.needs("program:make")
def test_make(fence: Command) -> None:
    example = Example(fence, "make")
    refused = example.run("--no-project-config", "make", "-j4")
    assert refused.status == 2, refused
    assert {line.partition(" EACCES")[0] for line in example.refusals(refused)} >= {
        f"[fence:file] ✗ write {fence.directory}/one.o"
    }
    example.clean("make", "-j4")
    assert (fence.directory / "shop").read_text() == "one\ntwo\nthree\nfour\n"


def test_cargo(fence: Command) -> None:
    """In its own home: what lies in the user's (`~/.cargo`) is a matter of each machine."""
    program("cargo")
    example = Example(fence, "cargo")
    tools = os.environ.get("RUSTUP_HOME") or f"{pwd.getpwuid(os.getuid()).pw_dir}/.rustup"
    if subprocess.run(["cargo", "--version"], env={**os.environ, "RUSTUP_HOME": tools}, capture_output=True).returncode:
        pytest.skip("elsewhere: cargo is that of another user")
    example.clean("cargo", "build", "--offline", RUSTUP_HOME=tools)
    built = example.clean("target/debug/shop")
    assert built.out == "the shop\n"
    shutil.rmtree(fence.directory / "target")
    fence.write("build.rs", 'fn main() { println!("{:?}", std::net::TcpStream::connect("192.0.2.1:9")); panic!() }')
    refused = example.run("cargo", "build", "--offline", RUSTUP_HOME=tools)
    assert refused.status == 101, refused
    assert example.refusals(refused) == ["[fence:net] ✗ connect 192.0.2.1:9/tcp EACCES"]


@pytest.mark.needs("program:redis-server", "program:redis-cli")
def test_redis_server(fence: Command) -> None:
    example = Example(fence, "redis-server")
    server, ask = f'redis-server --port {PORT} --save "" > log', f"redis-cli -p {PORT}"
    refused = example.run("--no-project-config", "--allow-write", ".", "-c", server)
    assert refused.status == 1, refused
    assert f"[fence:net] ✗ bind 0.0.0.0:{PORT}/tcp EACCES" in example.refusals(refused)
    ready = f"until {ask} ping 2> /dev/null; do sleep 0.05; done"
    ended = example.clean("-c", f"{server} & {ready}; {ask} shutdown nosave; wait")
    assert ended.out == "PONG\n"


@pytest.mark.needs("program:chromium")
def test_chromium(fence: Command) -> None:
    example = Example(fence, "chromium")
    alone = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *alone, "--user-data-dir=profile", "--dump-dom"]
    with serve({"/": "<p>the shop"}) as (port, asked):
        example.place(**{"shop.example": port})
        allowed = example.run(*words, "http://shop.example/")
        assert "<p>the shop" in allowed.out, allowed
        assert not [line for line in fence.refusals(allowed) if "/proc" in line or "shop.example" in line]
        asked.clear()
        refused = example.run(*words, "http://evil.example/")
        assert "the shop" not in refused.out, refused
        assert asked == []
        lines = fence.refusals(refused)
        assert [line for line in lines if "evil.example" in line]
        assert not [line for line in lines if "/proc" in line]


def test_docker(fence: Command) -> None:
    """Whether the client comes to the socket at all: what answers there is not a daemon."""
    program("docker")
    example = Example(fence, "docker")
    path = fence.directory / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(60)
        words = ["docker", "-H", f"unix://{path}", "ps"]
        refused = example.run(*words)
        assert refused.status == 1, refused
        assert "permission denied" in refused.err.lower()
        assert set(example.refusals(refused)) == {f"[fence:net] ✗ connect unix:{path} EACCES"}
        fence.write("fence.json", '{"network": {"allowUnixSockets": ["docker.sock"]}}')
        started = fence.runs.start(fence.argv("-m", *words), env=example.environ({}))
        with server.accept()[0] as client:
            assert client.recv(100).startswith((b"HEAD /_ping", b"GET /"))
        server.close()
        has(fence.refusals(fence.runs.finish(started)))


class Tmux:
    """A terminal in a server of the test's own, with a shell in it."""

    def __init__(self, example: Example, fence: Command) -> None:
        self._fence = fence
        # The path of a socket is short, and the shell of an account may be none.
        self.sockets = tempfile.mkdtemp(prefix="tmux-")
        self._env = example.environ({"TMUX_TMPDIR": self.sockets, "SHELL": "/bin/sh", "TERM": "screen"})
        (fence.directory / "p").write_text("PS1='ready> '\n")
        self("-f", os.devnull, "new-session", "-d", "-x", "80", "-y", "24", "bash --noprofile --rcfile p")
        self.shows("^ready> ?$")

    def __call__(self, *words: str) -> str:
        ended = self._fence.runs.command("tmux", "-L", "s", *words, env=self._env)
        assert ended.status == 0, ended
        return ended.out

    def shows(self, what: str) -> str:
        def screen() -> str:
            found = self("capture-pane", "-p")
            return found if re.search(what, found, re.MULTILINE) else ""

        return str(until(screen, f"{what!r} on the screen"))

    def type(self, *keys: str) -> None:
        self("send-keys", *keys)

    def fence(self, *words: str) -> None:
        self.type(f"clear; {' '.join(self._fence.argv('-m', *words))}", "Enter")


@pytest.fixture
def tmux(fence: Command) -> Iterator[Tmux]:
    server = Tmux(Example(fence, "editor"), fence)
    yield server
    server("kill-server")
    shutil.rmtree(server.sockets)


@pytest.mark.needs("program:tmux", "program:bash", "program:stty")
def test_a_shell_within_tmux(tmux: Tmux) -> None:
    tmux.fence("bash", "--noprofile", "--rcfile", "p")
    # Sizes come a moment after they were asked for; jobs and keys are in `test_command_terminal.py`.
    for number, size in enumerate(("24 80", "20 70")):
        if number:
            tmux("resize-window", "-x", "70", "-y", "20")
        tmux.type(f"until stty size | grep -x '{size}'; do sleep 0.1; done; echo $FENCE_SANDBOX", "Enter")
        tmux.shows(f"^{size}\n1$")
    tmux.type("clear; exit", "Enter")
    tmux.type("echo outside $FENCE_SANDBOX", "Enter")
    tmux.shows("^outside$")


@pytest.mark.needs("program:tmux", "program:bash")
def test_an_editor_and_a_pager_within_tmux(fence: Command, tmux: Tmux) -> None:
    for name in ("vim", "less"):
        program(name)
    tmux.fence("vim", "-u", "NONE", "-N", "notes")
    tmux.shows("^~$")
    tmux.type("ihello", "Escape", ":wq", "Enter")
    tmux.shows("^ready> ?$")
    assert (fence.directory / "notes").read_text() == "hello\n"
    fence.write("long", "".join(f"line {number}\n" for number in range(1, 201)))
    tmux.fence("less", "long")
    tmux.shows("^line 1$")
    tmux.type("G")
    tmux.shows("^line 200$")
    tmux.type("q")
    assert "[fence" not in tmux.shows("^ready> ?$")
