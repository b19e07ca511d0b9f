"""Raise the fence before the first conftest is imported, and lower it when pytest is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_fence import elsewhere, engine, options, overlooked, xdist

if TYPE_CHECKING:
    from pytest_fence.items import TestHooks
    from pytest_fence.remote import Carrier


_HOST = "pytest"
"""What this program is called in a chain of programs."""


def maybe_raise_fence(config: pytest.Config, *, others: int) -> None:
    """Returns fenced if anybody asked for it, in another process than it was called in.

    `others` is the number of pytest sessions that are live in this process besides this one. Whatever stands in the
    way is a UsageError.
    """
    scope = xdist.remote_scope(config, others=others)
    if scope:
        _join_elsewhere(config, scope)
        return
    flags = config.known_args_namespace
    if flags.no_fence:
        config.pluginmanager.register(HeaderNote("fence: off (--no-fence)"))
        return
    try:
        if elsewhere.SYSTEM != "linux":
            note = elsewhere.skip_fence(config)
            if note:
                config.pluginmanager.register(HeaderNote(note))
            return
        chosen = options.choose(config)
        if chosen is None:
            flag = options.given_in_vain(flags)
            if flag:
                config.pluginmanager.register(HeaderNote(f"fence: off ({flag} does nothing without --fence)"))
            overlooked.look_out_unfenced(config)
            return
        fence, carrier = _put_up(config, chosen, others)
        proxy = fence.proxy() if chosen.policy.network.proxy_env and fence.role != "worker" else ""
    except engine.FenceError as error:
        raise pytest.UsageError(usage_text(error)) from None
    if proxy:  # a worker has the environment of its controller
        _tell_of_the_proxy(proxy)
    _install(config, fence, chosen, carrier)


def _join_elsewhere(config: pytest.Config, scope: str) -> None:
    """In a worker on another machine than its controller, which is fenced: no config of this machine is in force."""
    fence = engine.maybe_join(None, role="worker")
    if fence is None:
        raise pytest.UsageError("this worker of pytest-xdist was not started inside a fence")
    fence.role = "worker"  # although it is the first of its fence
    config.pluginmanager.register(xdist.PluginIsThere(config))
    lookout = None
    if not config.known_args_namespace.fence_config:
        lookout = overlooked.Lookout(config, engine.Config(engine.Policy(), engine.Settings(), fence.source))
    _install_in_tests(config, fence, forks=scope == "test", lookout=lookout)
    config.add_cleanup(fence.close)


def usage_text(error: engine.FenceError) -> str:
    """All problems, one a line, as pytest shows a usage error."""
    if isinstance(error, engine.PolicyError):
        return "\n".join(["the fence's policy cannot be used:", *(f"  {problem}" for problem in error.problems)])
    if isinstance(error, engine.FenceUnavailable):
        return f"this run cannot be fenced: {error}"
    return f"could not set up the fence: {error}"


def _put_up(config: pytest.Config, chosen: engine.Config, others: int) -> tuple[engine.Fence, Carrier | None]:
    if xdist.is_worker(config, others=others):
        fence = engine.maybe_join(None, role="worker")
        if fence is None:
            raise pytest.UsageError(
                "this worker of pytest-xdist was not started inside the fence: a fenced run starts its workers itself "
                "(-n NUM, --tx), or runs with --no-fence"
            )
        return fence, None
    remote = xdist.remote_specs(config.known_args_namespace)
    flags = config.known_args_namespace
    engine.check_needed(
        chosen,
        options.places_to_read(config),
        captures=getattr(flags, "capture", "no") == "fd",
        kept=_kept_for_workers() if xdist.starts_workers(flags) else None,
    )
    if others:
        _check_variables(chosen)
    fence = engine.maybe_join(chosen, role="nested", host=_HOST)
    _check_learning(config, chosen, remote, nested=fence is not None)
    if fence is not None:
        _check_nested(config, chosen, remote, fence.role)
        return fence, None
    if others:
        raise pytest.UsageError(
            "another pytest session is running in this process, and a fence would enclose that one too: run this one "
            "in a process of its own (pytester: runpytest_subprocess), or fence the outer session as well"
        )
    debugger = engine.attached() if options.DEBUGGER in sys.modules else None
    if debugger is None:
        return _put_up_by_fork(config, chosen, remote)
    if chosen.settings.service_proxy:
        raise pytest.UsageError("service_proxy: no proxy is started beside a run with a debugger attached")
    if remote:
        raise pytest.UsageError("a debugger is attached, which would not follow the workers on other machines")
    if chosen.settings.scope == "test":
        raise pytest.UsageError(
            'with scope = "test" each test runs in a process of its own, which the debugger that is attached would not '
            "follow: add --fence-scope=session while you debug (PYTEST_ADDOPTS takes it, too)"
        )
    try:
        debugger.pause()
        _clear_the_way(config, chosen, again=False)
        fence = engine.fence_this_process(chosen, _host(config, chosen), _import_what_follows, debugger)
    except BaseException:
        debugger.resume()
        raise
    client = "{}:{}".format(*debugger.client())
    config.pluginmanager.register(
        HeaderNote(f"fence: a debugger is attached, and its connection to {client} stays open to the tests")
    )
    return fence, None


def _put_up_by_fork(
    config: pytest.Config, chosen: engine.Config, remote: list[str]
) -> tuple[engine.Fence, Carrier | None]:
    learns = chosen.settings.mode == "learn"
    _clear_the_way(config, chosen, again=not (remote or learns or chosen.settings.service_proxy))
    if learns:
        return _fence_to_learn(config, chosen), None
    carrier = _carrier(config, chosen, remote)
    lines = carrier.lines if carrier is not None else _proxy_beside(config, chosen)
    if lines is None:
        return engine.fence_this_process(chosen, _host(config, chosen), _import_what_follows), None
    return engine.fence_this_process(chosen, _host(config, chosen), _import_what_follows, carrier=lines), carrier


def _check_nested(config: pytest.Config, chosen: engine.Config, remote: list[str], role: str) -> None:
    """Raises UsageError for what a run inside of another fence cannot do; or one that was started once more."""
    if remote:
        raise pytest.UsageError(f"{xdist.outside(remote)}; a run inside of another fence starts none elsewhere")
    if role == "nested" and chosen.settings.service_proxy:
        raise pytest.UsageError("service_proxy: a run inside of another fence starts no proxy beside it")
    if role == "nested" and any(config.known_args_namespace.fence_report or ()):
        raise pytest.UsageError("--fence-report: a run inside of another fence leaves no report files of its own")


def _carrier(config: pytest.Config, chosen: engine.Config, specs: list[str]) -> Carrier | None:
    """What starts the workers on other machines, if there are to be any."""
    if not specs:
        return None
    if chosen.settings.service_proxy:
        raise pytest.UsageError("service_proxy: no proxy is started beside a run with workers on other machines")
    from pytest_fence import remote

    return remote.start(config, chosen, _host(config, chosen), specs)


def _check_variables(chosen: engine.Config) -> None:
    """Raises UsageError where `env_deny` would concern another session of this process."""
    denied = engine.variables_denied(chosen.settings) if chosen.settings.mode != "audit" else ()
    if denied:
        raise pytest.UsageError(
            f"another pytest session is running in this process, and env_deny would take {', '.join(denied)} away "
            "from that one too: run this one in a process of its own (pytester: runpytest_subprocess)"
        )


def _check_learning(config: pytest.Config, chosen: engine.Config, remote: list[str], *, nested: bool) -> None:
    """Raises UsageError where this run is to be learnt from and cannot be, or is to do what such a run does not."""
    if chosen.settings.mode != "learn":
        return
    if any(config.known_args_namespace.fence_report or ()):
        raise pytest.UsageError("--fence-report: a run that learns leaves no report files, but proposes rules")
    if chosen.settings.service_proxy:
        raise pytest.UsageError("service_proxy: no proxy is started beside a run that learns")
    if nested:
        raise pytest.UsageError("--fence-learn does not work inside another fence, which refuses what it refuses")
    if remote:
        raise pytest.UsageError(f"{xdist.outside(remote)}; nothing is learnt from what runs on other machines")
    if options.DEBUGGER in sys.modules and engine.attached() is not None:
        raise pytest.UsageError("a debugger is attached: --fence-learn would learn what that needs as well")


def _fence_to_learn(config: pytest.Config, chosen: engine.Config) -> engine.Fence:
    host = _host(config, chosen)
    try:
        report = engine.LearningReport(host, chosen, options.learning_order(config, chosen))
        return engine.fence_this_process(chosen, host, _import_what_follows, reporter=report)
    except engine.EditError as error:
        raise pytest.UsageError(f"--fence-learn cannot edit the configuration: {error}") from None


def _proxy_beside(config: pytest.Config, chosen: engine.Config) -> engine.Ends | None:
    """With `service_proxy`: the lines to what listens there. Raises FenceUnavailable."""
    if not chosen.settings.service_proxy:
        return None
    path = engine.trusted_path(engine.protect_early_modules(chosen.policy).filesystem.environment)
    service = engine.start_service(chosen, path)
    config.pluginmanager.register(HeaderNote(f"fence: a proxy beside this run, by the same policy: {service.url}"))
    return service.lines


def _host(config: pytest.Config, chosen: engine.Config) -> engine.Host:
    """What pytest's exit statuses mean, what decides how it starts, and what it is to leave behind."""
    passing = (int(pytest.ExitCode.OK), int(pytest.ExitCode.NO_TESTS_COLLECTED))
    failed, unusable = int(pytest.ExitCode.TESTS_FAILED), int(pytest.ExitCode.USAGE_ERROR)
    host = engine.Host(_HOST, passing, failed, unusable, ("PYTEST_", "PYTHON"))
    wanted = options.reports_wanted(chosen.settings)
    if not wanted:
        return host
    from pytest_fence import report_files

    return host._replace(reports=report_files.order(config, wanted))


