"""Ways to start pytest: each works as without a fence, or is a usage error that says what to do instead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.end_to_end.support import Runs, assert_same, filters, is_fenced

FENCED, OPEN = (
    f"""
    import os

    def test_fenced():
        with open("/proc/self/status") as status:
            assert {filters(fenced=fenced)!r} in status.read()
"""
    for fenced in (True, False)
)


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        (directory / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")


THREADED = '''
    """A plugin that starts a thread when it is imported, as many do that report somewhere."""
    import atexit, concurrent.futures, queue, sys, threading

    work = queue.Queue()
    done = []

    def consume():
        for item in iter(work.get, None):
            done.append(item)
            work.task_done()

    thread = threading.Thread(target=consume, name="reporter", daemon=True)
    thread.start()
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.submit(int).result()

    def pytest_runtest_logreport(report):
        work.put(report.nodeid)

    def pytest_sessionfinish():
        work.join()
        print(f"delivered {len(done)}, pool says {pool.submit(int, '7').result(10)}")
'''


class TestThreadsOfPlugins:
    """A fork would lose them: the command is started once more, in a fence, from a clean process."""

    @pytest.mark.parametrize("command", ["python -m pytest", "pytest", "coverage run", "python options"])
    def test_threads_work(self, runs: Runs, command: str) -> None:
        """The same words, the same end, each thread there; in every way to start pytest."""
        write(runs.directory, threaded=THREADED, test_it=FENCED, test_open="def test(tmp_path): pass")
        script = os.path.join(os.path.dirname(sys.executable), "pytest")
        words = {
            "python -m pytest": [sys.executable, "-m", "pytest"],
            "pytest": [script],
            "coverage run": [sys.executable, "-m", "coverage", "run", "-m", "pytest"],
            "python options": [sys.executable, "-W", "error", "-X", "dev", "-u", "-m", "pytest"],
        }[command]
        arguments = ["-s", "-rA", "-p", "pytest_fence.plugin", "-p", "threaded", "-p", "no:cacheprovider"]
        env = {"PYTHONPATH": str(runs.directory)}
        plain = runs.command(*words, *arguments, "-k", "test_open", env=env)
        fenced = runs.command(*words, *arguments, "--fence", "-k", "test_open", env=env)
        assert plain.status == 0, plain
        assert_same(plain, fenced)
        assert "delivered 3, pool says 7" in fenced.out
        ended = runs.command(*words, *arguments, "--fence", env=env)
        assert ended.status == 0, ended
        assert "delivered 6" in ended.out
        if command == "coverage run":
            assert len(list(runs.directory.glob(".coverage*"))) == 1

    def test_signals_and_input(self, runs: Runs) -> None:
        """Standard input is the user's; a signal for the process the user started reaches the tests."""
        write(
            runs.directory,
            threaded=THREADED,
            test_it="""
            import os, sys, time

            def test_reads():
                assert sys.stdin.readline() == "typed\\n"

            def test_waits():
                os.write(1, b"ready\\n"), [time.sleep(0.01) for _ in range(6000)]
            """,
        )
        process = runs.start(
            runs.argv(["-s", "-p", "threaded"], fenced=True),
            stdin=subprocess.PIPE,
            env={"PYTHONPATH": str(runs.directory)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("typed\n")
        process.stdin.flush()
        for line in process.stdout:
            if "ready" in line:
                break
        assert not is_fenced(process.pid)
        process.send_signal(signal.SIGINT)
        ended = runs.finish(process)
        assert ended.status == 2, ended
        ended.has("delivered 4", "KeyboardInterrupt")

    def test_a_violation_is_reported(self, runs: Runs) -> None:
        """Plugins are inside this time: what they do at import is reported, too."""
        write(
            runs.directory,
            threaded=textwrap.dedent(THREADED)
            + "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 80), 5)\nexcept OSError: pass\n",
            test_it="def test(): pass",
        )
        ended = runs.pytest("-p", "threaded", env={"PYTHONPATH": str(runs.directory)})
        assert ended.status == 1
        ended.has("^starting", "connect 192.0.2.1:80/tcp")

    def test_a_usage_error_in_a_script(self, runs: Runs) -> None:
        """There a new start would run the script again."""
        write(
            runs.directory,
            test_it=FENCED,
            script="""
            import sys, threading, time, pytest
            threading.Thread(target=time.sleep, args=(60,), name="mine", daemon=True).start()
            print("status", int(pytest.main(["--fence", "-p", "pytest_fence.plugin"])))
            """,
        )
        ended = runs.command(sys.executable, "script.py")
        ended.has("^status 4$")
        assert "another thread is running: mine" in ended.err
        assert "Traceback" not in ended.err


class TestScripts:
    def test_main_in_a_script(self, runs: Runs) -> None:
        """The script goes on with the session's state, its buffers and its exit status, inside the fence."""
        write(
            runs.directory,
            test_it=FENCED + "        os.write(1, b'written\\n')\n",
            script="""
            import sys, pytest
            class Plugin:
                count = 0
                def pytest_runtest_call(self): self.count += 1
            plugin = Plugin()
            sys.stdout.write("before ")
            status = pytest.main(["--fence", "-q", "-s", "-p", "pytest_fence.plugin"], plugins=[plugin])
            print("after", int(status), plugin.count)
            sys.exit(40 + plugin.count)
            """,
        )
        ended = runs.command(sys.executable, "script.py")
        assert ended.status == 41, ended
        assert ended.out.count("before") == ended.out.count("after 0 1") == 1

    def test_main_twice(self, runs: Runs) -> None:
        """The second session runs inside the fence of the first."""
        write(
            runs.directory,
            test_it=FENCED,
            test_bad="def test(): open('/etc/fence-test', 'w')",
            script="""
            import pytest
            arguments = ["--fence", "-q", "-p", "pytest_fence.plugin", "-p", "no:cacheprovider"]
            print([int(pytest.main([*arguments, name])) for name in ("test_it.py", "test_bad.py", "test_it.py")])
            """,
        )
        ended = runs.command(sys.executable, "script.py")
        ended.has(r"^\[0, 1, 0\]$")
        assert not os.path.exists("/etc/fence-test")

    @pytest.mark.parametrize(
        ("obstacle", "named"),
        [
            ("threading.Thread(target=run).start()", "not the main thread"),
            ("child = subprocess.Popen(['sleep', '60']); run(); child.kill(), child.wait()", "a child process exists"),
        ],
        ids=["from a thread", "with a child"],
    )
    def test_usage_errors(self, runs: Runs, obstacle: str, named: str) -> None:
        """A fork would lose the child's exit status, and the session's thread: neither happens silently."""
        write(
            runs.directory,
            test_it=FENCED,
            script=f"""
            import subprocess, threading, pytest
            def run():
                print("status", int(pytest.main(["--fence", "-p", "pytest_fence.plugin"])))
            {obstacle}
            """,
        )
        ended = runs.command(sys.executable, "script.py")
        assert ended.status == 0
        ended.has("^status 4$")
        assert named in ended.err
        assert "python -m pytest" in ended.err
        assert "Traceback" not in ended.err

    def test_in_process_in_an_open_session(self, pytester: pytest.Pytester, runs: Runs) -> None:
        """pytester's runpytest_inprocess("--fence") would fence the outer session: refused, with the way out."""
        pytester.makeconftest("pytest_plugins = ['pytester']")
        write(
            runs.directory,
            test_it=OPEN
            + """
    def test_inner(pytester):
        pytester.makepyfile("def test(): pass")
        result = pytester.runpytest_inprocess("--fence", "-p", "pytest_fence.plugin")
        assert result.ret == 4
        result.stderr.fnmatch_lines("*runpytest_subprocess*")
        assert pytester.runpytest_subprocess("--fence", "-p", "pytest_fence.plugin").ret == 0

    def test_still_open():
        test_fenced()
""",
        )
        ended = runs.pytest("-q", fenced=False)
        assert ended.status == 0, ended


class TestSwitches:
    def test_environment_decides_nothing(self, runs: Runs) -> None:
        """Whatever variables are set: fenced when asked for, not when not."""
        names = ("FENCED", "FENCE", "PYTEST_FENCE", "FENCE_ACTIVE", "FENCE_CONTROL", "PYTEST_XDIST_WORKER", "IN_FENCE")
        env = dict.fromkeys(names, "1") | {"PYTEST_XDIST_TESTRUNUID": "x"}
        write(runs.directory, test_fenced=FENCED, test_open=OPEN)
        assert runs.pytest("-q", "test_fenced.py", env=env).status == 0
        assert runs.pytest("-q", "test_open.py", env=env, fenced=False).status == 0

    def test_flags_and_configuration(self, runs: Runs) -> None:
        """`enabled = true` needs no flag; --no-fence beats both."""
        write(runs.directory, test_fenced=FENCED, test_open=OPEN)
        assert runs.pytest("-q", "--no-fence", "test_open.py").status == 0
        (runs.directory / "pyproject.toml").write_text("[tool.fence]\nenabled = true\n")
        ended = runs.pytest("test_fenced.py", fenced=False)
        assert ended.status == 0, ended
        ended.has(r"^fence: enforce; .*pyproject.toml \[tool.fence\]$")
        ended = runs.pytest("--no-fence", "test_open.py")
        assert ended.status == 0
        ended.has("^fence: off")
        (runs.directory / "pyproject.toml").write_text("[tool.fence]\nenabled = false\n")
        assert runs.pytest("-q", "test_open.py", fenced=False).status == 0

    @pytest.mark.parametrize("flag", [True, False], ids=["--fence", "enabled"])
    def test_two_sources(self, runs: Runs, flag: bool) -> None:
        """Two policies: neither is chosen; the message names both."""
        write(runs.directory, test_it=FENCED)
        (runs.directory / "pyproject.toml").write_text("[tool.fence]\nenabled = true\n")
        (runs.directory / "fence.json").write_text("{}")
        ended = runs.pytest("-q", fenced=flag)
        assert (ended.status, ended.out) == (4, "")
        assert "pyproject.toml" in ended.err
        assert "fence.json" in ended.err
        assert "Traceback" not in ended.err
        assert runs.pytest("-q", "--fence-config=fence.json").status == 0

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("pyproject.toml", "[tool.fence\n"),
            ("pyproject.toml", "[tool.fence]\nallow_wriet = []\nmode = 3\nallowed_domains = 'x'\n"),
            ("fence.json", "{"),
            ("fence.json", "[]"),
            ("fence.yaml", "a: [\n"),
            ("fence.yaml", "filesystem:\n  allow_write: 3\n"),
            ("fence.json", '\xff"'),
        ],
    )
    def test_broken_configuration(self, runs: Runs, name: str, text: str) -> None:
        """One clear message with the file's name, exit status 4, no traceback, and no test is run."""
        write(runs.directory, test_it="def test(): open('ran', 'w')")
        (runs.directory / name).write_bytes(text.encode("latin-1"))
        ended = runs.pytest("-q")
        assert ended.status == 4, ended
        assert name in ended.err, ended
        assert "Traceback" not in ended.err + ended.out
        assert not (runs.directory / "ran").exists()

    def test_all_problems_at_once(self, runs: Runs) -> None:
        write(runs.directory, test_it=FENCED)
        (runs.directory / "fence.json").write_text(
            '{"network": {"allowedDomain": []}, "filesystem": {"allowWrite": 3}, "mode": "x"}'
        )
        ended = runs.pytest("-q")
        assert ended.status == 4
        for word in ("allowedDomain", "allowWrite", "mode"):
            assert word in ended.err, ended

    def test_a_file_that_cannot_be_read(self, runs: Runs) -> None:
        write(runs.directory, test_it=FENCED)
        (runs.directory / "fence.json").mkdir()
        ended = runs.pytest("-q")
        assert ended.status == 4, ended
        assert "fence.json" in ended.err
        ended = runs.pytest("-q", "--fence-config=nowhere.toml")
        assert ended.status == 4
        assert "nowhere.toml" in ended.err
        assert "Traceback" not in ended.err

    def test_a_missing_layer(self, runs: Runs) -> None:
        """--fence-require names a layer that there is not: a usage error that lists those there are."""
        write(runs.directory, test_it=FENCED)
        ended = runs.pytest("-q", "--fence-require=moat")
        assert ended.status == 4
        assert "moat" in ended.err
        assert "seccomp" in ended.err


