"""Run coroutines in an event loop in a thread of its own, so that synchronous code can use the emulator."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["BackgroundLoop"]


class BackgroundLoop:
    """An event loop that awaits ``start``, runs until it is stopped, and awaits ``end``.

    The constructor returns when ``start`` has returned, and raises its exception.
    """

    def __init__(self, start: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]) -> None:
        self._start = start
        self._end = end
        ready: Future[Callable[[], object]] = Future()
        self._thread = Thread(target=lambda: asyncio.run(self._run(ready)), name="aiomutex-emulator", daemon=True)
        self._thread.start()
        try:
            self._stop = ready.result()
        except BaseException:
            self._thread.join()
            raise

    def stop(self) -> None:
        """Stop the loop and join the thread."""
        self._stop()
        self._thread.join()

    async def _run(self, ready: Future[Callable[[], object]]) -> None:
        try:
            await self._start()
        except BaseException as error:  # noqa: BLE001 - the constructor raises it
            ready.set_exception(error)
            return
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        ready.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        try:
            await stop.wait()
        finally:
            await self._end()
