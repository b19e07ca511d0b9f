"""`fence learn`: what a command needs becomes its policy, and with that nothing is refused."""

from __future__ import annotations

import json
import os
import shutil
import textwrap

import pytest

from tests.end_to_end.command.conftest import Command

MAKEFILE = """\
all: out/prog
out/%.o: %.c
\t@mkdir -p out
\t@cp $< $@.tmp && mv $@.tmp $@
out/prog: $(patsubst %.c,out/%.o,$(wildcard *.c))
\t@cat $^ > $@; echo built at `date +%s` > out/log-`date +%s%N`
"""


def read(fence: Command, name: str) -> str:
    return (fence.directory / name).read_text(encoding="utf-8")


@pytest.mark.needs("program:make")
@pytest.mark.parametrize("name", ["p.yaml", "p.jsonc", "p.toml"])
def test_a_fixed_point(fence: Command, name: str) -> None:
    """Twice learnt, once enforced, and a third time there is nothing to learn."""
    for number in range(6):
        fence.write(f"{number}.c", "int x;\n")
    fence.write("Makefile", MAKEFILE)
    first = fence("learn", "-o", name, "--", "make", "-j2")
    assert first.status == 0, first
    assert f"fence: {name} was written" in first.err
    text = read(fence, name)
    assert '"out"' in text or "- out" in text
    assert "made by the run" in text
    for _ in range(2):
        fence("-s", name, "rm", "-r", "out")
        again = fence("learn", "-o", name, "--", "make", "-j2")
        assert again.status == 0, again
        assert "nothing to learn" in again.err
        assert read(fence, name) == text
    ended = fence("-m", "-s", name, "make", "-B", "-j2")
    assert (ended.status, ended.err) == (0, ""), ended


@pytest.mark.needs("program:git")
def test_git_in_a_project(fence: Command) -> None:
    """`.git` is given as a whole, and what git obeys in it stays shut."""
    script = "git init -q . && echo a > a.txt && git -c user.name=a -c user.email=a@b add . "
    script += "&& git -c user.name=a -c user.email=a@b commit -qm one"
    first = fence("learn", "-o", "p.yaml", "-c", script)
    assert first.status == 0, first
    assert "- .git  # git; git's own files" in read(fence, "p.yaml")
    shutil.rmtree(fence.directory / ".git")
    ended = fence("-m", "-s", "p.yaml", "-c", script)
    assert (ended.status, ended.err) == (0, ""), ended
    ended = fence("-m", "-s", "p.yaml", "-c", "echo evil > .git/hooks/pre-commit; true")
    assert "Permission denied" in ended.err, ended


def test_what_stays_refused(fence: Command) -> None:
    """Protected files, what a rule denies, and the policy that is being learnt; and what is let through beside them."""
    fence.write("p.json", '{"filesystem": {"denyWrite": ["secret"]}}')
    script = "for f in .bashrc .git/hooks secret p.json free; do mkdir -p `dirname $f`; echo x > $f; done; true"
    ended = fence("learn", "-o", "p.json", "-c", script)
    assert ended.status == 0, ended
    assert (fence.directory / "free").read_text() == "x\n"
    for name in (".bashrc", "secret", ".git/hooks"):
        assert not (fence.directory / name).exists()
        assert f"write {fence.directory}/{name}:" in ended.err
    assert "denyWrite" in read(fence, "p.json")
    assert '"free"' in read(fence, "p.json")
    assert "secret" not in read(fence, "p.json").replace('"denyWrite": ["secret"]', "")


@pytest.mark.needs("program:git")
def test_what_git_would_obey_in_any_directory(fence: Command) -> None:
    """A bare repository has another name: what is in it is guarded whether the policy allows the place or not."""
    made = fence.runs.command("git", "init", "-q", "--bare", str(fence.directory / "bare"))
    assert made.status == 0, made
    before = (fence.directory / "bare/config").read_text()
    script = "echo evil >> bare/config; echo x > bare/hooks/post-update; echo x > n; mv n bare/hooks/update; echo x > m"
    ended = fence("learn", "-o", "p.yaml", "-c", f"{script}; true")
    assert ended.status == 0, ended
    assert (fence.directory / "bare/config").read_text() == before
    assert not {"post-update", "update"} & set(os.listdir(fence.directory / "bare/hooks"))
    assert (fence.directory / "m").exists()
    assert "bare" not in read(fence, "p.yaml")


def test_nothing_is_written_without_being_asked(fence: Command) -> None:
    ended = fence("learn", "sh", "-c", "echo x > a")
    assert ended.status == 0, ended
    assert "fence.yaml would become (fence learn -o fence.yaml writes it):" in ended.err
    assert "+  - a  # sh" in ended.err
    assert not (fence.directory / "fence.yaml").exists()


def test_a_failed_run_teaches_nothing(fence: Command) -> None:
    ended = fence("learn", "-o", "p.yaml", "sh", "-c", "echo x > a; exit 3")
    assert ended.status == 3, ended
    assert "p.yaml was not written: the command has failed (exit status 3)" in ended.err
    assert not (fence.directory / "p.yaml").exists()
    ended = fence("learn", "-o", "p.yaml", "--partial", "sh", "-c", "echo x > a; exit 3")
    assert ended.status == 3, ended
    assert "- a" in read(fence, "p.yaml")


