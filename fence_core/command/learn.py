"""`fence learn`: run a command, let happen what no rule lists, and propose the rules that it needs.

Run by the process that the user started, which becomes the supervisor.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from fence_core.command import main
from fence_core.command.execute import find_program
from fence_core.command.options import Option, UsageError, parse
from fence_core.command.report import CommandReport, Told
from fence_core.launcher.learning import BANNER, EditError, Learning, Order, learning_config
from fence_core.launcher.session_report import say
from fence_core.link import doors
from fence_core.policy.sources.files import source_kind
from fence_core.text import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fence_core.broker.assemble import Broker
    from fence_core.command.options import Asked
    from fence_core.policy.sources.discover import Discovered

__all__ = ["LEARN_OPTIONS", "learn"]

LEARN_OPTIONS = (
    Option("output", "o", "FILE", "the policy to learn into: it is made, or gets what is missing in it"),
    Option("command", "c", "STRING", "run STRING by a shell; words after it are its $0, $1, ..."),
    Option("settings", "s", "FILE", "the policy that holds already, where nothing is to be written"),
    Option("template", "t", "NAME", "a policy that comes with fence; a new FILE names it as its base"),
    Option("no-project-config", "", "", "ignore this directory's policy"),
    Option("verify", "", "", "run the command once more, with the new policy: is anything refused?"),
    Option("partial", "", "", "write FILE also where the command has failed"),
    Option("wildcards", "", "", "names that differ in a first part like a hash become *.example.com"),
    Option("help", "h", "", "show this text and exit"),
)
_HEAD = """\
usage: fence learn [-o FILE] [flags] [--] command [arguments]

Runs the command and lets it do what no rule allows, but for writes to protected files and what
a rule denies. Then it says which rules would allow what was done; with -o it writes them.
Start nothing here that you would not start without a fence.
"""
_TAIL = "\nIt ends as the command ends; with 1 where FILE was to be written and was not."
_NEW = "fence.yaml"


def learn(arguments: Sequence[str]) -> int:
    """An exit status, where nothing is run. Raises PolicyError, UsageError, NotRunError, FenceUnavailable."""
    asked = parse(arguments, LEARN_OPTIONS)
    if asked.has("help"):
        from fence_core.command.help import page

        print(page(_HEAD, LEARN_OPTIONS, _TAIL))
        return 0
    if doors.is_fenced():
        raise UsageError("nothing can be learnt inside another fence, which refuses what it refuses")
    output = asked.value("output")
    if output is not None and asked.has("settings"):
        raise UsageError("-s is for a policy that is not written; with -o FILE, FILE is the policy, if it is there")
    if asked.has("verify") and output is None:
        raise UsageError("--verify is for a policy that is written: add -o FILE")
    if output is not None and os.path.lexists(output):
        if asked.has("template"):
            raise UsageError(f"-t is for a new FILE; {escape(output)} is there, and says itself what it extends")
        asked.given["settings"] = [output]
    argv = main.words_of(asked)
    program = find_program(argv[0], os.environ.get("PATH"))
    if asked.has("verify"):
        _learn_first(asked, program, argv)
        asked.given = {"settings": [str(output)]}
        main.run_fenced(asked, program, argv, report=Verification(Told()))
    return _run(asked, program, argv)


def _run(asked: Asked, program: str, argv: list[str]) -> NoReturn:
    main.run_fenced(asked, program, argv, report=Lesson(Told(), asked))


def _learn_first(asked: Asked, program: str, argv: list[str]) -> None:
    """In a process of its own; ends this one where that has not gone well."""
    child = os.fork()
    if child == 0:
        try:
            _run(asked, program, argv)
        except Exception as error:
            os._exit(main.told(error))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        say("fence: there is nothing to be verified")
        os._exit(status if status > 0 else 128 - status)


class Lesson(CommandReport):
    """Says at the end what was learnt."""

    def __init__(self, told: Told, asked: Asked) -> None:
        super().__init__(told)
        self._asked = asked
        self._learning: Learning

    @property
    def locked(self) -> list[str]:
        """The file that is going to be written: nothing inside may."""
        output = self._asked.value("output")
        return [] if output is None else [os.path.realpath(output)]

    def settle(self, found: Discovered) -> Discovered:
        """How the run is fenced, before it is. Raises UsageError."""
        output = self._asked.value("output")
        path = output or (str(found.config.path) if found.config.path is not None else "")
        if not path and not os.path.lexists(_NEW):
            path = _NEW
        if output is not None and source_kind(output) == "json" and not output.endswith((".json", ".jsonc")):
            raise UsageError(f"{escape(output)} is of no kind that fence reads: .json, .jsonc, .yaml, .yml or .toml")
        order = Order(
            path=os.path.abspath(path) if path else "",
            shown=path,
            how=f"fence learn -o {path} writes it",
            write=output is not None,
            partial=self._asked.has("partial"),
            wildcards=self._asked.has("wildcards"),
            extends=self._asked.value("template") or "",
        )
        try:
            self._learning = Learning(order)
        except EditError as error:
            raise UsageError(f"{escape(path)}: {error}") from None
        say(f"fence: {BANNER}")
        return found._replace(config=learning_config(found.config))

    def end(self, broker: Broker, status: int, left: Sequence[str]) -> int:
        code = super().end(broker, status, left)
        failed = ""
        if os.WIFSIGNALED(status):
            failed = f"the command was ended by signal {os.WTERMSIG(status)}"
        elif code:
            failed = f"the command has failed (exit status {code})"
        done = self._learning.finish(broker, failed)
        return code or (0 if done else main.UNUSABLE)


class Verification(CommandReport):
    """Says at the end whether anything was refused."""

    def end(self, broker: Broker, status: int, left: Sequence[str]) -> int:
        code = super().end(broker, status, left)
        refused = [record.violation() for record in broker.scope.ledger.records]
        if not refused:
            say("fence: run again with these rules, nothing was refused")
            return code
        from fence_core.report import words

        say(f"fence: run again with these rules, {len(refused)} were refused:")
        for violation in refused[:20]:
            say(f"  {words.line(violation)}")
        return code or main.UNUSABLE
