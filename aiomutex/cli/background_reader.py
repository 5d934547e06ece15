"""Reading blocking input, such as a pipe, in a thread, so that the event loop can go on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

T = TypeVar("T")

READ_AHEAD: Final = 64  # items that are read before they are needed


async def read_in_thread(items: Generator[T]) -> AsyncGenerator[T]:
    """Iterate over a blocking generator in a daemon thread, which closes it at its next item once this is closed."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()
    capacity = threading.Semaphore(READ_AHEAD)
    closed = threading.Event()

    def read(_stdin: object) -> None:
        end: BaseException | None = None
        try:
            with contextlib.closing(items):
                for item in items:
                    capacity.acquire()
                    if closed.is_set():
                        return
                    loop.call_soon_threadsafe(queue.put_nowait, (item,))
        except BaseException as error:  # noqa: BLE001  # raised again in the event loop
            end = error
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(queue.put_nowait, end)

    # The thread keeps a reference to sys.stdin: Python aborts if it finalizes standard input while a thread reads it.
    threading.Thread(target=read, args=(sys.stdin,), name="aiomutex input", daemon=True).start()
    try:
        while isinstance(item := await queue.get(), tuple):
            capacity.release()
            yield item[0]
        if item is not None:
            raise item
    finally:
        closed.set()
        capacity.release()
