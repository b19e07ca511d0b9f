"""`env_deny`: what it names is nowhere that a test could look, in no process inside or outside of the fence."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import ONLY_HERE, ROOT, Fenced

SECRETS = {"PROBE_TOKEN": "hunter2", "PROBE_KEY_A": "hunter2", "PROBE_PLAIN": "may be seen"}
POLICY = ONLY_HERE + 'env_deny = ["*_TOKEN", "PROBE_KEY_?"]\n'

LOOK = """
    import ctypes, os, posix, subprocess, sys

    NAMES = ("PROBE_TOKEN", "PROBE_KEY_A")

    def getenv(name):
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_char_p
        return libc.getenv(name.encode())

    def environ(pid):
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()

    def test_here():
        for name in NAMES:
            assert name not in os.environ
            assert name.encode() not in os.environb
            assert name.encode() not in posix.environ
            assert getenv(name) is None
        assert b"hunter2" not in environ("self")
        assert b"PROBE_TOKEN" not in environ("self")

    def test_what_stays():
        assert os.environ["PROBE_PLAIN"] == "may be seen"
        assert getenv("PROBE_PLAIN") == b"may be seen"
        assert b"\\0PROBE_PLAIN=may be seen\\0" in b"\\0" + environ("self")
        assert getenv("PATH") and getenv("HOME")

    def test_children():
        shown = subprocess.run(["env"], capture_output=True, check=True).stdout
        assert b"hunter2" not in shown and b"PROBE_TOKEN" not in shown
        assert b"PROBE_PLAIN=may be seen" in shown
        child = os.fork()
        if child == 0:
            os._exit(b"hunter2" in environ("self"))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_every_process():
        # The supervisor, guardian and witness, and what is outside: the pytest that started all this among them.
        readable = 0
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    found = environ(name)
                except OSError:
                    continue
                readable += 1
                assert b"hunter2" not in found, (name, open(f"/proc/{name}/cmdline").read())
        assert readable  # this process's own

    def test_those_outside():
        supervisor = os.getppid()
        with open(f"/proc/{supervisor}/stat") as file:
            outside = int(file.read().rpartition(")")[2].split()[1])
        for pid in (supervisor, outside):
            try:
                environ(pid)
            except PermissionError:
                continue
            raise AssertionError(f"the environment of {pid} can be read")

    def test_set_by_a_test(monkeypatch):
        monkeypatch.setenv("PROBE_TOKEN", "testing")
        assert subprocess.run(["sh", "-c", "echo $PROBE_TOKEN"], capture_output=True).stdout == b"testing\\n"
"""
TESTS = (
    "test_here",
    "test_what_stays",
    "test_children",
    "test_every_process",
    "test_those_outside",
    "test_set_by_a_test",
)


def test_nowhere(fenced: Fenced) -> None:
    run = fenced.run(LOOK, policy=POLICY, env=SECRETS)
    run.clean(*TESTS)
    assert run.status == 0, run
    run.has(r"^fence: withheld from the tests: PROBE_KEY_A, PROBE_TOKEN$")
    assert "hunter2" not in run.out + run.err


def test_off_by_default(fenced: Fenced) -> None:
    """The control: without the setting everything is there."""
    run = fenced.run(
        """
        import os

        def test_it():
            assert os.environ["PROBE_TOKEN"] == "hunter2"
            assert "PROBE_TOKEN=hunter2" in open("/proc/self/environ").read()
        """,
        policy=ONLY_HERE,
        env=SECRETS,
    )
    run.clean("test_it")
    assert "withheld" not in run.out


def test_started_anew(fenced: Fenced) -> None:
    """Beside a plugin's threads the command is started once more: what it was started with is gone as well."""
    fenced.write(
        "threaded.py",
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
    )
    run = fenced.run(
        LOOK, policy=POLICY, env={**SECRETS, "PYTHONPATH": f"{fenced.directory}:{ROOT}"}, plugins=["threaded"]
    )
    run.clean(*TESTS)
    run.has(r"^fence: withheld from the tests: PROBE_KEY_A, PROBE_TOKEN$")


