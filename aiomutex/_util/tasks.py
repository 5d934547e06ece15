"""Tasks inside a call: a group fails with an ordinary exception, and what must come to its end is waited for."""

from __future__ import annotations

import asyncio
import contextlib
from operator import length_hint
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable

__all__ = ["collapse_exception_group", "run_in_task", "run_to_completion", "run_workers", "wait_done"]

T = TypeVar("T")


@contextlib.contextmanager
def collapse_exception_group() -> Generator[None]:
    """Raise the first exception of a task group inside as itself."""
    try:
        yield
    except BaseExceptionGroup as group:
        first = _first(group)
    else:
        return
    raise first


async def run_workers(work: Callable[[T], Awaitable[object]], items: Iterable[T], concurrency: int) -> None:
    """Await ``work(item)`` for each item, at most ``concurrency`` at a time.

    Args:
        work: Does the work of one item.
        items: The items, taken in order as workers become free.
        concurrency: The number of workers.

    Raises:
        BaseException: The first exception of ``work``, as itself; the other workers are cancelled.
    """
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    with collapse_exception_group():
        async with anyio.create_task_group() as tasks:
            for _ in range(min(concurrency, length_hint(remaining, concurrency))):
                tasks.start_soon(worker)


async def wait_done(task: asyncio.Task[Any]) -> None:
    """Wait until ``task`` is at its end, however often the caller is cancelled; that comes out once it is."""
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
    """Await ``work`` in a task of its own, which is cancelled with the caller.

    For what may swallow a cancellation: on Python 3.11 ``asyncio.wait_for`` does in the turn in which its work is done.
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
    """Await ``work`` to its end, however often the caller is cancelled; its failure goes before that."""
    task = asyncio.create_task(work)
    try:
        await wait_done(task)
    except asyncio.CancelledError:
        task.result()
        raise
    return task.result()


def _first(error: BaseException) -> BaseException:
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return _first(inner[0]) if inner else error
