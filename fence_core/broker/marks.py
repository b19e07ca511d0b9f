"""What processes are marked with: RLIMIT_LOCKS, which forks and programs inherit. For why, see `processes.py`."""

from __future__ import annotations

import resource

from fence_core.broker.scopes import Binding, Worker
from fence_core.kernel import process as kernel_process


class Marks:
    """What processes are marked with, by the number that they carry and hand down to those that they start."""

    RLIMIT_LOCKS = 10
    """include/uapi/asm-generic/resource.h; the module `resource` has no name for it."""
    _FIRST = 1 << 32
    """No limit that anybody has set."""
    _KEPT_MAX = 100_000
    _OVER_MAX = 64
    """Sessions that are over and whose marks are kept: for forks that outlive them, and have not been seen yet."""

    def __init__(self) -> None:
        self._next = self._FIRST
        self._of_worker: dict[int, list[int]] = {}
        """The marks that refer to each worker, by its number."""
        self._over: list[int] = []
        """Numbers of workers that are over."""
        self._meanings: dict[int, Binding | Worker] = {}
        self._numbers: dict[tuple[object, ...], int] = {}

    def put(self, pid: int, meaning: Binding | Worker) -> None:
        """Mark a process; where that cannot be done (it is gone, or not ours to change) it goes without."""
        key = _key(meaning)
        number = self._numbers.get(key)
        try:
            soft, hard = resource.prlimit(pid, self.RLIMIT_LOCKS)
            if number is not None and soft == number:
                return
            if number is None:
                number = self._new(key, meaning)
            resource.prlimit(pid, self.RLIMIT_LOCKS, (number, hard))
        except (OSError, ValueError):
            pass

    def find(self, pid: int) -> Binding | Worker | None:
        """What the process was marked with, or the one it was started by.

        Raises LookupError where it has a mark of which nobody knows any more what it meant.
        """
        number = self._number(pid)
        meaning = self._meanings.get(number)
        if meaning is None and self._FIRST <= number < self._next:
            raise LookupError(number)
        return meaning

    def over(self, worker: Worker) -> None:
        """A session is over: what refers to it is kept for the last of these only."""
        self._over.append(worker.number)
        if len(self._over) > self._OVER_MAX:
            for number in self._of_worker.pop(self._over.pop(0), ()):
                meaning = self._meanings.pop(number, None)
                if meaning is not None:
                    self._numbers.pop(_key(meaning), None)

    def _number(self, pid: int) -> int:
        try:
            return resource.prlimit(pid, self.RLIMIT_LOCKS)[0]
        except OSError:
            pass
        try:  # prlimit(2) is for those of the same user; this everybody may read
            for line in kernel_process.read_proc(f"/proc/{pid}/limits").splitlines():
                if line.startswith(b"Max file locks"):
                    soft = line.split()[3]
                    return int(soft) if soft.isdigit() else 0
        except OSError:
            pass
        return 0

    def _new(self, key: tuple[object, ...], meaning: Binding | Worker) -> int:
        if len(self._meanings) >= self._KEPT_MAX:
            oldest = next(number for number, each in self._meanings.items() if isinstance(each, Binding))
            self._numbers.pop(_key(self._meanings.pop(oldest)), None)
        number = self._next
        self._next += 1
        self._numbers[key] = number
        self._meanings[number] = meaning
        worker = meaning if isinstance(meaning, Worker) else meaning.worker
        if worker.number:  # the first one is never over
            self._of_worker.setdefault(worker.number, []).append(number)
        return number


def _key(meaning: Binding | Worker) -> tuple[object, ...]:
    if isinstance(meaning, Worker):
        return (meaning.number,)
    return (meaning.worker.number, meaning.said, meaning.phase, meaning.policy)