def test_a_file_that_changes_meanwhile(fence: Command) -> None:
    """By somebody who is in no fence: here before it stands, in a process that waits for the run to have begun."""
    fence.write("p.yaml", "filesystem:\n")
    os.mkfifo(fence.directory / "begun")
    command = " ".join(fence.argv("learn", "-o", "p.yaml", "sh", "-c", "'echo x > begun; cat begun; echo y > a'"))
    script = f"({command} 2>said; echo $? >> said) & read x < begun; echo '# mine' > p.yaml; echo go > begun; wait"
    ended = fence.runs.command("sh", "-c", script)
    assert ended.status == 0, ended
    assert read(fence, "p.yaml") == "# mine\n"
    assert "changed meanwhile: nothing was written" in read(fence, "said")
    assert read(fence, "said").endswith("\n1\n")


def test_verify(fence: Command) -> None:
    ended = fence("learn", "-o", "p.yaml", "--verify", "-c", "mkdir -p out && echo x > out/a && echo out")
    assert (ended.status, ended.out) == (0, "out\nout\n"), ended
    assert ended.err.endswith("fence: run again with these rules, nothing was refused\n")
    # What the first run alone has made was learnt; what only the second does, was not.
    ended = fence("learn", "-o", "p.yaml", "--verify", "-c", "if test -e b; then echo x > c; else echo x > b; fi; true")
    assert ended.status == 1, ended
    assert "run again with these rules, 1 were refused:" in ended.err


def test_terminals(fence: Command) -> None:
    fence.write("p.yaml", "extends: default-deny\n")
    fence.write("t.py", "import os, pty\nm, s = pty.openpty()\nos.write(s, b'x')\nprint(os.ttyname(s) != '')\n")
    learnt = fence("learn", "-o", "p.yaml", "python3", "t.py")
    assert (learnt.status, learnt.out) == (0, "True\n"), learnt
    assert "allow_pty: true" in read(fence, "p.yaml")
    ended = fence("-m", "-s", "p.yaml", "python3", "t.py")
    assert (ended.status, ended.out, ended.err) == (0, "True\n", ""), ended


def test_sockets_on_loopback(fence: Command) -> None:
    fence.write(
        "t.py",
        textwrap.dedent("""
            import socket
            for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
                with socket.socket(type=kind) as server, socket.socket(type=kind) as client:
                    server.bind(("127.0.0.1", 0))
                    if kind == socket.SOCK_STREAM:
                        server.listen()
                    client.connect(server.getsockname())
                    client.send(b"x")
                    taker = server.accept()[0] if kind == socket.SOCK_STREAM else server
                    print(taker.recv(9))
        """),
    )
    learnt = fence("learn", "-o", "p.yaml", "python3", "t.py")
    assert (learnt.status, learnt.out) == (0, "b'x'\n" * 2), learnt
    assert read(fence, "p.yaml").startswith("network:\n  allow_local_binding: true"), read(fence, "p.yaml")
    ended = fence("-m", "-s", "p.yaml", "python3", "t.py")
    assert (ended.status, ended.out, ended.err) == (0, "b'x'\n" * 2, ""), ended


def test_names_of_strangers_do_not_reach_the_policy(fence: Command) -> None:
    """Names of files and programs with line ends and the syntax of the file: each is one entry, or nothing."""
    fence.write(
        "t.py",
        textwrap.dedent("""
            import ctypes
            ctypes.CDLL(None).prctl(15, b'x\\nallow_pty: true')
            for name in ['a\\nnetwork:', 'b"]', "c: {d: e}", "- f", "# g", "h\\u2028i", "[*]", "{x,y}"]:
                open(name, "w")
        """),
    )
    plain = json.loads(fence("config", "show").out)
    for name in ("p.yaml", "p.toml", "p.jsonc"):
        ended = fence("learn", "-o", name, "python3", "t.py")
        assert ended.status == 0, ended
        shown = fence("config", "show", "-s", name)
        assert shown.status == 0, shown
        assert json.loads(shown.out) == {**plain, "filesystem": json.loads(shown.out)["filesystem"]}
        refused = fence("-m", "-s", name, "python3", "t.py")
        assert (refused.status, refused.err) == (0, ""), refused


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "no command given"),
        (("-o", "p.yaml", "-s", "q.yaml", "true"), "-s is for a policy that is not written"),
        (("--verify", "true"), "--verify is for a policy that is written"),
        (("-o", "p.txt", "true"), "of no kind that fence reads"),
        (("-o", "no/such/p.yaml", "true"), "No such file or directory"),
        (("-m", "true"), "unknown option -m"),
    ],
)
def test_what_is_wrong(fence: Command, words: tuple[str, ...], complaint: str) -> None:
    ended = fence("learn", *words)
    assert (ended.status, ended.out) == (1, ""), ended
    assert complaint in ended.err
    assert ended.err.count("\n") == 1


def test_not_inside_another_fence(fence: Command) -> None:
    ended = fence("--", *fence.argv("learn", "-o", "p.yaml", "sh", "-c", "echo x > a"))
    assert ended.status == 1, ended
    assert "nothing can be learnt inside another fence" in ended.err
    assert not (fence.directory / "a").exists()


def test_no_config_asks_for_it(fence: Command) -> None:
    fence.write("p.yaml", "mode: learn\n")
    ended = fence("-s", "p.yaml", "true")
    assert ended.status == 1, ended
    assert "mode" in ended.err
