"""Stops a call at each point where it waits, one point after the other, and tells which stages were hit.

A call and all tasks that descend from it are watched: each time one of them is suspended, the coroutine it is
suspended in names the stage. A run stops the call at one such point, early (as it begins to wait) or late (in the
turn in which what it waited for comes). Instead of waiting for a permit, the clock leaps to the moment it is due.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import time
from collections import Counter
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import anyio

import aiomutex
from aiomutex import DeadlineExceededError, MutexError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import CodeType

    Way = Callable[[Awaitable[object], "Watch"], Coroutine[Any, Any, bool]]
    """Awaits a call so that its watch can stop it; whether it was stopped."""

WINDOW: Final = 1.1
"""Seconds after which a limiter of one permit a second has the next."""
DEADLINE: Final = 1000.0
T = TypeVar("T")
_OURS: Final = PurePath(aiomutex.__file__).parent
_STAGES: Final = {
    ("connector.py", "_create_connection"): "connect",
    ("connector.py", "_wait_for_available_connection"): "connection",
    ("queueing.py", "_wait"): "permit",
    ("client_reqrep.py", "write_bytes"): "send",
    ("client_reqrep.py", "start"): "headers",
    ("transport.py", "attempt"): "room",
    ("transport.py", "_read"): "body",
    ("transport.py", "aclose"): "close",
    ("tasks.py", "wait_done"): "end",
    ("call.py", "send"): "back-off",
    ("create.py", "create_once"): "back-off",
    ("slot_changes.py", "change_slot"): "lock",
    ("slot_changes.py", "move_experiment"): "lock",
}


class Point(NamedTuple):
    """Where to stop a call: the so-and-so-many-eth time it, or a task of its own, is suspended in a stage."""

    stage: str
    number: int
    late: bool


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock a test may set ahead."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    def leap(self, seconds: float = WINDOW) -> None:
        self.ahead += seconds


def on_leaping_clock(work: Callable[[Loop], Coroutine[Any, Any, T]]) -> T:
    """Run it where the clock can be set ahead."""
    loop = Loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work(loop))


async def some_turns() -> None:
    """Let the loop do what is ready."""
    for _ in range(10):
        await asyncio.sleep(0)


class Watch:
    """One call under attack: what it has passed, whether it was struck, and the tasks that descend from it."""

    def __init__(self, loop: Loop, point: Point | None = None, *, leaps: bool = True) -> None:
        self.loop = loop
        self._leaps = leaps
        self.point = point
        self.passed: Counter[str] = Counter()
        self.strike: Callable[[], object] = lambda: None
        self.struck = self.stopped = False
        self.since = 0
        """How often the caller's task waited after the strike, but for the end of tasks of its own."""
        self.again = False
        """Whether each later suspension of the caller's task is a strike, too."""
        self.tasks: list[asyncio.Task[Any]] = []

    def suspended(self, work: object, waits_for: Any) -> Any:
        """A task gives way to others until ``waits_for`` comes."""
        stage = stage_of(work)
        future: asyncio.Future[Any] | None = waits_for if asyncio.isfuture(waits_for) else None
        if stage == "permit" and self._leaps and future:
            self._hurry(future)
        if self.struck and asyncio.current_task() is self.tasks[0]:
            self.since += stage != "end"
            if self.again:
                self.strike()
        elif self._is_here(stage):
            if self.point and self.point.late and future:
                # Before the task adds its own, so that both happen in one turn, the strike first.
                future.add_done_callback(self._strike)
            else:
                self._strike()
        return waits_for

    def _hurry(self, permit: asyncio.Future[Any]) -> None:
        if not permit.done():
            self.loop.leap()
            self.loop.call_soon(self._hurry, permit)

    def at(self, stage: str) -> None:
        """A task passes a stage in which it waits for nothing."""
        if self._is_here(stage):
            self._strike()

    def _is_here(self, stage: str) -> bool:
        self.passed[stage] += 1
        return self.point is not None and self.point[:2] == (stage, self.passed[stage])

    def _strike(self, _: object = None) -> None:
        if not self.tasks[0].done():
            self.struck = True
            self.strike()


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine that tells its watch of each suspension."""

    def __init__(self, work: Coroutine[Any, Any, Any], watch: Watch) -> None:
        self._work = work
        self._watch = watch

    def send(self, value: Any) -> Any:
        return self._watch.suspended(self._work, self._work.send(value))

    def throw(self, *error: Any) -> Any:
        return self._watch.suspended(self._work, self._work.throw(*error))

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


_watch: ContextVar[Watch | None] = ContextVar("_watch", default=None)


def watch_here() -> Watch | None:
    """The watch of the call that the code running now belongs to."""
    return _watch.get()


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    watch = _watch.get()
    task: asyncio.Task[Any] = asyncio.Task(work if watch is None else _Watched(work, watch), loop=loop, **options)
    if watch is not None:
        watch.tasks.append(task)
    return task


async def watched(work: Coroutine[Any, Any, Any], watch: Watch) -> Any:
    """Await ``work`` in a task of its own, watched."""
    watch.loop.set_task_factory(_make_task)
    context = copy_context()
    context.run(_watch.set, watch)
    task: asyncio.Task[Any] = asyncio.Task(_Watched(work, watch), loop=watch.loop, context=context)
    watch.tasks.append(task)
    end = time.monotonic() + 20
    while not task.done():
        # The clock leaps, so the loop's own timeout may be over early.
        await asyncio.wait([task], timeout=WINDOW)
        assert time.monotonic() < end, f"hangs at {stage_of(work)} after {dict(watch.passed)}"
    return task.result()


def stage_of(work: Any) -> str:
    """Where a suspended coroutine waits: a stage by name, else the innermost function of ours."""
    names: list[tuple[str | None, str | None]] = []
    while work is not None:
        kind = next((kind for kind in ("cr", "ag", "gi") if hasattr(work, f"{kind}_code")), None)
        if kind is None:
            # What stands between two coroutines, or for a generator's next item, shows what follows to the collector.
            work = next(
                (it for it in gc.get_referents(work) if inspect.iscoroutine(it) or inspect.isasyncgen(it)), None
            )
            continue
        names.append(_names(getattr(work, f"{kind}_code")))
        work = getattr(work, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    names.reverse()
    stages, ours = ([name for name in column if name] for column in zip(*names, strict=True))
    return next(iter((*stages, *ours)), "elsewhere")


@functools.cache
def _names(code: CodeType) -> tuple[str | None, str | None]:
    """The stage that a function stands for, and its own name if it is one of ours."""
    path = PurePath(code.co_filename)
    return _STAGES.get((path.name, code.co_name)), f"{path.stem}.{code.co_name}" if _OURS in path.parents else None


# ---------------------------------------------------------------------------------------------- ways to stop a call


async def cancel(work: Awaitable[object], watch: Watch) -> bool:
    """The caller's task is cancelled."""
    task = _this_task()
    watch.strike = task.cancel
    try:
        await work
        if task.cancelling():
            # The last it did was to write a journal, for which it waits for nothing: a strike there is felt only now.
            await asyncio.sleep(0)
    except asyncio.CancelledError:
        return True
    return False


