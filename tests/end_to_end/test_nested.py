"""`pytest --fence` inside a fence: pytester's runs, as a subprocess and in the same process. It can only narrow."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.end_to_end.caught import Fenced
from tests.end_to_end.support import filters

HELPERS = """
import json, os, pathlib, socket, subprocess, sys
import pytest
from here import AWAY, HELLO, OUTSIDE, PORT

pytest_plugins = ["pytester"]
FLAGS = ["-p", "pytest_fence.plugin", "-p", "no:cacheprovider", "--fence"]
CLOSED = f'''
[tool.fence]
extends = "default-deny"
allow_local_binding = true
allow_write = ["./*", "/dev/null", "{os.environ["TMPDIR"]}/*"]
'''

INNER = '''
import pathlib, socket
from here import AWAY, OUTSIDE, PORT

def test_connect():
    assert socket.socket().connect_ex((AWAY, 443)) == 13

def test_loopback():
    socket.create_connection(("127.0.0.1", PORT), timeout=5).close()

def test_write():
    try:
        pathlib.Path(OUTSIDE, "new").write_text("x")
    except PermissionError:
        pass

def test_write_here(tmp_path):
    (tmp_path / "new").write_text("x")
'''

@pytest.fixture
def inner(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], os.path.dirname(__file__)]))
    pytester.makepyfile(INNER)
    return pytester
"""


def test_subprocess(fenced: Fenced) -> None:
    """The inner run reports what its policy refuses; what the outer policy refuses as well is the outer test's, too."""
    run = fenced.run(
        HELPERS
        + """
def test_nested(inner):
    result = inner.runpytest_subprocess(*FLAGS)
    result.assert_outcomes(failed=1, passed=3)  # the preset lets it write below the temporary directory
    result.stdout.fnmatch_lines(["fence: enforce; *inside another fence", "*connect 198.51.100.7:443/tcp*"])
    assert result.ret == 1

def test_not_nested(inner):
    # The same without a fence of its own is under that of this test.
    result = inner.runpytest_subprocess(*FLAGS[:-1])
    result.assert_outcomes(passed=4)

def test_after():
    with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:
        assert s.recv(99) == HELLO
"""
    )
    for test in "test_nested", "test_not_nested":
        (found,) = run.attempts(test)
        assert (found.what, found.phase) == ("connect 198.51.100.7:443/tcp", "call"), run
        run.blamed(test)
        assert "assert_outcomes" not in run.report(test)["text"], run.report(test)["text"]
    run.clean("test_after")
    assert fenced.untouched("new")  # both presets allow temporary directories, where these tests live


def test_narrower_and_not_wider(fenced: Fenced) -> None:
    run = fenced.run(
        HELPERS
        + """
def test_narrower(inner):
    # The outer test may write there, the inner ones may not: nothing of it is the outer test's.
    inner.makepyprojecttoml(CLOSED + "allow_local_outbound = false")
    result = inner.runpytest_subprocess(*FLAGS, "-k", "not connect")
    result.assert_outcomes(failed=2, passed=1, deselected=1)
    result.stdout.fnmatch_lines([f"*connect 127.0.0.1:{PORT}/tcp*", f"*write {OUTSIDE}/new*"])
    assert not pathlib.Path(OUTSIDE, "new").exists()

@pytest.mark.fence(deny_write=[OUTSIDE])
def test_not_wider(inner):
    inner.makepyprojecttoml(f'''
        [tool.fence]
        allow_write = ["{OUTSIDE}"]
        ''')
    result = inner.runpytest_subprocess(*FLAGS, "-k", "write")
    result.assert_outcomes(passed=2, deselected=2)  # refused by the outer policy, which the inner one cannot speak for
    assert not pathlib.Path(OUTSIDE, "new").exists()

def test_outer_policy_is_back():
    pathlib.Path(OUTSIDE, "mine").write_text("x")
"""
    )
    run.clean("test_narrower", "test_outer_policy_is_back")
    run.refused("test_not_wider", f"write {fenced.outside}/new", by=[Path(sys.executable).name])
    assert fenced.untouched("mine")


