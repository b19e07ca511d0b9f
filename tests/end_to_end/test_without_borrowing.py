"""Where a container's seccomp profile refuses what the broker looks into processes with.

`support.without` has the kernel refuse it, to the whole run.
"""

from __future__ import annotations

import textwrap

import pytest

from tests.end_to_end.faults import faulty, faulty_command
from tests.end_to_end.support import Runs, until, without

TESTS = """
    import os, subprocess
    import pytest

    def test_own_call():
        with pytest.raises(PermissionError):
            os.mkdir("forbidden")

    def test_program():
        assert subprocess.run(["mkdir", "forbidden"], stderr=subprocess.DEVNULL).returncode

    def test_allowed(tmp_path):
        subprocess.run(["sh", "-c", f"mkdir {tmp_path}/a && mv {tmp_path}/a {tmp_path}/b"], check=True)
        assert os.listdir(tmp_path) == ["b"]
"""


@pytest.fixture
def some(runs: Runs) -> Runs:
    (runs.directory / "test_it.py").write_text(textwrap.dedent(TESTS), encoding="utf-8")
    (runs.directory / "pyproject.toml").write_text('[tool.fence]\ndeny_write = ["forbidden"]\n')
    return runs


def test_without_process_vm_readv(some: Runs) -> None:
    """Memory is read from files in /proc, and the header says so."""
    ended = some.command(*without(some, "process_vm_readv", "-rA", "-p", "no:cacheprovider"))
    assert ended.status == 1, ended
    ended.has("^fence: enforce; .*, without process_vm_readv;")
    assert ended.outcomes() == [
        "FAILED test_it.py::test_own_call",
        "FAILED test_it.py::test_program",
        "PASSED test_it.py::test_allowed",
    ], ended
    ended.has("call: mkdir .*forbidden, test_it.py:7", "call: mkdir .*forbidden$", r"by mkdir \(pytest -> mkdir\)")


def test_required(some: Runs) -> None:
    """Who wants no other way says so."""
    ended = some.command(*without(some, "process_vm_readv", "--fence-require=process_vm_readv"))
    assert ended.status == 4, ended
    assert "process_vm_readv: Operation not permitted" in ended.err


# ---------------------------------------------------------------- the listener

WITHOUT = """
    from fence_core.kernel import features
    from fence_core.launcher import obstacles
    from fence_core.link import start
    obstacles.NEEDED = tuple(name for name in obstacles.NEEDED if name != "pidfd_getfd")
    found = features.detect()
    features._features = features.Features(
        [each._replace(available=each.available and each.name != "pidfd_getfd") for each in found], found.landlock_abi)
    sent = start.hand_over
"""


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("start.hand_over = lambda *_: os.kill(os.getpid(), 9)", "the listener could not be handed over"),
        ("start.hand_over = lambda *_: 1 / 0", "the listener could not be handed over"),
        ("start.hand_over = lambda *_: None", "the listener did not come along"),
        ("start.hand_over = lambda control, _: sent(control, 0)", "is no listener"),
        ("from fence_core.kernel import process\nprocess.clone_with_our_files = lambda: 1 / 0", "ZeroDivisionError"),
    ],
    ids=["killed", "raises", "sends nothing", "sends another", "not made"],
)
def test_listener_is_not_handed_over(runs: Runs, fault: str, why: str) -> None:
    """No test runs; one line says why; nothing is left behind."""
    ended = faulty(runs, textwrap.dedent(WITHOUT) + fault, "def test_it(): open('ran', 'w')", "-s")
    assert ended.status == 4, ended
    assert ended.err.startswith("ERROR: fence: could not set up the fence: "), ended
    assert why in ended.err
    assert "Traceback" not in ended.err
    assert not (runs.directory / "ran").exists()


def test_who_hands_over_ends_with_the_run(runs: Runs) -> None:
    """The supervisor is killed while that process, which has both ends of its pipe, waits."""
    fault = """
        import time
        def wait(*_):
            os.write(2, b"here")
            time.sleep(600)
        start.hand_over = wait
    """
    run = runs.start(
        faulty_command(runs, textwrap.dedent(WITHOUT) + textwrap.dedent(fault), "def test_it(): pass", "-s")
    )
    assert run.stderr is not None
    assert run.stderr.read(4) == "here"
    assert len(runs.alive()) == 4  # with its child, the guardian, and what hands over
    run.kill()
    until(lambda: not runs.alive(), "the end of every process", 20)


def test_the_same_descriptors(runs: Runs) -> None:
    """The tests' process shares its table with nobody, has no child, and what it finds open is what it always finds."""
    test = """
        import gc, os
        def test_it():
            found = [f"children {os.listdir('/proc/self/task')[1:]} {open('/proc/thread-self/children').read()!r}"]
            for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
                try:
                    found.append(f"{fd} {os.readlink(f'/proc/self/fd/{fd}').partition(':')[0]}")
                except OSError:
                    pass
            print("\\n".join(["", *found, f"collects {gc.isenabled()}", "end"]))
    """
    args = ["-q", "-s", "-p", "no:xdist", "-p", "no:rerunfailures"]
    shown = []
    for fault in ("", WITHOUT):
        ended = faulty(runs, fault, test, *args)
        assert ended.status == 0, ended
        shown.append(ended.out.partition("children")[2].partition("end")[0].splitlines())
    assert shown[0][0] == " [] ''"
    assert shown[0] == shown[1]