async def storm(work: Awaitable[object], watch: Watch) -> bool:
    """The caller's task is cancelled, and again and again while it cleans up."""
    watch.again = True
    return await cancel(work, watch)


async def scope(work: Awaitable[object], watch: Watch) -> bool:
    """The call stands in a scope of anyio whose time is over; the task around it goes on."""
    with anyio.move_on_after(None) as limit:
        watch.strike = lambda: setattr(limit, "deadline", anyio.current_time())
        await work
    assert _this_task().cancelling() == 0
    return limit.cancelled_caught


async def timeout(work: Awaitable[object], watch: Watch) -> bool:
    """The call stands in a timeout of asyncio; the task around it goes on."""
    limit = asyncio.timeout(None)
    watch.strike = lambda: limit.reschedule(watch.loop.time())
    try:
        async with limit:
            await work
    except MutexError:
        raise
    except TimeoutError:
        assert _this_task().cancelling() == 0
        return True
    return False


async def deadline(work: Awaitable[object], watch: Watch) -> bool:
    """The session's own deadline is over."""
    watch.strike = lambda: watch.loop.leap(DEADLINE)
    try:
        await work
    except DeadlineExceededError:
        assert _this_task().cancelling() == 0
        return True
    return False


async def both(work: Awaitable[object], watch: Watch) -> bool:
    """The caller's task is cancelled in the turn in which the session's deadline is over, right after that."""
    task = _this_task()

    def strike() -> None:
        watch.loop.leap(DEADLINE)
        watch.loop.call_later(0, task.cancel)

    watch.strike = strike
    try:
        await work
    except asyncio.CancelledError:
        return True
    return False


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
