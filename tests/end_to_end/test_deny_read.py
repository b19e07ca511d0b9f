"""`deny_read`: what it names cannot be read, by whatever name, call, thread or program."""

from __future__ import annotations

import os

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced


def denying(*paths: object, more: str = "") -> str:
    listed = ", ".join(f'"{path}"' for path in paths)
    return f"{ONLY_HERE}deny_read = [{listed}]\n{more}"


def put_secrets(fenced: Fenced) -> None:
    """Outside: a file that is denied by name, one in a denied directory, and one that may be read."""
    (fenced.outside / "secret").write_text("hunter2")
    (fenced.outside / "open").write_text("all may")
    (fenced.outside / "private").mkdir()
    (fenced.outside / "private" / "key").write_text("hunter2")


def test_ways_to_a_file(fenced: Fenced) -> None:
    """Each way leads to the open file as it does without a fence, and to the secret one not at all."""
    put_secrets(fenced)
    os.link(fenced.outside / "secret", fenced.outside / "old_name")
    os.link(fenced.outside / "open", fenced.outside / "open_too")
    run = fenced.run(
        """
        import os, subprocess, sys, threading
        import pytest
        from here import OUTSIDE

        def text(fd):
            with open(fd) as file:
                return file.read()

        def relative(path, tmp_path):
            os.chdir(OUTSIDE)
            return text(os.path.basename(path))

        def at(path, tmp_path):
            directory = os.open(OUTSIDE, os.O_RDONLY | os.O_DIRECTORY)
            return text(os.open(os.path.basename(path), os.O_RDONLY, dir_fd=directory))

        def linked(path, tmp_path):
            (tmp_path / "link").symlink_to(path)
            return text(tmp_path / "link")

        def linked_directory(path, tmp_path):
            (tmp_path / "link").symlink_to(OUTSIDE)
            return text(tmp_path / "link" / os.path.basename(path))

        def reopened(path, tmp_path):
            return text(f"/proc/self/fd/{os.open(path, os.O_PATH)}")

        def dev_fd(path, tmp_path):
            return text(f"/dev/fd/{os.open(path, os.O_PATH)}")

        def directory_fd(path, tmp_path):
            return text(f"/proc/self/fd/{os.open(OUTSIDE, os.O_PATH)}/{os.path.basename(path)}")

        def cwd(path, tmp_path):
            os.chdir(OUTSIDE)
            return text(f"/proc/self/cwd/{os.path.basename(path)}")

        def in_thread(path, tmp_path):
            found = []
            def work():
                try:
                    found.append(text(path))
                except OSError as error:
                    found.append(error)
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            if isinstance(found[0], OSError):
                raise found[0]
            return found[0]

        def cat(path, tmp_path):
            done = subprocess.run(["cat", path], capture_output=True, text=True)
            if done.returncode:
                assert "Permission denied" in done.stderr, done.stderr
                raise PermissionError
            return done.stdout

        WAYS = {
            "direct": lambda path, tmp_path: text(path),
            "dots": lambda path, tmp_path: text(f"{OUTSIDE}/private/../{os.path.basename(path)}"),
            "root": lambda path, tmp_path: text(f"/proc/self/root{path}"),
            "thread root": lambda path, tmp_path: text(f"/proc/thread-self/root{path}"),
            "nofollow": lambda path, tmp_path: text(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)),
            "create": lambda path, tmp_path: text(os.open(path, os.O_RDONLY | os.O_CREAT)),
            "relative": relative, "at": at, "linked": linked, "linked directory": linked_directory,
            "reopened": reopened, "dev fd": dev_fd, "directory fd": directory_fd, "cwd": cwd, "thread": in_thread,
            "cat": cat,
        }

        @pytest.fixture(autouse=True)
        def back():
            here = os.getcwd()
            yield
            os.chdir(here)

        @pytest.mark.parametrize("way", WAYS)
        def test_secret(way, tmp_path):
            with pytest.raises(PermissionError):
                WAYS[way](f"{OUTSIDE}/secret", tmp_path)

        @pytest.mark.parametrize("way", WAYS)
        def test_open(way, tmp_path):
            assert WAYS[way](f"{OUTSIDE}/open", tmp_path) == "all may"

        def test_in_directory():
            with pytest.raises(PermissionError):
                text(f"{OUTSIDE}/private/key")

        def test_list_directory():
            with pytest.raises(PermissionError):
                os.listdir(f"{OUTSIDE}/private")

        def test_hard_link():
            with pytest.raises(PermissionError):
                text(f"{OUTSIDE}/old_name")
            assert text(f"{OUTSIDE}/open_too") == "all may"

        def test_what_stays(tmp_path):
            assert os.stat(f"{OUTSIDE}/secret").st_size == 7
            with pytest.raises(FileNotFoundError):
                text(f"{OUTSIDE}/private/missing")
            with pytest.raises(NotADirectoryError):
                os.open(f"{OUTSIDE}/open", os.O_RDONLY | os.O_DIRECTORY)
            with pytest.raises(NotADirectoryError):
                text(f"{OUTSIDE}/secret/x")
        """,
        policy=denying(fenced.outside / "secret", fenced.outside / "private"),
    )
    ways = [
        "direct", "dots", "root", "thread root", "nofollow", "create", "relative", "at", "linked", "linked directory",
        "reopened", "dev fd", "directory fd", "cwd", "thread", "cat",
    ]  # fmt: skip
    for way in ways:
        run.refused(f"test_secret[{way}]", f"read {fenced.outside}/secret", by=("cat",) if way == "cat" else ())
        run.clean(f"test_open[{way}]")
    run.refused("test_in_directory", f"read {fenced.outside}/private/key")
    run.refused("test_list_directory", f"read {fenced.outside}/private")
    run.refused("test_hard_link", f"read {fenced.outside}/secret")
    run.clean("test_what_stays")
    assert "hunter2" not in run.out


