"""Changes that are made some time after their request, even if its client disconnected meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiomutex.emulator.clock import Clock

__all__ = ["LateChanges"]

POLL = 0.005
"""Seconds between two looks at the clock, which a test can move at any time."""


class LateChanges:
    """Make each change when the emulator's clock reaches its time, or at the next request after that."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[tuple[float, Callable[[], object], asyncio.Future[None]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    async def make_in(self, seconds: float, change: Callable[[], object]) -> None:
        """Wait ``seconds`` and call ``change``, which is called even if this wait is cancelled."""
        loop = asyncio.get_running_loop()
        made: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._poll, loop)
        self._waiting.append((self._clock.now() + seconds, change, made))
        await made

    def make_due(self) -> None:
        """Make the changes whose time has come, in the order of their times."""
        now = self._clock.now()
        due = sorted((waiting for waiting in self._waiting if waiting[0] <= now), key=lambda waiting: waiting[0])
        self._waiting = [waiting for waiting in self._waiting if waiting[0] > now]
        for _, change, made in due:
            change()
            if not made.done():
                made.set_result(None)

    def clear(self) -> None:
        """Drop the changes that were not made yet."""
        self._waiting.clear()

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting:
            self.make_due()
            loop.call_later(POLL, self._poll, loop)
