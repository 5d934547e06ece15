"""Who waits for a permit, in which order, and what happens when one of them gives up.

Knows futures and nothing of time or permits: when somebody may go is the limiters' affair.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from aiomutex.errors import ConfigurationError
from aiomutex.limits.interface import Priority

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable, Iterator

__all__ = ["Waiters"]

_BULK_TURN = 8
"""While both kinds wait, at least every eighth permit goes to bulk work."""


class Waiters:
    """Two queues, first come first served: interactive calls go ahead, and bulk work gets its turn all the same."""

    __slots__ = ("_bulk", "_interactive", "_passed")

    def __init__(self) -> None:
        # Ordered dictionaries rather than deques: one that gives up leaves from the middle at no cost, so that a
        # storm of cancellations during a long pause leaves nothing behind.
        self._interactive: OrderedDict[Future[float], float] = OrderedDict()
        self._bulk: OrderedDict[Future[float], float] = OrderedDict()
        self._passed = 0  # interactive permits given since bulk work last had one, while it waited

    def __len__(self) -> int:
        return len(self._interactive) + len(self._bulk)

    def __iter__(self) -> Iterator[Future[float]]:
        yield from self._interactive
        yield from self._bulk

    def join(self, loop: AbstractEventLoop, priority: Priority, now: float) -> Future[float]:
        """Stand in line and return the future that will hold the permit."""
        future: Future[float] = loop.create_future()
        (self._bulk if priority else self._interactive)[future] = now
        return future

    def leave(self, future: Future[float]) -> None:
        """Step out of the line. No error if ``future`` was served already."""
        self._interactive.pop(future, None)
        self._bulk.pop(future, None)

    def first(self) -> Priority | None:
        """The kind whose turn it is, or None when nobody waits."""
        # A task cancelled in this turn of the loop has cancelled its future but has not run since.
        for queue in (self._interactive, self._bulk):
            while queue and next(iter(queue)).done():
                queue.popitem(last=False)
        if self._interactive and not (self._bulk and self._passed >= _BULK_TURN - 1):
            return Priority.INTERACTIVE
        return Priority.BULK if self._bulk else None

    @property
    def interactive(self) -> int:
        """How many interactive calls wait."""
        return len(self._interactive)

    def serve(self, priority: Priority, permit: float) -> float:
        """Give ``permit`` to the first of a kind; return when it joined. :meth:`first` has said that there is one."""
        if priority:
            future, joined = self._bulk.popitem(last=False)
            self._passed = 0
        else:
            future, joined = self._interactive.popitem(last=False)
            self._passed = self._passed + 1 if self._bulk else 0
        future.set_result(permit)
        return joined

    def fail(self, error: Callable[[], BaseException]) -> None:
        """Send everybody away, each with an error of its own: a shared one would collect all their tracebacks."""
        for queue in (self._interactive, self._bulk):
            while queue:
                future, _ = queue.popitem(last=False)
                if not future.done():
                    future.set_exception(error())

    def forget(self, loop: AbstractEventLoop, limiter: str) -> None:
        """Leave the event loop ``loop`` for another one.

        Raises:
            ConfigurationError: ``loop`` runs still, or somebody waits on it.
        """
        if loop.is_running() or (len(self) and not loop.is_closed()):
            raise ConfigurationError(
                f"this {limiter} is in use by another event loop ({len(self)} waiting there); "
                "use one limiter per event loop, or share a count through aiomutex.limits.redis"
            )
        # Whoever waited on a closed loop is never woken again.
        self._interactive.clear()
        self._bulk.clear()
