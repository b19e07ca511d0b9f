"""Who waits for what a thread does: lines of tasks, coroutines and greenlets, which are on no thread's stack.

Run by fenced pytest processes, in a Python signal handler of the main thread, while the broker holds a call or just
after it has refused one; told by the page, which a test can neither close nor read by mistake. `faulthandler` tells the
stack of the thread that made the call. In asyncio, trio and gevent that often has no line of the user's: a name is
looked up in a thread of a pool, a task is run by the loop, and the one that waits for it is suspended somewhere else.
From there this goes to who waits, by what the libraries keep:

* asyncio: a future's callbacks lead to the task that awaits it, through gather, wait_for, shield and task groups; a
  task's coroutine leads to the one that it awaits, and so on.
* trio: the thread keeps the task that it works for; a task has a nursery, and that the task which waits in it.
* threads: the main one is in `join`, or waits for the future that a pool's thread is to fill.
* greenlets: each has a parent, and one that is not running has a frame.

Nothing here imports, locks, or calls what a user has written. What is not understood is left out: then the report has
the line of the test alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fence_core.link.page import ANSWER_MAX, NO_THREAD, Page
from fence_core.untouched import real

Lines = list[tuple[str, int, str]]
_STEPS_MAX = 200
"""Callbacks and futures that are looked at."""
_TASKS_MAX = 20
_LINES_MAX = 100
_NAME_MAX = 200
_POOL_FRAMES = 12
"""Of a thread's outermost frames, how many are searched for what it works for."""
_LOOPS = ("run_forever", "run_until_complete", "unrolled_run")
_WAIT = ("threading", "concurrent.futures._base", "concurrent.futures.thread")
"""Modules in whose functions one thread waits for another."""
_SUSPENDED = ("coroutine", "generator", "async_generator", "iterable_coroutine")
_BY_LIBUV = frozenset({"getaddrinfo", "getnameinfo", "create_connection", "create_datagram_endpoint", "create_server"})
"""Coroutines of uvloop that look names up in a thread which runs no Python."""


class Answers:
    """Writes to the page what is asked for by a signal."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def __call__(self, number: int, frame: Any) -> None:
        asked, tid = self._page.asked()
        try:
            lines, joint, name, whole = who_waits(tid, frame)
        except Exception as error:
            # Whatever a test has made of these objects is no matter of its code; a timeout of its own is.
            if _is_of_a_handler(error):
                raise
            lines, joint, name, whole = [], 0, "", True
        for kept in _LINES_MAX, _LINES_MAX // 10, 0:
            left_out = max(len(lines) - kept, 0)
            told = {"lines": lines[left_out:], "joint": max(joint - left_out, 0), "thread": name, "whole": whole}
            answer = real.dumps(told).encode("utf-8", "backslashreplace")
            if len(answer) <= ANSWER_MAX:
                self._page.tell(asked, answer)
                return


def _is_of_a_handler(error: BaseException) -> bool:
    """Whether a handler of another signal has raised this, which may run at any line of ours."""
    codes = {getattr(real.getsignal(number), "__code__", None) for number in real.valid_signals()}
    place = error.__traceback__
    while place is not None:
        if place.tb_frame.f_code in codes:
            return True
        place = place.tb_next
    return False


def who_waits(tid: int, frame: Any) -> tuple[Lines, int, str, bool]:
    """The lines that lead to what a thread does, outermost first, and its name; `frame` is the main thread's.

    The number is that of the line which stands on the thread's own stack too, counted from 1, and after which the rest
    of that stack follows. 0: all of it does. Not whole: whoever has started the thread is about to wait for it.
    """
    around = _greenlets()
    if tid == NO_THREAD:
        return around, 0, "", True
    if tid == real.getpid():
        tasks = _chain_of_running(None)
        if not tasks and not around:
            return [], 0, "", True
        own = _until_loop(frame)
        return [*around, *own, *tasks], len(around) + len(own), "", True
    thread = next((each for each in list(real.threads.values()) if each.native_id == tid), None)
    if thread is None:
        found, whole, future = *_by_libuv(), None
    else:
        found, whole, future = _of_thread(real.current_frames().get(thread.ident or 0))
    leads = _has_loop(frame) if found else bool(around) or _waits_for(frame, thread, future)
    main = [*around, *_until_loop(frame)] if leads else []
    return [*main, *found], 0, thread.name[:_NAME_MAX] if thread is not None else "", whole


# ------------------------------------------------------------ stacks


def _stack(frame: Any) -> list[Any]:
    """Frames, outermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _line(frame: Any) -> tuple[str, int, str]:
    return (frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name)


