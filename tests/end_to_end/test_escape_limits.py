"""Way out: the limits of other processes, which end them as well as a signal, or tell whose account they are on."""

from __future__ import annotations

from tests.end_to_end.caught import Fenced


def test_limits(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import os, resource, subprocess, sys
        import pytest

        RLIMIT_LOCKS = 10

        def test_of_the_supervisor():
            before = resource.prlimit(os.getppid(), resource.RLIMIT_CPU)
            with pytest.raises(PermissionError):
                resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))
            assert resource.prlimit(os.getppid(), resource.RLIMIT_CPU) == before

        def test_account():
            hard = resource.prlimit(0, RLIMIT_LOCKS)[1]
            with pytest.raises(PermissionError):
                resource.prlimit(0, RLIMIT_LOCKS, ((1 << 32) + 1, hard))

        def test_own():
            soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
            resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
            resource.prlimit(os.getpid(), resource.RLIMIT_CORE, (soft, hard))

        def test_of_a_child():
            child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
            resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (100, 100))
            assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE) == (100, 100)
            child.communicate(b"x")
        """
    )
    run.clean("test_of_the_supervisor", "test_account", "test_own", "test_of_a_child")
    assert run.status == 0, run
