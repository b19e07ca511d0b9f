"""The entry point: options, the marker, and the moment at which the fence goes up.

Runs in every pytest process, fenced or not; so nothing is imported here that an unfenced run does not need. The hooks
of a fenced run are registered by `pytest_fence.session` when its fence stands: `items.TestHooks` (what each test may
do, and failing it), `reporting.ReportHooks` (header, summary, exit status) and, beside pytest-xdist, those in `xdist`.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Generator

import pytest

from pytest_fence.imports import unrewritten

MARKER = (
    "fence(*, allowed_domains=[], allow_write=[], ...): what this test may do beyond the policy of the session, or "
    "may not do; the keyword arguments are the keys of [tool.fence]. Lists add up from module over class to function, "
    "other values are replaced by the closest marker, denials always win."
)

_FLAGS = (
    "fence",
    "no_fence",
    "fence_mode",
    "fence_scope",
    "fence_config",
    "fence_require",
    "fence_keep_fd",
    "fence_report",
    "fence_learn",
    "fence_write",
    "fence_learn_partial",
    "fence_learn_wildcards",
)

_REMOTE = "fence_worker"
"""The ``-X`` option that a worker on another machine has: `pytest_fence.xdist.REMOTE`."""

_live: weakref.WeakSet[pytest.Config] = weakref.WeakSet()
"""Every Config in this process that is not yet unconfigured: a fork would take all of their sessions along."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fence", "fence around the tests")
    add = group.addoption
    add(
        "--fence",
        action="store_true",
        help="Fence this run: what the policy does not allow is refused by the kernel and reported on its test. "
        "The same as `enabled = true` in [tool.fence].",
    )
    add("--no-fence", action="store_true", help="Run without a fence, whatever else asks for one.")
    add(
        "--fence-mode",
        choices=("enforce", "warn", "audit"),
        help="enforce (default): refuse, and fail the test. warn: refuse, and warn. "
        "audit: let everything through, and list it. The same as `mode` in [tool.fence].",
    )
    add(
        "--fence-scope",
        choices=("session", "test"),
        help="session (default): all tests in one fenced process. test: each test in a fork of it, of which nothing "
        "but the report remains. The same as `scope` in [tool.fence].",
    )
    add(
        "--fence-config",
        metavar="FILE",
        help="Read the policy from FILE (.toml, .json, .jsonc, .yaml) instead of looking for one in the root "
        "directory.",
    )
    add(
        "--fence-require",
        metavar="LAYER[,...]",
        action="append",
        help="Do not run if one of these layers is missing: seccomp, landlock, ... The same as `require` in "
        "[tool.fence].",
    )
    add(
        "--fence-keep-fd",
        metavar="N",
        type=int,
        action="append",
        help="Keep descriptor N, which the caller has left open; other files, sockets and devices that it did are "
        "closed. The same as `keep_fds` in [tool.fence].",
    )
    add(
        "--fence-report",
        metavar="TYPE[:FILE]",
        action="append",
        help="Leave a report: json, html, markdown, sarif, gitlab, github or concise, in FILE or where such a report "
        "usually lies; may be given more than once. Empty (--fence-report=): none, automatic ones neither. The same as "
        "`report` in [tool.fence].",
    )
    add(
        "--fence-doctor",
        action="store_true",
        help="Run no tests: say whether they can be fenced on this machine, proved by trying, and what is missing.",
    )
    _add_learning(group)


def _add_learning(group: pytest.OptionGroup) -> None:
    add = group.addoption
    add(
        "--fence-learn",
        action="store_true",
        help="With a fence: let happen what no rule lists, but for writes to protected files, and propose the rules "
        "that this run needs.",
    )
    add("--fence-write", action="store_true", help="Write what --fence-learn proposes into the configuration.")
    add("--fence-learn-partial", action="store_true", help="Write it also where tests have failed.")
    add(
        "--fence-learn-wildcards",
        action="store_true",
        help="Propose *.example.com for names that differ in a first part like a hash.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Before any conftest is imported, before capture and coverage start."""
    others = len(_live)
    _live.add(early_config)
    early_config.add_cleanup(lambda: _live.discard(early_config))
    options = early_config.known_args_namespace
    with unrewritten():
        if options.fence_doctor:
            from pytest_fence import doctor

            doctor.examine(early_config)
        named = any(getattr(options, name) for name in _FLAGS) or _REMOTE in sys._xoptions
        if named or _is_configured(early_config):
            from pytest_fence import session

            session.maybe_raise_fence(early_config, others=others)
        else:
            from pytest_fence import overlooked

            overlooked.look_out_unfenced(early_config)
    return (yield)


def _is_configured(config: pytest.Config) -> bool:
    """Whether files of the project, or of the parts that are to be tested, might switch the fence on; a false alarm
    costs only time."""
    from fence_core.config_files import mentions_fence
    from pytest_fence import overlooked

    if mentions_fence(config.rootpath) is not None:
        return True
    return any(mentions_fence(directory) is not None for directory in overlooked.of_arguments(config))
