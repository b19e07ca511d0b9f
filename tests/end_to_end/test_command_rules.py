"""Rules for commands: whoever starts one, by whatever name, is refused; and nobody wins a race against that."""

from __future__ import annotations

import os
import textwrap

import pytest

from tests.end_to_end.caught import Fenced

MADE = """
    import ctypes, glob, os, pathlib, shutil, subprocess, sys
    import pytest

    TOUCH = shutil.which("touch")
    PLACES = ("/lib*/ld-linux*", "/lib/*/ld-linux*", "/lib/ld-musl*")
    LOADER = next(path for place in PLACES for path in sorted(glob.glob(place)))

    @pytest.fixture(autouse=True)
    def here(tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name, text in {
            "script": "#!/bin/sh\\nexec touch denied\\n", "shebang": f"#!{TOUCH} denied\\n", "twice": "#!./shebang\\n",
        }.items():
            pathlib.Path(name).write_text(text)
            os.chmod(name, 0o755)
        os.symlink(TOUCH, "link")
        shutil.copy(TOUCH, "copy")

    def run(*words, **more):
        try:
            return subprocess.run(words, capture_output=True, **more).returncode
        except PermissionError as error:
            assert error.errno == 1
            return 126

    def by_memfd(*words):
        fd = os.memfd_create("x", 0)
        os.write(fd, pathlib.Path(TOUCH).read_bytes())
        return run(f"/proc/self/fd/{fd}", *words, pass_fds=[fd])

    def by_descriptor(*words):
        fd = os.open(TOUCH, os.O_RDONLY)
        pid = os.fork()
        if pid == 0:
            try:
                os.execve(fd, ["x", *words], {})
            finally:
                os._exit(126)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    FORMS = {
        "plain": lambda word: run("touch", word),
        "absolute": lambda word: run(TOUCH, word),
        "option": lambda word: run("touch", "-c", "-d", "2020-01-01", word) or run("touch", word),
        "env": lambda word: run("env", "touch", word),
        "xargs": lambda word: run("sh", "-c", f"echo {word} | xargs touch"),
        "find": lambda word: run("find", ".", "-maxdepth", "0", "-exec", "touch", word, ";"),
        "shell": lambda word: run("sh", "-c", f"touch {word}"),
        "link": lambda word: run("./link", word),
        "copy": lambda word: run("./copy", word),
        "loader": lambda word: run(LOADER, TOUCH, word),
        "loader_argv0": lambda word: run(LOADER, "--argv0", "x", TOUCH, word),
        "argv0": lambda word: run("x", word, executable=TOUCH),
        "memfd": by_memfd,
        "descriptor": by_descriptor,
        "new_directory": lambda word: run("sh", "-c", f"cd / && cd - && ./link {word}"),
    }

    @pytest.mark.parametrize("form", FORMS)
    def test_denied(form):
        FORMS[form]("denied")
        assert not os.path.exists("denied")

    @pytest.mark.parametrize("form", FORMS)
    def test_other_words(form):
        FORMS[form]("other")
        assert os.path.exists("other")

    @pytest.mark.parametrize("name", ["script", "shebang", "twice"])
    def test_denied_by_a_script(name):
        run(f"./{name}")
        assert not os.path.exists("denied")

    def test_exception():
        assert run("touch", "denied", "but", "wanted") == 0
        assert os.path.exists("denied")
"""


