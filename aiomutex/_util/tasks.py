"""Tasks inside a call: a group fails with an ordinary exception, and what must come to its end is waited for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

__all__ = ["collapse_exception_group", "run_in_task", "run_to_completion", "wait_done"]

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
