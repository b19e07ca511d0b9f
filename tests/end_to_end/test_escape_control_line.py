"""Way out: saying to be pytest on the control line, and giving oneself another policy."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced

PRETENDER = """
import json, mmap, os, struct, sys

def ask(**request):
    line = os.open("/proc/fence/control", os.O_RDWR | os.O_CREAT)
    os.write(line, json.dumps(request).encode() + b"\\n")
    answer = os.read(line, 65536)
    os.close(line)
    return json.loads(answer) if answer else {}

hello = ask(op="hello", role="worker")
given = ask(op="policy", layers=[[{"allow_write": [sys.argv[1]]}, {"name": "x", "file": "", "line": None, "at": []}]])
try:
    page = mmap.mmap(os.open("/proc/fence/page", os.O_RDWR | os.O_CREAT), 65536)
    page[8:16] = struct.pack("=Q", given.get("number", 1))
except OSError:
    pass
print(json.dumps([hello, given]), flush=True)
open(sys.argv[1], "w").close()
"""


def test_subprocess_is_no_worker(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import json, subprocess, sys
        from here import OUTSIDE

        def test_pretend():
            ended = subprocess.run([sys.executable, "pretender.py", OUTSIDE + "/new"], stdout=-1, text=True)
            assert ended.returncode == 1
            hello, given = json.loads(ended.stdout)
            assert "error" in hello and "error" in given

        def test_inside():
            subprocess.run([sys.executable, "pretender.py", "tmp/new"], check=True)
        """,
        files={"pretender.py": PRETENDER},
        policy=ONLY_HERE,
    )
    program = run.attempts("test_pretend")[0].program
    run.refused("test_pretend", f"write {fenced.outside}/new", by=[program])
    run.clean("test_inside")
    assert fenced.untouched()


def test_not_in_a_worker_either(fenced: Fenced) -> None:
    """Where there are workers, what a test starts in one of them is none."""
    run = fenced.run(
        """
        import json, subprocess, sys
        from here import OUTSIDE

        def test_pretend():
            ended = subprocess.run([sys.executable, "pretender.py", OUTSIDE + "/new"], stdout=-1, text=True)
            assert ended.returncode == 1
            hello, given = json.loads(ended.stdout)
            assert "error" in hello and "error" in given

        def test_inside():
            subprocess.run([sys.executable, "pretender.py", "tmp/new"], check=True)
        """,
        "-n1",
        files={"pretender.py": PRETENDER},
        policy=ONLY_HERE,
        plugins=["xdist"],
    )
    program = run.attempts("test_pretend")[0].program
    run.refused("test_pretend", f"write {fenced.outside}/new", by=[program])
    run.clean("test_inside")
    assert fenced.untouched()


def test_odd_requests(fenced: Fenced) -> None:
    """What is no request of ours gets an answer or the end of the line, and nobody else notices."""
    run = fenced.run(
        """
        import os, select
        import pytest

        ODD = [b"\\n", b"[]\\n", b"[" * 100_000 + b"\\n", b'{"op": []}\\n', b'{"op": "hello", "role": []}\\n',
               b'{"op": "hello", "role": "nested", "config": {"policy": []}}\\n', b"\\xff\\n"]

        def test_odd():
            for odd in ODD:
                line = os.open("/proc/fence/control", os.O_RDWR | os.O_CREAT)
                while odd:
                    odd = odd[os.write(line, odd):]
                assert b"error" in os.read(line, 65536)
                os.close(line)

        def test_never_reading():
            line = os.open("/proc/fence/control", os.O_RDWR | os.O_CREAT)
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(1000):
                    os.write(line, b"x\\n" * 10_000)
            os.close(line)
        """
    )
    run.clean("test_odd", "test_never_reading")
    assert run.status == 0, run