def _kept_for_workers() -> engine.Kept:
    """What a worker does not get from its controller, as it gets arguments and `sys.path`."""
    names = frozenset({"PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTHONHOME"})
    return engine.Kept(names, "and workers of pytest-xdist load other plugins without, or do not start")


def _clear_the_way(config: pytest.Config, chosen: engine.Config, *, again: bool) -> None:
    """A fork keeps nothing but this thread: see that nothing is lost by it, or start afresh where that is possible.

    `again`: whether it is. A new start would lose the debugger's client, or workers on other machines.
    """
    found = engine.obstacles()
    if not found:
        return
    if all(map(is_thread, found)) and owns_command(sys.orig_argv) and again:
        engine.respawn_fenced(chosen, sys.orig_argv, _host(config, chosen))
    raise pytest.UsageError(
        "\n".join(
            [
                "the fence starts with a fork, and that would lose what this process already has:",
                *(f"  {text}" for text in found),
                "call pytest before that, from the main thread, or run it as a command of its own (python -m pytest)",
            ]
        )
    )


def is_thread(obstacle: str) -> bool:
    """Of the things in the way of a fork only threads can be had again, by starting the command anew."""
    return obstacle.startswith("another thread ")


def owns_command(argv: Sequence[str]) -> bool:
    """Whether the whole command is pytest's, so that starting it again does nothing but what pytest does."""
    words = list(argv[1:])
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "-m" and words:
            return _is_pytest(words, is_module=True)
        if word in ("-W", "-X", "--check-hash-based-pycs") and words:
            words.pop(0)
        elif word.startswith("-c") or word == "-":
            return False
    return bool(words) and _is_pytest(words, is_module=False)


