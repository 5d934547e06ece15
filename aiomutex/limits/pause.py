"""When to send again after the service answered 429: plain rules over numbers, with no clock, loop or socket.

A 429 pauses everybody who shares the limiter. When the pause ends one probe goes ahead, and only its answer lets the
others follow. Probes that go on failing mean that the day's budget is gone, whatever our own count says.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LONGEST_PAUSE", "PATIENCE", "Pause"]

LONGEST_PAUSE = 300.0
"""Seconds. A service that asks for more means the day's budget, and nobody should wait for that in silence."""
PATIENCE = 5.0
"""Seconds after which a probe whose answer was never told is followed by another."""
_FAILED_PROBES = 4
"""So many probes refused in a row, after 1, 2, 4 and 8 windows, say that the budget of the day is gone."""
_SUSPICION_AFTER = 15
"""Windows that this takes at least, so that short Retry-After values do not hurry the verdict."""
_CHECK_EVERY = 60.0
"""Seconds between the probes that may lift the suspicion."""


class Pause:
    """The one pause of a limiter.

    Attributes:
        news_after: Answers to permits later than this are news. Infinite while there is no pause, so that the usual
            case costs one comparison.
        suspected_on: Number of the day whose budget the service seems to have spent, or None.
        asked: Seconds of a Retry-After too long to wait for, or None.
    """

    __slots__ = ("_began", "_failed", "_first", "_patience", "_rng", "_until", "asked", "news_after", "suspected_on")

    def __init__(self, rng: Callable[[], float] = random.random) -> None:
        self._rng = rng
        self._began = -math.inf
        self._first = -math.inf
        self._failed = 0
        self._until = -math.inf
        self._patience = -math.inf
        self.news_after = math.inf
        self.suspected_on: int | None = None
        self.asked: float | None = None

    @property
    def active(self) -> bool:
        """Whether a 429 came that no good answer has followed yet."""
        return self.news_after != math.inf

    @property
    def until(self) -> float:
        """When the wait that the service wants ends."""
        return self._until

    @property
    def failed(self) -> int:
        """Probes refused in a row."""
        return self._failed

    @property
    def next_at(self) -> float:
        """When the next probe may go."""
        return max(self._until, self._patience)

    def throttled(self, permit: float, retry_after: float | None, now: float, *, window: float, today: int) -> bool:
        """Take note of a 429.

        The wait is ``retry_after``, else ``window * 2**failed probes`` and up to a quarter more, at most 8 windows.

        Returns:
            Whether it says anything new. The 429 of a request sent before the latest pause began does not: else the
            requests in flight when a limit is met would add up to a long wait.
        """
        if permit <= self._began:
            return False
        if self.active:
            self._failed += 1
        else:
            self._failed, self._first = 0, now
        self._began = self.news_after = now
        self._patience = -math.inf
        self.asked = None
        if retry_after is not None and retry_after >= 0:
            # A wait of nothing at all would turn probes into a busy loop.
            delay = max(retry_after, window / 10)
            if delay > LONGEST_PAUSE:
                self.asked, self.suspected_on = delay, today
        else:
            delay = window * 2 ** min(self._failed, _FAILED_PROBES - 1) * (1 + self._rng() / 4)
        if self._failed >= _FAILED_PROBES and now - self._first >= _SUSPICION_AFTER * window:
            self.suspected_on = today
        if self.suspected_on is not None:
            delay = max(delay, _CHECK_EVERY)
        self._until = max(self._until, now + delay)
        return True

    def probing(self, permit: float) -> None:
        """A permit goes out during the pause: wait for its answer, but not for ever."""
        self._patience = permit + PATIENCE

    def unsent(self) -> None:
        """The probe was given back before it was sent."""
        self._patience = -math.inf

    def follow(
        self,
        now: float,
        *,
        asked_at: float,
        until: float,
        first: float,
        failed: int,
        suspected_on: int | None,
        asked: float | None,
    ) -> None:
        """Be in the pause that others share, as it was told in answer to a question put at ``asked_at``."""
        if not self.active:
            self._began = now
            # Some loops' clocks count in milliseconds, and a permit of this very moment must be news.
            self.news_after = asked_at - 0.001
        self._until, self._first, self._failed = until, first, failed
        self.suspected_on, self.asked = suspected_on, asked

    def restart(self, now: float) -> None:
        """Earlier times mean nothing any more (another clock, another day): if there is a pause, probe at once."""
        self._began = -math.inf
        if self.active:
            self._began = self.news_after = self._first = now
        self._until = self._patience = -math.inf
        self._failed = 0
        self.suspected_on = self.asked = None

    def end(self) -> None:
        """A good answer came: the pause is over."""
        self.news_after = math.inf
        self._until = self._patience = -math.inf
        self._failed = 0
        self.suspected_on = self.asked = None
