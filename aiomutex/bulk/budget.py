"""The day's requests, as a run sees them: a reserve for others, and the wait for the next day.

Asks the limiter how much is left; knows no edits.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio

from aiomutex.errors import DailyBudgetExhaustedError

if TYPE_CHECKING:
    import asyncio

    from aiomutex.limits import RateLimiter

__all__ = ["DayBudget"]

logger = logging.getLogger("aiomutex.bulk")

_NAP: Final = 30.0
"""Seconds; how often a wait for midnight looks at the clock, which may be set meanwhile."""
_SUSPICION: Final = timedelta(seconds=60)
"""How long a budget that only seems to be gone is left alone before the limiter is asked again."""
_LEAST: Final = timedelta(seconds=1)
"""How long to wait where the next day should have begun already."""


class DayBudget:
    """What a run may still use today.

    Args:
        limiter: Asked how much of the day is left, where a reserve is kept.
        reserve: Requests to leave to others.
        stopped: Ends a wait for the next day.
    """

    def __init__(self, limiter: RateLimiter, reserve: int, stopped: asyncio.Event) -> None:
        self._limiter = limiter
        self._reserve = reserve
        self._stopped = stopped
        self.waiting_until: datetime | None = None
        """When a run that waits for more budget goes on."""
        self._told: date | None = None

    def check(self) -> None:
        """Do nothing while there is more left than the reserve.

        Raises:
            DailyBudgetExhaustedError: The rest is reserved for others.
        """
        if not self._reserve:
            return
        state = self._limiter.state()
        if state.per_day - state.used_today <= self._reserve:
            raise DailyBudgetExhaustedError(
                f"{state.used_today:,} of {state.per_day:,} requests used today, and the last "
                f"{self._reserve:,} are reserved for others; the budget resets at {state.resets_at:%FT%TZ}",
                resets_at=state.resets_at,
                used=state.used_today,
                limit=state.per_day,
            )

    async def renewed(self, error: DailyBudgetExhaustedError) -> None:
        """Wait until the budget that ``error`` missed is there again, or the run is stopped."""
        if self._stopped.is_set():
            return
        now = datetime.now(UTC)
        until = min(error.resets_at, now + _SUSPICION) if error.suspected else error.resets_at
        if until <= now:
            # The limiter's day ends by another clock than this machine's. It is asked again, but not in a circle.
            until = now + _LEAST
        if self._told != error.resets_at.date():
            self._told = error.resets_at.date()
            logger.warning("%s; the run waits", error)
        self.waiting_until = until
        while not self._stopped.is_set() and (left := (until - datetime.now(UTC)).total_seconds()) > 0:
            with anyio.move_on_after(min(left, _NAP)):
                await self._stopped.wait()
        self.waiting_until = None
