"""What a process that cannot be forked tells the one that is started in its place: all that was decided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fence_core.launcher.plan import Host
from fence_core.launcher.respawn import make_order, read_order
from fence_core.policy.model import Config, Entry, FilesystemRules, NetworkRules, Policy, Settings, Source

SOURCE = Source("pyproject.toml [tool.fence]", "/p/pyproject.toml", 3, ("filesystem", 0))
ENTRY = (Entry("x*", SOURCE),)
CONFIG = Config(
    Policy(
        network=NetworkRules(allowed_domains=(Entry("*.test", SOURCE),), proxy_env=True),
        filesystem=FilesystemRules(allow_write=ENTRY, environment=("/e",), root="/p"),
    ),
    Settings(
        enabled=True,
        mode="warn",
        require=("landlock",),
        leftovers="wait",
        watch_reads=True,
        env_deny=ENTRY,
        keep_fds=(7, 9),
    ),
    SOURCE.name,
    Path("/p/pyproject.toml"),
)


@pytest.mark.parametrize("config", [CONFIG, Config(CONFIG.policy, Settings(), "preset pytest", None)])
@pytest.mark.parametrize("host", [Host(), Host("pytest", (0, 5), 1, 4, ("PYTEST_", "PYTHON"))])
def test_everything_arrives(config: Config, host: Host) -> None:
    order = json.loads(json.dumps(make_order(config, ["python", "-m", "x"], host)))
    assert order["argv"] == ["python", "-m", "x"]
    assert read_order(order) == (config, host)


def test_modules_come_from_where_no_test_may_write() -> None:
    order = make_order(CONFIG, [], Host())
    assert "" not in order["sys_path"]
    assert str(Path.cwd()) not in order["sys_path"][:-1]
