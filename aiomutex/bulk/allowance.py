"""The daily budget, as a run sees it: a reserve for others, and the wait for the next day.

Asks the limiter how much is left; knows nothing of edits.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio

from aiomutex.errors import DailyBudgetExhaustedError

if TYPE_CHECKING:
    from aiomutex.limits import RateLimiter

logger = logging.getLogger("aiomutex.bulk")

_MAX_SLEEP: Final = 30.0
"""Seconds between two looks at the clock, because the machine's clock may be changed during the wait."""
_SUSPECTED_WAIT: Final = timedelta(seconds=60)
"""The wait after a response that only suggests an exhausted budget, before the limiter is asked again."""
_MIN_WAIT: Final = timedelta(seconds=1)  # the wait if the next day should have begun already


class Allowance:
    """What a run may still use today, without a ``reserve`` for others. ``stopped`` ends a wait for the next day."""

    def __init__(self, limiter: RateLimiter, reserve: int, stopped: asyncio.Event) -> None:
        self._limiter = limiter
        self._reserve = reserve
        self._stopped = stopped
        self.waiting_until: datetime | None = None  # when a run that waits for the next day's budget continues
        self._looks_at = 0.0  # when to ask the limiter again, on the event loop's clock
        self._logged: date | None = None

    def check(self, reads: int = 0) -> None:
        """Raise ``DailyBudgetExhaustedError`` unless more is left than the reserve and what so many reads take."""
        now = asyncio.get_running_loop().time()
        if now < self._looks_at or not (self._reserve or reads):
            return
        state = self._limiter.state()
        spare = state.per_day - state.used_today - self._reserve - reads
        # Nobody can use more than this in the meantime, whoever shares the limiter. A look may be slow.
        self._looks_at = now + spare / 4 * state.window / state.per_window
        if spare <= 0:
            raise DailyBudgetExhaustedError(
                f"{state.used_today:,} of {state.per_day:,} requests used today, and the last "
                f"{self._reserve + reads:,} are reserved for others and for reading back; the budget resets at "
                f"{state.resets_at:%FT%TZ}",
                resets_at=state.resets_at,
                used=state.used_today,
                limit=state.per_day,
            )

    async def wait_for_reset(self, error: DailyBudgetExhaustedError) -> None:
        """Wait until the budget of ``error`` is reset, or the run is stopped."""
        if self._stopped.is_set():
            return
        now = datetime.now(UTC)
        until = min(error.resets_at, now + _SUSPECTED_WAIT) if error.suspected else error.resets_at
        if until <= now:
            # The limiter's day ends by a different clock. Without a minimum, asking again would be a busy loop.
            until = now + _MIN_WAIT
        if self._logged != error.resets_at.date():
            self._logged = error.resets_at.date()
            logger.warning("%s; the run waits", error, extra={"aiomutex_waiting_until": until})
        self.waiting_until = until
        while not self._stopped.is_set() and (left := (until - datetime.now(UTC)).total_seconds()) > 0:
            with anyio.move_on_after(min(left, _MAX_SLEEP)):
                await self._stopped.wait()
        self.waiting_until = None
