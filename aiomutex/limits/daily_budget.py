"""The daily budget: how many requests of this UTC day are used, and the warnings and errors as it runs out.

The day follows the wall clock, which may jump. Nothing here waits or knows an event loop.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiomutex.errors import DailyBudgetExhaustedError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("aiomutex.limits")

_SECONDS_PER_DAY = 86_400
_WARN_AT = (95, 80)  # per cent of the budget at which a warning is logged, each once a day


def format_duration(seconds: float) -> str:
    """A duration for people: ``3 h 12 min``, ``12 min``, ``40 s``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


class DailyBudget:
    """The requests counted on the current UTC day, by a wall clock in seconds since 1970.

    The hot path of a limiter reads ``used`` and ``checkpoint`` itself: while the count is below the checkpoint and the
    clock within the day, ``used += 1`` is all there is to do. ``take`` does everything else.
    """

    def __init__(self, limit: int, *, used: int = 0, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or time.time
        self.limit = limit
        self.used = used
        self._previous: tuple[int, int] = (-1, 0)  # the day shown before the latest one, and its count
        self._warned = 0  # the highest threshold warned about today, in per cent
        self.day: int = self._today()  # in days since 1970
        self._latest_day = self.day  # the latest day that the clock has shown
        self._trusted_at = 0.0  # the uptime in seconds from which a clock that was set back is believed
        # The count that needs ``take``, for a warning or the end of the budget. The first permit does, too: the start
        # may be above 80 %.
        self.checkpoint = self.used

    def _today(self) -> int:
        return int(self.clock() // _SECONDS_PER_DAY)

    @property
    def ends_at(self) -> int:
        """The end of the day, in seconds since 1970."""
        return (self.day + 1) * _SECONDS_PER_DAY

    @property
    def resets_at(self) -> datetime:
        """The next midnight UTC."""
        return datetime.fromtimestamp(self.ends_at, UTC)

    def follow_clock(self) -> None:
        """Follow the wall clock into another day.

        Only a day later than every day before resets the count. A clock that is set back keeps the count, and so does
        setting it forward again. If it returns to the previous day, that day's requests count too, because the later
        date may have been the wrong one.

        So no UTC day gets more than ``limit`` permits, provided that the clock is right at each day's first request
        and never shows a day that has not begun. If it did show one, the limiter may hold back more than necessary,
        but only until the second midnight: a clock that was set back a day ago and not changed since is believed.
        """
        if (today := self._today()) == self.day:
            return
        if today > self._latest_day or (today > self.day and time.monotonic() >= self._trusted_at):
            self._previous = (self.day, self.used)
            self._latest_day = today
            self.used = 0
            self._warned = 0
        else:
            previous_day, previous_count = self._previous
            if self.day == self._latest_day:
                self._trusted_at = time.monotonic() + _SECONDS_PER_DAY
            if self.day == previous_day:
                self.used = max(0, self.used - previous_count)
            if today == previous_day:
                self.used += previous_count
        self.day = today
        self.checkpoint = self.used

    def ensure_available(self) -> None:
        """Raise ``DailyBudgetExhaustedError`` unless a request is left today."""
        self.follow_clock()
        if self.used >= self.limit:
            raise self.exhausted_error()

    def take(self) -> None:
        """Count one request, or raise ``DailyBudgetExhaustedError``."""
        self.ensure_available()
        self.used += 1
        self._warn()
        thresholds = [-(-self.limit * percent // 100) for percent in _WARN_AT if percent > self._warned]
        # One below each threshold, so that the request that reaches it comes through here and warns.
        self.checkpoint = min([self.limit, *(count - 1 for count in thresholds)])

    def _warn(self) -> None:
        reached = next((percent for percent in _WARN_AT if self.used * 100 >= self.limit * percent), 0)
        if reached > self._warned:
            self._warned = reached
            fields = {"aiomutex_used": self.used, "aiomutex_limit": self.limit}
            logger.warning("%s", self._describe(f" ({self.used / self.limit:.0%})"), extra=fields)

    def sync(self, day: int, used: int) -> None:
        """Take over the count of a shared budget."""
        if day != self.day:
            self._warned = 0
            self.day = self._latest_day = day
        self.used = used
        self._warn()

    def give_back(self) -> None:
        """Uncount one request that was not sent after all."""
        self.used = max(0, self.used - 1)

    def exhausted_error(self) -> DailyBudgetExhaustedError:
        """The error for a budget that is exhausted by our own count."""
        return self._error(self._describe())

    def suspected_error(self, wait: float | None) -> DailyBudgetExhaustedError:
        """The error for a budget that is exhausted by the service's responses, though not by our own count."""
        evidence = f"asked to wait {format_duration(wait)}" if wait else "keeps answering single requests with 429"
        return self._error(
            f"the service {evidence}, so the daily budget is probably exhausted ({self.used:,} of {self.limit:,} "
            f"requests counted here; other clients may have used the rest); it resets at {self._format_reset()}",
            suspected=True,
        )

    def _error(self, detail: str, *, suspected: bool = False) -> DailyBudgetExhaustedError:
        return DailyBudgetExhaustedError(
            detail, resets_at=self.resets_at, used=self.used, limit=self.limit, suspected=suspected
        )

    def _format_reset(self) -> str:
        """When the budget resets: ``2026-11-24T00:00:00Z (in 3 h 12 min)``."""
        return f"{self.resets_at:%Y-%m-%dT%H:%M:%SZ} (in {format_duration(self.ends_at - self.clock())})"

    def _describe(self, share: str = "") -> str:
        used = f"{self.used:,} of {self.limit:,} requests used today{share}"
        return f"{used}; the budget resets at {self._format_reset()}"
