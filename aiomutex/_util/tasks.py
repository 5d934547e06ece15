"""Tasks inside a call: worker pools, plain exceptions from task groups, and work that a cancellation must not cut."""

from __future__ import annotations

import asyncio
import contextlib
from operator import length_hint
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Iterable

T = TypeVar("T")
R = TypeVar("R")


@contextlib.contextmanager
def collapse_exception_group() -> Generator[None]:
    """Raise the first exception of a task group inside as itself, unless the caller was cancelled meanwhile."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while inner := getattr(first, "exceptions", ()):
            first = inner[0]
    else:
        return
    if task and task.cancelling() > before:
        # An exception of the group would hide the cancellation, and the caller's task would go on.
        raise asyncio.CancelledError
    raise first


async def run_workers(work: Callable[[T], Awaitable[object]], items: Iterable[T], concurrency: int) -> None:
    """Await ``work(item)`` for each item, at most ``concurrency`` at a time. The first exception cancels the others."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    with collapse_exception_group():
        async with anyio.create_task_group() as tasks:
            for _ in range(min(concurrency, length_hint(remaining, concurrency))):
                tasks.start_soon(worker)


async def results_of(work: Callable[[T], Awaitable[R]], items: Collection[T], concurrency: int) -> dict[T, R]:
    """Return the result of ``work(item)`` by item, in the order of ``items``; otherwise like ``run_workers``."""
    results: dict[T, R] = {}

    async def keep(item: T) -> None:
        results[item] = await work(item)

    await run_workers(keep, items, concurrency)
    return {item: results[item] for item in items}


async def wait_done(task: asyncio.Task[Any]) -> None:
    """Wait until ``task`` is done, however often the caller is cancelled; then raise the caller's cancellation."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


async def run_in_task(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` in its own task, which is cancelled with the caller.

    Thereby the caller is cancelled even if ``work`` swallows the cancellation, as ``wait_for`` may on Python 3.11.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await wait_done(task)
        if not task.cancelled():
            task.exception()
        raise
    return task.result()


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` to its end, however often the caller is cancelled; raise its error, else the cancellation."""
    task = asyncio.create_task(work)
    try:
        await wait_done(task)
    except asyncio.CancelledError:
        task.result()
        raise
    return task.result()
