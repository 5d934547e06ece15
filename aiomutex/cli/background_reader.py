"""An input that may keep one waiting, read in a thread of its own, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

__all__ = ["AHEAD", "read_apart"]

T = TypeVar("T")

AHEAD: Final = 64
"""Items read before they are asked for, at the most."""


async def read_apart(items: Generator[T]) -> AsyncGenerator[T]:
    """The items of a generator as they come, and then the error it ended with, if any.

    Leave it with ``contextlib.aclosing``. The thread then ends with the item it waits for; where none ever comes, as
    from a silent terminal, it ends with the process, which does not wait for it.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(AHEAD)
    left = threading.Event()

    def read(_held: object) -> None:
        end: BaseException | None = None
        try:
            with contextlib.closing(items):
                for item in items:
                    room.acquire()
                    if left.is_set():
                        return
                    loop.call_soon_threadsafe(arrived.put_nowait, (item,))
        except BaseException as error:  # noqa: BLE001  # raised where the items are awaited
            end = error
        with contextlib.suppress(RuntimeError):  # the loop may have been closed meanwhile
            loop.call_soon_threadsafe(arrived.put_nowait, end)

    # If standard input were taken apart at the end of the process while the thread reads it, Python would abort.
    threading.Thread(target=read, args=(sys.stdin,), name="aiomutex input", daemon=True).start()
    try:
        while isinstance(item := await arrived.get(), tuple):
            room.release()
            yield item[0]
        if item is not None:
            raise item
    finally:
        left.set()
        room.release()
