"""Take variables out of this process's environment, from every place that shows it.

Run by the process that is about to be fenced, before it forks. There are four places:

- `os.environ`, and the C library's array that it writes through to (unsetenv(3)): what subprocesses get;
- `posix.environ`, the dictionary of what was there when Python started, should anybody have parted the two;
- the block at the top of the stack that the kernel put there at the exec. It is what /proc/PID/environ shows, and
  nothing that a process does to its own environment changes it (proc_pid_environ(5)).

Strings that stay are left where they are, since the C library's array points into that block.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fence_core.errors import FenceUnavailable
from fence_core.kernel import libc, memory, process

if TYPE_CHECKING:
    from collections.abc import Callable


def remove(chosen: Callable[[str], bool]) -> tuple[str, ...]:
    """Remove every variable whose name is `chosen`; their names, sorted.

    Raises `FenceUnavailable` if /proc/self/environ shows one of them afterwards, `OSError` where this process's own
    memory cannot be reached.
    """
    import posix  # not there on Windows, where importing this module must do no harm

    start, block = _block()
    shown = _names(block.split(b"\0"))
    names = {name for name in shown | libc.variable_names() | set(posix.environ) if chosen(os.fsdecode(name))}
    for name in names:
        # By its own name and not by os.environ's methods alone: what C code has set is unknown there.
        os.environ.pop(os.fsdecode(name), None)
        posix.environ.pop(name, None)
        os.unsetenv(name)
    _blank(start, block, names)
    left = _names(_block()[1].split(b"\0")) & names
    if left:
        listed = ", ".join(sorted(map(os.fsdecode, left)))
        raise FenceUnavailable("env_deny", f"/proc/self/environ still shows {listed}", "Start pytest without them.")
    return tuple(sorted(map(os.fsdecode, names)))


def _block() -> tuple[int, bytes]:
    """Where the initial environment lies, and what is there now."""
    fields = process.stat_fields("self")
    start, end = int(fields[process.ENV_START]), int(fields[process.ENV_END])
    return start, memory.read_own(start, end - start)


def _names(entries: list[bytes]) -> set[bytes]:
    return {entry.partition(b"=")[0] for entry in entries if b"=" in entry[1:]}


def _blank(start: int, block: bytes, names: set[bytes]) -> None:
    """Overwrite these variables with spaces.

    Not with NULs: programs that read /proc/PID/environ take an empty entry for the end (psutil does), and pass over
    one that has no "=".
    """
    place = 0
    for entry in block.split(b"\0"):
        if entry.partition(b"=")[0] in names:
            memory.write_own(start + place, b" " * len(entry))
        place += len(entry) + 1
