"""From the command line to the exec. Run by the process that the user started, and by the fenced child it forks."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from fence_core.command.execute import NotRunError, execute, find_program, shell
from fence_core.command.host import HOST
from fence_core.command.options import UsageError, parse
from fence_core.command.report import CommandReport, Log, Told
from fence_core.command.surroundings import Surroundings, surroundings
from fence_core.errors import FenceError, FenceUnavailable, PolicyError
from fence_core.launcher.session_report import say
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fence_core.command.options import Asked
    from fence_core.command.ports import Opened
    from fence_core.policy.model import Config
    from fence_core.policy.sources.discover import Discovered

__all__ = ["main"]

SUBCOMMANDS = {
    "check": ("fence_core.command.policies", "check"),
    "config": ("fence_core.command.policies", "config"),
    "doctor": ("fence_core.command.doctor", "doctor"),
    "explain": ("fence_core.command.explain", "explain"),
    "learn": ("fence_core.command.learn", "learn"),
    "proxy": ("fence_core.command.proxy", "serve"),
    "report": ("fence_core.command.reports", "report"),
}
"""Module and function of each, which takes the words after it and returns an exit status. It may raise what `run` does.
Imported when it is asked for: a command that is only run pays for none."""
UNUSABLE = HOST.unusable
"""What `fence` ends with where it has run nothing, as the Go tool does."""


def main() -> NoReturn:
    """The console script."""
    while (number := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass  # one of the standard three was closed: it is for the command, but nothing of ours is to have its number
    os.close(number)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored by whoever has started it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        status = run(sys.argv[1:])
        print(end="", flush=True)  # not sys.stdout.flush: there is none where it was closed
    except Exception as error:
        status = told(error)
    os._exit(status)  # nothing is to be done that takes time


def told(error: Exception) -> int:
    """Say why nothing is running: the exit status."""
    if isinstance(error, FenceError):
        return _fail(complaint_of(error))
    if isinstance(error, UsageError):
        return _fail(str(error))
    if isinstance(error, NotRunError):
        return _fail(str(error), error.status)
    if isinstance(error, BrokenPipeError):  # of what was printed
        return UNUSABLE
    if isinstance(error, OSError):
        return _fail(f"{error.strerror or error}{f': {escape(str(error.filename))}' if error.filename else ''}")
    return _fail(f"internal error, please report it: {type(error).__name__}: {escape(str(error))}")  # a mistake of ours


def run(arguments: Sequence[str]) -> int:
    """An exit status, of what is no command. Raises FenceError, UsageError, NotRunError, OSError."""
    if arguments and (where := SUBCOMMANDS.get(arguments[0])):
        subcommand: Callable[[Sequence[str]], int] = getattr(importlib.import_module(where[0]), where[1])
        return subcommand(arguments[1:])
    asked = parse(arguments)
    for name, answer in (
        ("help", _help),
        ("version", _version),
        ("list-templates", _templates),
        ("features", _features),
    ):
        if asked.has(name):
            return answer()
    argv = words_of(asked)
    return run_fenced(asked, find_program(argv[0], os.environ.get("PATH")), argv)


def _fail(text: str, status: int = UNUSABLE) -> int:
    data = f"fence: {text}\n".encode("utf-8", "backslashreplace")
    try:
        os.write(2, data)
    except OSError:
        pass
    return status


def complaint_of(error: FenceError) -> str:
    if isinstance(error, PolicyError):
        from fence_core.command.choose import complaint

        return complaint(error)
    if isinstance(error, FenceUnavailable):
        return f"commands cannot be fenced here: {error}"
    return f"could not set up the fence, nothing was run: {error}"


def _help() -> int:
    from fence_core.command.help import text

    print(text(SUBCOMMANDS))
    return 0


def _version() -> int:
    from importlib.metadata import version

    print(f"fence {version('pytest-fence')}")
    return 0


def _templates() -> int:
    from fence_core.policy.keys import PRESETS

    print("\n".join(PRESETS))
    return 0


def _features() -> int:
    from fence_core.command.features import table

    lines, usable = table()
    print("\n".join(lines))
    return 0 if usable else UNUSABLE


def words_of(asked: Asked) -> list[str]:
    """The words that are executed. Raises UsageError."""
    string = asked.value("command")
    if string is None:
        for name in ("shell", "shell-login"):
            if asked.has(name):
                raise UsageError(f"--{name} is for -c: without it no shell is started")
        if not asked.words:
            raise UsageError("no command given; `fence --help` shows how")
        return asked.words
    login = asked.has("shell-login")
    return [*shell(asked.value("shell") or "default", os.environ.get("SHELL"), login=login), string, *asked.words]


def run_fenced(asked: Asked, program: str, argv: list[str], report: CommandReport | None = None) -> NoReturn:
    """`report`: who tells the user what the supervisor knows, if it is not what the flags say. Raises as `run` does."""
    gc.disable()  # until the fence stands: nearly all that is made is modules, which stay
    from fence_core.command.choose import choose
    from fence_core.link import doors

    ports = _ports(asked)
    log_path = asked.value("log-file")
    locked = [] if log_path is None else [os.path.realpath(log_path)]
    if report is not None:
        locked += report.locked
    found = choose(asked, os.getcwd(), ports, locked)
    if report is not None:
        found = report.settle(found)
    config = found.config
    log = None if log_path is None else _open_log(log_path)
    debug = _Debug(found, asked, argv) if asked.has("debug") else None
    if doors.is_fenced():
        from fence_core.launcher.join import maybe_join

        maybe_join(config, role="nested", host="")
        if asked.has("monitor") or log is not None:
            from fence_core.command.nested import show_lines

            show_lines(log, on_screen=asked.has("monitor"))
        proxy = ""  # the environment has that of the fence around this one, if it has any
    else:
        proxy = _fork(config, report or CommandReport(Told(asked.has("monitor"), debug is not None, log)))
    _start(program, argv, _surroundings(config, proxy), debug)


class _Debug:
    """What `-d` says before the command starts."""

    def __init__(self, found: Discovered, asked: Asked, argv: list[str]) -> None:
        from fence_core.command import describe
        from fence_core.launcher.withhold import variables_denied

        self._describe = describe
        self._withheld = variables_denied(found.config.settings)
        for line in (*describe.policy(found, argv, asked.notes), *describe.closed(found.config)):
            say(f"[fence] {line}")

    def environment(self, found: Surroundings) -> None:
        say(f"[fence] {self._describe.environment(found, self._withheld)}")


def _fork(config: Config, report: CommandReport) -> str:
    """Returns in the fenced child only: the URL of the filter, empty where no program is told of one."""
    from fence_core.launcher.filter import listen
    from fence_core.launcher.fork import fork_fenced

    network = config.policy.network
    try:
        listener = listen(network.http_proxy_port or 0)
    except OSError as error:
        raise UsageError(
            f"the filter cannot listen on port {network.http_proxy_port or 'any'} of 127.0.0.1: {error.strerror}"
        ) from None
    host, port = listener.getsockname()
    fork_fenced(config, HOST, reporter=report, filter_listener=listener)
    listener.close()
    return f"http://{host}:{port}" if network.proxy_env else ""


def _surroundings(config: Config, proxy: str) -> Surroundings:
    here = [name for name, at in config.policy.network.hosts if at.startswith(("127.", "[::1]", "::1"))]
    return surroundings(os.environ, proxy, here)


def _start(program: str, argv: list[str], found: Surroundings, debug: _Debug | None) -> NoReturn:
    """In the fence. Raises NotRunError."""
    if debug is not None:
        debug.environment(found)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python has had ignored
        signal.signal(number, signal.SIG_DFL)
    execute(program, argv, found.variables)


def _ports(asked: Asked) -> list[Opened]:
    if not asked.has("port"):
        return []
    from fence_core.command.ports import check_free, parse_port

    found = [parse_port(text) for text in asked.values("port")]
    for each in found:
        check_free(each)
    return found


def _open_log(path: str) -> Log:

    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the log file {escape(path)} cannot be written: {why}") from None
    return Log(fd, path.endswith(".jsonl"))
