"""Objects that the collector need not look through, until somebody asks it for them.

Run in the process that forks, and then in the fenced one. What existed before the fork is frozen (`gc.freeze`): a
collection writes to every object that it looks through, and so would copy nearly every page that the two processes
share. But a frozen object does not exist for `gc.get_referrers` and `gc.get_objects`, and garbage among them is not
found. So the first full collection that a program asks for (`gc.collect`, which comes before such questions) gives all
of them back; those that the collector begins by itself, of which there are several while pytest starts, do not.
"""

from __future__ import annotations

import gc


def set_aside() -> None:
    """Before the fork."""
    gc.freeze()


def give_back_when_asked() -> None:
    """In the child."""
    gc.callbacks.append(_before_collection)


def keep_set_aside() -> None:
    """Nobody asks any more: pytest's own last collections, and the interpreter's, are to leave them alone."""
    if _before_collection in gc.callbacks:
        gc.callbacks.remove(_before_collection)


def _before_collection(phase: str, info: dict[str, int]) -> None:
    if phase == "start" and info["generation"] == 2 and _was_asked_for():
        keep_set_aside()
        gc.unfreeze()


def _was_asked_for() -> bool:
    """A collection of the collector's own begins when more objects were made than its threshold."""
    threshold = gc.get_threshold()[0]
    return not gc.isenabled() or threshold == 0 or gc.get_count()[0] <= threshold
