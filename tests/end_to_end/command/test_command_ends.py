"""What a command ends with, and what is said where it cannot be started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.end_to_end.command.conftest import Command
from tests.end_to_end.support import state, until


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["true"], 0),
        (["false"], 1),
        (["-c", "exit 42"], 42),
        (["-c", "exit $1", "sh", "7"], 7),
        (["-c", "trap 'exit 3' TERM; kill -TERM $$"], 3),
        (["-c", "kill -TERM $$"], -signal.SIGTERM),
        (["-c", "kill -INT $$"], -signal.SIGINT),
        (["-c", "ulimit -c 0; kill -SEGV $$"], -signal.SIGSEGV),
        (["--", "sh", "-c", "exit 5"], 5),
    ],
)
def test_it_ends_as_the_command_ends(fence: Command, words: list[str], status: int) -> None:
    ended = fence(*words)
    assert ended.status == status, ended
    assert (ended.out, ended.err) == ("", ""), ended


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 1, "no command given; `fence --help` shows how"),
        (["nosuch-program"], 127, "nosuch-program: command not found"),
        (["./nosuch"], 127, "./nosuch: No such file or directory"),
        (["./data.json"], 126, "./data.json: Permission denied"),
        (["./"], 126, "./: Is a directory"),
        (["./lost"], 127, "./lost: what it is to be run by (its #! line, or its loader) does not exist"),
        (["--nosuch", "true"], 1, "unknown option --nosuch; `fence --help` lists them"),
        (["-s", "none.json", "true"], 1, "none.json cannot be read: No such file or directory"),
        (["--log-file", "no/log", "true"], 1, "the log file no/log cannot be written: No such file or directory"),
        (["--shell", "user", "true"], 1, "--shell is for -c: without it no shell is started"),
        (["-p", "x", "true"], 1, '"x" is not a port; accepted: 8080, 0.0.0.0:8080, [::]:8080'),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_one_line(fence: Command, words: list[str], status: int, said: str) -> None:
    fence.write("data.json", "{}")
    (fence.directory / fence.write("lost", "#!/nosuch/interpreter\n")).chmod(0o755)
    ended = fence(*words)
    assert (ended.status, ended.out, ended.err) == (status, "", f"fence: {said}\n"), ended


def test_a_script_without_a_first_line_is_one_of_the_shell(fence: Command) -> None:
    (fence.directory / fence.write("script", 'echo "$0 $1"\n')).chmod(0o755)
    ended = fence("./script", "a b")
    assert (ended.status, ended.out, ended.err) == (0, "./script a b\n", ""), ended


@pytest.mark.parametrize(
    ("name", "text", "complaints"),
    [
        (
            "bad.json",
            '{"network": {\n "allowedDomain": []},\n "filesystem": {"allowWrite": "x"},\n "nosuch": 1}',
            ["bad.json:2: network.allowedDomain: ", "bad.json:3: filesystem.allowWrite: ", "bad.json:4: nosuch: "],
        ),
        (
            "bad.yaml",
            "network:\n  allowed_domain: []\nallow_write: x\nnosuch: 1\n",
            ["bad.yaml:2: network.allowed_domain: ", "bad.yaml:3: allow_write: ", "bad.yaml:4: nosuch: "],
        ),
        (
            "bad.toml",
            '[tool.fence]\nallowed_domain = []\nallow_write = "x"\nnosuch = 1\n',
            ["bad.toml:2: allowed_domain: ", "bad.toml:3: allow_write: ", "bad.toml:4: nosuch: "],
        ),
    ],
)
def test_all_that_is_wrong_with_a_policy_is_said(fence: Command, name: str, text: str, complaints: list[str]) -> None:
    fence.write(name, text)
    ended = fence("-s", name, "sh", "-c", "echo ran")
    first, *rest = ended.err.splitlines()
    assert (ended.status, ended.out, first) == (1, "", "fence: the policy cannot be used:"), ended
    assert len(rest) == len(complaints)
    for line, complaint in zip(rest, complaints, strict=True):
        assert line.startswith(f"  {complaint}"), ended


@pytest.mark.parametrize("word", ["--help", "--version", "--features"])
def test_what_runs_nothing(fence: Command, word: str) -> None:
    ended = fence(word, "nosuch-program")
    assert ended.status == 0, ended
    assert ended.out
    assert ended.err == ""


def test_bytes_go_through_as_they_are(fence: Command) -> None:
    data = bytes(range(256)) * 40_000
    piped = subprocess.run(fence.argv("cat"), input=data, capture_output=True, timeout=60, cwd=fence.directory)
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert piped.stdout == data


def test_a_reader_that_goes_away_ends_it(fence: Command) -> None:
    """By the signal: Python has ignored it before, and who inherits that gets errors, which some go on after."""
    script = '"$@" | head -1; echo ${PIPESTATUS[0]}'
    ended = fence.runs.command("bash", "-c", script, "bash", *fence.argv("yes"))
    assert (ended.status, ended.out, ended.err) == (0, f"y\n{128 + signal.SIGPIPE}\n", ""), ended


def test_no_signal_is_ignored_that_was_not(fence: Command) -> None:
    ask = ["grep", "^Sig[IB]", "/proc/self/status"]
    plain, fenced = fence.runs.command(*ask), fence(*ask)
    assert plain.out.count("0000000000000000") == 2, "the test itself has some ignored, or blocked"
    assert (fenced.status, fenced.out, fenced.err) == (0, plain.out, ""), fenced


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_is_closed_for_the_command(fence: Command, closed: str) -> None:
    """And nothing of ours is taken for it."""
    inside = "touch x; ls -l /proc/$$/fd >&9; exit 4"
    words = fence.argv("-m", "--allow-write", "x", "-c", f"{inside}")
    ended = fence.runs.command("sh", "-c", f'exec 3>&1; "$@" 9>&3 3>&- {closed} | cat', "sh", *words)
    alone = fence.runs.command("sh", "-c", f'exec 3>&1; bash -c "$1" 9>&3 3>&- {closed} | cat', "sh", inside)
    assert _descriptors(ended.out) == _descriptors(alone.out), (ended, alone)
    assert (fence.directory / "x").exists()


def _descriptors(listing: str) -> list[str]:
    """Their numbers: `ls -l /proc/PID/fd`."""
    return sorted(line.partition(" -> ")[0].rpartition(" ")[2] for line in listing.splitlines() if " -> " in line)


def test_a_file_that_was_left_open_is_not_the_commands(fence: Command) -> None:
    words = fence.argv("-d", "-c", "echo out; echo x >&7")
    ended = fence.runs.command("sh", "-c", '"$@" 7>left', "sh", *words)
    assert "[fence] descriptors that are closed, since they lead outside: 7 (" in ended.err, ended
    assert ended.out == "out\n"
    assert (fence.directory / "left").read_text() == ""
    fence.write("p.yaml", "keep_fds: [7]\n")
    kept = fence.runs.command("sh", "-c", '"$@" 7>left', "sh", *fence.argv("-s", "p.yaml", "-c", "echo x >&7"))
    assert (kept.status, kept.err) == (0, ""), kept
    assert (fence.directory / "left").read_text() == "x\n"


def test_nobody_reading_our_lines_is_nothing_to_the_command(fence: Command) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    words = ["-m", "-c", "touch x 2>/dev/null; mkdir y 2>/dev/null; echo out; exit 5"]
    ended = fence(*words, stderr=write_end)
    os.close(write_end)
    assert (ended.status, ended.out) == (5, "out\n"), ended


def test_both_outputs_and_the_input_are_the_commands(fence: Command) -> None:
    fence.write("f", "in\n")
    ended = fence.runs.command("sh", "-c", '"$@" <f 2>g', "sh", *fence.argv("-c", "cat >&2; echo out"))
    assert (ended.status, ended.out) == (0, "out\n"), ended
    assert (fence.directory / "g").read_text() == "in\n"


def test_what_the_command_leaves_behind_is_ended_and_named(fence: Command) -> None:
    ended = fence("-c", "setsid sleep 300 & echo ok")
    assert (ended.status, ended.out) == (0, "ok\n"), ended
    assert ended.err.startswith("fence: ended 1 process that outlived the command: sleep 300 (pid "), ended


def test_nothing_fenced_survives_the_supervisor(fence: Command) -> None:
    started = fence.runs.start(fence.argv("-c", "echo $$; exec sleep 300"), bufsize=1)
    assert started.stdout
    inside = int(started.stdout.readline())
    started.kill()
    until(lambda: state(inside) in "XZ", "the command has ended")


def test_words_and_variables_are_the_commands(fence: Command) -> None:
    program = (
        "import os, sys; print(sys.argv[1:], *(os.environ.get(name) for name in ('A', 'LD_PRELOAD', 'FENCE_SANDBOX')))"
    )
    given = {"A": "b  c", "LD_PRELOAD": "", "PYTHONSAFEPATH": "1"}
    ended = fence(sys.executable, "-c", program, "$HOME", "a  b", "", env=given)
    assert (ended.status, ended.err) == (0, ""), ended
    assert ended.out == "['$HOME', 'a  b', ''] b  c None 1\n"


def test_modules_of_the_directory_are_not_imported(fence: Command) -> None:
    """What is imported before the fence stands is ours, and Python's."""
    for name in ("json", "os", "getopt", "argparse", "sitecustomize", "usercustomize", "yaml", "ctypes"):
        fence.write(f"{name}.py", "open('marker', 'w').close()")
    ended = fence("-m", "--log-file", os.devnull, "-c", "touch x; exit 4")
    assert ended.status == 4, ended
    assert not (fence.directory / "marker").exists()


def test_a_package_of_our_name_in_the_directory(fence: Command) -> None:
    """`fence` leaves it alone. `python -m` finds it before us, as docs/reference/command.md says."""
    for name in ("__init__", "__main__"):
        fence.write(f"fence_core/{name}.py", "open('marker', 'w').close()")
    script = Path(sysconfig.get_path("scripts")) / "fence"
    words = ["-m", "--log-file", os.devnull, "-c", "touch x; exit 4"]
    ended = fence.runs.command(str(script), *words)
    assert ended.status == 4, ended
    assert not (fence.directory / "marker").exists()
    fence("true")
    assert (fence.directory / "marker").exists()
