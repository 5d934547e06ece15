"""Interrupts a call at one of the points where it waits.

A ``Watch`` follows a call and the tasks it starts. Each time one of them is suspended, the function it is suspended in
names the stage. A run interrupts the call at one such point: early, when it starts to wait, or late, in the loop's
iteration in which the result arrives. Instead of waiting for a permit, the clock advances to the time it is granted.
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
    """Awaits a call so that its watch can interrupt it; returns whether the interruption stopped it."""

WINDOW: Final = 1.1
"""Seconds after which a limiter of one permit per second grants the next one."""
DEADLINE: Final = 1000.0
T = TypeVar("T")
_OURS: Final = PurePath(aiomutex.__file__).parent
_STAGES: Final = {
    ("connector.py", "_create_connection"): "connect",
    ("queueing.py", "acquire"): "permit",
    ("client_reqrep.py", "write_bytes"): "send",
    ("client_reqrep.py", "start"): "headers",
    ("direct.py", "send"): "headers",
    ("transport.py", "attempt"): "room",
    ("transport.py", "_read"): "body",
    ("transport.py", "aclose"): "close",
    ("tasks.py", "wait_done"): "end",
    ("call.py", "send"): "back-off",
    ("create.py", "create_once"): "back-off",
    ("journal_file.py", "sync"): "journal",
    ("slot_changes.py", "change_slot"): "lock",
    ("slot_changes.py", "move_experiment"): "lock",
}


class Point(NamedTuple):
    """Where to interrupt a call: the ``number``-th time that it or one of its tasks is suspended in ``stage``."""

    stage: str
    number: int
    late: bool


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be advanced."""

    offset = 0.0

    def time(self) -> float:
        return super().time() + self.offset

    def advance(self, seconds: float = WINDOW) -> None:
        self.offset += seconds


def run_with_fake_clock(work: Callable[[Loop], Coroutine[Any, Any, T]]) -> T:
    """Run ``work`` on a loop whose clock can be advanced."""
    loop = Loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work(loop))


async def run_ready() -> None:
    """Let the loop run the callbacks that are ready."""
    for _ in range(10):
        await asyncio.sleep(0)


