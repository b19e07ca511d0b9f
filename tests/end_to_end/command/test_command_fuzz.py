"""Policies and command lines that nobody would write: one error of ours at most, and then nothing has run."""

from __future__ import annotations

import os
import re
import sys

from tests.end_to_end.support import Runs

CASES = int(os.environ.get("FENCE_FUZZ_CASES", "40"))
SEED = os.environ.get("FENCE_FUZZ_SEED", "3")


def test_nothing_runs_on_an_error(runs: Runs) -> None:
    ended = runs.command(sys.executable, "-m", "tests.end_to_end.command.fuzz", SEED, str(CASES), env={"LC_ALL": "C"})
    assert (ended.status, ended.err) == (0, ""), ended
    *wrong, last = ended.out.splitlines()
    assert not wrong, ended
    found = re.fullmatch(r"ran (\d+) of \d+, statuses \{.*\b1: (\d+).*\}", last)
    assert found, last
    assert all(int(number) > CASES // 40 for number in found.groups()), last
