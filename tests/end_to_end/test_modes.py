"""enforce, warn and audit, and what switches the fence on and off.

What audit lets through goes no further than this machine here: the tests only break rules about loopback and files.
"""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced

BREAKS_RULES = """
import pathlib, socket
import pytest
from here import HELLO, OUTSIDE, PORT

def test_connect():
    try:
        with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:
            print("got", s.recv(99))
    except PermissionError:
        print("refused")

def test_write():
    try:
        pathlib.Path(OUTSIDE, "new").write_text("x")
    except PermissionError:
        print("refused")

def test_bind():
    try:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            print("bound")
    except PermissionError:
        print("refused")

def test_control(tmp_path):
    (tmp_path / "new").write_text("x")
"""
POLICY = ONLY_HERE.replace("allow_local_binding = true", "allow_local_binding = false")
NAMES = ("test_connect", "test_write", "test_bind")


def test_enforce(fenced: Fenced) -> None:
    run = fenced.run(BREAKS_RULES, "-rA", policy=POLICY)
    run.refused("test_connect", f"connect 127.0.0.1:{fenced.loopback.hello}/tcp")
    run.refused("test_write", f"write {fenced.outside}/new")
    run.refused("test_bind", "bind 127.0.0.1:0/tcp")
    run.clean("test_control")
    assert fenced.untouched()
    assert run.out.count("refused\n") >= 3
    run.has("^fence: enforce; ", "3 failed, 1 passed")


@pytest.mark.parametrize("how", ["flag", "config"])
def test_warn(fenced: Fenced, how: str) -> None:
    """Refused all the same, but as a warning."""
    args = ["--fence-mode=warn"] if how == "flag" else []
    policy = POLICY + ('mode = "warn"\n' if how == "config" else "")
    run = fenced.run(BREAKS_RULES, "-rA", *args, policy=policy)
    for name in NAMES:
        assert run.report(name)["outcome"] == "passed"
        (found,) = run.attempts(name)
        assert found.state == "warned"
    run.clean("test_control")
    assert fenced.untouched()
    assert run.status == 0
    run.has("^fence: warn; ", "4 passed, 3 warnings", "FenceWarning: connect 127.0.0.1", "FenceWarning: write ")
    run.has(r"allows it \(preset [\w-]+, pyproject.toml \[tool.fence\]\)")
    assert "--fence-mode" not in run.out  # it holds no rule


def test_warn_with_filters(fenced: Fenced) -> None:
    errors = fenced.run(BREAKS_RULES, "--fence-mode=warn", "-W", "error::pytest_fence.FenceWarning", policy=POLICY)
    errors.has("3 failed, 1 passed")
    assert errors.status == 1
    ignored = fenced.run(None, "--fence-mode=warn", "-W", "ignore::pytest_fence.FenceWarning", policy=POLICY)
    assert ignored.status == 0
    assert "FenceWarning" not in ignored.out
    assert {v.nodeid.partition("::")[2] for v in ignored.ledger} == set(NAMES)


def test_audit(fenced: Fenced) -> None:
    """Let through, and listed."""
    run = fenced.run(BREAKS_RULES, "-rA", "--fence-mode=audit", policy=POLICY)
    for name in NAMES:
        assert run.report(name)["outcome"] == "passed"
        (found,) = run.attempts(name)
        assert (found.state, found.plain["errno"]) == ("listed", 0)
    run.clean("test_control")
    assert fenced.untouched(new="x")
    assert run.status == 0
    assert "refused\n" not in run.out.replace("nothing was refused", "")
    run.has("^fence: audit; ", "^got b'hello from loopback", "^bound", r"fence: 3 notes \(audit", "let through")


def test_enabled_by_config(fenced: Fenced) -> None:
    run = fenced.run(BREAKS_RULES, policy=POLICY + "enabled = true\n", flags=())
    assert run.status == 1
    assert {v.nodeid.partition("::")[2] for v in run.ledger} == set(NAMES)


def test_switched_off(fenced: Fenced) -> None:
    """--no-fence beats all."""
    run = fenced.run(BREAKS_RULES, "-rA", policy=POLICY + "enabled = true\n", flags=("--fence", "--no-fence"))
    assert run.status == 0
    assert fenced.untouched(new="x")
    run.has(r"^fence: off \(--no-fence\)", "4 passed")
    (fenced.outside / "new").unlink()
    plain = fenced.run(BREAKS_RULES, "-rA", policy=POLICY, flags=())
    assert plain.status == 0
    assert fenced.untouched(new="x")
    assert "fence:" not in plain.out


def test_another_config(fenced: Fenced) -> None:
    fenced.write("strict.json", '{"extends": "default-deny", // a comment\n"network": {"allowLocalBinding": true}}')
    fenced.write("tests.toml", POLICY)
    run = fenced.run(BREAKS_RULES, "--fence-config=tests.toml")
    assert {v.nodeid.partition("::")[2] for v in run.ledger} == set(NAMES)
    run.has("tests.toml")
    missing = fenced.run(None, "--fence-config=missing.toml")
    assert missing.status == 4
    assert "missing.toml" in missing.err
    assert missing.reports == []


def test_required_layers(fenced: Fenced) -> None:
    good = fenced.run(BREAKS_RULES, "--fence-require=seccomp", "-k", "control", policy=POLICY)
    assert good.status == 0
    bad = fenced.run(None, "--fence-require=seccomp,moat", policy=POLICY)
    assert bad.status == 4
    assert "moat" in bad.err
    assert bad.reports == []


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("[tool.fence]\nallowed_domain = ['x.example']", ["allowed_domain", "pyproject.toml"]),
        ("[tool.fence]\nmode = 'loud'\nallow_write = 3", ["mode", "allow_write"]),
        ("[tool.fence]\nextends = 'nothing'", ["extends", "default-deny"]),
        ("[tool.fence\n", ["pyproject.toml"]),
    ],
)
def test_a_policy_that_cannot_be_used(fenced: Fenced, policy: str, words: list[str]) -> None:
    """A usage error with everything that is wrong, before any test or conftest is run."""
    run = fenced.run(
        "import pathlib; pathlib.Path('imported').touch()\ndef test_it(): pass",
        policy=policy,
        files={"conftest.py": "import pathlib; pathlib.Path('imported').touch()"},
    )
    assert run.status == 4
    for word in words:
        assert word in run.err, run
    assert not (fenced.directory / "imported").exists()


def test_two_configs(fenced: Fenced) -> None:
    fenced.write("fence.json", "{}")
    run = fenced.run(BREAKS_RULES, policy=POLICY)
    assert run.status == 4
    assert "fence.json" in run.err
    assert "pyproject.toml" in run.err
