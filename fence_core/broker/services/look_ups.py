"""Telling the look-ups that a program makes from the queries that its resolver makes of each.

One look-up asks for IPv4, for IPv6 and (browsers) for HTTPS, with each suffix of the search list, and asks the next
name server the same again. The resolvers of libc send those from one socket, c-ares, Go and Chromium from several.
What they have in common: within a look-up no question is put a second time as a new message. So there were as many
look-ups of a name as there were messages of the question that came most often. That holds for several threads at once,
whose questions come in any order, and however long a question takes on a busy machine: no clock is asked.

A look-up for IPv4 alone and one for IPv6 alone cannot be told from the two halves of one, and count as one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

NAMES_MAX = 1_024
"""Names of which it is remembered what was asked; beyond that the one is forgotten that was asked the longest ago."""
_QUESTIONS_MAX = 32
_MESSAGES_MAX = 8


class NotYetKnownError(Exception):
    """Whether a name exists outside is being asked: see `outside.py`."""

    def __init__(self, waiting: list[Callable[[], None]]) -> None:
        super().__init__()
        self._waiting = waiting

    def when_known(self, then: Callable[[], None]) -> None:
        """Call back once, as soon as it is."""
        self._waiting.append(then)


class Query(NamedTuple):
    """A message to a name server, as its sender knows it again."""

    question: str
    """The name that was asked for, with its suffix."""
    rtype: int
    """16 bits: what is to be known of the name (1 A, 28 AAAA, 65 HTTPS)."""
    number: int
    """16 bits: its id, which a resolver chooses for each message and keeps when it sends that again."""
    proto: str
    """"udp" or "tcp"."""
    server: str
    """The address of the name server that was meant."""
    port: int
    """Of the sender."""

    def is_again(self, other: Query) -> bool:
        """Whether this is that message once more: from the same socket, or to another server or in the other way. A
        program that gives all its messages the same id asks the same server from a new socket."""
        return self.number == other.number and (
            self.port == other.port or self.server != other.server or self.proto != other.proto
        )


class _Question:
    """One question about a name, in all look-ups."""

    __slots__ = ("count", "messages")

    def __init__(self) -> None:
        self.count = 0
        self.messages: list[Query] = []
        """The last ones."""

    def put(self, query: Query) -> None:
        if any(query.is_again(other) for other in self.messages):
            return
        self.count += 1
        self.messages.append(query)
        del self.messages[:-_MESSAGES_MAX]


class _Name:
    """What was asked in search of one name."""

    __slots__ = ("look_ups", "questions")

    def __init__(self) -> None:
        self.look_ups = 0
        self.questions: dict[tuple[str, int], _Question] = {}


class LookUps:
    """Counts, and remembers no more than it needs to."""

    def __init__(self) -> None:
        self._names: dict[Hashable, _Name] = {}
        """The one that was asked for the longest ago first."""

    def begins(self, key: Hashable, query: Query) -> bool:
        """Whether a new look-up begins with this query. `key`: who asks on whose account, and the name he means."""
        name = self._names.pop(key) if key in self._names else _Name()
        self._names[key] = name
        if len(self._names) > NAMES_MAX:
            del self._names[next(iter(self._names))]
        asked = (query.question, query.rtype)
        question = name.questions.get(asked)
        if question is None:
            if len(name.questions) >= _QUESTIONS_MAX:
                del name.questions[next(iter(name.questions))]
            question = name.questions[asked] = _Question()
        question.put(query)
        if question.count <= name.look_ups:
            return False
        name.look_ups = question.count
        return True
