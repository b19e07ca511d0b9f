"""What `fence` imports to run a command that makes no calls: the start is what that costs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

FENCE = Path(sysconfig.get_path("scripts")) / "fence"
DEAR = {
    "pathlib": "a tenth of the start; what has found a config may",
    "shutil": "with it come three ways to compress",
    "fence_core.broker.services.made_sockets": "only where no descriptor can be borrowed",
    "dataclasses": "half a millisecond for each class",
    "threading": "only for `obstacles`",
    "traceback": "only for faults",
    "argparse": "only for subcommands",
    "asyncio": "only in the filter",
    "importlib.metadata": "only for the version",
    "fence_core.untouched": "is for a process of tests",
    "fence_core.broker.calls.opens": "a handler, with the first call of its family",
    "fence_core.broker.calls.messages": "a handler, with the first call of its family",
    "fence_core.broker.calls.privileged": "a handler, with the first call of its family",
}


def imported(directory: Path, *words: str) -> set[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    argv = [sys.executable, "-X", "importtime", *words]
    ended = subprocess.run(argv, cwd=directory, env=environment, capture_output=True, text=True, check=True)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    directory = tmp_path_factory.mktemp("empty")
    start_up = imported(directory, "-c", "pass")  # an environment may have start-up files of its own
    return imported(directory, str(FENCE), "true") - start_up


def test_both_processes_are_looked_at(found: set[str]) -> None:
    assert {"fence_core.command.main", "fence_core.broker.assemble"} <= found


@pytest.mark.parametrize("module", DEAR)
def test_nothing_dear_is_imported(found: set[str], module: str) -> None:
    assert module not in found, DEAR[module]
