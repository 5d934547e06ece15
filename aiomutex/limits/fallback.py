"""One worker's share of the limits while Redis is unavailable.

Permits are evenly spaced, without bursts, so that the shares of all workers together stay below the limit.
"""

from __future__ import annotations

import math

from aiomutex.limits.daily_budget import DailyBudget

__all__ = ["RETRY_INTERVAL", "FallbackPacer"]

RETRY_INTERVAL = 0.5
"""Seconds between two attempts to reach Redis. Well below a window: Redis grants nothing in the first window after its
return, and by its end every busy worker must know that it is back."""


class FallbackPacer:
    """A slower limiter for one worker without Redis.

    Args:
        permits: Permits of all workers in a window.
        window: The window in seconds.
        workers: Number of workers.
        start: When the first permit may be granted, in seconds of the event loop's clock.
        daily_budget: The daily budget of all workers; this one gets its share of what is left.

    Attributes:
        ends_at: When Redis takes over again; infinite until it has been reached.
        valid_until: How long the last failed attempt to reach Redis allows to continue without it.
    """

    __slots__ = ("_daily_budget", "_interval", "_next", "ends_at", "valid_until")

    def __init__(self, permits: int, window: float, workers: int, start: float, daily_budget: DailyBudget) -> None:
        # A share below one permit a window becomes one permit in several windows.
        self._interval = window * workers / permits if workers > permits else window / (permits // workers)
        self._next = start
        limit, used = max(1, daily_budget.limit // workers), -(-daily_budget.used // workers)
        self._daily_budget = DailyBudget(limit, used=used, clock=daily_budget.clock)
        self.ends_at = math.inf
        self.valid_until = -math.inf

    def next(self, earliest: float) -> float:
        """The next send time, not before ``earliest``."""
        return max(self._next, earliest)

    def take(self, instant: float) -> None:
        """Use the send time ``instant``.

        Raises:
            DailyBudgetExhaustedError: This worker's share of the daily budget is used up.
        """
        self._daily_budget.take()
        self._next = instant + self._interval
