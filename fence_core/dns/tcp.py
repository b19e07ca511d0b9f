"""DNS over TCP: every message is preceded by its length in two bytes (RFC 1035, section 4.2.2; RFC 7766)."""

from __future__ import annotations

__all__ = ["FramingError", "Splitter", "frame"]

QUERY_MAX = 4096
"""Bytes. No query has a reason to be longer: one name, and options."""


class FramingError(ValueError):
    """The peer announced a message that is no query; there is nothing left to do but close the connection."""


class Splitter:
    """Cuts what arrives into messages. Never holds more than one incomplete message of `limit` bytes."""

    def __init__(self, limit: int = QUERY_MAX) -> None:
        self._limit = limit
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete with these bytes.

        Raises FramingError for a message longer than the limit, or empty; from then on for anything.
        """
        self._pending += data
        complete: list[bytes] = []
        at = 0
        while len(self._pending) - at >= 2:
            size = int.from_bytes(self._pending[at : at + 2], "big")
            if not 0 < size <= self._limit:
                del self._pending[:at], self._pending[2:]
                if complete:
                    return complete  # the error is for the next time, these want their answers
                raise FramingError(f"a DNS message of {size} bytes was announced; at most {self._limit} are taken")
            if len(self._pending) - at - 2 < size:
                break
            complete.append(bytes(self._pending[at + 2 : at + 2 + size]))
            at += 2 + size
        del self._pending[:at]
        return complete


def frame(message: bytes) -> bytes:
    """The message as it is sent over TCP."""
    return len(message).to_bytes(2, "big") + message
