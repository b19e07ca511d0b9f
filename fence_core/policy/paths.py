"""Path patterns: what the user may write, and a compiled set of them.

A pattern is expanded once, when it is read, to one that starts with `/`:

=====================  =============================================  ================================================
written                in an allow list                               in a deny list
=====================  =============================================  ================================================
`/var/x`, `~/x`        that path                                      the same
`build`, `./a/b`       below the directory of the config              a bare name: at any depth, anywhere; else the same
`*.key`, `**/x`        at any depth below that directory              at any depth, anywhere
=====================  =============================================  ================================================

So a deny rule errs to more and an allow rule to less. `*`, `?` and `[abc]` stay within one component, `**` spans any
number of them, none included. A pattern covers what it matches and everything below; `dir/**` is the same as `dir`;
`dir/*` is everything below without the directory itself.

Paths to be judged are absolute and already resolved by the kernel: no `..`, no symbolic link but the last component
of calls that act on the link itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PathError", "PatternSet", "escape", "expand", "has_glob", "literal_of", "resolve_trusted", "split_fixed"]

T = TypeVar("T")

_GLOB = r"[*?]|\[[^\]/][^/]*\]|\[\][^\]/]*\]"
_SPECIAL = r"[*?\[]"
_LONGEST = 4096  # PATH_MAX


class PathError(ValueError):
    """This is no path pattern; the text says why, for the user to read."""


def _has_special(text: str) -> bool:
    return "*" in text or "?" in text or "[" in text


def has_glob(text: str) -> bool:
    """Whether any character of the text is more than itself."""
    return _has_special(text) and re.search(_GLOB, text) is not None


def escape(path: str) -> str:
    """A pattern that matches exactly this path."""
    return re.sub(_SPECIAL, lambda match: f"[{match[0]}]", path)


def expand(text: str, *, base: str, home: str, deny: bool) -> str:
    """Turn a pattern as written into one that starts with `/`; see the table at the top of this module.

    `base` and `home` are taken literally, whatever characters they hold. Raises PathError.
    """
    if not text:
        raise PathError("is empty")
    if len(text) > _LONGEST:
        raise PathError(f"has more than the {_LONGEST} characters of the longest path")
    if "\0" in text:
        raise PathError("holds a NUL, which no path does")
    if text == "~" or text.startswith("~/"):
        if not home.startswith("/"):
            raise PathError('starts with "~", but there is no home directory')
        return _normalise(escape(home) + text[1:])
    if text.startswith("~"):
        raise PathError('starts with "~user"; write the path, or "./~..." for a name that starts with a tilde')
    if text.startswith("/"):
        return _normalise(text)
    bare = text.rstrip("/")
    anywhere = bare.startswith("**/") or ("/" not in bare and bare not in ("", ".", ".."))
    if deny and anywhere:
        return _normalise("/**/" + bare)
    if anywhere and has_glob(bare):
        bare = "**/" + bare
    return _normalise(f"{escape(base)}/{bare}")


def _normalise(pattern: str) -> str:
    """Without `.`, `..`, empty and repeated `**` components, and without a `/**` at the end."""
    parts: list[str] = []
    for part in pattern.split("/"):
        if part in ("", ".") or (part == "**" and parts and parts[-1] == "**"):
            continue
        if part == "..":
            if parts and literal_of("/" + parts[-1]) is None:
                raise PathError('has ".." after a glob')
            if parts:
                parts.pop()
            continue
        parts.append(part)
    if parts and parts[-1] == "**":
        parts.pop()
    return "/" + "/".join(parts)


def _unescape(pattern: str) -> str:
    """The path that a pattern whose only classes are escapes stands for."""
    return re.sub(r"\[([*?\[])\]", r"\1", pattern)


def literal_of(pattern: str) -> str | None:
    """The only path that an expanded pattern matches, if it is only one."""
    if not _has_special(pattern):
        return pattern
    plain = _unescape(pattern)
    return plain if not has_glob(re.sub(r"\[[*?\[]\]", "", pattern)) else None


def _component(part: str) -> Callable[[str], object]:
    """A test for one component of a path. Raises PathError for a class that cannot be read."""
    chunks = [""]  # regular expressions of what stands between the stars
    place = 0
    while place < len(part):
        char = part[place]
        place += 1
        if char == "*":
            chunks.append("")
        elif char == "?":
            chunks[-1] += "."
        elif char == "[" and (end := part.find("]", place + 1 + (part[place : place + 1] in ("!", "^")))) > 0:
            members = part[place:end]
            place = end + 1
            negated = members[:1] in ("!", "^")
            # What `re` treats specially inside a class, but for the "-" of a range.
            members = re.sub(r"([\\\]\[^&~|])", r"\\\1", members[negated:])
            chunks[-1] += f"[^{members}]" if negated else f"[{members}]"
        else:
            chunks[-1] += re.escape(char)
    source, *rest = chunks
    if rest:
        # What stands between two stars is taken where it first fits, for good: a test chooses the names and, in its
        # marker, the pattern; with backtracking `*a*a*a*a*` would stop the broker for hours.
        for number, chunk in enumerate(rest[:-1]):
            source += f"(?=(?P<g{number}>.*?{chunk}))(?P=g{number})"
        source += ".*" + rest[-1]
    try:
        return re.compile(source, re.DOTALL).fullmatch
    except re.error as error:
        raise PathError(f"has a class that cannot be read ({error})") from None


def _components(parts: list[str]) -> Callable[[str], bool]:
    """A test for whole paths: any pattern, component by component."""
    # None is "**"; a component without globs is compared.
    tests: list[Callable[[str], object] | None] = []
    for part in parts:
        literal = literal_of("/" + part)
        tests.append(None if part == "**" else _component(part) if literal is None else literal[1:].__eq__)

    def match(path: str) -> bool:
        names = path.split("/")[1:]
        at = place = 0
        star = resume = -1  # the last "**", and the name it has to give way at
        while place < len(names):
            if at < len(tests):
                test = tests[at]
                if test is None:
                    star, resume, at = at, place, at + 1
                    continue
                if test(names[place]):
                    at, place = at + 1, place + 1
                    continue
            if star < 0:
                return False
            # Only the last "**" ever has to take more: an earlier one that did could not help it.
            resume += 1
            at, place = star + 1, resume
        return all(test is None for test in tests[at:])

    return match


def _simple(part: str) -> tuple[str, str] | None:
    """Head and tail of a component with one `*` and no other glob: `.coverage.*`, `*.key`."""
    if part.count("*") != 1 or part == "*" or _has_special(part.replace("*", "")):
        return None
    head, _, tail = part.partition("*")
    return head, tail


class PatternSet(Generic[T]):
    """Expanded patterns with a value each, compiled so that a path none of them names costs next to nothing.

    It answers for one node of the tree at a time, `at` and `below`; what a directory hands down to what lies in it is
    the business of whoever asks. A pattern is tried only if the path's last component can be its last one: by a set
    for names, by head or tail for globs with one star, which are nearly all. Regular expressions are the exception,
    since compiling ten of them costs more than the rest of a policy.
    """

    __slots__ = ("_at", "_below", "_below_loose", "_by_name", "_loose", "glob", "heads", "names", "tails")

    def __init__(self) -> None:
        self.names: set[str] = set()
        """Last components that some pattern names literally."""
        self.heads: tuple[str, ...] = ()
        """What last components begin with that some pattern may cover."""
        self.tails: tuple[str, ...] = ()
        """What they end with."""
        self.glob: Callable[[str], object] | None = None
        """Matches those that have neither; None if there are no such patterns."""
        self._at: dict[str, list[T]] = {}
        self._below: dict[str, list[T]] = {}
        self._by_name: dict[str, list[tuple[Callable[[str], object], T]]] = {}
        self._loose: list[tuple[Callable[[str], object], T]] = []
        self._below_loose: list[tuple[Callable[[str], object], T]] = []

    def add(self, pattern: str, value: T) -> None:
        """Add an expanded pattern. Raises PathError for a class such as `[z-a]`."""
        plain = literal_of(pattern)
        if plain is not None:
            self.add_path(plain, value)
            return
        parts = pattern[1:].split("/")
        if parts[-1] == "*":
            # Not by last component: it would be every one.
            parent = literal_of("/" + "/".join(parts[:-1]))
            if parent is not None:
                self._below.setdefault(parent.rstrip("/"), []).append(value)
            else:
                self._below_loose.append((_components(parts[:-1]), value))
            return
        match = self._matcher(parts)
        last = literal_of("/" + parts[-1])
        if last is not None:
            self.names.add(last[1:])
            self._by_name.setdefault(last[1:], []).append((match, value))
            return
        self._loose.append((match, value))
        head, tail = _simple(parts[-1]) or ("", "")
        if head:
            self.heads += (head,)
        elif tail:
            self.tails += (tail,)
        else:
            glob = _component(parts[-1])
            before = self.glob
            self.glob = glob if before is None else lambda name: before(name) or glob(name)

    def add_name(self, name: str, value: T) -> None:
        """Add a name without globs, or the last few components of a path, at any depth: as `add` of `/**/name`, but in
        a fiftieth of the time. There are many of them."""
        suffix = f"/{name}"
        last = name.rpartition("/")[2]
        self.names.add(last)
        self._by_name.setdefault(last, []).append((lambda path: path.endswith(suffix), value))

    def add_path(self, path: str, value: T) -> None:
        """Add one path, taken literally."""
        path = path.rstrip("/")
        self._at.setdefault(path, []).append(value)
        self.names.add(path.rpartition("/")[2])

    @staticmethod
    def _matcher(parts: list[str]) -> Callable[[str], object]:
        """A test for whole paths, given that the last component may fit."""
        if parts[0] == "**" and not any(has_glob(part) for part in parts[1:]):
            suffix = "/" + "/".join(parts[1:])
            return lambda path: path.endswith(suffix)
        deep = len(parts) > 1 and parts[-2] == "**"
        directory = literal_of("/" + "/".join(parts[: -2 if deep else -1]))
        last = literal_of("/" + parts[-1])
        simple = (last[1:], "") if last is not None else _simple(parts[-1])
        if directory is None or simple is None:
            return _components(parts)
        head, tail = simple
        start = directory.rstrip("/") + "/"
        least = len(head) + len(tail)

        def match(path: str) -> bool:
            parent, _, name = path.rpartition("/")
            if last is not None:
                fits = name == head
            else:
                fits = len(name) >= least and name.startswith(head) and name.endswith(tail)
            return fits and (path.startswith(start) if deep else parent + "/" == start)

        return match

    def at(self, path: str, name: str) -> list[T]:
        """The values of all patterns that match exactly this path, whose last component is `name`."""
        found = list(self._at.get(path, ()))
        found += [value for match, value in self._by_name.get(name, ()) if match(path)]
        found += [value for match, value in self._loose if match(path)]
        return found

    def below(self, path: str) -> list[T]:
        """The values of all patterns that match every child of this directory."""
        found = list(self._below.get(path, ()))
        found += [value for match, value in self._below_loose if match(path)]
        return found


def resolve_trusted(path: str, readlink: Callable[[str], str | None]) -> str:
    """The path with symbolic links followed, as far as `readlink` tells where they lead.

    `readlink` returns a link's target, and None for anything that is no link or not to be trusted: a link that a test
    could have made must not decide what the next run may write to.
    """
    done = ""
    rest = [part for part in reversed(path.split("/")) if part]
    for _ in range(40 + len(rest)):  # the kernel follows at most 40 links
        while rest:
            part = rest.pop()
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            here = f"{done}/{part}"
            target = readlink(here)
            if target is not None:
                if target.startswith("/"):
                    done = ""
                rest += [step for step in reversed(target.split("/")) if step not in ("", ".")]
                break
            done = here
        else:
            return done or "/"
    return path


def split_fixed(pattern: str) -> tuple[str, str]:
    """Split an expanded pattern before its first component with a glob: (`/a/b`, `/*.log`)."""
    parts = pattern[1:].split("/")
    for place, part in enumerate(parts):
        if part == "**" or literal_of("/" + part) is None:
            fixed = literal_of("/" + "/".join(parts[:place])) if place else ""
            return fixed or "", "/" + "/".join(parts[place:])
    return pattern, ""
