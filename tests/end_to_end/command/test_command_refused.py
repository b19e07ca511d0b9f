"""What is refused, how the command sees it, and what `-m` and the log say of it; each beside what is allowed."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator

import pytest

from tests.end_to_end.command.conftest import Command, has
from tests.end_to_end.support import port_below_those_given_out
from tests.proxy.peers import CONNECT_REFUSED

CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).close(); print('connected')"
SERVE = "import socket, sys; s = socket.socket(); s.bind(('', int(sys.argv[1]))); s.listen(); print(s.getsockname()[0])"


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server outside."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_write(fence: Command) -> None:
    ended = fence("touch", "x")
    assert (ended.status, ended.out) == (1, ""), ended
    assert ended.err == "touch: cannot touch 'x': Permission denied\n"
    allowed = fence("-m", "--allow-write", ".", "touch", "x")
    assert (allowed.status, allowed.err) == (0, ""), allowed
    assert os.listdir(fence.directory) == ["x"]


def test_a_write_by_a_policy(fence: Command) -> None:
    fence.write("p.json", '{"filesystem": {"allowWrite": ["."], "denyWrite": [".env", "*.key"]}}')
    ended = fence(
        "-m", "-s", "p.json", "-c", "for f in x .env k.key sub.key; do echo > $f; done; mkdir d; echo > d/p.key"
    )
    assert sorted(os.listdir(fence.directory)) == ["d", "p.json", "x"]
    assert ended.err.count("Permission denied") == 4
    has(
        fence.refusals(ended),
        *(
            f"[fence:file] ✗ write {fence.directory}/{name} EACCES (bash"
            for name in (".env", "k.key", "sub.key", "d/p.key")
        ),
    )


def test_what_the_guide_says_of_writes(project: Command) -> None:
    """Denied by name wherever it lies; and what is protected whatever the policy says."""
    script = """
        echo a > x; echo b > .env; echo c > k.key; mkdir -p sub; echo d > sub/p.key; echo e > .bashrc
        echo f > .git/hooks/pre-commit
    """
    listed = ("x", ".env", "k.key", "sub/p.key", ".bashrc", ".git/hooks/pre-commit")
    (project.directory / ".git/hooks").mkdir(parents=True)
    for denied in ([".env", "*.key"], []):
        project.write("p.json", json.dumps({"filesystem": {"allowWrite": [".", "/tmp"], "denyWrite": denied}}))
        ended = project("-m", "-s", "p.json", "-c", script)
        refused = listed[1:] if denied else listed[4:]
        assert ended.err.count("Permission denied") == len(refused)
        lines = [f"[fence:file] ✗ write {project.directory}/{name} EACCES (bash" for name in refused]
        has(project.refusals(ended), *lines)
        assert [name for name in listed if not (project.directory / name).exists()] == list(refused)


def test_the_policy_itself_is_out_of_reach(fence: Command) -> None:
    fence.write("fence.json", '{"filesystem": {"allowWrite": ["."]}}')
    ended = fence("-c", "echo > fence.json; echo > x")
    assert ended.err.count("Permission denied") == 1, ended
    assert (fence.directory / "x").exists()
    assert (fence.directory / "fence.json").stat().st_size > 1


def test_a_policy_for_a_directory_below_is_not_made_either(fence: Command) -> None:
    """But for one within a file that has other purposes: docs/security-model.md names that."""
    fence.write("fence.json", '{"filesystem": {"allowWrite": ["."]}}')
    fence.write("sub/other", "{}")
    ended = fence(
        "-c", "cd sub; for f in fence.json fence.yaml pyproject.toml; do echo > $f; done; mv other fence.jsonc"
    )
    assert ended.err.count("Permission denied") == 3, ended
    assert sorted(os.listdir(fence.directory / "sub")) == ["other", "pyproject.toml"]


def test_a_name_looks_like_no_line_of_ours(fence: Command) -> None:
    ended = fence("-m", "-c", "echo > \"$(printf 'y\\n[fence:net] z')\"")
    first, *others = ended.err.splitlines()
    assert f" ✗ write {fence.directory}/y\\n[fence:net] z EACCES (bash" in first
    assert others[0].startswith("/bin/"), "the shell's own words"


def test_repeats_are_counted(fence: Command) -> None:
    ended = fence("-m", "-c", "for i in $(seq 101); do echo > x; done 2>/dev/null")
    lines = [line.rpartition(")")[2] for line in ended.err.splitlines()]
    assert lines == ["", *(f" \N{MULTIPLICATION SIGN}{count}" for count in (10, 100, 101))], ended


def test_the_log(fence: Command) -> None:
    for _ in range(2):
        ended = fence("--log-file", "log", "-c", "touch x; echo > log")
        assert ended.status == 1, ended
        assert "[fence" not in ended.err
    lines = (fence.directory / "log").read_text("utf-8").splitlines()
    assert [line.partition(" ✗ ")[2].partition(" EACCES")[0] for line in lines] == [
        f"write {fence.directory}/{name}" for name in ("x", "log", "x", "log")
    ]


def test_the_log_for_programs(fence: Command) -> None:
    fence.write("p.json", '{"filesystem": {\n"denyWrite": ["*.key"],\n"allowWrite": ["."]}}')
    # Programs that set a title leave empty words behind it.
    fence("-s", "p.json", "--log-file", "log.jsonl", "--", "touch", "a.key", "b", "", "")
    (found,) = map(json.loads, (fence.directory / "log.jsonl").read_text("utf-8").splitlines())
    wanted = {
        "v": 1, "seq": 1, "kind": "file", "verdict": "refused", "what": "write", "errno": "EACCES",
        "path": f"{fence.directory}/a.key", "rule_key": "filesystem.deny_write", "argv": ["touch", "a.key", "b"],
        "source": {"file": f"{fence.directory}/p.json", "line": 2}, "chain": ["touch"], "count": 1, "remedy": None,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert (fence.directory / "b").exists()


@pytest.mark.parametrize(
    ("network", "reached"),
    [
        ({}, False),
        ({"allowLocalOutbound": True}, True),
        ({"allowLocalOutboundPorts": ["PORT"]}, True),
        ({"allowLocalOutboundPorts": [1]}, False),
    ],
)
def test_a_service_of_this_machine(fence: Command, port: int, network: dict[str, object], reached: bool) -> None:
    text = json.dumps({"network": network}).replace('"PORT"', str(port))
    fence.write("p.json", text)
    ended = fence("-m", "-s", "p.json", sys.executable, "-c", CONNECT, str(port))
    name = os.path.basename(os.path.realpath(sys.executable))
    if reached:
        assert (ended.status, ended.out, ended.err) == (0, "connected\n", ""), ended
    else:
        assert ended.status == 1
        assert "PermissionError: [Errno 13] Permission denied" in ended.err
        assert [line.partition(" (")[0] for line in fence.refusals(ended)] == [
            f"[fence:net] ✗ connect 127.0.0.1:{port}/tcp EACCES"
        ], name


@pytest.mark.parametrize(
    ("words", "address"),
    [
        ([], None),
        (["-p", "PORT"], "0.0.0.0"),
        (["-p", "0.0.0.0:PORT"], "0.0.0.0"),
        (["-p", "127.0.0.1:PORT"], "0.0.0.0"),
        (["-p", "1"], None),
    ],
)
def test_a_server(fence: Command, words: list[str], address: str | None) -> None:
    number = str(port_below_those_given_out())
    given = [word.replace("PORT", number) for word in words]
    ended = fence("-m", *given, sys.executable, "-c", SERVE, number)
    if address is None:
        assert ended.status == 1
        assert [line.partition(" (")[0] for line in fence.refusals(ended)] == [
            f"[fence:net] ✗ bind 0.0.0.0:{number}/tcp EACCES"
        ]
    else:
        assert (ended.status, ended.out, ended.err) == (0, f"{address}\n", ""), ended


def test_a_port_that_is_taken(fence: Command, port: int) -> None:
    ended = fence("-p", str(port), "-c", "echo ran")
    assert (ended.status, ended.out) == (1, ""), ended
    assert ended.err.startswith(f"fence: port {port} is in use already, by ")


@pytest.mark.needs("program:curl")
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_domain(fence: Command, scheme: str) -> None:
    """Through the filter, which nobody needs to tell curl of. No name leaves this machine."""
    ended = fence("-m", "curl", "-sS", f"{scheme}://evil.test/")
    if scheme == "https":
        assert ended.status in CONNECT_REFUSED, ended
        assert ended.out == ""
        assert "CONNECT tunnel failed, response 403" in ended.err
        has(fence.refusals(ended), "[fence:http] ✗ CONNECT 403 evil.test https://evil.test:443 (0s)")
        return
    assert ended.status == 0, ended
    tried = "template default-deny, template command"
    assert ended.out.splitlines() == [
        "Connection blocked by network allowlist",
        f"evil.test:80 is not allowed: no rule in network.allowedDomains allows it ({tried})",
    ]
    has(fence.refusals(ended), "[fence:http] ✗ GET 403 evil.test http://evil.test/ (0s)")
    headers = fence("curl", "-sSI", f"{scheme}://evil.test/").out
    assert "x-proxy-error: blocked-by-allowlist" in headers.lower()


@pytest.mark.needs("program:curl")
def test_a_domain_that_is_allowed(fence: Command, port: int) -> None:
    """A server of this test's, where the policy places the name."""
    import http.server
    import threading

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"127.0.0.1:{server.server_port}"
        fence.write("p.json", json.dumps({"network": {"hosts": {"allowed.test": at}}}))
        for direct in ([], ["--noproxy", "*"]):
            ended = fence("-m", "-s", "p.json", "curl", "-sS", *direct, "http://allowed.test/p.json")
            assert (ended.status, ended.err) == (0, ""), ended
        server.shutdown()


