"""proxy.py is imported without the process that it would start where `multiprocessing` does not fork by default."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADS = """
import multiprocessing
from multiprocessing.resource_tracker import _resource_tracker as tracker

multiprocessing.set_start_method({method!r})  # the default from Python 3.14 on is "forkserver"
{load}
from proxy.http.parser import HttpParser

print(tracker._pid is not None, multiprocessing.get_start_method(allow_none=True))
"""
OURS = "from fence_core.proxy import library; library.load(); library.load()"


@pytest.mark.parametrize(
    ("method", "load", "starts"),
    [("forkserver", OURS, False), ("forkserver", "", True), ("fork", OURS, False), (None, OURS, False)],
)
def test_no_process_is_started(method: str | None, load: str, starts: bool) -> None:
    code = LOADS.format(method=method, load=load).replace("set_start_method(None)", "get_start_method(True)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{starts} {method}\n", ""), done
