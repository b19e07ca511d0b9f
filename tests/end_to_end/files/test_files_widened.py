"""Whole programs in a directory that a marker adds to what the session allows, or takes away from it.

There the broker carries out every call; what comes of it is compared with a run without a fence: names, contents,
modes, owners and times.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import sqlite3
import sys
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced
from tests.end_to_end.files import trees

HEAD = """
import contextlib, fcntl, mmap, os, pathlib, shutil, socket, sqlite3, subprocess, sys, tarfile, tempfile, threading
import zipfile
import pytest
from place import DENIED, PLACE, SOURCE, WIDENED

if WIDENED:
    pytestmark = pytest.mark.fence(allow_write=[WIDENED])
if DENIED:
    pytestmark = pytest.mark.fence(deny_write=[DENIED])

@pytest.fixture(autouse=True)
def there(request):
    "A directory for each test."
    name = pathlib.Path(PLACE, request.node.name)
    name.mkdir()
    return name

def run(*argv, **options):
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, **options)
    assert done.returncode == 0, done
    return done.stdout
"""

CALLS = """
def test_names(there):
    (there / "a").write_text("a")
    (there / "b").write_text("b")
    with open(there / "a", "a") as file:
        file.write("more")
    os.mkdir(there / "d", 0o750)
    os.makedirs(there / "e/f/g")
    os.makedirs(there / "e/f", exist_ok=True)
    os.rename(there / "a", there / "d/a")
    os.replace(there / "b", there / "d/a")
    os.chmod(there / "d/a", 0o604)
    os.utime(there / "d/a", (1, 2))
    os.symlink("d/a", there / "s")
    os.link(there / "d/a", there / "l")
    os.rename(there / "d", there / "e/d")
    (there / "c").touch()
    os.truncate(there / "c", 100)
    os.unlink(there / "c")
    os.removedirs(there / "e/f/g")

def test_from_within(there, monkeypatch):
    monkeypatch.chdir(there)
    os.mkdir("a")
    os.chdir("a")
    with open("../b", "x") as file:
        print("b", file=file)
    os.rename("../b", "b")
    os.rename("../a", "../c")
    os.chdir("..")

def test_in_and_out(there, tmp_path):
    (tmp_path / "mine").write_text("mine")
    shutil.copy2(tmp_path / "mine", there / "copied")
    shutil.move(tmp_path / "mine", there / "moved")
    os.rename(there / "moved", tmp_path / "back")
    os.link(tmp_path / "back", there / "linked")
    (tmp_path / "tree/x").mkdir(parents=True)
    os.rename(tmp_path / "tree", there / "tree")

def test_temporary_files(there):
    with tempfile.NamedTemporaryFile(dir=there) as file:
        file.write(b"x")
    with tempfile.TemporaryDirectory(dir=there) as directory:
        pathlib.Path(directory, "x").write_text("x")
    with tempfile.TemporaryFile(dir=there) as file:  # O_TMPFILE with O_EXCL: for good without a name
        file.write(b"x")
    fd = os.open(there, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"x" * 10)
    os.link(f"/proc/self/fd/{fd}", there / "kept", src_dir_fd=0, follow_symlinks=True)
    os.close(fd)
    assert (there / "kept").read_bytes() == b"x" * 10

def test_descriptors(there):
    fd = os.open(there / "f", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o640)
    assert not os.get_inheritable(fd)
    os.write(fd, b"0123456789")
    os.ftruncate(fd, 8)
    os.posix_fallocate(fd, 0, 16)
    fcntl.flock(fd, fcntl.LOCK_EX)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    assert subprocess.run(["flock", "-n", there / "f", "true"]).returncode == 1
    fcntl.flock(fd, fcntl.LOCK_UN)
    assert subprocess.run(["flock", "-n", there / "f", "true"]).returncode == 0
    with mmap.mmap(fd, 16) as memory:
        memory[0:3] = b"abc"
    os.fchmod(fd, 0o600)
    os.fsync(fd)
    again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    os.write(again, b"A")
    os.close(again)
    os.close(fd)
    assert (there / "f").read_bytes()[:5] == b"Abc34"

