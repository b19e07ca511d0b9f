"""Flag over file over default: how to run the fence, and what pytest and its plugins themselves must write."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pytest_fence import engine, overlooked

VSCODE_PIPE = "TEST_RUN_PIPE"
"""The environment variable in which VS Code names what its pytest plugin reports to: a FIFO that the plugin opens for
writing, below `XDG_RUNTIME_DIR` where that is set; in other versions a UNIX socket that it connects to."""
VSCODE_IDS = "RUN_TEST_IDS_PIPE"
"""The same for a file with the ids of the tests to run, which the script that calls pytest removes afterwards."""
DEBUGGER = "pydevd"
"""The module that is loaded where one is attached."""

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""The environment variable in which GitHub Actions names the file that a step describes its result in."""
_LATER_STEPS = ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STATE")
"""The same for files that the runner obeys in the steps that follow, which nobody fences."""

_GITHUB = "github"
"""The report that has GitHub's own channels."""

# Options that name a file or directory to be written: of pytest, and of plugins that many projects use.
_PATH_OPTIONS = (
    "allure_report_dir",
    "benchmark_storage",
    "csv_path",
    "debug",
    "htmlpath",
    "json_report_file",
    "log_file",
    "md_report_output",
    "report_log",
    "xmlpath",
)
_COVERAGE_FILES = ("xml", "html", "json", "lcov", "annotate", "markdown", "markdown-append")
_COVERAGE_DEFAULTS = {"xml": "xml:output", "html": "html:directory", "json": "json:output", "lcov": "lcov:output"}
"""Where coverage's configuration says what a report is called that `--cov-report` gives no name."""


def choose(config: pytest.Config) -> engine.Config | None:
    """What this run is to be fenced with; None where nobody asked for a fence.

    Raises PolicyError with everything that is wrong with the policy, and where another one would be overlooked.
    """
    options = config.known_args_namespace
    explicit = explicit_config(config)
    found = policy_of(config)
    fenced = options.fence or found.settings.enabled
    check_learning(options)
    if options.fence_learn:
        if found.packages:
            raise pytest.UsageError("--fence-learn is for one policy: run it in each of the packages by itself")
        found = engine.learning_config(found)
    if explicit is None:
        problems = [
            problem
            for directory in overlooked.of_arguments(config)
            if (problem := overlooked.problem(directory, config, found, fenced=fenced))
        ]
        if problems:
            raise engine.PolicyError(tuple(problems))
    return found if fenced else None


def policy_of(config: pytest.Config) -> engine.Config:
    """What a fenced run would be fenced with, whether anybody asks for it or not. Raises PolicyError."""
    options = config.known_args_namespace
    here = config.invocation_params.dir
    explicit = explicit_config(config)
    context = engine.TemplateContext.of_run(
        config.rootpath,
        cache_dir=_cache_dir(config),
        extra_write=paths_to_write(config),
        extra_temp_dirs=[_absolute(here, options.basetemp)] if options.basetemp else [],
    )
    overlays, locked = list(_overlays(options, here)), list(_option_files(config))
    found = engine.find_config(config.rootpath, explicit, context=context, overlays=overlays, locked=locked)
    debugger = engine.attached() if DEBUGGER in sys.modules else None
    needed = debugger.needs(found.policy) if debugger is not None else None
    if needed:
        overlays.append(("the debugger that is attached", needed))
    paths = [path for each in found.settings.report if (path := engine.report_parts(each)[1])]
    if paths:  # they are the supervisor's
        overlays.append(("a report file", {"deny_write": list(map(engine.escape, paths))}))
    if needed or paths:
        found = engine.find_config(config.rootpath, explicit, context=context, overlays=overlays, locked=locked)
    return found


def explicit_config(config: pytest.Config) -> Path | None:
    """The file that the command line names, absolute."""
    named = config.known_args_namespace.fence_config
    return Path(os.path.abspath(config.invocation_params.dir / named)) if named else None


