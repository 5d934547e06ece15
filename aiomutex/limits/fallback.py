"""One worker's share of the limits while the shared ledger is gone.

Evenly spaced and without bursts, so that the shares of all workers together stay below the limit.
"""

from __future__ import annotations

import math

from aiomutex.limits.daily_budget import DailyBudget

__all__ = ["RETRY", "FallbackPacer"]

RETRY = 0.5
"""Seconds between two attempts to reach the ledger. Well below a window: when the ledger is back and waits one window
before it gives anything, every worker that is busy has heard of it."""


class FallbackPacer:
    """A slower limiter for bad times.

    Args:
        permits: Permits of all workers in a window.
        window: The window in seconds.
        workers: Number of workers.
        start: When the first permit may be given, in seconds of the event loop's clock.
        day: The fleet's day; the share gets its part of what is left.

    Attributes:
        ends: When the ledger takes over again; infinite until it has been reached.
        fresh_until: How long the last failed attempt to reach the ledger allows to go on alone.
    """

    __slots__ = ("_day", "_interval", "_next", "ends", "fresh_until")

    def __init__(self, permits: int, window: float, workers: int, start: float, day: DailyBudget) -> None:
        # A share below one permit in a window becomes one in several windows.
        self._interval = window * workers / permits if workers > permits else window / (permits // workers)
        self._next = start
        self._day = DailyBudget(max(1, day.limit // workers), used=-(-day.used // workers), clock=day.clock)
        self.ends = math.inf
        self.fresh_until = -math.inf

    def next(self, earliest: float) -> float:
        """The next send time."""
        return max(self._next, earliest)

    def take(self, instant: float) -> None:
        """Use the send time ``instant``.

        Raises:
            DailyBudgetExhaustedError: This worker's part of the day is used up.
        """
        self._day.take()
        self._next = instant + self._interval