def test_threads(there):
    def work(number):
        for turn in range(20):
            path = there / f"{number}-{turn}"
            path.write_text(f"{number}")
            path.chmod(0o600)
            path.rename(there / f"{number}")
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_text() for path in there.iterdir()) == [str(number) for number in range(8)]
"""

SQLITE = """
@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_sqlite(there, mode):
    path = there / "db"
    other = sqlite3.connect(path, timeout=0.01)
    with contextlib.closing(sqlite3.connect(path)) as one, contextlib.closing(other):
        assert one.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
        with one:
            one.execute("create table t (x)")
            one.execute("insert into t values (1)")
        one.execute("begin immediate")
        one.execute("insert into t values (2)")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("insert into t values (3)")
        one.rollback()
        with other:
            other.execute("insert into t values (4)")
        assert one.execute("select x from t").fetchall() == [(1,), (4,)]
        assert one.execute("pragma integrity_check").fetchone() == ("ok",)
        one.execute("vacuum")
    (there / "db-journal").unlink(missing_ok=True)  # it has random numbers

def test_sqlite_by_another_program(there):
    script = "import sqlite3; db = sqlite3.connect('db'); db.execute('create table t (x)'); db.commit(); db.close()"
    run(sys.executable, "-c", script, cwd=there)
    with contextlib.closing(sqlite3.connect(there / "db")) as db:
        assert db.execute("select count(*) from t").fetchone() == (0,)
"""

TREES = """
def plant(directory):
    (directory / "d/e").mkdir(parents=True)
    (directory / "d/f").write_text("f")
    (directory / "d/f").chmod(0o751)
    (directory / "d/e/g").write_bytes(b"g" * 10_000)
    os.symlink("f", directory / "d/link")
    os.utime(directory / "d/f", (1e9, 2e9))
    os.utime(directory / "d/e", (3e8, 4e8))

def test_copytree(there, tmp_path):
    plant(tmp_path)
    shutil.copytree(tmp_path / "d", there / "copy", symlinks=True)
    shutil.copytree(tmp_path / "d", there / "gone")
    shutil.rmtree(there / "gone")
    shutil.copytree(there / "copy", there / "again", symlinks=True)
    shutil.move(there / "again", there / "moved")
    shutil.copymode(there / "copy/f", there / "moved/e/g")

def test_archives(there, tmp_path):
    plant(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "d", "d")
    shutil.unpack_archive(tmp_path / "a.tar", there / "tar")
    run("tar", "-xpf", tmp_path / "a.tar", "-C", there)
    shutil.make_archive(there / "made", "zip", tmp_path / "d")
    with zipfile.ZipFile(there / "made.zip") as archive:
        archive.extractall(there / "zip")
    os.unlink(there / "made.zip")

def test_shell(there, tmp_path):
    plant(tmp_path)
    script = '''
        set -e
        umask 027
        echo one > one; echo two >> one; : > empty; mkdir -p p/q/r; mkdir -m 711 m
        cp -a "$0/d" copied; cp one two; cp --preserve=mode,timestamps copied/f three
        mv two p/q; mv p renamed; ln one hard; ln -s one soft; ln -sfn two soft
        touch -d @5 one; chmod u+x,g-r one; chmod -R go-rwx copied
        install -m 640 one installed; sed -i s/one/1/ one; mkfifo pipe; truncate -s 5 empty
        dd if=/dev/zero of=zeros bs=100 count=3 2>/dev/null; rmdir m; rm -r renamed
    '''
    run("sh", "-c", script, tmp_path, cwd=there)
"""

GIT = """
ENV = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_TEMPLATE_DIR": ""}
ENV |= {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "n"), ("EMAIL", "e"), ("DATE", "@1000000000 +0000"))}

def git(there, *words):
    return run("git", "-c", "maintenance.auto=false", *words, cwd=there, env=ENV)