def test_names_that_the_test_could_give(fenced: Fenced) -> None:
    """In the run's own directory, where everything may be written: moved, linked, removed while it is held."""
    fenced.write("data/secret", "hunter2")
    fenced.write("data/open", "all may")
    run = fenced.run(
        """
        import os, pathlib
        import pytest

        HERE = pathlib.Path(__file__).parent

        def test_rename(tmp_path):
            with pytest.raises(PermissionError):
                os.rename(HERE / "data/secret", tmp_path / "x")

        def test_parent(tmp_path):
            with pytest.raises(PermissionError):
                os.rename(HERE / "data", HERE / "moved")

        def test_link(tmp_path):
            with pytest.raises(PermissionError):
                os.link(HERE / "data/secret", tmp_path / "x")

        def test_read_and_write():
            with pytest.raises(PermissionError):
                open(HERE / "data/secret", "r+")

        def test_removed():
            held = os.open(HERE / "data/secret", os.O_PATH)
            os.unlink(HERE / "data/secret")
            with pytest.raises(PermissionError):
                open(f"/proc/self/fd/{held}").read()

        def test_others(tmp_path):
            held = os.open(HERE / "data/open", os.O_PATH)
            os.link(HERE / "data/open", tmp_path / "linked")
            os.rename(HERE / "data/open", tmp_path / "x")
            os.unlink(tmp_path / "x")
            os.unlink(tmp_path / "linked")
            assert open(f"/proc/self/fd/{held}").read() == "all may"
        """,
        policy=denying("data/secret"),
    )
    secret = f"{fenced.directory}/data/secret"
    for test in ("test_rename", "test_parent", "test_link"):
        assert len(run.attempts(test)) == 1, run
        assert run.report(test)["outcome"] == "failed", run
    for test in ("test_read_and_write", "test_removed"):
        run.refused(test, f"read {secret}")
    run.clean("test_others")