@pytest.mark.needs("program:curl")
def test_a_domain_without_the_filter(fence: Command) -> None:
    ended = fence("-m", "curl", "-sS", "--noproxy", "*", "https://evil.test/")
    assert (ended.status, ended.out) == (6, ""), ended
    has(fence.refusals(ended), "[fence:dns] ✗ resolve evil.test NXDOMAIN (curl")


def test_fences_inside_fences_only_narrow(fence: Command) -> None:
    wide, narrow = ["--allow-write", "."], ["--allow-write", "a"]
    for outer, inner in ((wide, narrow), (narrow, wide)):
        ended = fence(*outer, *fence.argv(*inner, "sh", "-c", "touch a; touch b; exit 7"))
        assert ended.status == 7, ended
        assert ended.err == "touch: cannot touch 'b': Permission denied\n"
        (fence.directory / "a").unlink()
    assert os.listdir(fence.directory) == []


def test_what_the_inner_fence_refuses_is_shown_by_it(fence: Command) -> None:
    inner = fence.argv(
        "-m", "--log-file", "log.jsonl", "--allow-write", ".", "sh", "-c", "touch a 2>/dev/null; touch b; exit 7"
    )
    ended = fence("--allow-write", ".", "sh", "-c", '"$@" 2>inner', "sh", *inner)
    assert (ended.status, ended.err) == (7, ""), ended
    assert not (fence.directory / "inner").read_text()
    (fence.directory / "b").unlink()
    inner[inner.index("--allow-write") + 1] = "a"
    ended = fence("-m", "--allow-write", ".", "sh", "-c", '"$@" 2>inner', "sh", *inner)
    assert (ended.status, ended.err) == (7, ""), ended  # the outer policy refuses nothing
    shown = (fence.directory / "inner").read_text("utf-8")  # touch writes its own line there in two pieces meanwhile
    assert shown.count("[fence") == 1
    assert f" ✗ write {fence.directory}/b EACCES (sh → touch, pid=" in shown
    (data,) = map(json.loads, (fence.directory / "log.jsonl").read_text("utf-8").splitlines())
    assert (data["path"], data["chain"]) == (f"{fence.directory}/b", ["sh", "touch"])