def _is_pytest(words: Sequence[str], *, is_module: bool) -> bool:
    program = words[0]
    if not is_module:
        if program.endswith(os.path.join("pytest", "__main__.py")):
            return True
        program = os.path.basename(program)
    if program in ("pytest", "py.test"):
        return True
    rest = list(words[1:])
    if program not in ("coverage", "coverage3") or rest[:1] != ["run"]:
        return False
    return "-m" in rest and rest[rest.index("-m") + 1 :][:1] == ["pytest"]


def _import_what_follows() -> None:
    """What `_install` needs, while there is time for it."""
    from pytest_fence import items, reporting, verdicts  # noqa: F401


def _install_in_tests(
    config: pytest.Config, fence: engine.Fence, *, forks: bool, lookout: overlooked.Lookout | None
) -> TestHooks:
    """What every fenced pytest process has."""
    from pytest_fence import items

    manager = config.pluginmanager
    hooks = items.TestHooks(config, fence, forks=forks, lookout=lookout)
    # Conftests of what the arguments name are imported next, before anything is collected.
    fence.enter("", "startup", hooks.packages.of_all(overlooked.given(config)))
    hooks.prepare_forks = lambda: _prepare_forks(config, fence, hooks)
    manager.register(hooks, "fence-tests")
    manager.register(items.Innermost(hooks), "fence-tests-innermost")
    return hooks


