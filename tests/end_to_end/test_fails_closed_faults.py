"""Faults of the fence itself: the call is refused, the run says so, and nothing goes on half fenced."""

from __future__ import annotations

import pytest

from tests.end_to_end.faults import faulty
from tests.end_to_end.support import Runs, until

FAULTS = {
    "an error": ("raise RuntimeError('made by a test')", "fence error in mkdir: RuntimeError: made by a test"),
    "a kernel call": ("raise KernelCallError('made', errno.EIO)", "fence error in mkdir: KernelCallError: .*made"),
    "no permission": ("raise KernelCallError('made', errno.EPERM)", "mkdir by a process that the fence cannot inspect"),
    "no memory": ("raise MemoryError", "fence error in mkdir: MemoryError"),
    "no descriptors": ("raise OSError(errno.EMFILE, 'made')", "fence error in mkdir: OSError: .*made"),
    "recursion": ("return deeper(0)", "fence error in mkdir: RecursionError"),
    "an assertion": ("assert False, 'a \\x1b[31m line\\nand another'", "fence error in mkdir: AssertionError: a "),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_handler_raises(runs: Runs, kind: str) -> None:
    """The call is refused, not made; it is reported on its test as our error; other calls are judged as ever."""
    statement, said = FAULTS[kind]
    # A call with *args would go on for ever: Python 3.15 does not count those.
    fault = f"""
    def deeper(number):
        return deeper(number + 1)
    def fault(*args):
        {statement}
    table.TRAPPED["mkdir"] = table.TRAPPED["mkdir"]._replace(handler=fault)
    """
    ended = faulty(
        runs,
        fault,
        """
        import os, pytest

        def test_mkdir():
            with pytest.raises(PermissionError):
                os.mkdir("made")
            assert not os.path.exists("made")

        def test_others():
            with open("x", "w"):
                pass
        """,
        "-rA",
    )
    assert ended.status == 1, ended
    assert ended.outcomes() == ["FAILED test_it.py::test_mkdir", "PASSED test_it.py::test_others"]
    ended.has(said)
    assert "\x1b" not in ended.out
    if "cannot inspect" not in said:
        ended.has("please report it")


def test_handler_cannot_be_imported(runs: Runs) -> None:
    """It is imported with the first call: that one is refused and reported, and so are the next."""
    ended = faulty(
        runs,
        """
        from fence_core.broker.later import Later
        late = Later("fence_core.broker.calls.missing", "mkdir")
        table.TRAPPED["mkdir"] = table.TRAPPED["mkdir"]._replace(handler=late)
        """,
        """
        import os, pytest

        @pytest.mark.parametrize("name", ["one", "two"])
        def test_mkdir(name):
            with pytest.raises(PermissionError):
                os.mkdir(name)
            assert not os.path.exists(name)

        def test_others():
            with open("x", "w"):
                pass
            os.rename("x", "y")
        """,
        "-rA",
    )
    assert ended.status == 1, ended
    assert ended.outcomes() == [
        "FAILED test_it.py::test_mkdir[one]",
        "FAILED test_it.py::test_mkdir[two]",
        "PASSED test_it.py::test_others",
    ]
    ended.has("fence error in mkdir: ModuleNotFoundError: No module named 'fence_core.broker.calls.missing'")


@pytest.mark.parametrize("answer", ["None", "'text'", "-1", "2.5", "object()", "True", "1 << 40", "[]"])
def test_handler_answers_nonsense(runs: Runs, answer: str) -> None:
    """What is no reply is a refusal: the call does not return, and does not hang."""
    ended = faulty(
        runs,
        f"table.TRAPPED['mkdir'] = table.TRAPPED['mkdir']._replace(handler=lambda *args: {answer})",
        """
        import os, pytest

        def test_mkdir():
            with pytest.raises(PermissionError):
                os.mkdir("made")
        """,
    )
    assert not (runs.directory / "made").exists()
    assert ended.status == 1, ended
    ended.has("fence error in mkdir: TypeError: the handler answered ")


def test_book_keeping_raises(runs: Runs) -> None:
    """A fault outside of any call is reported, and the loop goes on answering and refusing."""
    ended = faulty(
        runs,
        """
        def fault(self, pidfd):
            raise RuntimeError("made by a test")
        from fence_core.broker import processes
        processes.ProcessTable.forget = fault
        """,
        """
        import os, socket, subprocess

        def test_it(tmp_path_factory):
            for _ in range(3):
                subprocess.run(["true"])
            with socket.socket() as client:
                assert client.connect_ex(("192.0.2.1", 80)) == 13
            open("written", "w").close()
        """,
    )
    assert ended.status == 1, ended
    ended.has("fence error in the broker: RuntimeError: made by a test", "connect 192.0.2.1:80/tcp")


def test_report_raises(runs: Runs) -> None:
    """Even where the violation cannot be written down, the call is refused and the run fails."""
    ended = faulty(
        runs,
        """
        def fault(*args, **kwargs):
            raise RuntimeError("made by a test")
        from fence_core.events import ledger
        ledger.Ledger.add = fault
        """,
        """
        import os, socket

        def test_it():
            with socket.socket() as client:
                assert client.connect_ex(("192.0.2.1", 80)) == 13
        """,
    )
    assert ended.status != 0, ended
    assert "made by a test" in ended.err


@pytest.mark.parametrize("where", ["seccomp.Listener.receive", "loop.Loop._timeout_ms", "delivery.Delivery.deliver"])
def test_loop_raises(runs: Runs, where: str) -> None:
    """The supervisor itself fails: everything fenced is ended, with status 3 and a word on stderr."""
    owner, _, name = where.rpartition(".")
    ended = faulty(
        runs,
        f"""
        original = {where}
        started = []
        def fault(self, *args):
            if os.path.exists("now"):
                raise RuntimeError("made by a test")
            return original(self, *args)
        setattr({owner}, {name!r}, fault)
        """,
        """
        import os, socket, subprocess, time

        def test_it():
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            open("now", "w").close()
            for _ in range(100):
                socket.socket().close()  # its answer hands a descriptor over
            time.sleep(60)
        """,
    )
    assert ended.status == 3, ended
    assert "internal error in the supervisor" in ended.err
    assert "made by a test" in ended.err
    until(lambda: not runs.alive(), "the end of every process", 10)


def test_listener_is_lost(runs: Runs) -> None:
    """The broker closes its end: trapped calls fail with ENOSYS, until the supervisor, which notices, ends the run."""
    ended = faulty(
        runs,
        """
        def lose(call):
            os.close(call.services.listener.fd)
            return 0
        table.TRAPPED["mkdir"] = table.TRAPPED["mkdir"]._replace(handler=lose)
        """,
        """
        import errno, os, pytest

        def test_it():
            for attempt in (lambda: os.mkdir("made"), lambda: open("made", "w"), lambda: os.symlink("a", "made")):
                try:
                    attempt()
                except OSError as error:
                    if error.errno == errno.ENOSYS:
                        continue
                os.write(1, b"done all the same")
        """,
        "-s",
    )
    assert ended.status != 0, ended
    assert "done all the same" not in ended.out, ended
    assert not (runs.directory / "made").exists()


def test_control_line_raises(runs: Runs) -> None:
    """Requests that the broker cannot answer fail the run; they are never taken for "no violations"."""
    ended = faulty(
        runs,
        """
        from fence_core.link.control import LEDGER
        def fault(*args):
            raise RuntimeError("made by a test")
        control._ANSWERS[LEDGER] = fault
        """,
        "def test_it(): pass",
    )
    assert ended.status != 0, ended
    assert "the broker refused 'ledger'" in ended.out + ended.err, ended
    assert "Traceback" not in ended.out


@pytest.mark.parametrize(
    "fault",
    [
        "from fence_core.kernel import seccomp\ndef fault(*a, **k): raise KernelCallError('seccomp', errno.EINVAL)\n"
        "seccomp.install_listener = fault",
        "from fence_core.kernel import landlock\ndef fault(*a, **k): raise KernelCallError('landlock', errno.E2BIG)\n"
        "landlock.restrict_self = fault",
        "def fault(*a, **k): raise ZeroDivisionError('x')\nassemble.Broker.__init__ = fault",
        "import fence_core.launcher.guardian as g\ndef fault(*a, **k): os._exit(1)\ng.run = fault",
        "def fault(*a, **k): raise ZeroDivisionError('x')\ntable.filter_program = fault",
        "def fault(*a, **k): raise ZeroDivisionError('x')\nsupervisor.Supervisor.__init__ = fault",
        "from pytest_fence import session\ndef fault(): raise ImportError('x')\nsession._import_what_follows = fault",
    ],
    ids=["seccomp", "landlock", "broker", "guardian", "filter", "supervisor", "imports"],
)
def test_fence_cannot_be_raised(runs: Runs, fault: str) -> None:
    """No test runs; one line says why; nothing is left behind."""
    ended = faulty(runs, fault, "def test_it(): open('ran', 'w')", "-s")
    if "guardian" in fault:
        # It is gone from the start: nobody would end the tests if the supervisor died.
        assert ended.status in (0, 4)
        return
    assert ended.status == 4, ended
    assert ended.err.startswith(("ERROR: fence: could not set up the fence: ", "ERROR: this run cannot be fenced: "))
    assert "Traceback" not in ended.err
    assert not (runs.directory / "ran").exists()