def test_pytest_inside_a_command(fence: Command) -> None:
    fence.write(
        "test_it.py",
        "import pathlib\ndef test_a(): pathlib.Path('a').touch()\ndef test_b(): pathlib.Path('b').touch()\n",
    )
    argv = fence.runs.argv(["-p", "no:cacheprovider", "--tb=no", "-rf"], fenced=True)
    temporary = fence.directory / "tmp"
    temporary.mkdir()
    env = {"TMPDIR": str(temporary)}
    fence.write("fence.yaml", "extends: default-deny\nallow_write: [a, tmp]\n")
    inner = fence("-s", fence.write("wide.json", '{"filesystem": {"allowWrite": ["."]}}'), *argv, env=env)
    assert inner.status == 1, inner
    inner.has("1 failed, 1 passed", "^FAILED test_it.py::test_b", r"write .*/b")
    fence.write("fence.yaml", "allow_write: [.]\n")
    outer = fence("-s", fence.write("p.json", '{"filesystem": {"allowWrite": ["a", "tmp"]}}'), *argv, env=env)
    outer.has("1 failed, 1 passed", "^FAILED test_it.py::test_b")
    assert not (fence.directory / "b").exists()


def test_a_command_inside_pytest(fence: Command) -> None:
    words = fence.argv("--allow-write", ".", "sh", "-c", "touch a; touch denied")
    fence.write("test_it.py", f"import subprocess\ndef test_it(): assert subprocess.call({words!r}) == 1\n")
    fence.write("fence.yaml", "deny_write: [denied]\n")  # no directory above may be called so
    ended = fence.runs.pytest("-p", "no:cacheprovider", "-s")
    ended.has("1 failed", r"write \S+/denied", r"by touch \(pytest -> sh -> touch\)")
    assert (fence.directory / "a").exists()