def _has_loop(frame: Any) -> bool:
    return any(each.f_code.co_name in _LOOPS for each in _stack(frame))


def _until_loop(frame: Any) -> Lines:
    """Lines of a stack up to its innermost loop of tasks; all of it where there is none."""
    frames = _stack(frame)
    ends = [n for n, each in enumerate(frames) if each.f_code.co_name in _LOOPS]
    return [_line(each) for each in (frames[: ends[-1] + 1] if ends else frames)]


def _waits_for(frame: Any, thread: Any, future: Any) -> bool:
    """Whether the main thread waits for another one to end, or for what it does in a pool."""
    ends = {id(each) for each in (thread, future) if each is not None}
    for each in _stack(frame):
        if each.f_globals.get("__name__") in _WAIT:
            known = each.f_locals
            awaited = known.get("self")
            several = known.get("fs") or getattr(awaited, "_threads", None)  # futures; those of a pool that ends
            if not ends.isdisjoint(map(id, (awaited, *(several if isinstance(several, (list, set)) else ())))):
                return True
    return False


def _of_thread(frame: Any) -> tuple[Lines, bool, Any]:
    """Who waits for a thread of a pool, or for the task that is running in a loop of its own; whether that is all; and
    the future that the thread is to fill."""
    for each in _stack(frame)[:_POOL_FRAMES]:
        known = each.f_locals
        if each.f_code.co_name == "run_forever" and (found := _chain_of_running(known.get("self"))):
            return found, True, None
        register = known.get("task_register")  # trio: the function that it gives to a thread
        if isinstance(register, list) and register and register[0] is not None:
            return _trio_chain(register[0], whole=True), register[0].coro.cr_running is False, None
        for start in (known.get("future"), getattr(known.get("self"), "future", None)):  # anyio; concurrent.futures
            if _is_future(start):
                task = _awaiting(start)
                if task is not None:
                    return _chain(task, whole=True), not _runs(task), start
                return [], not _has_asyncio(), start
    return [], True, None


def _has_asyncio() -> bool:
    """Whether a loop is running in this thread."""
    events = real.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


def _runs(task: Any) -> bool:
    return bool(getattr(task.get_coro(), "cr_running", False))


# ------------------------------------------------------------ asyncio


def _tasks_module() -> Any:
    return real.modules.get("asyncio.tasks")


def _chain_of_running(loop: Any) -> Lines:
    """Who waits for the task that is running in a loop; None: in that of this thread."""
    tasks = _tasks_module()
    if tasks is not None:
        try:
            task = tasks.current_task(loop) if loop is not None else tasks.current_task()
        except RuntimeError:  # no loop is running
            task = None
        if task is not None:
            return _chain(task, whole=False)
    trio = real.modules.get("trio._core._run") if loop is None else None
    task = getattr(trio.GLOBAL_RUN_CONTEXT, "task", None) if trio is not None else None
    return _trio_chain(task, whole=False) if task is not None else []


def _chain(task: Any, *, whole: bool) -> Lines:
    """Lines of the tasks that wait for this one, outermost first; `whole`: and its own."""
    lines = _coroutines(task.get_coro()) if whole else []
    for _ in range(_TASKS_MAX):
        task = _awaiting(task)
        if task is None:
            break
        lines = [*_coroutines(task.get_coro()), *lines]
    return lines


def _coroutines(awaited: Any) -> Lines:
    """Where a suspended coroutine is, and what it awaits."""
    return [_line(frame) for each in _awaits(awaited) if (frame := _frame(each)) is not None]


