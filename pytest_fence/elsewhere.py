"""Other systems than Linux, where no run can be fenced: skip the fence and say so, or refuse the run.

Imports nothing that such a system does not have. What a project allows its tests is not read there.
"""

from __future__ import annotations

import sys

import pytest

from pytest_fence import engine, options, overlooked

SYSTEM: str = sys.platform
"""What Python calls it: ``linux``, ``darwin``, ``win32``."""
_KEY = "unsupported"


def skip_fence(config: pytest.Config) -> str:
    """What the header says instead of a fence; empty if nobody has asked for one.

    Raises UsageError where the run is not to go on without, PolicyError for a configuration that cannot be used.
    """
    flags = config.known_args_namespace
    found = engine.find_settings(config.rootpath, options.explicit_config(config))
    if not (flags.fence or any(each.enabled for each in found)):
        flag = options.given_in_vain(flags)
        overlooked.look_out_unfenced(config)
        return f"fence: off ({flag} does nothing without --fence)" if flag else ""
    said = [each.unsupported for each in found if _KEY in dict(each.sources)]
    if flags.fence_require is not None:
        _refuse("--fence-require is given")
    if "refuse" in said:
        _refuse('the configuration says unsupported = "refuse"')
    if said:
        return f'fence: off (this is {SYSTEM}; unsupported = "skip")'
    if flags.fence:
        _refuse("--fence is given")
    if any(each.require for each in found):
        _refuse("the configuration has `require`")
    return f"fence: off (this is {SYSTEM})"


def _refuse(why: str) -> None:
    raise pytest.UsageError(
        f"this run cannot be fenced: the fence needs Linux, and this is {SYSTEM}; {why}, so it is not run without. "
        'Accepted: --no-fence; or unsupported = "skip" in the configuration, which holds for all runs without '
        "--fence-require"
    )