def test_what_holds_is_described(fence: Command) -> None:
    network = '"network": {"allowedDomains": ["a.test"],\n"allowLocalBinding": true}'
    fence.write("p.json", f'{{{network},\n"filesystem":\n{{"allowWrite": ["."]}}}}')
    words = ["-d", "--force-new-session", "-s", "p.json", "-p", "1234", "sh", "-c", "exit 3"]
    ended = fence(*words, env={"LD_PRELOAD": "", "http_proxy": "x"})
    assert (ended.status, ended.out) == (3, ""), ended
    lines = ended.err.splitlines()
    assert len(lines) <= 25
    assert all(line.startswith("[fence] ") for line in lines)
    for part in (
        "command: sh -c 'exit 3'",
        "--force-new-session has no effect",
        f"policy: {fence.directory}/p.json, template command, template default-deny (-s)",
        'allowed domains: "a.test" (p.json:1)',
        "open ports yes (p.json:2) and 1234 (-p); reach those of others yes (p.json:2)",
        'template command, "." (p.json:4)',
        "HTTP_PROXY=http://127.0.0.1:",
        "replaced: http_proxy; withheld: LD_PRELOAD",
        "layers: seccomp",
        "ended: exit 3 after ",
    ):
        assert part in ended.err, part


@pytest.mark.needs("program:curl")
def test_what_is_allowed_is_said_with_its_rule(fence: Command) -> None:
    fence.write("p.json", '{"network": {"hosts": {"a.test": "127.0.0.1:9"},\n"allowedDomains": ["*.wild.test"]}}')
    ended = fence("-d", "-s", "p.json", "curl", "-sS", "http://a.test:80/")
    found = [line.partition(" ✓ ")[2] for line in ended.err.splitlines() if line.startswith("[fence:filter] ")]
    assert 'a.test:80 by network.hosts "a.test" (p.json:1)' in found, ended


@pytest.mark.needs("program:redis-server", "program:redis-cli")
def test_redis(fence: Command) -> None:
    number = str(port_below_those_given_out())
    server = ["redis-server", "--port", number, "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]
    started = fence.runs.start(server)
    assert started.stdout
    assert any("Ready to accept connections" in line for line in started.stdout)
    ask = ["redis-cli", "-p", number, "ping"]
    refused = fence("-m", *ask)
    assert (refused.status, refused.out) == (1, ""), refused
    assert f"Could not connect to Redis at 127.0.0.1:{number}: Permission denied" in refused.err
    has(fence.refusals(refused), f"[fence:net] ✗ connect 127.0.0.1:{number}/tcp EACCES (redis-cli")
    for network in ({"allowLocalOutbound": True}, {"allowLocalOutboundPorts": [int(number)]}):
        fence.write("p.json", json.dumps({"network": network}))
        allowed = fence("-m", "-s", "p.json", *ask)
        assert (allowed.status, allowed.out, allowed.err) == (0, "PONG\n", ""), allowed
    started.terminate()
    started.wait(60)
