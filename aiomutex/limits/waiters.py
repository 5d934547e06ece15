"""Callers waiting for a permit, and the order in which they get one.

Knows futures, but neither time nor permits: the limiters decide when a permit is granted.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from typing import TYPE_CHECKING

from aiomutex.errors import ConfigurationError
from aiomutex.limits.interface import Priority

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

_BULK_EVERY = 8  # while both priorities wait, at least every eighth permit goes to bulk work


class Waiters:
    """Two first-come, first-served queues. Interactive calls go first, but never starve bulk work."""

    def __init__(self) -> None:
        # Ordered dictionaries, not deques: a cancelled waiter leaves from the middle in constant time, and thousands
        # of cancellations during a long pause leave nothing behind.
        self._queues: tuple[OrderedDict[Future[float], float], ...] = (OrderedDict(), OrderedDict())
        self.interactive, self._bulk = self._queues
        self._passed_over = 0  # interactive permits granted in a row while bulk work waited

    def __len__(self) -> int:
        return len(self.interactive) + len(self._bulk)

    def join(self, loop: AbstractEventLoop, priority: Priority, now: float) -> Future[float]:
        """Enqueue a caller and return the future that will hold its permit."""
        future: Future[float] = loop.create_future()
        self._queues[priority][future] = now
        return future

    def leave(self, future: Future[float]) -> None:
        """Remove a caller. No error if it has its permit already."""
        for queue in self._queues:
            queue.pop(future, None)

    def next_priority(self) -> Priority | None:
        """The priority of the next caller to serve, or None if nobody waits."""
        # A task cancelled in this iteration of the loop has cancelled its future, but has not left the queue yet.
        for queue in self._queues:
            while queue and next(iter(queue)).done():
                queue.popitem(last=False)
        if self.interactive and not (self._bulk and self._passed_over >= _BULK_EVERY - 1):
            return Priority.INTERACTIVE
        return Priority.BULK if self._bulk else None

    def grant(self, priority: Priority, permit: float) -> float:
        """Give ``permit`` to the first caller of a priority and return when that caller was enqueued.

        Call ``next_priority`` first: it makes sure that this caller exists and still waits.
        """
        future, joined = self._queues[priority].popitem(last=False)
        self._passed_over = self._passed_over + 1 if self._bulk and not priority else 0
        future.set_result(permit)
        return joined

    def fail_all(self, error: Exception) -> None:
        """Fail every waiter with a copy of its own: a shared exception would collect the tracebacks of all callers."""
        for queue in self._queues:
            while queue:
                future, _ = queue.popitem(last=False)
                if not future.done():
                    future.set_exception(copy(error))

    def detach(self, loop: AbstractEventLoop, limiter: str) -> None:
        """Leave an event loop for another one, unless it is still running, or callers wait on it."""
        if loop.is_running() or (len(self) and not loop.is_closed()):
            raise ConfigurationError(
                f"this {limiter} is in use by another event loop ({len(self)} waiting there); "
                "use one limiter per event loop, or share a budget with aiomutex.limits.redis"
            )
        # The waiters of a closed loop are never woken again.
        for queue in self._queues:
            queue.clear()
