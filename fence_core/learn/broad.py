"""Directories that are never proposed as a whole, whatever was written in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fence_core.policy.hints import is_shared_root
from fence_core.policy.paths import literal_of
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.learn.model import Place
    from fence_core.policy.decide import Judge
    from fence_core.policy.model import FilesystemRules

__all__ = ["Broad"]

_PROGRAMS = frozenset({"bin", "sbin", "shims", "Scripts"})
_SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
"""Trees in which nothing but the file that was named is ever proposed."""
_LOOKED_AT_MAX = 2000
"""Files and directories in which protected names are looked for; where there are more, there may be one."""


class Broad:
    """Asked of one run: `touched` are the paths that it has changed, with all directories above them."""

    def __init__(self, judge: Judge, rules: FilesystemRules, place: Place, touched: frozenset[str]) -> None:
        self._judge = judge
        self._rules = rules
        self._place = place
        self._touched = touched
        self._known: dict[str, bool] = {}

    def covers(self, directory: str) -> bool:
        """Whether a rule for all of this directory gives away more than the run has shown to need."""
        known = self._known.get(directory)
        if known is None:
            known = self._known[directory] = self._is_broad(directory)
        return known

    def untouched(self, directory: str) -> list[str]:
        """What lies in it that the run has not changed, or an empty name for what cannot be seen."""
        found = self._place.names_in(directory)
        if found is None:
            return []  # it is gone, or was never there
        return sorted(name for name in found if f"{directory}/{name}" not in self._touched)

    def is_in_project(self, path: str) -> bool:
        root = self._rules.root.rstrip("/")
        return bool(root) and path.startswith(f"{root}/")

    def is_shared(self, path: str) -> bool:
        """Whether this would open what many programs have in common, or what is around the project."""
        rules = self._rules
        if path.count("/") < 2 or is_shared_root(path, rules):
            return True
        inside = (rules.root, rules.home, *rules.environment, *rules.locked, *self._place.searched)
        return path in self._place.searched or any(each.startswith(f"{path}/") for each in inside)

    def _is_broad(self, directory: str) -> bool:
        if self.is_shared(directory) or directory.rpartition("/")[2] in _PROGRAMS:
            return True
        if any(f"{directory}/".startswith(f"{tree}/") for tree in _SYSTEM):
            return True
        if self._holds_refused(directory):
            return True
        return not self.is_in_project(directory) and bool(self.untouched(directory))

    def is_denied_in(self, directory: str) -> bool:
        """Whether a rule names something in it that may not be written to."""
        literals = (literal_of(entry.pattern or entry.text) for entry in self._rules.deny_write)
        return any((literal or "").startswith(f"{directory}/") for literal in literals)

    def _holds_refused(self, directory: str) -> bool:
        """Whether something lies in it, or is named by a rule, that nobody may write to."""
        if self.is_denied_in(directory) or self._is_refused(directory):
            return True
        waiting, seen = [directory], 0
        while waiting:
            here = waiting.pop()
            for name in self._place.names_in(here) or ():
                seen += 1
                path = f"{here}/{name}"
                if seen > _LOOKED_AT_MAX and not self.is_in_project(directory):
                    return True
                if self._is_refused(path):
                    return True
                if seen <= _LOOKED_AT_MAX:
                    waiting.append(path)
        return False

    def _is_refused(self, path: str) -> bool:
        return self._judge.decide(Write("open", path)).why in ("denied", "protected")
