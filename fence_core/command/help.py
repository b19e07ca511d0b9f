"""What `fence --help` prints: made of the rows of `options`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.command.options import OPTIONS, Option

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["page", "spelled", "text"]

_HEAD = """\
usage: fence [flags] [--] command [arguments], or -c STRING [arguments]
       fence {subcommands} [--help]

Runs a command that reaches no other machine and changes no file, but for what
the policy allows: -s, -t, or the nearest fence.json, .yaml or pyproject.toml.
"""
_TAIL = "\nIt ends as the command does; 126 or 127: it cannot run; 1: an error of fence."


def text(subcommands: Iterable[str]) -> str:
    """A screen of 24 lines, but for one."""
    return page(_HEAD.format(subcommands="|".join(subcommands)), OPTIONS, _TAIL)


def page(head: str, rows: Sequence[Option], tail: str) -> str:
    """What `--help` prints, of `fence` or of a subcommand."""
    shown = [option for option in rows if option.help]
    width = max(len(spelled(option)) for option in shown)
    return "\n".join([head, *(f"  {spelled(each):<{width}}  {each.help}" for each in shown), tail]).rstrip("\n")


def spelled(option: Option) -> str:
    """``-s, --settings FILE``."""
    short = f"-{option.short}, " if option.short else "    "
    return f"{short}--{option.name} {option.value}".rstrip()
