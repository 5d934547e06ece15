"""A lock for each key."""

from __future__ import annotations

import asyncio
from collections import deque


class KeyedLock:
    """Locks by key, each granted in the order of the requests. A key that nobody holds takes no memory."""

    def __init__(self) -> None:
        self._waiters: dict[str, deque[asyncio.Future[None]] | None] = {}  # ``None``: held, and nobody waits

    def acquire_now(self, key: str) -> bool:
        """Take the lock of a key if nobody holds it; return whether it was taken."""
        if key in self._waiters:
            return False
        self._waiters[key] = None
        return True

    async def acquire(self, key: str) -> None:
        """Wait for the lock of a key."""
        if self.acquire_now(key):
            return
        waiters = self._waiters[key] = self._waiters[key] or deque()
        turn = asyncio.get_running_loop().create_future()
        waiters.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.release(key)  # granted and cancelled in the same iteration of the loop
            elif turn in waiters:  # otherwise the holder has skipped it already
                waiters.remove(turn)
            raise

    def release(self, key: str) -> None:
        """Pass the lock of a key on to the next waiter, if there is one."""
        waiters = self._waiters[key]
        while waiters:
            turn = waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiters[key]