def _option_files(config: pytest.Config) -> Iterator[str]:
    """Files that options of this run were read from: the next run would obey what a test writes there."""
    if config.inipath is not None and config.inipath.is_file():  # and not `-c /dev/null`
        yield str(config.inipath)
    for word in config.invocation_params.args:
        if str(word).startswith("@"):
            yield os.path.abspath(config.invocation_params.dir / str(word)[1:])


def flags_of_policy(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, object]]]:
    """What flags say that holds on any machine."""
    if options.fence_mode is not None:
        yield "--fence-mode", {"mode": options.fence_mode}
    if options.fence_require is not None:
        names = [name.strip() for text in options.fence_require for name in text.split(",")]
        yield "--fence-require", {"require": names}
    if options.fence_scope is not None:
        yield "--fence-scope", {"scope": options.fence_scope}


def _overlays(options: argparse.Namespace, here: Path) -> Iterator[tuple[str, dict[str, object]]]:
    yield from flags_of_policy(options)
    if options.fence_keep_fd is not None:
        yield "--fence-keep-fd", {"keep_fds": options.fence_keep_fd}
    if options.fence_report is not None:
        yield "--fence-report", {"report": _reports(options.fence_report, here)}
    for name, path in vscode_files():
        file = [engine.escape(path)]
        rules: dict[str, object] = {"allow_write": file}
        if name == VSCODE_PIPE:
            rules["allow_unix_sockets"] = file
        yield f"{name} (set by VS Code)", rules
    for name in _LATER_STEPS:
        path = os.environ.get(name, "")
        if os.path.isabs(path):
            yield f"{name} (set by GitHub Actions)", {"deny_write": [engine.escape(path)]}


def _reports(given: list[str], here: Path) -> list[str]:
    """Files count from where pytest was started. What is wrong is said where the policy is read."""
    if "" in given:
        return [""]
    found = []
    for text in given:
        try:
            found.append(engine.parse_report(text, str(here)))
        except ValueError:
            found.append(text)
    return found


def reports_wanted(settings: engine.Settings) -> tuple[str, ...]:
    """What report files this run is to leave: those that were asked for, and GitHub's own in its steps."""
    wanted = settings.report
    if "" in wanted:
        return ()
    if settings.github and os.environ.get("GITHUB_ACTIONS") == "true" and _GITHUB not in wanted:
        return (*wanted, _GITHUB)
    return wanted


def given_in_vain(options: argparse.Namespace) -> str:
    """The flag that shapes a fence which nobody asked for; empty if there is none."""
    for name in ("fence_mode", "fence_scope", "fence_require", "fence_keep_fd", "fence_config", "fence_report"):
        if getattr(options, name) is not None:
            return _spelled(name)
    return next((_spelled(name) for name in ("fence_learn", *_OF_LEARNING) if getattr(options, name)), "")


_OF_LEARNING = ("fence_write", "fence_learn_partial", "fence_learn_wildcards")