def _awaits(awaited: Any) -> Iterator[Any]:
    for _ in range(_LINES_MAX):
        if awaited is None:
            return
        yield awaited
        inner = None
        name = next((name for name in ("cr_await", "gi_yieldfrom", "ag_await") if hasattr(type(awaited), name)), "")
        if name:
            inner = getattr(awaited, name)
        else:
            # What `__await__` of a coroutine or `__anext__` of a generator gives: it holds that, and does not show it.
            held = [each for each in real.referents(awaited) if type(each).__name__ in _SUSPENDED]
            inner = held[0] if held else None
        awaited = inner


def _frame(awaited: Any) -> Any:
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        if hasattr(type(awaited), name):
            return getattr(awaited, name) if type(awaited).__module__ == "builtins" else None
    return None


def _is_task(value: object) -> bool:
    return _is_future(value) and hasattr(type(value), "get_coro")


def _is_future(value: object) -> bool:
    kind = type(value)
    return hasattr(kind, "_asyncio_future_blocking") or kind.__module__.startswith("concurrent.futures.")


def _awaiting(future: Any) -> Any:
    """The task that awaits a future, or what is made of it; None where that cannot be told."""
    seen = {id(future)}
    to_see = [future]
    for _ in range(_STEPS_MAX):
        if not to_see:
            return None
        now = to_see.pop(0)
        callbacks = getattr(now, "_callbacks", None) or getattr(now, "_done_callbacks", None) or ()
        for value in _reached(callbacks):
            if id(value) in seen:
                continue
            seen.add(id(value))
            if _is_task(value):
                return value
            to_see.append(value)
    return None


def _reached(callbacks: Iterable[Any]) -> Iterator[Any]:
    """The futures that callbacks are about to tell."""
    to_see = [each[0] if isinstance(each, tuple) else each for each in callbacks]
    for _ in range(_STEPS_MAX):
        if not to_see:
            return
        value = to_see.pop(0)
        if _is_future(value):
            yield value
            continue
        if hasattr(type(value), "func") and type(value).__module__ == "functools":
            to_see += [value.func, *value.args]
            continue
        for cell in getattr(value, "__closure__", None) or ():
            to_see.append(cell.cell_contents)
        owner = getattr(value, "__self__", None) if callable(value) else None
        if owner is not None and type(owner).__name__ != "module":
            to_see.append(owner)
        module = type(value).__module__
        if module.startswith(("asyncio.", "anyio.")):
            for name in ("_parent_task", "_host_task", "cancel_scope"):  # of a task group, of anyio's
                if getattr(value, name, None) is not None:
                    to_see.append(getattr(value, name))


def _by_libuv() -> tuple[Lines, bool]:
    """The one task that waits for uvloop to look a name up; nothing where several do."""
    tasks = _tasks_module() if "uvloop" in real.modules else None
    if tasks is None or not _has_asyncio():
        return [], True
    found = []
    for task in tasks.all_tasks():
        foreign = [each for each in _awaits(task.get_coro()) if type(each).__module__ != "builtins"]
        if any(getattr(each, "__name__", "") in _BY_LIBUV for each in foreign):
            found.append(task)
    return (_chain(found[0], whole=True), True) if len(found) == 1 else ([], bool(found))


# ------------------------------------------------------------ trio, greenlets


def _trio_chain(task: Any, *, whole: bool) -> Lines:
    lines = _coroutines(task.coro) if whole and task is not None else []
    for _ in range(_TASKS_MAX):
        nursery = getattr(task, "parent_nursery", None)
        task = getattr(nursery, "parent_task", None)
        if task is None:
            break
        lines = [*_coroutines(task.coro), *lines]
    return lines


def _greenlets() -> Lines:
    """Lines of the greenlets that wait for the one that is running here, the outermost first."""
    module = real.modules.get("greenlet")
    if module is None:
        return []
    lines: Lines = []
    parent = module.getcurrent().parent
    for _ in range(_TASKS_MAX):
        if parent is None:
            break
        if parent.gr_frame is not None:
            lines = [*map(_line, _stack(parent.gr_frame)), *lines]
        parent = parent.parent
    return lines