def test_programs(fenced: Fenced) -> None:
    """Whoever runs a file has read it."""
    for name in ("tool", "open_tool"):
        path = fenced.outside / name
        path.write_text("#!/bin/sh\necho hunter2\n")
        path.chmod(0o755)
    run = fenced.run(
        """
        import os, subprocess
        import pytest
        from here import OUTSIDE

        def test_run():
            with pytest.raises(PermissionError):
                subprocess.run([f"{OUTSIDE}/tool"])

        def test_by_descriptor():
            fd = os.open(f"{OUTSIDE}/tool", os.O_PATH)
            child = os.fork()
            if child == 0:
                try:
                    os.execve(fd, ["tool"], {})
                except PermissionError:
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

        def test_other():
            assert subprocess.run([f"{OUTSIDE}/open_tool"], capture_output=True).stdout == b"hunter2\\n"
        """,
        policy=denying(fenced.outside / "tool"),
    )
    for test in ("test_run", "test_by_descriptor"):
        (attempt,) = run.attempts(test)
        assert (attempt.what, attempt.plain["kind"]) == (f"run {fenced.outside}/tool", "run"), run
    run.clean("test_other")


def test_markers(fenced: Fenced) -> None:
    """With `watch_reads` a marker may deny; the test beside it reads."""
    put_secrets(fenced)
    test = """
        import pytest
        from here import OUTSIDE

        @pytest.mark.fence(deny_read=[f"{OUTSIDE}/secret"])
        def test_denied():
            with pytest.raises(PermissionError):
                open(f"{OUTSIDE}/secret")

        def test_free():
            assert open(f"{OUTSIDE}/secret").read() == "hunter2"
        """
    run = fenced.run(test, policy=ONLY_HERE + "watch_reads = true\n")
    run.refused("test_denied", f"read {fenced.outside}/secret")
    run.clean("test_free")


def test_a_nested_session_where_nothing_is_watched(fenced: Fenced) -> None:
    """It cannot keep its rule, so it does not run; inside one that watches it does, and keeps it."""
    put_secrets(fenced)
    fenced.write("inner/pyproject.toml", f'[tool.fence]\ndeny_read = ["{fenced.outside}/secret"]\n')
    fenced.write(
        "inner/test_inner.py",
        f"""
        import pytest

        def test_it():
            with pytest.raises(PermissionError):
                open("{fenced.outside}/secret")
        """,
    )
    test = """
        import subprocess, sys

        def test_outer():
            argv = [sys.executable, "-m", "pytest", "-p", "pytest_fence.plugin", "--fence", "-p", "no:cacheprovider"]
            done = subprocess.run([*argv, "-s", "inner"], capture_output=True, text=True)
            print("inner:", done.returncode, done.stdout, done.stderr)
        """
    refused = fenced.run(test, "-s", "test_it.py", policy=ONLY_HERE)
    assert "inner: 4" in refused.out, refused
    assert "watch_reads = true" in refused.out
    kept = fenced.run(test, "-s", "test_it.py", policy=ONLY_HERE + "watch_reads = true\n")
    assert "inner: 1" in kept.out, kept
    assert f"read {fenced.outside}/secret" in kept.out


def test_a_marker_where_nothing_is_watched(fenced: Fenced) -> None:
    """Refused before any test runs, with what would help: a filter cannot be changed later."""
    run = fenced.run(
        """
        import pytest

        @pytest.mark.fence(deny_read=["/etc/shadow"])
        def test_it():
            open("ran", "w")
        """,
        policy=ONLY_HERE,
    )
    assert run.status == pytest.ExitCode.USAGE_ERROR, run
    assert "watch_reads = true" in run.out + run.err
    assert not (fenced.directory / "ran").exists()


@pytest.mark.parametrize("mode", ["warn", "audit"])
def test_modes(fenced: Fenced, mode: str) -> None:
    put_secrets(fenced)
    run = fenced.run(
        f"""
        from here import OUTSIDE

        def test_it():
            try:
                found = open(f"{{OUTSIDE}}/secret").read()
            except PermissionError:
                found = "refused"
            assert found == {"refused" if mode == "warn" else "hunter2"!r}
        """,
        f"--fence-mode={mode}",
        policy=denying(fenced.outside / "secret"),
    )
    assert run.status == 0, run
    assert [attempt.what for attempt in run.ledger] == [f"read {fenced.outside}/secret"]


