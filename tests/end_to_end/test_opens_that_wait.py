"""Opens that wait, where only a marker allows them: they wait as without a fence, and keep nobody else waiting."""

from __future__ import annotations

import os

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_pipes_leases_and_signals(fenced: Fenced) -> None:
    os.mkfifo(fenced.outside / "pipe")
    (fenced.outside / "leased").write_text("as it was")
    run = fenced.run(
        """
        import fcntl, os, signal, subprocess, sys, threading
        import pytest
        from here import OUTSIDE

        pytestmark = pytest.mark.fence(allow_write=[OUTSIDE + "/*"])
        PIPE, LEASED = OUTSIDE + "/pipe", OUTSIDE + "/leased"

        def test_two_processes():
            writer = subprocess.Popen([sys.executable, "-c", f"open({PIPE!r}, 'w').write('through')"])
            with open(PIPE) as reader:
                assert reader.read() == "through"
            assert writer.wait() == 0

        def test_two_threads():
            got = []
            def read():
                with open(PIPE) as reader:
                    got.append(reader.read())
            thread = threading.Thread(target=read)
            thread.start()
            with open(PIPE, "w") as writer:
                writer.write("through")
            thread.join()
            assert got == ["through"]

        @pytest.mark.parametrize("number", [int(signal.SIGALRM), int(signal.SIGINT)])
        def test_signal(number):
            class Came(Exception):
                pass
            def handle(*args):
                raise Came
            before = signal.signal(number, handle)
            # Others are served meanwhile: this thread could not open anything, and would never send the signal.
            def meanwhile():
                open(OUTSIDE + "/meanwhile", "w").close()
                timer = threading.Timer(0.2, os.kill, [os.getpid(), number])
                timer.start()
            thread = threading.Thread(target=meanwhile)
            thread.start()
            try:
                with pytest.raises(Came):
                    open(PIPE, "w")
            finally:
                signal.signal(number, before)
                thread.join()

        def test_not_waiting():
            with pytest.raises(OSError) as caught:
                os.open(PIPE, os.O_WRONLY | os.O_NONBLOCK)
            assert caught.value.errno == 6  # ENXIO: nobody reads
            fd = os.open(PIPE, os.O_RDWR)
            assert os.get_blocking(fd)
            os.close(fd)

        HOLDER = f'''
        import fcntl, os, signal, sys
        fd = os.open({LEASED!r}, os.O_RDONLY)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])  # one that comes before we wait is not lost
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        print("held", flush=True)
        signal.sigwait([signal.SIGIO])
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        '''.replace("\\n        ", "\\n")

        def test_lease():
            with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE) as holder:
                assert holder.stdout.readline() == b"held\\n"
                with pytest.raises(BlockingIOError):
                    os.open(LEASED, os.O_WRONLY | os.O_NONBLOCK)
            assert holder.returncode == 0
            with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE) as holder:
                assert holder.stdout.readline() == b"held\\n"
                with open(LEASED, "w") as file:
                    file.write("changed")
            assert holder.returncode == 0
            assert open(LEASED).read() == "changed"
        """,
        policy=ONLY_HERE,
    )
    run.clean(
        "test_two_processes",
        "test_two_threads",
        f"test_signal[{2}]",
        f"test_signal[{14}]",
        "test_not_waiting",
        "test_lease",
    )
