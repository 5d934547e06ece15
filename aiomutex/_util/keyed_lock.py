"""A lock for each key, which several may hold at a time."""

from __future__ import annotations

import asyncio
from collections import deque


class KeyedLock:
    """Locks by key, each for ``limit`` holders, granted in the order of the requests.

    A key that nobody holds takes no memory.
    """

    def __init__(self, limit: int = 1) -> None:
        self._limit = limit
        self._holders: dict[str, int] = {}
        self._waiters: dict[str, deque[asyncio.Future[None]]] = {}

    def acquire_now(self, key: str = "") -> bool:
        """Take the lock of a key unless all holders have it; return whether it was taken."""
        if (holders := self._holders.get(key, 0)) == self._limit:
            return False
        self._holders[key] = holders + 1
        return True

    async def acquire(self, key: str = "") -> None:
        """Wait for the lock of a key."""
        if self.acquire_now(key):
            return
        waiters = self._waiters.setdefault(key, deque())
        turn = asyncio.get_running_loop().create_future()
        waiters.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.release(key)  # granted and cancelled in the same iteration of the loop
            elif turn in waiters:  # otherwise a holder has skipped it already
                waiters.remove(turn)
            raise

    def release(self, key: str = "") -> None:
        """Pass the lock of a key on to the next waiter, if there is one."""
        while waiters := self._waiters.get(key):
            turn = waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._waiters.pop(key, None)
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
