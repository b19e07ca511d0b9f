"""Report files: written by the supervisor, from its own ledger, when the last fenced process has gone.

Run by the process that the user started. What a test does at its very end is in them, no rule has to open their path,
and no test can write or prevent them: their directories are held open from before the first test on.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any

from fence_core.launcher.run_facts import ci, policy_digest, read_source
from fence_core.policy.reports import report_parts
from fence_core.report.files import formats, told
from fence_core.report.files.build import About, build, rule_source
from fence_core.report.files.redact import Redactor, secrets_of
from fence_core.report.stack import View
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fence_core.broker.assemble import Broker
    from fence_core.launcher.plan import Host
    from fence_core.policy.model import Config

__all__ = ["ReportFiles", "unwritable"]

_TEMPORARY = ".fence-report"
_GITHUB = "github"
_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""The variable in which GitHub Actions names the file that a step describes its result in."""
_PERMISSIONS = 0o666


def unwritable(wanted: Sequence[str]) -> str:
    """Why one of the files could not be written, as far as that can be told beforehand; empty if all can.

    Directories that are missing are made.
    """
    for each in wanted:
        _, path = report_parts(each)
        if not path:
            continue
        directory = os.path.dirname(path)
        try:
            os.makedirs(directory, exist_ok=True)
        except FileExistsError:
            return f"the report {escape(path)} cannot be written: {escape(directory)} is not a directory"
        except OSError as error:
            return f"the report {escape(path)} cannot be written: {error.strerror}"
        if not os.access(directory, os.W_OK | os.X_OK):
            return f"the report {escape(path)} cannot be written: no right to write into its directory"
    return ""