def _spelled(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_learning(options: argparse.Namespace) -> None:
    """Raises UsageError for flags that do not go together."""
    for name in _OF_LEARNING:
        if getattr(options, name) and not options.fence_learn:
            raise pytest.UsageError(f"{_spelled(name)} is for --fence-learn")
    if options.fence_learn and options.fence_mode is not None:
        raise pytest.UsageError("--fence-learn is a mode of its own: leave --fence-mode out")


def learning_order(config: pytest.Config, chosen: engine.Config) -> engine.Order:
    """What the supervisor is to do with what it has learnt."""
    options = config.known_args_namespace
    path = chosen.path if chosen.path is not None else config.rootpath / "pyproject.toml"
    here = f"{config.invocation_params.dir}{os.sep}"
    return engine.Order(
        path=os.path.abspath(path),
        shown=str(path).removeprefix(here),
        how="--fence-write does it",
        write=options.fence_write,
        partial=options.fence_learn_partial,
        partial_flag="--fence-learn-partial",
        wildcards=options.fence_learn_wildcards,
        tests=True,
        fd=1,
    )


def vscode_files() -> list[tuple[str, str]]:
    """What VS Code's runner needs: variable and path. Asked before any code under test could change it.

    A path that is relative, or a directory, is not what the editor sets.
    """
    found = [(name, os.environ.get(name, "")) for name in (VSCODE_PIPE, VSCODE_IDS)]
    return [(name, path) for name, path in found if os.path.isabs(path) and not os.path.isdir(path)]


def step_summary() -> str:
    """The file that plugins may write when all tests are over; empty where there is none. Asked before any code under
    test could change it."""
    path = os.environ.get(STEP_SUMMARY, "")
    return path if os.path.isabs(path) and not os.path.isdir(path) else ""


def paths_to_write(config: pytest.Config) -> Iterator[str]:
    """Absolute paths, from the command line and the ini file, of what pytest and its plugins will write."""
    for text in (*_from_options(config.known_args_namespace), *_from_ini(config), *_from_environment()):
        yield _absolute(config.invocation_params.dir, text)


def places_to_read(config: pytest.Config) -> Iterator[tuple[str, str]]:
    """What pytest reads to find the tests, each with what it is."""
    yield "pytest's root directory", str(config.rootpath)
    for text in config.known_args_namespace.file_or_dir:
        path = _absolute(config.invocation_params.dir, text.partition("::")[0])
        if os.path.exists(path):
            yield "what is to be tested", path


def _absolute(base: Path, text: str) -> str:
    return os.path.normpath(os.path.join(base, os.path.expanduser(os.path.expandvars(text))))


def _cache_dir(config: pytest.Config) -> str:
    text = _ini(config, "cache_dir")
    return _absolute(config.rootpath, text) if text else ""


def _ini(config: pytest.Config, name: str) -> str:
    try:
        value = config.getini(name)
    except (KeyError, ValueError):
        return ""  # the plugin it belongs to is not there
    return value if isinstance(value, str) else ""


def _from_options(options: argparse.Namespace) -> Iterator[str]:
    for name in _PATH_OPTIONS:
        value = getattr(options, name, None)
        if isinstance(value, str) and value:
            yield value.removeprefix("file://")  # as pytest-benchmark spells its storage
    # pytest-benchmark opens the file while the options are parsed.
    opened = getattr(getattr(options, "benchmark_json", None), "name", None)
    if isinstance(opened, str):
        yield opened
    reports = getattr(options, "cov_report", None)
    if isinstance(reports, dict):
        for kind in _COVERAGE_FILES:
            if isinstance(reports.get(kind), str):
                yield reports[kind]
    yield from _from_coverage(options, reports if isinstance(reports, dict) else {})


def _from_coverage(options: argparse.Namespace, reports: Mapping[str, object]) -> Iterator[str]:
    """The data file, and the reports without a name, as coverage's own configuration has them, or its defaults."""
    given = getattr(options, "cov_source", None)
    if (not given or getattr(options, "no_cov", False)) and "coverage" not in sys.modules:
        return
    try:
        import coverage

        measured = coverage.Coverage.current()
        if measured is None and given:
            measured = coverage.Coverage(config_file=getattr(options, "cov_config", None) or True)
        if measured is None:
            return
        wanted = [key for kind, key in _COVERAGE_DEFAULTS.items() if kind in reports and not reports[kind]]
        found = [measured.get_option(key) for key in ("run:data_file", *wanted)]
    except Exception:
        return  # pytest-cov says what is wrong with the configuration
    yield from (text for text in found if isinstance(text, str) and text)


def _from_ini(config: pytest.Config) -> Iterator[str]:
    log_file = _ini(config, "log_file")
    if log_file:
        yield _absolute(config.rootpath, log_file)


def _from_environment() -> Iterator[str]:
    for name in ("COVERAGE_FILE", "PYTEST_DEBUG_TEMPROOT"):
        if os.environ.get(name):
            yield os.environ[name]