def test_what_is_no_file_works_as_before(fenced: Fenced) -> None:
    """Pipes, terminals, devices and procfs, all of which the broker opens now."""
    put_secrets(fenced)
    run = fenced.run(
        """
        import os, pty, subprocess, threading

        def test_fifo(tmp_path):
            os.mkfifo(tmp_path / "pipe")
            got = []
            reader = threading.Thread(target=lambda: got.append(open(tmp_path / "pipe").read()))
            reader.start()
            with open(tmp_path / "pipe", "w") as pipe:
                pipe.write("through")
            reader.join()
            assert got == ["through"]
            os.close(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK))

        def test_terminal():
            master, slave = pty.openpty()
            again = os.open(os.ttyname(slave), os.O_RDONLY | os.O_NOCTTY)
            os.write(master, b"x\\n")
            assert os.read(again, 9) == b"x\\n"

        def test_devices():
            assert open("/dev/null").read() == ""
            assert len(open("/dev/urandom", "rb").read(3)) == 3

        def test_procfs():
            assert f"Pid:\\t{os.getpid()}\\n" in open("/proc/self/status").read()
            assert f"Pid:\\t{os.getpid()}\\n" in open("/proc/thread-self/status").read()
            assert open("/proc/1/stat").read().startswith("1 ")
            assert str(os.getpid()) in os.listdir("/proc")

        def test_flags(tmp_path):
            (tmp_path / "x").write_text("x")
            fd = os.open(tmp_path / "x", os.O_RDONLY | os.O_CLOEXEC)
            assert os.get_blocking(fd) and not os.get_inheritable(fd)
            fd = os.open(tmp_path / "x", os.O_RDONLY | os.O_NONBLOCK)
            assert not os.get_blocking(fd)

        def test_own_pipe():
            ours, theirs = os.pipe()
            os.write(theirs, b"x")
            assert os.read(os.open(f"/proc/self/fd/{ours}", os.O_RDONLY | os.O_NONBLOCK), 9) == b"x"

        def test_programs():
            assert subprocess.run(["sh", "-c", "cat < /dev/null; echo fine"], capture_output=True).stdout == b"fine\\n"
        """,
        policy=denying(fenced.outside / "secret", more="allow_pty = true\n"),
    )
    run.clean(
        "test_fifo", "test_terminal", "test_devices", "test_procfs", "test_flags", "test_own_pipe", "test_programs"
    )


def test_a_path_that_changes_during_the_call(fenced: Fenced) -> None:
    """A thread swaps the name between what may be read and what may not: the secret is never seen."""
    put_secrets(fenced)
    run = fenced.run(
        """
        import ctypes, os, threading
        from here import OUTSIDE

        ROUNDS = 10_000

        def test_race():
            libc = ctypes.CDLL(None)
            path = ctypes.create_string_buffer(f"{OUTSIDE}/secret".encode())
            names = [f"{OUTSIDE}/{name}".encode() + b"\\0" for name in ("secret", "open")]
            done = False

            def swap():
                while not done:
                    for name in names:
                        ctypes.memmove(path, name, len(name))

            thread = threading.Thread(target=swap)
            thread.start()
            seen = set()
            try:
                for _ in range(ROUNDS):
                    fd = libc.open(path, os.O_RDONLY)
                    if fd >= 0:
                        seen.add(os.read(fd, 99))
                        os.close(fd)
            finally:
                done = True
                thread.join()
            assert seen == {b"all may"}
        """,
        policy=denying(fenced.outside / "secret"),
    )
    run.refused("test_race", f"read {fenced.outside}/secret", count=None)


def test_processes_of_the_fence_show_each_other_what_they_do(fenced: Fenced) -> None:
    """What procfs has of the test process a program that it starts may read, as it can without rules on reading."""
    run = fenced.run(
        """
        import os, subprocess

        def test_it():
            shown = subprocess.run(["cat", f"/proc/{os.getpid()}/maps"], capture_output=True, text=True)
            assert "[stack]" in shown.stdout, shown.stderr
        """,
        policy=denying(fenced.outside / "secret"),
    )
    run.clean("test_it")