def test_git(there):
    git(there, "init", "-q", "-b", "main")
    (there / "file").write_text("one")
    git(there, "add", "file")
    git(there, "commit", "-qm", "one")
    git(there, "config", "core.abbrev", "12")
    git(there, "checkout", "-qb", "branch")
    (there / "file").write_text("two")
    git(there, "commit", "-qam", "two")
    git(there, "checkout", "-q", "main")
    git(there, "merge", "-q", "branch")
    git(there, "tag", "v1")
    git(there, "gc", "-q")
    git(there, "clone", "-q", ".", "clone")
    assert git(there, "status", "--porcelain", "-uno") == ""
    assert len(git(there / "clone", "log", "--oneline").splitlines()) == 2
    git(there, "worktree", "add", "-q", "tree", "v1")
    # The index and the logs of git hold times and numbers of the files that it has seen.
    for path in [*there.glob("**/index"), *there.glob("**/logs")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
"""

PIP = """
def test_pip(there):
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir", "--quiet"]
    run(*pip, "download", "--no-index", "--find-links", SOURCE, "--dest", there / "wheels", "small")
    assert [path.name for path in (there / "wheels").iterdir()] == ["small-1-py3-none-any.whl"]
    run(*pip, "install", "--no-index", "--no-compile", "--find-links", there / "wheels", "--target", there / "to",
        "small")
    assert (there / "to/small.py").read_text() == "ANSWER = 42\\n"
    # Where it was taken from, and its checksum: the directory is another one in each run.
    for name in ("direct_url.json", "RECORD"):
        for path in there.glob(f"**/{name}"):
            path.unlink()
"""

BETWEEN = """
def test_fifo(there):
    os.mkfifo(there / "pipe", 0o600)
    reader = subprocess.Popen(["cat", there / "pipe"], stdout=subprocess.PIPE, text=True)
    run("sh", "-c", 'echo said > "$0"', there / "pipe")
    assert reader.communicate()[0] == "said\\n"
    fd = os.open(there / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(there / "pipe", os.O_WRONLY | os.O_NONBLOCK)
    os.write(writer, b"x")
    assert os.read(fd, 1) == b"x"
    os.close(writer)
    os.close(fd)
    with pytest.raises(OSError):
        os.open(there / "pipe", os.O_WRONLY | os.O_NONBLOCK)

def test_fifo_waits_for_its_reader(there):
    os.mkfifo(there / "pipe")
    seen = []
    def write():
        with open(there / "pipe", "w") as file:
            file.write("waited")
    thread = threading.Thread(target=write)
    thread.start()
    (there / "meanwhile").write_text("others are served")
    with open(there / "pipe") as file:
        assert file.read() == "waited"
    thread.join()

@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_socket(there, kind, monkeypatch):
    with socket.socket(socket.AF_UNIX, kind) as server, socket.socket(socket.AF_UNIX, kind) as client:
        server.bind(str(there / "socket"))
        os.chmod(there / "socket", 0o600)
        if kind == socket.SOCK_STREAM:
            server.listen()
        client.connect(str(there / "socket"))
        client.send(b"x")
        receiver = server.accept()[0] if kind == socket.SOCK_STREAM else server
        assert receiver.recv(1) == b"x"
        receiver.close()
    with pytest.raises(OSError, match="in use"), socket.socket(socket.AF_UNIX) as again:
        again.bind(str(there / "socket"))
    os.unlink(there / "socket")
    monkeypatch.chdir(there)
    with socket.socket(socket.AF_UNIX) as relative:
        relative.bind("relative")
"""

PROGRAMS = [
    pytest.param(CALLS, id="calls"),
    pytest.param(SQLITE, id="sqlite"),
    pytest.param(TREES, id="trees"),
    pytest.param(GIT, id="git", marks=pytest.mark.needs("program:git")),
    pytest.param(PIP, id="pip", marks=pytest.mark.needs("module:pip")),
    pytest.param(BETWEEN, id="between"),
]


def small_wheel(directory: Path) -> None:
    """A package that pip can take from a directory."""
    with zipfile.ZipFile(directory / "small-1-py3-none-any.whl", "w") as wheel:
        info = "small-1.dist-info"
        wheel.writestr("small.py", "ANSWER = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1\n")
        tags = "Generator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\n{tags}")
        wheel.writestr(f"{info}/RECORD", f"small.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def place(directory: Path, source: Path, *, widened: Path | str = "", denied: Path | str = "") -> str:
    directory.mkdir()
    facts = {"PLACE": directory, "SOURCE": source, "WIDENED": widened, "DENIED": denied}
    return "".join(f"{name} = {str(fact)!r}\n" for name, fact in facts.items())


@pytest.mark.parametrize("text", PROGRAMS)
def test_widened(fenced: Fenced, tmp_path: Path, text: str) -> None:
    small_wheel(tmp_path)
    found = []
    for side in ("p", "f"):
        where = fenced.outside / side
        run = fenced.run(
            HEAD + textwrap.dedent(text),
            files={"place.py": place(where, tmp_path, widened=fenced.outside)},
            policy=ONLY_HERE + "allow_git_config = true\n",
            flags=("--fence",) if side == "f" else (),
        )
        assert run.status == 0, f"{side}: {run.out}"
        assert not run.ledger
        found.append(trees.account(where, {f"/{side}/": "/*/"}))
    assert len(found[0]) > 3, "the programs are to leave something behind"
    assert not trees.differences(*found)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Files, and a page of links for each directory: what pip takes for a package index."""

    def log_message(self, *ignored: object) -> None: ...


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[int]:
    """A server outside of the fence; its port on 127.0.0.1."""
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.needs("module:pip")
def test_pip_from_an_index(fenced: Fenced, tmp_path: Path) -> None:
    """A download over HTTP lands where only a marker allows it; in the test without one it is refused there, once."""
    index = tmp_path / "simple" / "small"
    index.mkdir(parents=True)
    small_wheel(index)
    for name in ("allowed", "refused"):
        (fenced.outside / name).mkdir()
    with serving(tmp_path) as port:
        run = fenced.run(
            f"""
            import os, subprocess, sys
            import pytest
            from here import OUTSIDE

            def download(directory):
                pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir"]
                return subprocess.run(
                    [*pip, "download", "--index-url", "http://127.0.0.1:{port}/simple/", "-d", directory, "small"],
                    capture_output=True,
                    text=True,
                    env={{**os.environ, "no_proxy": "*"}},
                )

            @pytest.mark.fence(allow_write=[f"{{OUTSIDE}}/allowed"])
            def test_allowed():
                done = download(f"{{OUTSIDE}}/allowed")
                assert done.returncode == 0, done

            def test_refused():
                done = download(f"{{OUTSIDE}}/refused")
                assert done.returncode != 0, done
                assert "Permission denied" in done.stderr, done
            """,
            policy=ONLY_HERE,
        )
    wheel = "small-1-py3-none-any.whl"
    run.clean("test_allowed")
    assert (fenced.outside / "allowed" / wheel).read_bytes() == (index / wheel).read_bytes()
    run.refused("test_refused", f"write {fenced.outside}/refused/{wheel}", by=[Path(sys.executable).name])
    run.nothing_else("test_refused")
    assert not list((fenced.outside / "refused").iterdir())


NARROWED = """
def refused(call, *arguments, errors=OSError, **options):
    with pytest.raises(errors):
        call(*arguments, **options)

def test_narrowed(there):
    kept = pathlib.Path(DENIED)
    refused((kept / "new").write_text, "x")
    refused(os.makedirs, kept / "new/deep")
    refused(os.rename, kept / "file", there / "file")
    refused(os.replace, there, kept / "new")
    refused(os.chmod, kept / "file", 0)
    refused(shutil.rmtree, kept)
    refused(shutil.copytree, there, kept / "new", errors=(OSError, shutil.Error))
    refused(sqlite3.connect(kept / "db").execute, "insert into t values (2)", errors=sqlite3.OperationalError)
    refused(sqlite3.connect, kept / "new.db", errors=sqlite3.OperationalError)
    refused(run, "sh", "-c", "echo x >> file", cwd=kept, errors=AssertionError)
    refused(run, "git", "init", cwd=kept, errors=AssertionError)
    refused(socket.socket(socket.AF_UNIX).bind, str(kept / "new"))
    (there / "beside").write_text("x")
    assert (kept / "file").read_text() == "as it was"
"""


@pytest.mark.needs("program:git")
def test_narrowed(fenced: Fenced) -> None:
    kept = fenced.write("kept/file", "as it was").parent
    with contextlib.closing(sqlite3.connect(kept / "db")) as db:
        db.execute("create table t (x)")
    before = trees.account(kept)
    text = place(fenced.directory / "p", kept, denied=kept)
    run = fenced.run(HEAD + NARROWED, files={"place.py": text}, policy=ONLY_HERE)
    assert run.report("test_narrowed")["outcome"] == "failed"
    assert "DID NOT RAISE" not in run.out
    assert (fenced.directory / "p/test_narrowed/beside").exists(), run
    assert not trees.changes(before, trees.account(kept))
    blamed = {attempt.what.partition(" ")[2] for attempt in run.attempts("test_narrowed")}
    assert {str(kept / name) for name in ("new", "file", "db", "new.db", ".git")} <= blamed, run
    assert all(Path(path).is_relative_to(kept) for path in blamed), blamed