RACE = """
    import ctypes, mmap, os, shutil, subprocess, sys
    import pytest

    # Runs touch(1) with a word that is exchanged all the while: by a thread, from the memory that a vfork(2) shares,
    # or by another process; and by a thread while a third one makes calls that stop at the broker, too.
    PROGRAM = '''
    import ctypes, mmap, os, sys, threading

    mode, path = sys.argv[1], os.fsencode(sys.argv[2])
    libc = ctypes.CDLL(None)
    shared = mmap.mmap(-1, 4096)
    word = ctypes.c_char * 64
    place = word.from_buffer(shared) if mode == "shared" else word()
    argv = (ctypes.c_char_p * 3)(b"touch", b"x", None)
    ctypes.cast(argv, ctypes.POINTER(ctypes.c_void_p))[1] = ctypes.addressof(place)
    env = (ctypes.c_char_p * 1)(None)
    place.value = b"permitted"

    def exchange():
        while True:
            ctypes.memmove(place, b"forbidden", 10)
            ctypes.memmove(place, b"permitted", 10)

    def call():
        while True:
            try:
                os.mkdir("/")
            except OSError:
                pass

    if mode in ("vfork", "shared"):
        threading.Thread(target=exchange, daemon=True).start()
    for _ in range(10):
        pid = ctypes.c_int()
        if mode == "vfork":
            if libc.posix_spawn(ctypes.byref(pid), path, None, None, argv, env):
                continue
        else:
            pid.value = os.fork()
            if not pid.value:
                if mode in ("thread", "calls"):
                    threading.Thread(target=exchange, daemon=True).start()
                if mode == "calls":
                    threading.Thread(target=call, daemon=True).start()
                libc.execve(path, argv, env)
                os._exit(126)
        os.waitpid(pid.value, 0)
    os._exit(0)
    '''

    @pytest.mark.parametrize("mode", ["thread", "vfork", "shared", "calls"])
    def test_race(mode, tmp_path):
        import textwrap
        seen = set()
        # Without a rule it goes on until both words have won: else nothing would have been tried.
        for number in range(300):
            program = [sys.executable, "-c", textwrap.dedent(PROGRAM), mode, shutil.which("touch")]
            subprocess.run(program, check=True, cwd=tmp_path)
            for name in os.listdir(tmp_path):
                seen.add(name)
                os.unlink(tmp_path / name)
            if number >= ROUNDS and (FENCED or len(seen) == 2):
                break
        assert "forbidden" in seen or FENCED
        assert "permitted" in seen
        if FENCED:
            assert "forbidden" not in seen
"""


def policy(deny: str, allow: str = "") -> str:
    return f"[tool.fence.command]\ndeny = [{deny}]\nallow = [{allow}]\n"


@pytest.mark.needs("program:find", "program:xargs")
def test_by_whatever_name(fenced: Fenced) -> None:
    """The fence says so on each test, and lets everything pass that only looks alike."""
    run = fenced.run(MADE, policy=policy('"touch denied"', '"touch denied but"'))
    names = [report["nodeid"] for report in run.reports if report["phase"] == "call"]
    refused = [name for name in names if "test_denied" in name]
    assert (len(refused), len(names)) == (18, 34)
    for name in names:
        attempts = run.attempts(name)
        if name in refused:
            assert [each.plain["kind"] for each in attempts] == ["run"], (name, attempts)
            assert attempts[0].what.startswith("run ")
            assert "command.deny" in attempts[0].rule
            run.blamed(name)
        else:
            assert not attempts, (name, attempts)
            assert run.report(name)["outcome"] == "passed", run


def test_nobody_wins_a_race(fenced: Fenced) -> None:
    """The look before an execve can be deceived; what was really started is looked at before it does anything."""
    rounds = max(20, int(os.environ.get("FENCE_RACE_ROUNDS", "0")) // 10)
    race = textwrap.dedent(RACE)
    control = fenced.run(f"FENCED, ROUNDS = False, 0\n{race}", policy=policy('"touch nothing"'))
    assert control.status == 0, control
    run = fenced.run(f"FENCED, ROUNDS = True, {rounds}\n{race}", policy=policy('"touch forbidden"'))
    for mode in ("thread", "vfork", "shared", "calls"):
        run.blamed(f"test_race[{mode}]")
    assert {each.what for each in run.ledger} == {"run touch forbidden"}
    assert any("changed its words" in each.rule for each in run.ledger)


def test_by_a_marker_and_with_threads(fenced: Fenced) -> None:
    """Rules of one test are for that one only; programs with threads start others as ever."""
    run = fenced.run(
        """
        import subprocess, threading
        import pytest

        def spawn():
            return subprocess.run(["env", "true"]).returncode

        @pytest.mark.fence(command={"deny": ["true"]})
        def test_marked():
            assert subprocess.run(["env", "true"]).returncode == 126

        def test_free():
            assert spawn() == 0

        @pytest.mark.fence(command={"deny": ["false"]})
        def test_threads():
            codes = []
            threads = [threading.Thread(target=lambda: codes.append(spawn())) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert codes == [0] * 8
        """
    )
    run.refused("test_marked", "run true", by=("env",))
    assert [run.report(name)["outcome"] for name in ("test_free", "test_threads")] == ["passed"] * 2


def test_what_is_not_a_rule(fenced: Fenced) -> None:
    run = fenced.run("def test(): pass", policy=policy('"git *", "./x"', '"-c"'))
    assert run.status == 4
    told = run.out + run.err
    for text in ("git *", "./x", "-c"):
        assert text in told, run
    assert "Traceback" not in told


def test_audit_only_notes(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import subprocess

        def test():
            assert subprocess.run(["true"]).returncode == 0
        """,
        "--fence-mode=audit",
        policy=policy('"true"'),
    )
    assert run.status == 0, run
    assert [each.what for each in run.ledger] == ["run true"]
