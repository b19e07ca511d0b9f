"""The pytest processes that run sessions in the fence, and what they are told about it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from fence_core.broker.scopes import Binding, Scope, Worker
from fence_core.link.page import create as create_page
from fence_core.policy.record import Record

if TYPE_CHECKING:
    from fence_core.broker.processes import Process, ProcessTable
    from fence_core.policy.decide import Judge

__all__ = ["Sessions", "Terms", "new_worker"]


class Terms(Record):
    """How a fence was set up."""

    layers: tuple[str, ...]
    """What is active, for the header."""
    stacks: bool
    """Whether no signal takes a call back from us, so that stacks can be asked for."""
    watches_reads: bool
    withheld: tuple[str, ...]
    """Names of the variables that were kept from the tests."""
    closed: tuple[tuple[int, str], ...]
    """Descriptors that the caller had left open and the tests did not get, each with what it led to."""
    greets: bool
    """Whether the first process runs a session, and says so."""
    announces_forks: bool
    """Whether processes say that they are there before they do anything else."""


class Sessions:
    """Registered pytest processes are found by their process; this is how more of them come to be."""

    def __init__(self, processes: ProcessTable, root: Process, terms: Terms) -> None:
        self._processes = processes
        self._root = root
        self._greeted = False
        self._numbers = itertools.count(1)
        self.terms = terms

    def greet_root(self, process: Process) -> bool:
        """Whether this is the first process, for the first time."""
        if process is not self._root or self._greeted or not self.terms.greets:
            return False
        self._greeted = True
        self._processes.registered(process)
        return True

    def add(self, scope: Scope, process: Process, outer_judges: tuple[tuple[Binding, Judge], ...]) -> Worker:
        """A session begins in this process, or it is a further one of that session."""
        worker = new_worker(next(self._numbers), scope, process.pid, outer_judges)
        process.workers.append(worker)
        self._processes.registered(process)
        return worker


def new_worker(number: int, scope: Scope, pid: int, outer_judges: tuple[tuple[Binding, Judge], ...] = ()) -> Worker:
    worker = Worker(number, scope, pid, create_page(), outer_judges)
    worker.page.write(b"", 0, 0)
    return worker
