"""``scope = "test"`` and `multiprocessing`: what pytest's process has started, and what a test leaves behind."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.end_to_end.caught import ONLY_HERE, Fenced
from tests.end_to_end.support import Runs, assert_same

FORKED = ("--fence", "--fence-scope=test")
WORK = """
    import errno, os

    def nothing():
        pass

    def make(path):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL))
            return "made"
        except OSError as error:
            return errno.errorcode[error.errno]

    def wait_and_make(path):
        with open("go") as go:
            go.read()
        said = make(path)
        with open("done", "w") as done:
            done.write(said)

    def wait_for_ever():
        os.mkfifo("never")
        open("never").close()
"""


@pytest.mark.parametrize("started", [True, False], ids=["by-a-fixture", "by-the-test"])
def test_fork_server(fenced: Fenced, started: bool) -> None:
    """Whoever has started the first one, a test can ask one; what it leaves behind stays on its account."""
    run = fenced.run(
        f"""
        import concurrent.futures, multiprocessing, os
        import pytest
        from here import OUTSIDE
        from work import make, nothing, wait_and_make, wait_for_ever

        context = multiprocessing.get_context("forkserver")

        @pytest.fixture(scope="module", autouse={started})
        def running():
            first = context.Process(target=nothing)
            first.start()
            first.join()
            yield
            again = context.Process(target=nothing)
            again.start()
            again.join()
            assert (first.exitcode, again.exitcode) == (0, 0)

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_with_marker():
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                assert pool.submit(make, OUTSIDE + "/marker").result() == "made"

        def test_that_leaves_one_behind():
            os.mkfifo("go")
            os.mkfifo("done")
            context.Process(target=wait_and_make, args=(OUTSIDE + "/late",)).start()

        @pytest.mark.fence(allow_write=[OUTSIDE])
        def test_during_which_it_acts():
            with open("go", "w"):
                pass
            with open("done") as done:
                assert done.read() == "EACCES"

        def test_that_leaves_one_for_ever():
            context.Process(target=wait_for_ever).start()

        def test_after():
            pass
        """,
        files={"work.py": WORK},
        policy=ONLY_HERE.replace('"/dev/null"', '"/dev/null", "/dev/shm"'),
        flags=FORKED,
    )
    run.clean("test_with_marker", "test_during_which_it_acts", "test_that_leaves_one_for_ever", "test_after")
    found = {attempt.what: (attempt.nodeid, attempt.phase) for attempt in run.ledger}
    assert found == {f"write {fenced.outside}/late": ("test_it.py::test_that_leaves_one_behind", "call")}, run
    assert "outlived the session" in run.err
    assert fenced.untouched("marker")


def write(path: Path, text: str) -> None:
    path.write_text(textwrap.dedent(text), encoding="utf-8")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_how_a_process_ended(runs: Runs, method: str) -> None:
    """The process that has started it is told, although a test's process has the same pipe."""
    write(
        runs.directory / "test_it.py",
        f"""
        import multiprocessing, multiprocessing.connection
        import pytest
        from work import nothing
        context = multiprocessing.get_context({method!r})

        @pytest.fixture(scope="module")
        def started():
            process = context.Process(target=nothing)
            process.start()
            multiprocessing.connection.wait([process.sentinel])
            yield process
            process.join()
            assert process.exitcode == 0

        def test_one(started):
            pass

        def test_two(started):
            pass
        """,
    )
    write(runs.directory / "work.py", WORK)
    plain, forked = runs.pytest("-q", fenced=False), runs.pytest("-q", "--fence-scope=test")
    assert_same(plain, forked)
    assert forked.status == 0, forked
