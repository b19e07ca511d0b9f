"""pytest-xdist: the right test, whichever worker runs it, and one summary for all."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.end_to_end.caught import AWAY, Fenced

pytestmark = pytest.mark.needs("module:xdist")
XDIST = ["xdist.plugin"]


def test_two_workers_at_the_same_moment(fenced: Fenced) -> None:
    """Programs of both workers connect while both tests run: by time nobody could tell whose they are."""
    run = fenced.run(
        """
        import os, pathlib, socket, subprocess, sys
        import pytest
        from here import AWAY, HELLO, PORT

        CODE = (
            "import pathlib, socket, sys, time\\n"
            "me, other, host, port = sys.argv[1:]\\n"
            "pathlib.Path(me).touch()\\n"
            "while not pathlib.Path(other).exists():\\n"
            "    time.sleep(0.001)\\n"
            "for n in range(20):\\n"
            "    socket.socket().connect_ex((host, int(port)))\\n")

        @pytest.mark.parametrize("me,other,port", [("a", "b", "1001"), ("b", "a", "1002")])
        def test_away(me, other, port, worker_id):
            print("on", worker_id)
            subprocess.run([sys.executable, "-c", CODE, me, other, AWAY, port], check=True, timeout=60)

        def test_loopback():
            with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:
                assert s.recv(99) == HELLO
        """,
        "-n2",
        "-rA",
        plugins=XDIST,
    )
    program = Path(sys.executable).name
    one, two = "test_away[a-b-1001]", "test_away[b-a-1002]"
    for test, port in (one, 1001), (two, 1002):
        found = run.refused(test, f"connect 198.51.100.7:{port}/tcp", count=20, by=[program])
        assert found.argv[-2:] == [AWAY, str(port)]
    run.clean("test_loopback")
    assert sorted(set(re.findall("^on (gw.)", run.out, re.MULTILINE))) == ["gw0", "gw1"]
    # Told once, by the controller.
    assert len(re.findall("=+ fence: 2 violations in 2 tests =+", run.out)) == 1


def test_everything_else_with_workers(fenced: Fenced) -> None:
    """Phases, threads, markers, orphans: as in one process."""
    run = fenced.run(
        """
        import os, socket, sys, threading
        import pytest
        from here import AWAY

        def connect(port):
            return socket.socket().connect_ex((AWAY, port))

        @pytest.fixture(scope="module")
        def db():
            connect(1)

        def test_setup(db):
            pass

        def test_call():
            connect(2)  # call

        def test_teardown(request):
            request.addfinalizer(lambda: connect(3))

        def test_thread():
            thread = threading.Thread(target=connect, args=(4,))
            thread.start()
            thread.join()

        @pytest.mark.fence(allowed_domains=["203.0.113.9:5"])
        def test_marked():
            connect(5)

        def test_orphan():
            done, tell = os.pipe()
            os.set_inheritable(tell, True)
            os.system(f"({sys.executable} orphan.py {tell}) &")
            os.read(done, 1)

        def test_fine():
            pass
        """,
        "-n2",
        plugins=XDIST,
        files={
            "orphan.py": """
            import os, socket, sys
            from here import AWAY

            socket.socket().connect_ex((AWAY, 6))
            os.write(int(sys.argv[1]), b"x")
            """
        },
    )
    for number, (test, phase) in enumerate(
        (
            ("test_setup", "setup"),
            ("test_call", "call"),
            ("test_teardown", "teardown"),
            ("test_thread", "call"),
            ("test_marked", "call"),
            ("test_orphan", "call"),
        ),
        1,
    ):
        (found,) = run.attempts(test)
        assert (found.what, found.phase) == (f"connect 198.51.100.7:{number}/tcp", phase), run
        run.blamed(test, phase)
    run.clean("test_fine")
    assert run.status == 1


def test_import_in_workers(fenced: Fenced) -> None:
    """Each worker imports the module; the summary says it once, with the sum."""
    run = fenced.run(
        """
        import socket
        from here import AWAY

        socket.socket().connect_ex((AWAY, 443))

        def test_one(): pass
        def test_two(): pass
        """,
        "-n2",
        plugins=XDIST,
    )
    assert {(v.nodeid, v.phase, v.what) for v in run.ledger} == {
        ("test_it.py", "collect", "connect 198.51.100.7:443/tcp")
    }
    assert sum(v.count for v in run.ledger) == 2
    assert run.out.count("connect 198.51.100.7:443/tcp, 2 times") == 1
    assert run.status == 1


def test_a_worker_that_dies(fenced: Fenced) -> None:
    """What its test did before is reported though the test never was."""
    run = fenced.run(
        """
        import os, socket
        from here import AWAY

        def test_dies():
            socket.socket().connect_ex((AWAY, 443))
            os._exit(3)

        def test_fine():
            pass
        """,
        "-n2",
        plugins=XDIST,
    )
    (found,) = run.attempts("test_dies")
    assert found.what == "connect 198.51.100.7:443/tcp"
    assert run.status == 1
    run.has("worker 'gw[0-9]' crashed", "connect 198.51.100.7:443/tcp")


def test_reruns_with_workers(fenced: Fenced) -> None:
    pytest.importorskip("pytest_rerunfailures")
    run = fenced.run(
        """
        import pathlib, socket
        from here import AWAY

        def test_flaky():
            if not pathlib.Path("tried").exists():
                pathlib.Path("tried").touch()
                socket.create_connection((AWAY, 443), timeout=5)

        def test_fine():
            pass
        """,
        "-n2",
        "--reruns=1",
        plugins=[*XDIST, "pytest_rerunfailures"],
    )
    run.has("1 rerun", "connect 198.51.100.7:443/tcp")
    assert run.status == 1


def test_wrong_markers_with_workers(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import pathlib
        import pytest

        def test_first():
            pathlib.Path("ran").touch()

        @pytest.mark.fence(allowed_domain=["x.example"])
        def test_wrong():
            pathlib.Path("ran").touch()
        """,
        "-n2",
        plugins=XDIST,
    )
    assert run.status == 4
    assert "allowed_domain" in run.err + run.out
    assert not (fenced.directory / "ran").exists()
