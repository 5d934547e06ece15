"""The day's budget: how many requests of this UTC day are used, and what is said when they run low or out.

The day follows the wall clock, which may jump; nothing here waits or knows an event loop.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiomutex.errors import DailyBudgetExhaustedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiomutex.limits.day_file import DayFile

__all__ = ["SECONDS", "DailyBudget", "moment", "span"]

logger = logging.getLogger("aiomutex.limits")

SECONDS = 86_400
"""Seconds of a UTC day as clocks count it."""
_NOTICES = (95, 80)
"""Per cent of the budget at which a warning is logged, once a day each."""


def span(seconds: float) -> str:
    """A length of time for people: ``3 h 12 min``, ``12 min``, ``40 s``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"


def moment(when: datetime) -> str:
    """A moment in UTC for people and programs: ``2026-11-24T00:00:00Z``."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


class DailyBudget:
    """The count of one UTC day after another.

    A limiter's hot path reads ``used``, ``mark``, ``begin`` and ``end`` itself: while the count is below the mark and
    the clock inside the day, ``used += 1`` is all there is to do. Everything else is in :meth:`take`.

    Attributes:
        used: Requests counted today.
        mark: The count at which there is more to do: a warning, another block of the day file, the end.
        begin: Start of the day, in seconds of the wall clock.
        end: Start of the next day.
        number: The day as a number: days since 1970.
    """

    __slots__ = (
        "_before",
        "_block",
        "_file",
        "_latest",
        "_said",
        "_trusted_at",
        "begin",
        "clock",
        "end",
        "limit",
        "mark",
        "number",
        "used",
    )

    def __init__(
        self,
        limit: int,
        *,
        used: int = 0,
        file: DayFile | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.clock = clock or time.time
        self.limit = limit
        self.used = used
        self._file = file
        self._before: tuple[int, int] = (-1, 0)  # the day that the clock showed before the latest, and its count
        self._said = 0
        self._begin(int(self.clock() // SECONDS))
        self._latest = self.number  # the latest day that the clock has shown
        self._trusted_at = 0.0  # when a clock that was set back is right after all, in seconds of uptime
        if file:
            self.used = self._block = file.raise_to(self.number, used)
        # The mark stays at the count until the first permit is taken, so that a start above 80 % warns.
        self.mark = self.used

    def _begin(self, number: int) -> None:
        self.number = number
        self.begin = number * SECONDS
        self.end = self.begin + SECONDS
        self._block = self.used if self._file else self.limit

    @property
    def resets_at(self) -> datetime:
        """The next midnight UTC."""
        return datetime.fromtimestamp(self.end, UTC)

    def look(self) -> None:
        """Follow the wall clock into another day.

        Only a day later than all before makes the budget whole. A clock set back goes on with the same count, and
        with it again when it is put right; where it comes back to the day before, that day's requests count too, for
        it may have been the other date that was wrong.

        So no UTC day gets more than ``limit`` permits, as long as the clock is right at each day's first request and
        never shows a day that has not begun. After one that did, the limiter may hold back what it need not, but no
        longer than to the second midnight: a clock that was set back a day ago and left so is taken to be right.
        """
        number = int(self.clock() // SECONDS)
        if number == self.number:
            return
        if number > self._latest or (number > self.number and time.monotonic() >= self._trusted_at):
            self._before = (self.number, self.used)
            self._latest = number
            self.used = 0
            self._said = 0
        else:
            day, count = self._before
            if self.number == self._latest:
                self._trusted_at = time.monotonic() + SECONDS
            if self.number == day:
                self.used = max(0, self.used - count)
            if number == day:
                self.used += count
        self._begin(number)
        self.mark = self.used

    def check(self) -> None:
        """Raise if no request is left today.

        Raises:
            DailyBudgetExhaustedError: The day's requests are used up.
        """
        self.look()
        if self.used >= self._block and self._file:
            # Blocks are taken when the last one is spent: what others took meanwhile is skipped.
            start, size = self._file.take(self.number, self.limit)
            self.used, self._block = start, start + size
        if self.used >= min(self._block, self.limit):
            raise self.exhausted()

    def take(self) -> None:
        """Count one request.

        Raises:
            DailyBudgetExhaustedError: The day's requests are used up.
        """
        self.check()
        self.used += 1
        self._warn()
        following = (-(-self.limit * percent // 100) for percent in _NOTICES if percent > self._said)
        # One before the threshold: the request that reaches it goes through here and is the one that warns.
        self.mark = min(self._block, self.limit, *(count - 1 for count in following))

    def _warn(self) -> None:
        for percent in _NOTICES:
            if percent > self._said and self.used * 100 >= self.limit * percent:
                self._said = percent
                logger.warning("%s", self._facts(f" ({self.used / self.limit:.0%})"))
                break

    def note(self, number: int, used: int) -> None:
        """Take over a count that others keep."""
        if number != self.number:
            self._said = 0
            self._begin(number)
            self._latest = number
        self.used = used
        self._warn()

    @property
    def spent(self) -> bool:
        """Whether no request is left today."""
        return self.used >= self.limit

    def give_back(self) -> None:
        """Uncount one request that was not sent after all."""
        self.used = max(0, self.used - 1)

    def close(self) -> None:
        """Give the rest of the block back to the day file."""
        if self._file and self._block > self.used:
            self._file.give_back(self.number, self._block - self.used)
            self._block = self.mark = self.used

    def exhausted(self) -> DailyBudgetExhaustedError:
        """The error for a budget that our own count says is used up."""
        return DailyBudgetExhaustedError(self._facts(), resets_at=self.resets_at, used=self.used, limit=self.limit)

    def suspected(self, asked: float | None) -> DailyBudgetExhaustedError:
        """The error for a budget that is gone by the service's answers, though not by our count."""
        evidence = (
            f"the service asked to wait {span(asked)}"
            if asked
            else "the service goes on answering 429 to single requests, one a minute"
        )
        return DailyBudgetExhaustedError(
            f"{evidence}: the day's budget is probably used up, by others too ({self.used:,} of {self.limit:,} "
            f"requests counted here); it resets at {self.reset_text()}",
            resets_at=self.resets_at,
            used=self.used,
            limit=self.limit,
            suspected=True,
        )

    def reset_text(self) -> str:
        """When the budget is whole again: ``2026-11-24T00:00:00Z (in 3 h 12 min)``."""
        return f"{moment(self.resets_at)} (in {span(self.end - self.clock())})"

    def _facts(self, share: str = "") -> str:
        return f"{self.used:,} of {self.limit:,} requests used today{share}; the budget resets at {self.reset_text()}"
