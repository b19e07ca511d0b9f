"""Which package of a monorepo a test belongs to, and with it under which policy it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Packages"]


class Packages:
    """The directories that the config names, as the broker has numbered their policies: from 1 on."""

    def __init__(self, packages: Sequence[tuple[str, str]]) -> None:
        """Pairs of a directory and the scope of its tests."""
        self._numbers = {directory: number for number, (directory, _) in enumerate(packages, 1)}
        self._scopes = [scope for _, scope in packages]
        self._known: dict[str, int] = {}

    def number(self, path: str) -> int:
        """That of the policy for what lies there: of the innermost package around it, 0 outside of all."""
        if not self._numbers:
            return 0
        found = self._known.get(path)
        if found is None:
            place = path
            while place and place not in self._numbers:
                place = place.rpartition("/")[0]
            found = self._known[path] = self._numbers.get(place, 0)
        return found

    def of_all(self, paths: Iterable[str]) -> int:
        """The number for all of these; 0 where they do not have the same."""
        found = {self.number(path) for path in paths} if self._numbers else set()
        return found.pop() if len(found) == 1 else 0

    def scope(self, number: int) -> str | None:
        """Where the tests of that package run: None for what is in no package."""
        return self._scopes[number - 1] if number else None

    def __contains__(self, directory: str) -> bool:
        return directory in self._numbers
