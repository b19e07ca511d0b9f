"""What a report says of where a run took place, and the source lines that it shows.

Run by the supervisor.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fence_core.policy.model import Entry

if TYPE_CHECKING:
    from fence_core.policy.model import Policy

__all__ = ["ci", "policy_digest", "read_source"]

_SOURCE_MAX = 4 << 20


_OF_THE_MACHINE = frozenset(
    {"root", "base", "home", "scratch", "locked", "environment", "early_names", "byte_code_dir", "sources"}
)
"""What a policy has that is another on each machine, with the same configuration."""


def policy_digest(policy: Policy) -> str:
    """Of what was written in the project: equal for the shards of one run, wherever they run.

    Of a preset its name: what it says stands with the version of this package, and has paths of the machine in it.
    """
    rules = [
        [section, name, _written(value)]
        for section in ("network", "filesystem", "command")
        for name, value in getattr(policy, section)._asdict().items()
        if name not in _OF_THE_MACHINE
    ]
    names = [source.name for source in policy.sources]
    return hashlib.sha256(json.dumps([names, rules]).encode()).hexdigest()


def _written(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    entries = [each for each in value if isinstance(each, Entry)]
    if not entries:
        return value
    return [each.text for each in entries if each.source.file]


def ci(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Of a run by a service of continuous integration, by the variables that it documents."""
    get = environ.get
    if get("GITHUB_ACTIONS") == "true":
        url = f"{get('GITHUB_SERVER_URL', '')}/{get('GITHUB_REPOSITORY', '')}/actions/runs/{get('GITHUB_RUN_ID', '')}"
        branch = get("GITHUB_HEAD_REF") or get("GITHUB_REF_NAME")
        return {"provider": "github", "url": url, "commit": get("GITHUB_SHA"), "branch": branch}
    if get("GITLAB_CI") == "true":
        return {
            "provider": "gitlab",
            "url": get("CI_JOB_URL"),
            "commit": get("CI_COMMIT_SHA"),
            "branch": get("CI_COMMIT_REF_NAME"),
        }
    return None


def read_source(path: str, root: str) -> Sequence[str]:
    """The lines of a module of the project; none of anything else.

    The path comes from inside: the file may be no source at all, or one that the tests may not read.
    """
    try:
        real = os.path.realpath(path)
        if not root or not real.startswith(os.path.realpath(root).rstrip("/") + "/") or not real.endswith(".py"):
            return ()
        fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ()
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ()
        text = file.read(_SOURCE_MAX).decode("utf-8", "replace")
    return [f"{line}\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