class ReportFiles:
    """From before the first test to the end."""

    def __init__(self, host: Host, config: Config, layers: Sequence[str], say: Callable[[str], object]) -> None:
        """`say`: tells the user a line."""
        self._host = host
        self._say = say
        self._config = config
        self._layers = list(layers)
        self._began = time.time(), time.monotonic()
        self._environ = dict(os.environ)
        self._redactor = Redactor(self._secrets()) if config.settings.redact else None
        self._files = [(*report_parts(each), *_held(report_parts(each)[1])) for each in host.reports.wanted]
        summary = self._environ.get(_STEP_SUMMARY, "")
        if any(kind == _GITHUB for kind, *_ in self._files) and os.path.isabs(summary):
            self._files.append((_GITHUB, summary, *_held(summary, keep=True)))

    def _secrets(self) -> list[str]:
        from fence_core.policy.model import Entry, Source
        from fence_core.policy.sources.templates import read
        from fence_core.policy.variables import matcher

        names = [Entry(name, Source("preset no-secrets")) for name in read("no-secrets")["envDeny"]]
        return secrets_of(self._environ, matcher(names))

    def write(self, broker: Broker, status: int, code: int) -> bool:
        """Whether all of them are there. `status`: of the first process, as wait(2) has it; `code`: of the run."""
        try:
            report = self._report(broker, status, code)
        except Exception as error:  # a mistake of ours, which must not look like a run without violations
            self._say(f"fence: internal error, no report was written: {type(error).__name__}: {escape(str(error))}")
            return False
        whole = True
        for kind, path, directory, problem in self._files:
            try:
                text = formats.render("markdown" if kind == _GITHUB and path else kind, report, self._environ)
                if problem:
                    raise OSError(0, problem)
                _deliver(kind, text, path, directory)
            except OSError as error:
                self._say(f"fence: the report {escape(path or kind)} could not be written: {error.strerror}")
                whole = whole and kind == _GITHUB  # which nobody may have asked for
            except Exception as error:
                self._say(f"fence: internal error in the report {kind}: {type(error).__name__}: {escape(str(error))}")
                whole = False
        if not report["run"]["complete"] and os.WIFEXITED(status) and code in self._host.passing:
            self._say(
                f"fence: {self._host.name} ended with {code} before it could say how its tests went; see the report"
            )
            return False
        return whole

    def _report(self, broker: Broker, status: int, code: int) -> dict[str, Any]:
        wanted, scope = self._host.reports, broker.scope
        files = scope.base.filesystem
        root = files.root
        said = told.read(scope.told)
        lost = broker.others.lost if broker.others is not None else ()
        errors = [*map(str, lost), *(["a refusal could not be written down"] if broker.recorder.lost_one else [])]
        about = About(
            tool=self._tool(),
            run=self._run(said, status, code),
            policy={
                "sources": [rule_source(each, root) for each in scope.base.sources],
                "sha256": policy_digest(scope.base),
            },
            errors=errors,
            dropped=scope.ledger.dropped,
            told=said,
            view=View(
                root=root,
                cwd=wanted.cwd,
                hidden=wanted.hidden,
                runner=wanted.runner,
                read_lines=lambda path: read_source(path, root),
            ),
            root=root,
            home=files.home,
            temporary=wanted.temporary,
        )
        from fence_core.policy.sources.lines import in_full

        found = [record.violation() for record in scope.ledger.records]
        found = [each._replace(rule=in_full(each.rule)) for each in found]
        uses = [each._replace(rule=in_full(each.rule)) for each in scope.ledger.uses()]
        report = build(found, uses, about)
        if self._redactor is None:
            return report
        clean: dict[str, Any] = self._redactor.report(report)
        return clean

    def _tool(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "name": "pytest-fence",
            "version": version("pytest-fence"),
            self._host.name: self._host.reports.version,
            "python": "{}.{}.{}".format(*sys.version_info[:3]),
            "kernel": os.uname().release,
            "layers": self._layers,
        }

    def _run(self, said: told.Told, status: int, code: int) -> dict[str, Any]:
        started, began = self._began
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        milliseconds = f"{started % 1:.3f}"[1:]
        return {
            "id": os.urandom(16).hex(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(started)) + f"{milliseconds}Z",
            "duration_s": round(time.monotonic() - began, 3),
            "command": list(self._host.reports.command),
            "rootdir": self._config.policy.filesystem.root,
            "mode": self._config.settings.mode,
            "scope": self._config.settings.scope,
            "workers": said.workers,
            "exit_status": 128 + ended_by if ended_by is not None else code,
            "tests": said.tests,
            "complete": said.is_whole and ended_by is None,
            "shard": None,
            "ci": ci(self._environ),
        }


def _held(path: str, *, keep: bool = False) -> tuple[int, str]:
    """A descriptor of the directory that a file is to be in, and why there is none. What an earlier run left is gone,
    unless it is to be kept."""
    if not path:
        return -1, ""
    try:
        fd = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return -1, str(error.strerror)
    if not keep:
        try:
            os.unlink(os.path.basename(path), dir_fd=fd)
        except OSError:
            pass  # there is none, or the end will tell
    return fd, ""


def _deliver(kind: str, text: str, path: str, directory: int) -> None:
    """Raises OSError."""
    data = text.encode("utf-8", "backslashreplace")
    if path and kind == _GITHUB:
        _append(os.path.basename(path), data, directory)
    elif path:
        _replace(os.path.basename(path), data, directory)
    elif data:
        _write_all(1, data)


def _append(name: str, data: bytes, directory: int) -> None:
    """To a file that others write to as well."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, _PERMISSIONS, dir_fd=directory)
    try:
        _write_all(fd, data)
    finally:
        os.close(fd)


def _replace(name: str, data: bytes, directory: int) -> None:
    """In one step, so that nobody reads half of it; what is there, a symbolic link too, is replaced itself."""
    temporary = f"{_TEMPORARY}-{os.getpid()}-{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, _PERMISSIONS, dir_fd=directory)
    try:
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(temporary, dir_fd=directory)
        raise


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # a pipe that a test has made so
            select.select([], [fd], [])