def _install(config: pytest.Config, fence: engine.Fence, chosen: engine.Config, carrier: Carrier | None) -> None:
    """Everything that happens inside: only this Config has these hooks, no other session in the process."""
    lookout = None if config.known_args_namespace.fence_config else overlooked.Lookout(config, chosen)
    hooks = _install_in_tests(config, fence, forks=chosen.settings.scope == "test", lookout=lookout)
    if fence.role == "worker":
        config.add_cleanup(fence.close)
        return
    summary = options.step_summary()
    if summary:
        rules = {"allow_write": [engine.escape(summary)]}
        source = engine.Source(f"{options.STEP_SUMMARY} (set by GitHub Actions)")
        hooks.finish_policy = fence.register_policy([(rules, source)])
    from pytest_fence import reporting

    manager = config.pluginmanager
    report = reporting.ReportHooks(config, fence, chosen, lambda: chosen.ignores() or hooks.ignores)
    manager.register(report, "fence-report")
    manager.register(xdist.ControllerHooks(fence, carrier), "fence-xdist")
    if carrier is not None:
        manager.register(carrier, "fence-carrier")
    if fence.mode == "warn":
        manager.register(reporting.WarnOutsideTests(config, fence, report), "fence-warnings")
    outcomes = None
    if fence.role == "session" and options.reports_wanted(chosen.settings):
        from pytest_fence import report_files

        outcomes = report_files.Outcomes(fence)
        manager.register(outcomes, "fence-outcomes")
    if getattr(config.known_args_namespace, "xmlpath", None) and chosen.settings.junit_properties:
        from pytest_fence import junit

        digest = engine.policy_digest(chosen.policy)
        manager.register(junit.JUnitProperties(config, fence, digest), "fence-junit")
    # Cleanups run in reverse order: what is registered first sees what all others still did.
    config.add_cleanup(report.lower)
    if outcomes is not None:
        config.add_cleanup(outcomes.hand_over)


def _prepare_forks(config: pytest.Config, fence: engine.Fence, hooks: TestHooks) -> None:
    from pytest_fence import forked

    forked.register(config, fence, hooks)


def _tell_of_the_proxy(url: str) -> None:
    """Both spellings: curl reads http_proxy in small letters only, others the large ones."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ[name] = os.environ[name.lower()] = url
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1,::1"


class HeaderNote:
    """One line in pytest's header, for a run that is not fenced although a flag of ours was given."""

    def __init__(self, text: str) -> None:
        self._text = text

    def pytest_report_header(self) -> str:
        return self._text
