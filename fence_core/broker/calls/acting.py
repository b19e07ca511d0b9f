"""What all handlers of file calls share: judge where the path leads, refuse, or have the call carried out.

An allowed call is carried out by the kernel (`CONTINUE`) only where its own rules, Landlock's, hold whatever the path
has been changed to in the meantime: below the ceiling, and for calls that Landlock knows of. Everything else the broker
carries out itself, on the descriptors that it has judged, with the rights of the caller.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from fence_core.broker.paths import repositories, surroundings
from fence_core.broker.paths.native_errno import native_errno
from fence_core.broker.paths.resolve import Located, plain_text
from fence_core.broker.reply import CONTINUE, HandOver, Reply, Value
from fence_core.kernel import credentials
from fence_core.policy.requests import Write

if TYPE_CHECKING:
    from fence_core.broker.call import Call

_OUR_FLAGS = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""Of opens by the broker: it does not wait for a lease to be given up, and the terminal is not for it."""


def is_of_a_stranger(path: str) -> bool:
    """Whether a judged path is that of a process outside of the fence. What its files give away the kernel tells
    nobody inside, but us: nothing there may be opened on behalf of the caller."""
    return path.startswith("/proc/") and path[6:7].isdigit()


def through_a_stranger(call: Call, op: str, located: Located, *, flags: int = 0) -> int:
    """The answer for a path that leads through a process outside, where the kernel lets nobody inside go."""
    located.errno = 0
    native = native_errno(op, located, call.tid, flags=flags) if located.is_file else 0
    return native or call.refuse(Write(op, located.outside, known="outside"), errno.EACCES)


def is_free(call: Call, op: str, raw: bytes) -> bool:
    """Whether the kernel may carry out a change of one name, as it most often may. No: it needs a closer look.

    Everything that is asked here is asked by the closer look, too. Where the path's own text is what the kernel calls
    the file, nothing has to be kept open to know, and only then is it yes.
    """
    path, services = plain_text(raw), call.services
    return (
        path is not None
        and services.ceiling.covers(path)
        and not surroundings.is_telling(op, path)
        and call.process.may_write(path, op)
        and services.resolver.is_straight(raw)
    )


def refusal(call: Call, op: str, located: Located, *, flags: int = 0, asked: Write | None = None) -> int:
    """The answer to a change that the policy does not allow: the kernel's own errno where it would refuse it, too.

    `CONTINUE` where every session that objects only audits: then the call is to be carried out. `asked`: what the
    policy is asked and the report shows, where that is not just `op`.
    """
    if not located.is_file:
        # One of the pipes and files without a name that the run was started with.
        if op in ("chmod", "chattr") and not credentials.of(call.tid).owns(os.fstat(located.handle)):
            return errno.EPERM
        shown = asked.op if asked is not None else op
        return call.refuse(Write(shown, located.path, known="inherited"), errno.EACCES)
    native = native_errno(op, located, call.tid, flags=flags)
    if native:
        return native
    process = call.process
    toward = process.wanted if op == "mkdir" and process.wanted.startswith(f"{located.path}/") else ""
    process.wanted = ""
    if call.learns() and not (asked is not None and asked.known):
        asked = unlearnt(call, op, located, gets=op in _GIVING) or asked
    return call.refuse(asked or Write(op, located.path, toward), errno.EACCES)


_GIVING = frozenset({"open", "create", "mkdir", "mknod", "symlink", "link", "rename", "bind"})


def unlearnt(call: Call, op: str, located: Located, *, gets: bool) -> Write | None:
    """What is to be refused, of a change that no rule lists and that would be let through to learn from: what a rule
    for it would not allow either. `gets`: see `surroundings.objection`."""
    return surroundings.objection(call, op, located, gets=gets) if located.is_file else None


def perform(call: Call, act: Callable[[], int | None], *, creates: bool = False) -> int | Value:
    """Carry a call out with the caller's rights, and with its umask where it `creates` something.

    `act` returns None or an error number, or raises OSError.
    """
    if not call.waits():
        return errno.EINTR  # nobody gets it
    try:
        if creates or call.services.identities.differ:
            with call.services.identities.acting_as(call.tid, creates=creates):
                failed = act()
        else:
            failed = act()
    except ProcessLookupError:
        return errno.ESRCH
    except OSError as error:
        return error.errno or errno.EIO
    return failed or Value(0)


def hand_over(call: Call, flags: int, opens: Callable[[int], int], *, creates: bool = False) -> HandOver | int:
    """Open a file with the caller's rights; `opens` does it, given flags to add, and raises OSError.

    EAGAIN, where the caller did not ask for it: somebody has a lease on the file.
    """
    opened = -1

    def act() -> None:
        nonlocal opened
        opened = opens(_OUR_FLAGS)

    failed = perform(call, act, creates=creates)
    if isinstance(failed, int):
        return failed
    if not flags & os.O_NONBLOCK:
        os.set_blocking(opened, True)
    return HandOver(opened, cloexec=bool(flags & os.O_CLOEXEC))


def unresolved(located: Located) -> Reply | None:
    """The answer where there is nothing to judge: the kernel cannot walk the path, or can succeed in no way."""
    return located.refusal(CONTINUE) if located.errno else None


def entry(call: Call, op: str, dirfd: int, address: int, act: Callable[[Located], object]) -> Reply:
    """A call that makes or removes one name in a directory; `act` does it with ``located.directory`` and ``.name``."""
    raw = call.read_string(address)
    if is_free(call, op, raw):
        return CONTINUE
    located = call.locate(dirfd, raw, follow=False)
    if located.outside:
        return through_a_stranger(call, op, located)
    answer = unresolved(located)
    if answer is not None:
        if op == "mkdir" and answer == errno.ENOENT and os.path.normpath(located.path) == located.path:
            call.process.wanted = located.path  # pathlib tries this first, and then what is above
        return answer
    if not call.process.may_write(call.judged(located.path), op):
        if not repositories.lets(call, op, located):
            refused = refusal(call, op, located)
            if refused != CONTINUE:
                return refused
    else:
        objection = surroundings.objection(call, op, located, gets=op not in ("unlink", "rmdir"))
        if objection is not None:
            refused = refusal(call, op, located, asked=objection)
            if refused != CONTINUE:
                return refused
    if call.services.ceiling.covers(located.path):
        return CONTINUE

    def carry_out() -> None:
        act(located)

    return perform(call, carry_out, creates=op in ("mkdir", "mknod"))