class TestInterpreterOptions:
    @pytest.mark.parametrize(
        "options", ["-W error -X dev", "-bb -B", "-I", "-u -X importtime -X faulthandler", "-P -s -X utf8=0 -q"]
    )
    def test_options(self, runs: Runs, options: str) -> None:
        """Whatever the interpreter was started with; warnings of ours would end the first of these."""
        if "-P" in options and sys.version_info < (3, 11):
            options = options.replace("-P ", "")
        write(runs.directory, test_it=FENCED)
        (runs.directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
        words = [sys.executable, *options.split(), "-m", "pytest", "-p", "pytest_fence.plugin", "-q", "--fence"]
        ended = runs.command(*words)
        assert ended.status == 0, ended
        if "importtime" not in options:
            assert ended.err == ""

    def test_warnings_are_errors(self, runs: Runs) -> None:
        """A suite with `filterwarnings = error`, refused calls included, sees no warning of ours in enforce mode."""
        write(
            runs.directory,
            test_it="""
            import gc, socket, pytest

            def test_clean(tmp_path):
                (tmp_path / "x").touch()
                gc.collect()

            def test_refused():
                with socket.socket() as client, pytest.raises(OSError):
                    client.connect(("192.0.2.1", 80))
                gc.collect()
            """,
        )
        (runs.directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
        ended = runs.command(sys.executable, "-W", "error", *runs.argv(["-rA"], fenced=True)[1:])
        assert ended.outcomes() == ["FAILED test_it.py::test_refused", "PASSED test_it.py::test_clean"], ended
        assert "Warning" not in ended.out + ended.err