class Watch:
    """One watched call: the stages it passed, whether it was interrupted, and the tasks it started."""

    def __init__(self, loop: Loop, point: Point | None = None, *, skips_waits: bool = True) -> None:
        self.loop = loop
        self._skips_waits = skips_waits
        self.point = point
        self.passed: Counter[str] = Counter()
        self.interrupt: Callable[[], object] = lambda: None
        self.interrupted = self.stopped = False
        self.waits_after = 0
        """How often the caller's task waited after the interruption, except for the end of its own tasks."""
        self.repeats = False
        """Whether to interrupt the caller's task again at each later suspension."""
        self.tasks: list[asyncio.Task[Any]] = []

    def suspended(self, work: object, waits_for: Any) -> Any:
        """A task is suspended until ``waits_for`` has a result."""
        stage = stage_of(work)
        future: asyncio.Future[Any] | None = waits_for if asyncio.isfuture(waits_for) else None
        if stage == "permit" and self._skips_waits and future:
            self._skip_wait(future)
        if self.interrupted and asyncio.current_task() is self.tasks[0]:
            self.waits_after += stage != "end"
            if self.repeats:
                self.interrupt()
        elif self._is_here(stage):
            if self.point and self.point.late and future:
                # Added before the task adds its own callback: both run in one iteration, the interruption first.
                future.add_done_callback(self._interrupt)
            else:
                self._interrupt()
        return waits_for

    def _skip_wait(self, permit: asyncio.Future[Any]) -> None:
        if not permit.done():
            self.loop.advance()
            self.loop.call_soon(self._skip_wait, permit)

    def at(self, stage: str) -> None:
        """A task passes a stage in which it does not wait."""
        if self._is_here(stage):
            self._interrupt()

    def _is_here(self, stage: str) -> bool:
        self.passed[stage] += 1
        return self.point is not None and self.point[:2] == (stage, self.passed[stage])

    def _interrupt(self, _: object = None) -> None:
        if not self.tasks[0].done():
            self.interrupted = True
            self.interrupt()


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine that reports each suspension to its watch."""

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
    """The watch of the current call."""
    return _watch.get()


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    watch = _watch.get()
    task: asyncio.Task[Any] = asyncio.Task(work if watch is None else _Watched(work, watch), loop=loop, **options)
    if watch is not None:
        watch.tasks.append(task)
    return task


async def watched(work: Coroutine[Any, Any, Any], watch: Watch) -> Any:
    """Await ``work`` in its own task and watch it."""
    watch.loop.set_task_factory(_make_task)
    context = copy_context()
    context.run(_watch.set, watch)
    task: asyncio.Task[Any] = asyncio.Task(_Watched(work, watch), loop=watch.loop, context=context)
    watch.tasks.append(task)
    end = time.monotonic() + 20
    while not task.done():
        # The clock jumps, so this timeout may expire early.
        await asyncio.wait([task], timeout=WINDOW)
        assert time.monotonic() < end, f"hangs at {stage_of(work)} after {dict(watch.passed)}"
    return task.result()


def stage_of(work: Any) -> str:
    """Where a coroutine is suspended: a stage, or else the innermost function of this package."""
    names: list[tuple[str | None, str | None]] = []
    while work is not None:
        kind = next((kind for kind in ("cr", "ag", "gi") if hasattr(work, f"{kind}_code")), None)
        if kind is None:
            # Wrappers, such as that of ``anext``, have no attribute for what they await; the collector knows it.
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
    """The stage of a function, and its name if it belongs to this package."""
    path = PurePath(code.co_filename)
    return _STAGES.get((path.name, code.co_name)), f"{path.stem}.{code.co_name}" if _OURS in path.parents else None


# ------------------------------------------------------------------ ways to interrupt a call


async def cancel(work: Awaitable[object], watch: Watch) -> bool:
    """Cancel the caller's task."""
    task = _this_task()
    watch.interrupt = task.cancel
    try:
        await work
        if task.cancelling():
            # Writing a journal does not wait, so a cancellation during the last write is raised only here.
            await asyncio.sleep(0)
    except asyncio.CancelledError:
        return True
    return False


async def cancel_repeatedly(work: Awaitable[object], watch: Watch) -> bool:
    """Cancel the caller's task, then again at each await of its cleanup."""
    watch.repeats = True
    return await cancel(work, watch)


async def scope(work: Awaitable[object], watch: Watch) -> bool:
    """Let an anyio scope around the call time out; the caller's task continues."""
    with anyio.move_on_after(None) as limit:
        watch.interrupt = lambda: setattr(limit, "deadline", watch.loop.time())
        await work
    assert _this_task().cancelling() == 0
    return limit.cancelled_caught


async def timeout(work: Awaitable[object], watch: Watch) -> bool:
    """Let an ``asyncio.timeout`` around the call expire; the caller's task continues."""
    limit = asyncio.timeout(None)
    watch.interrupt = lambda: limit.reschedule(watch.loop.time())
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
    """Let the session's deadline expire."""
    watch.interrupt = lambda: watch.loop.advance(DEADLINE)
    try:
        await work
    except DeadlineExceededError:
        assert _this_task().cancelling() == 0
        return True
    return False


async def deadline_then_cancel(work: Awaitable[object], watch: Watch) -> bool:
    """Let the session's deadline expire, and cancel the caller's task in the same iteration of the loop."""
    task = _this_task()

    def interrupt() -> None:
        watch.loop.advance(DEADLINE)
        watch.loop.call_later(0, task.cancel)

    watch.interrupt = interrupt
    try:
        await work
    except asyncio.CancelledError:
        return True
    return False


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
