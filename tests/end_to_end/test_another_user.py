"""Root that starts programs as another user, as a suite does that starts PostgreSQL: also in a container, where it has
no CAP_SYS_PTRACE, and the kernel lets it look into processes of its own user only.
"""

from __future__ import annotations

import textwrap

import pytest

from tests.end_to_end.support import Runs

pytestmark = pytest.mark.needs("user:root", "program:bash", "program:touch")

# What a container takes away: from the bounding set, and so from what it executes (capabilities(7)).
LESS = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(24, 19, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_SYS_PTRACE
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
TESTS = """
    import os, shutil, socket, subprocess, tempfile
    import pytest

    NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}

    @pytest.fixture
    def place():
        made = tempfile.mkdtemp()
        os.chmod(made, 0o777)
        yield made
        shutil.rmtree(made)

    def run(script, **who):
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, **(who or NOBODY)).stdout.split()

    def test_files(place):
        made = run(f"cd {place}; id -u; mkdir a; cd a; touch b; mv b c; ls; (touch d); cat /proc/self/comm")
        assert made == ["65534", "c", "cat"]
        assert os.stat(f"{place}/a/c").st_uid == 65534

    def test_socket():
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            told = run(f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected")
        assert told == ["connected"]

    def test_forbidden(place):
        assert run(f"mkdir {place}/x; mkdir {place}/forbidden; echo end") == ["end"]

    def test_forbidden_socket():
        assert run("exec 3<>/dev/tcp/192.0.2.1/80 && echo connected") == []

    def test_root_again(place):
        assert run(f"id -u; touch {place}/own", user=0) == ["0"]
        with open(f"{place}/own", "w") as file:
            file.write("x")
"""


@pytest.mark.parametrize("less", [False, True], ids=["root", "root in a container"])
def test_another_user(runs: Runs, less: bool) -> None:
    (runs.directory / "test_it.py").write_text(textwrap.dedent(TESTS), encoding="utf-8")
    (runs.directory / "pyproject.toml").write_text('[tool.fence]\ndeny_write = ["/tmp/**/forbidden"]\n')
    (runs.directory / "less.py").write_text(LESS, encoding="utf-8")
    python, *rest = runs.argv(["-rA", "-p", "no:cacheprovider"], fenced=True)
    ended = runs.command(python, *(["less.py"] if less else []), *rest, env={"TMPDIR": "/tmp"})
    assert ended.status == 1, ended
    assert ended.outcomes() == [
        "FAILED test_it.py::test_forbidden",
        "FAILED test_it.py::test_forbidden_socket",
        "PASSED test_it.py::test_files",
        "PASSED test_it.py::test_root_again",
        "PASSED test_it.py::test_socket",
    ], ended
    ended.has(r"mkdir .*/forbidden", r"connect 192\.0\.2\.1:80/tcp", "2 violations in 2 tests")
    assert "cannot inspect" not in ended.out