def test_started_anew_without_what_it_needs(fenced: Fenced) -> None:
    """The rule is named with where it was written, which is not where the other rules come from."""
    fenced.write(
        "threaded.py",
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
    )
    run = fenced.run(
        LOOK,
        policy='[tool.fence]\nextends = "no-secrets"\nenv_deny = ["PYTHONP?TH", "NOTHING"]\n',
        env={**SECRETS, "PYTHONPATH": f"{fenced.directory}:{ROOT}"},
        plugins=["threaded"],
    )
    assert run.status == 4, run
    assert (
        '  pyproject.toml [tool.fence], line 3: env_deny: "PYTHONP?TH" takes PYTHONPATH away, and pytest has to be '
        "started once more because a plugin has started threads; accepted: "
    ) in run.err, run
    assert run.err.count("env_deny") == 1


def test_workers(fenced: Fenced) -> None:
    # A worker's parent is the controller, which is inside and shows its environment to it.
    chosen = ("-n2", "-k", "not test_those_outside")
    run = fenced.run(LOOK, *chosen, policy=POLICY, env=SECRETS, plugins=["xdist"])
    assert run.status == 0, run
    assert "5 passed" in run.out


def test_everything(fenced: Fenced) -> None:
    """The pattern of all is the user's to give: nothing of ours needs any of it."""
    run = fenced.run(
        """
        import os

        def test_it():
            assert set(os.environ) <= {"PYTEST_CURRENT_TEST", "PYTEST_VERSION", "COLUMNS", "LINES"}
            assert "PROBE_PLAIN" not in open("/proc/self/environ").read()
        """,
        policy=ONLY_HERE + 'env_deny = ["*"]\n',
        env={**SECRETS, "TMPDIR": None},
        flags=("--fence", "-s"),
    )
    assert "1 passed" in run.out, run


def test_an_audit_withholds_nothing(fenced: Fenced) -> None:
    run = fenced.run(
        "import os\ndef test_it(): assert os.environ['PROBE_TOKEN'] == 'hunter2'\n",
        "--fence-mode=audit",
        policy=POLICY,
        env=SECRETS,
    )
    run.clean("test_it")
    run.has(r"^fence: env_deny would withhold from the tests: PROBE_KEY_A, PROBE_TOKEN$")


def test_the_preset(fenced: Fenced) -> None:
    """`no-secrets`: a token, and a file that holds keys; what suites need is there."""
    home = fenced.outside
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text("hunter2")
    (home / ".gitconfig").write_text("[user]")
    run = fenced.run(
        """
        import os, pathlib
        import pytest

        def test_variables():
            assert "GITHUB_TOKEN" not in os.environ
            assert os.environ["AWS_REGION"] == "eu-central-1"

        def test_file():
            with pytest.raises(PermissionError):
                pathlib.Path("~/.aws/credentials").expanduser().read_text()

        def test_other_file(tmp_path):
            assert pathlib.Path("~/.gitconfig").expanduser().read_text() == "[user]"
            (tmp_path / "x").write_text("x")
        """,
        policy='[tool.fence]\nextends = "no-secrets"\n',
        env={"HOME": str(home), "GITHUB_TOKEN": "hunter2", "AWS_REGION": "eu-central-1"},
    )
    run.clean("test_variables", "test_other_file")
    run.refused("test_file", f"read {home}/.aws/credentials")
    run.has(r"^fence: withheld from the tests: .*GITHUB_TOKEN")


@pytest.mark.parametrize("pattern", ["A=B", " X"])
def test_what_is_no_name_is_refused(fenced: Fenced, pattern: str) -> None:
    run = fenced.run("def test_it(): pass", policy=f'{ONLY_HERE}env_deny = ["{pattern}"]\n')
    assert run.status == pytest.ExitCode.USAGE_ERROR, run
    assert "env_deny[0]" in run.err
