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
    """A slower limiter for one worker without Redis. ``permits``, ``window`` and ``daily_budget`` are those of all.

    Attributes:
        ends_at: When Redis takes over again; infinite until it has been reached.
        valid_until: How long the last failed attempt to reach Redis allows to continue without it.
    """

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
        """Use the send time ``instant``, or raise ``DailyBudgetExhaustedError`` if this worker's share is used up."""
        self._daily_budget.take()
        self._next = instant + self._interval
