"""An event loop in a thread of its own, so that plain functions can use what only runs in a loop.

It starts and ends one thing and knows nothing about it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Background"]


class Background:
    """Awaits ``start``, keeps the loop turning, and awaits ``end`` when it is stopped.

    Creating one returns once ``start`` is through, and raises what it raises.
    """

    def __init__(self, start: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]) -> None:
        self._start = start
        self._end = end
        ready: Future[Callable[[], object]] = Future()
        self._thread = Thread(target=lambda: asyncio.run(self._live(ready)), name="aiomutex-emulator", daemon=True)
        self._thread.start()
        try:
            self._stop = ready.result()
        except BaseException:
            self._thread.join()
            raise

    def stop(self) -> None:
        """End it and wait until the thread is gone."""
        self._stop()
        self._thread.join()

    async def _live(self, ready: Future[Callable[[], object]]) -> None:
        try:
            await self._start()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that asked for the start
            ready.set_exception(error)
            return
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        ready.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        try:
            await stop.wait()
        finally:
            await self._end()
