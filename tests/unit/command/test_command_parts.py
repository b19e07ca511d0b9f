"""The environment of a command, its ports, its program, and the lines about it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from fence_core.command import ports
from fence_core.command.execute import NotRunError, find_program, shell
from fence_core.command.options import UsageError
from fence_core.command.surroundings import surroundings
from fence_core.events.model import Program, Target, Violation
from fence_core.policy.model import Remedy, Rule, Source
from fence_core.report import lines

# ---------------------------------------------------------------- environment


def test_programs_are_told_of_the_filter() -> None:
    given = {"HOME": "/h", "http_proxy": "http://corp:3128", "NO_PROXY": "*"}
    found = surroundings(given, "http://127.0.0.1:7", ["db.test"])
    assert {name: found.variables[name] for name in ("HOME", "FENCE_SANDBOX")} == {"HOME": "/h", "FENCE_SANDBOX": "1"}
    for name in ("HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        assert found.variables[name] == "http://127.0.0.1:7"
    assert found.variables["no_proxy"] == "localhost,127.0.0.1,::1,db.test"
    assert found.replaced == ("NO_PROXY", "http_proxy")


def test_without_a_filter_nothing_is_said_of_one() -> None:
    assert surroundings({"http_proxy": "x"}, "").variables == {"http_proxy": "x", "FENCE_SANDBOX": "1"}


def test_what_loads_code_into_every_program_is_withheld() -> None:
    given = {
        "LD_PRELOAD": "x.so",
        "LD_LIBRARY_PATH": "/x",
        "DYLD_X": "",
        "GCONV_PATH": "/x",
        "OLD_LD_": "",
        "PATH": "/b",
    }
    found = surroundings(given, "")
    assert found.variables == {"OLD_LD_": "", "PATH": "/b", "FENCE_SANDBOX": "1"}
    assert found.withheld == ("DYLD_X", "GCONV_PATH", "LD_LIBRARY_PATH", "LD_PRELOAD")


# ---------------------------------------------------------------- ports


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("8124", ("", 8124)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::]:65535", ("::", 65535)),
        ("[0:0::1]:1", ("::1", 1)),
    ],
)
def test_a_port(text: str, opened: tuple[str, int]) -> None:
    assert ports.parse_port(text) == opened


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "-1", "x", "a:80", ":80", "::1:80", "[1.2.3.4]:80", "1.2.3.4:", "٣"]
)
def test_no_port(text: str) -> None:
    with pytest.raises(UsageError, match="accepted: 8080, "):
        ports.parse_port(text)


def test_a_port_that_is_taken_names_who_has_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {number} is in use already, by .+ \(pid {os.getpid()}\)"):
            ports.check_free(("", number))
    ports.check_free(("", number))


def test_an_address_of_another_machine() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.77 is not an address of this machine"):
        ports.check_free(("192.0.2.77", 8124))


# ---------------------------------------------------------------- programs


def test_a_program_is_found_as_a_shell_finds_it(tmp_path: Path) -> None:
    for name, mode in (("one", 0o644), ("two", 0o755)):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "tool").write_text("")
        (directory / "tool").chmod(mode)
    (tmp_path / "one" / "dir").mkdir()
    path = f"{tmp_path}/none:{tmp_path}/one:{tmp_path}/two"
    assert find_program("tool", path) == f"{tmp_path}/two/tool"
    assert find_program("./tool", path) == "./tool"
    assert find_program("sh", None).endswith("/sh")
    with pytest.raises(NotRunError, match="one/tool: Permission denied") as caught:
        find_program("tool", f"{tmp_path}/one")
    assert caught.value.status == 126
    for name in ("dir", "nosuch", "", "a\0b"):
        with pytest.raises(NotRunError, match="command not found") as caught:
            find_program(name, path)
        assert caught.value.status == 127


def test_the_shell() -> None:
    assert shell("default", "/nosuch", login=False)[0] in ("/bin/bash", "/bin/sh")
    assert shell("user", "/bin/sh", login=True) == ["/bin/sh", "-l", "-c"]
    for wrong in ("/bin/nosuch", None, "sh"):
        with pytest.raises(UsageError, match="is not a shell that /etc/shells lists"):
            shell("user", wrong, login=False)
    with pytest.raises(UsageError, match="there are: default, user"):
        shell("fish", None, login=False)


# ---------------------------------------------------------------- lines

WRITE = Violation(
    number=0, nodeid="", phase="startup", kind="write", operation="write", verdict="unlisted", state="failing",
    errno=13, target=Target("path", path="/p/x\n[fence:net] y"), rule=Rule("filesystem.allow_write"),
    first_s=0, last_s=0,
    program=Program("touch", 7, "/bin/touch", ("sh", "to\x1buch"), ("touch", "x")),
    remedy=Remedy("filesystem.allow_write", ("x",)),
)  # fmt: skip


def test_a_line() -> None:
    text = lines.as_text(WRITE, 0.0)
    assert text.startswith("[fence:file] ")
    assert text.endswith(r" ✗ write /p/x\n[fence:net] y EACCES (sh → to\x1buch, pid=7)")
    assert text.isprintable()
    assert lines.as_text(WRITE._replace(count=10), 0.0).endswith("pid=7) \N{MULTIPLICATION SIGN}10")
    assert " → write " in lines.as_text(WRITE._replace(errno=0), 0.0)
    assert " ! write " in lines.as_text(WRITE._replace(verdict="error", kind="error"), 0.0)


def test_a_name_that_does_not_exist() -> None:
    name = WRITE._replace(kind="resolve", operation="resolve", target=Target("name", "a.test"), errno=2)
    assert "✗ resolve a.test NXDOMAIN (" in lines.as_text(name, 0.0)


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ("CONNECT", "CONNECT 403 a.test https://a.test:8443 (0s)"),
        ("GET http://a.test:8443/x", "GET 403 a.test http://a.test:8443/x (0s)"),
    ],
)
def test_a_request_to_the_filter(how: str, shown: str) -> None:
    asked = WRITE._replace(kind="connect", operation="connect", target=Target("name", "a.test", 8443, "tcp"))
    text = lines.as_text(asked, 0.0, how)
    assert text.startswith("[fence:http] ")
    assert text.endswith(f"✗ {shown}")


def test_a_line_is_no_longer_than_a_pipe_takes_at_once() -> None:
    long = WRITE._replace(target=Target("path", path="/" + "\n" * 10_000))
    assert len(lines.as_text(long, 0.0).encode()) < 4096


def test_the_same_as_data() -> None:
    rule = Rule("filesystem.deny_write", "*.key", Source("fence.json", "/p/fence.json", 9))
    data = json.loads(json.dumps(lines.as_data(WRITE._replace(rule=rule, verdict="denied"), 1.5, 3)))
    assert data["time"] == "1970-01-01T00:00:01.500Z"
    assert data["source"] == {"file": "/p/fence.json", "line": 9}
    assert (data["kind"], data["what"], data["errno"], data["seq"]) == ("file", "write", "EACCES", 3)
    assert data["remedy"] == {"filesystem": {"allowWrite": ["x"]}}
