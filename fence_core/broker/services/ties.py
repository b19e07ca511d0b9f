"""What programs have said themselves of the interfaces of their sockets: of that they are told, of our ties not.

Ours are made in `calls/ties.py`.
"""

from __future__ import annotations

import os

__all__ = ["Member", "Ties"]

Member = tuple[str, int | str, bytes]
"""A group, the interface by number or address as the program named it, and the sender, if only one is listened to."""


class Ties:
    """What programs have said themselves of the interfaces of their sockets, which are known by their inodes."""

    def __init__(self) -> None:
        self._to_loopback: set[int] = set()
        self._elsewhere: dict[int, set[tuple[int, int]]] = {}
        self._shut: set[int] = set()
        self._members: dict[int, list[Member]] = {}

    def note_shut(self, fd: int) -> None:
        self._shut.add(os.fstat(fd).st_ino)

    def is_shut(self, fd: int) -> bool:
        """Whether a filter of ours keeps other machines from this UDP socket."""
        return bool(self._shut) and os.fstat(fd).st_ino in self._shut

    def join(self, fd: int, member: Member, *, is_new: bool) -> bool:
        """The program's socket was made a member of a group on loopback; or was one before (not `is_new`): then whether
        it was so for another interface that the program named."""
        members = self._members.setdefault(os.fstat(fd).st_ino, [])
        if is_new:
            # A closed socket's number may come again.
            members[:] = [other for other in members if other[0] != member[0] or (other[2] and member[2])]
        elif member in members or not any(other[0] == member[0] and other[2] == member[2] for other in members):
            return False
        members.append(member)
        return True

    def leave(self, fd: int, member: Member) -> bool:
        """Whether the socket is to leave the group on loopback: it is a member for no other interface."""
        members = self._members.get(os.fstat(fd).st_ino, [])
        same = [other for other in members if other[0] == member[0] and other[2] == member[2]]
        if same:
            members.remove(member if member in same else same[0])
        return len(same) <= 1

    def say_loopback(self, fd: int, said: bool) -> None:
        """The program has tied its socket to loopback itself, or taken that back."""
        if said:
            self._to_loopback.add(os.fstat(fd).st_ino)
        elif self._to_loopback:
            self._to_loopback.discard(os.fstat(fd).st_ino)

    def said_loopback(self, fd: int) -> bool:
        return bool(self._to_loopback) and os.fstat(fd).st_ino in self._to_loopback

    def point_elsewhere(self, fd: int, option: tuple[int, int], named: bool) -> None:
        """The program has named another interface than loopback for what its socket sends, by this option; or takes it
        back."""
        if named:
            self._elsewhere.setdefault(os.fstat(fd).st_ino, set()).add(option)
        elif self._elsewhere:
            options = self._elsewhere.get(os.fstat(fd).st_ino, set())
            options.discard(option)

    def points_elsewhere(self, fd: int) -> bool:
        return bool(self._elsewhere) and bool(self._elsewhere.get(os.fstat(fd).st_ino))
