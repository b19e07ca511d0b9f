"""Answers on their way: replies, descriptors handed over, calls that wait for theirs, and those that are made again.

Run by the supervisor. Whatever else happens, a call is answered: what fails while it waits is answered with an error.
"""

from __future__ import annotations

import errno
import math
import os
import select
from collections.abc import Callable

from fence_core.broker.call import Call
from fence_core.broker.loop import Loop
from fence_core.broker.repeats import KEPT_S, Answer, Key, Repeats
from fence_core.broker.reply import HandOver, Value, Wait
from fence_core.errors import KernelCallError
from fence_core.kernel import seccomp, signals

__all__ = ["Delivery"]

WAIT_TICK_S = 0.02
"""How often a call that waits is looked at: for signals that its thread must get."""
_TICKS_FOR_A_SIGNAL = 10
"""How long an answer is kept back from a thread that is about to take a signal."""


class _Parked:
    """A call whose answer is outstanding."""

    __slots__ = ("call", "key", "wait")

    def __init__(self, call: Call, wait: Wait, key: Key | None) -> None:
        self.call = call
        self.wait = wait
        self.key = key


def _interrupted(wait: Wait) -> int | Value:
    """What a signal makes of a call that waits. Source: sock_intr_errno, include/net/sock.h."""
    if wait.so_far:
        return Value(wait.so_far)
    return seccomp.ERESTARTSYS if wait.deadline == math.inf else errno.EINTR


class Delivery:
    """What has been decided and is not with its thread yet."""

    def __init__(
        self,
        listener: seccomp.Listener,
        loop: Loop,
        repeats: Repeats | None,
        failed: Callable[[Call, Exception], int],
    ) -> None:
        """`repeats`: None where no signal takes a call back from us: then what is not delivered is for processes that
        end. `failed` reports what was raised while a call waited, and tells the error number to answer."""
        self._listener = listener
        self._loop = loop
        self._repeats = repeats
        self._failed = failed
        self._parked: list[_Parked] = []

    def deliver(self, call: Call, key: Key | None, answer: Answer, ticks: int = _TICKS_FOR_A_SIGNAL) -> None:
        """Send what was done, and where it does not arrive keep it for when the call is made again.

        Whether a number has arrived cannot be asked: SECCOMP_IOCTL_NOTIF_SEND succeeds, too, while the thread, woken
        by a signal, is on its way to take its call back. Measured with a stand-in for the broker (Linux 6.18, a signal
        each millisecond, two busy cores): 6 in 177,000 answers were lost so, and 6 in 1,217,000 where an answer waits
        for a signal that is seen to be pending. On an idle machine, where the thread is awake at once, it was 5 in
        60,000. A descriptor (SECCOMP_IOCTL_NOTIF_ADDFD) is acknowledged by the thread.
        """
        repeats = self._repeats
        if repeats is None or key is None:
            self._send(call.id, answer)
        elif ticks and not isinstance(answer, HandOver) and _has_signal(call.tid, main_thread=True):
            repeats.keep(call.tid, key, answer)
            self._loop.after(WAIT_TICK_S, lambda: self._deliver_late(call, key, answer, ticks - 1))
            return
        elif self._send(call.id, answer):
            repeats.arrived(call.tid, key)
        else:
            repeats.keep(call.tid, key, answer)
            self._loop.after(KEPT_S, repeats.expire)
            return
        if isinstance(answer, HandOver):
            os.close(answer.fd)

    def _deliver_late(self, call: Call, key: Key, answer: Answer, ticks: int) -> None:
        """Unless the signal has come: it may have been blocked meanwhile, or taken by another thread."""
        if call.waits():
            self.deliver(call, key, answer, ticks)

    def _send(self, id_: int, answer: Answer) -> bool:
        """Whether it has arrived, as far as the kernel tells."""
        if isinstance(answer, HandOver):
            return self._hand_over(id_, answer)
        if isinstance(answer, Value):
            return self._listener.reply_value(id_, answer.value)
        return self._listener.reply_error(id_, answer)

    def _hand_over(self, id_: int, reply: HandOver) -> bool:
        listener = self._listener
        try:
            try:
                number = listener.add_fd(id_, reply.fd, cloexec=reply.cloexec, send=True)
                taken = True
            except KernelCallError as error:
                if error.errno != errno.EINVAL:
                    raise
                # Before Linux 5.14: in two steps.
                number = listener.add_fd(id_, reply.fd, cloexec=reply.cloexec)
                taken = listener.reply_value(id_, number)
        except KernelCallError as error:
            if reply.arrived is not None:
                reply.arrived(-1)
            if error.errno in (errno.ENOENT, errno.ESRCH):  # the call was taken back before, or instead of taking it
                return False
            return listener.reply_error(id_, error.errno or errno.EMFILE)
        if reply.arrived is not None:
            reply.arrived(number)
        return taken

    # ------------------------------------------------------------ calls that wait

    def park(self, call: Call, key: Key | None, wait: Wait) -> None:
        """Answer it when it is time; until then it keeps what it has open."""
        parked = _Parked(call, wait, key)
        ready = select.EPOLLIN if wait.readable else select.EPOLLOUT
        try:
            self._loop.watch(wait.fd, lambda: self._look_at(parked), ready | select.EPOLLET)
        except OSError as error:  # the user may watch no more (epoll(7), max_user_watches): tests can see to that
            wait.close()
            call.close()
            self._send(call.id, self._failed(call, error))
            return
        self._parked.append(parked)
        if len(self._parked) == 1:
            self._loop.after(WAIT_TICK_S, self._tick)

    def _tick(self) -> None:
        for parked in list(self._parked):
            self._look_at(parked)
        if self._parked:
            self._loop.after(WAIT_TICK_S, self._tick)

    def _look_at(self, parked: _Parked) -> None:
        """Answer a waiting call if its time has come, or give its thread the signal that it must take."""
        call, wait = parked.call, parked.wait
        answer: int | Value | HandOver | None
        gone = Value(0)
        if not call.waits():
            answer = gone  # the reply below goes nowhere
        else:
            try:
                answer = wait.poll()
            except OSError as error:
                answer = error.errno or errno.EIO
            except Exception as error:
                answer = self._failed(call, error)
            if answer is None and _has_signal(call.tid, main_thread=call.tid == call.process.pid):
                answer = _interrupted(wait)
        if answer is None:
            return
        self._parked.remove(parked)
        self._loop.unwatch(wait.fd)
        wait.close()
        call.close()
        if answer is gone or answer == seccomp.ERESTARTSYS:
            self._send(call.id, answer)
        else:
            self.deliver(call, parked.key if not isinstance(answer, int) else None, answer)


def _has_signal(tid: int, *, main_thread: bool) -> bool:
    """ERESTARTSYS reaches the program as error 512 unless the thread really has a signal to take."""
    try:
        state = signals.state(tid)
    except OSError:
        return False
    return bool(state.deliverable(main_thread=main_thread))
