"""Where a rule is said to have been looked for: not in flags, which hold none."""

from __future__ import annotations

from pathlib import Path

import pytest

from fence_core.policy.decide import Judge
from fence_core.policy.requests import Connect, Request, UnixConnect, Write
from fence_core.policy.sources.load import find_config
from fence_core.report.rule import sentence

FLAGS = [("--fence-mode", {"mode": "warn"}), ("--fence-scope", {"scope": "test"}), ("--fence-require", {"require": []})]
PIPE = "TEST_RUN_PIPE (set by VS Code)"


def judge(root: Path) -> Judge:
    overlays = [*FLAGS, (PIPE, {"allow_unix_sockets": ["/run/user/1/vscode.sock"]})]
    config = find_config(root, overlays=overlays)
    assert (config.settings.mode, config.settings.scope) == ("warn", "test")
    return Judge(config.policy)


@pytest.mark.parametrize("asked", [Write("open", "/elsewhere/x"), Connect("93.184.216.34", 443)], ids=["file", "net"])
def test_flags(tmp_path: Path, asked: Request) -> None:
    assert sentence(judge(tmp_path).decide(asked)).endswith(" allows it (preset pytest)")
    (tmp_path / "pyproject.toml").write_text("[tool.fence]\nenabled = true\n")
    rule = sentence(judge(tmp_path).decide(asked))
    assert rule.endswith(" allows it (preset pytest, pyproject.toml [tool.fence])")


def test_what_holds_a_rule_of_this_key(tmp_path: Path) -> None:
    """It is named for that key, and the rule itself holds."""
    refused = judge(tmp_path).decide(UnixConnect("/run/other.sock"))
    assert sentence(refused) == f"no rule in network.allow_unix_sockets allows it (preset pytest, {PIPE})"
    allowed = judge(tmp_path).decide(UnixConnect("/run/user/1/vscode.sock"))
    assert allowed.allowed
    assert sentence(allowed) == f'allowed: network.allow_unix_sockets "/run/user/1/vscode.sock" ({PIPE})'