def test_in_the_same_process(fenced: Fenced) -> None:
    run = fenced.run(
        HELPERS
        + """
def test_fenced(inner):
    result = inner.runpytest_inprocess(*FLAGS, "-k", "not connect")
    result.assert_outcomes(passed=3, deselected=1)
    result.stdout.fnmatch_lines(["fence: enforce; *inside another fence"])
    pathlib.Path(OUTSIDE, "new").unlink()  # allowed by both policies

def test_inner_violation(inner):
    inner.makepyprojecttoml(CLOSED)
    result = inner.runpytest_inprocess(*FLAGS, "-k", "write and not here")
    result.assert_outcomes(failed=1, deselected=3)
    result.stdout.fnmatch_lines([f"*write {OUTSIDE}/new*"])
    # And then this test is itself again.
    pathlib.Path(OUTSIDE, "mine").write_text("x")
    assert socket.socket().connect_ex((AWAY, 444)) == 13  # itself

def test_not_fenced(inner):
    result = inner.runpytest_inprocess(*FLAGS[:-1], "-k", "connect")
    result.assert_outcomes(passed=1, deselected=3)

def test_after():
    assert socket.socket().connect_ex((AWAY, 445)) == 13  # after
"""
    )
    run.clean("test_fenced")
    run.refused(
        "test_inner_violation",
        "connect 198.51.100.7:444/tcp",
        line="assert socket.socket().connect_ex((AWAY, 444)) == 13  # itself",
    )
    run.refused("test_not_fenced", "connect 198.51.100.7:443/tcp")
    run.refused("test_after", "connect 198.51.100.7:445/tcp")
    assert fenced.untouched("mine")


def test_without_our_environment(fenced: Fenced) -> None:
    """Whether there is a fence is answered by the broker: an empty environment changes nothing, never an EBUSY."""
    run = fenced.run(
        HELPERS
        + """
def test_it(inner):
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
           "TMPDIR": str(inner.path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *FLAGS, f"--basetemp={inner.path}/b", "-k", "not connect"],
        env=env, cwd=inner.path, capture_output=True, text=True)
    assert "inside another fence" in done.stdout, done
    assert "3 passed, 1 deselected" in done.stdout, done

def test_two_deep(inner):
    inner.makepyfile(test_deep=f'''
        pytest_plugins = ["pytester"]

        def test_deep(pytester):
            pytester.makepyfile("import socket\\\\ndef test_x(): socket.socket().connect_ex(('{AWAY}', 443))")
            result = pytester.runpytest_subprocess(*{FLAGS!r})
            result.assert_outcomes(failed=1)
        ''')
    result = inner.runpytest_subprocess(*FLAGS, "test_deep.py")
    assert "1 failed" in result.stdout.str()  # the policy in the middle does not allow it either
"""
    )
    run.clean("test_it")
    (found,) = run.attempts("test_two_deep")
    assert found.what == "connect 198.51.100.7:443/tcp"


def test_workers_inside(fenced: Fenced) -> None:
    """An inner run with workers of its own, and an inner run inside a worker."""
    run = fenced.run(
        HELPERS
        + """
def test_inner_workers(inner):
    result = inner.runpytest_subprocess("-p", "xdist.plugin", *FLAGS, "-n2")
    result.assert_outcomes(failed=1, passed=3)
    result.stdout.fnmatch_lines(["*inside another fence*"])

def test_inner_process(inner):
    result = inner.runpytest_subprocess(*FLAGS)
    result.assert_outcomes(failed=1, passed=3)
""",
        "-n2",
        plugins=["xdist.plugin"],
    )
    for test in "test_inner_workers", "test_inner_process":
        assert {v.what for v in run.attempts(test)} == {"connect 198.51.100.7:443/tcp"}, run
        assert "assert_outcomes" not in run.report(test)["text"], run.report(test)["text"]


def test_in_process_in_an_unfenced_session(fenced: Fenced) -> None:
    """That would put the fence around the outer session: a usage error that names the way out."""
    run = fenced.run(
        HELPERS
        + """
def test_it(inner):
    result = inner.runpytest_inprocess(*FLAGS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*runpytest_subprocess*"])

def test_not_enclosed():
    assert FILTERS in pathlib.Path("/proc/self/status").read_text()
"""
        + f"FILTERS = {filters(fenced=False)!r}\n",
        flags=(),
    )
    assert run.status == 0, run
