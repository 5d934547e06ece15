"""The limiter of one process: a sliding-window log, one timer, and a queue.

Unlike a token bucket, a log of the last send times allows a burst from idle and still never more than so many requests
in any window. Under backlog permits are spaced evenly, so that jitter on the way cannot pile them up.
"""

from __future__ import annotations

import math
from asyncio import get_running_loop
from collections import deque
from copy import copy
from functools import partial
from typing import TYPE_CHECKING

from aiomutex._util.checks import check_integer
from aiomutex.errors import ConfigurationError, LimiterUnavailableError, MutexError
from aiomutex.limits.daily_budget import DailyBudget
from aiomutex.limits.interface import Priority
from aiomutex.limits.margin import Margin
from aiomutex.limits.queueing import QueueingLimiter

if TYPE_CHECKING:
    import os

__all__ = ["LocalRateLimiter"]


class LocalRateLimiter(QueueingLimiter):
    """At most ``per_second`` requests in any second and ``per_day`` on a UTC day, for the tasks of one event loop.

    The arguments are the service's limits. The limiter keeps a margin below the first: 97 % of it in any 1.02 s, or
    with ``safe`` 95 % in any 1.03 s. Up to that many permits are given at once after a rest. While callers wait, one
    is given every ``window / permits`` seconds, interactive calls first and every eighth to bulk work at the least;
    bulk work takes at most half of a window's permits in half a window and leaves a tenth, so that an interactive call
    is never far from its turn. Nothing is held while a request is under way, so there is nothing to release.

    One limiter serves one event loop at a time, and another one after that loop has ended.

    Args:
        per_second: Requests the service allows in a second.
        per_day: Requests the service allows on a UTC day.
        safe: Keep the wider margin, for networks whose delay varies by more than about 20 ms.
        used_today: Requests already used today, by earlier runs or by others.
        day_file: File that counts the day for all processes of this machine; made if absent. Without it each
            limiter counts for itself from ``used_today``, blind to earlier runs.

    Raises:
        ConfigurationError: A limit is not a whole number above 0, or ``day_file`` cannot be used.
        LimiterUnavailableError: ``day_file`` cannot be read or written at this moment.
    """

    def __init__(
        self,
        per_second: int = 100,
        per_day: int = 100_000,
        *,
        safe: bool = False,
        used_today: int = 0,
        day_file: str | os.PathLike[str] | None = None,
    ) -> None:
        margin = Margin.below(per_second, safe=safe)
        check_integer("per_day", per_day, least=1, error=ConfigurationError)
        check_integer("used_today", used_today, least=0, error=ConfigurationError)
        file = None
        if day_file is not None:
            from aiomutex.limits.day_file import DayFile  # noqa: PLC0415 -- few use it, and it needs fcntl

            file = DayFile(day_file)
        super().__init__(margin, DailyBudget(per_day, used=used_today, file=file))
        self._log: deque[float] = deque([-math.inf] * margin.permits, maxlen=margin.permits)
        self._slot = -math.inf  # where the last permit given under backlog was due
        # Two numbers for the hot path: between them, a permit may be given without a look at anything but the day's
        # count. The gate is infinite while somebody waits or a pause is on.
        self._gate = -math.inf
        self._look_at = -math.inf  # when to look at the wall clock again

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait for the right to send one request now.

        Args:
            priority: ``Priority.BULK`` stands behind interactive calls, but gets every eighth permit at the least.

        Returns:
            The permit: the moment it was given, in seconds of the event loop's clock.

        Raises:
            DailyBudgetExhaustedError: The day's requests are used up, or seem to be.
            LimiterUnavailableError: The day file cannot be read or written: a full disk, say.
            ConfigurationError: The limiter is in use by another event loop, or the day file is no day file any more.
        """
        loop = get_running_loop()
        if loop is self._loop:
            now = loop.time()
            day = self._day
            if self._gate <= now < self._look_at and day.used < day.mark and not (priority and now < self._bulk_at()):
                day.used += 1
                log = self._log
                log.append(now)
                self._gate = log[0] + self._window
                return now
        else:
            self._adopt(loop)
        return await self._wait(loop, priority)

    async def aclose(self) -> None:
        """Give permits of the day that were set aside for this process back to the day file.

        Without a day file there is nothing to do. The limiter stays usable.

        Raises:
            LimiterUnavailableError: The day file cannot be read or written.
        """
        self._day.close()

    def __repr__(self) -> str:
        return f"<LocalRateLimiter {self._facts()}>"

    def _serve(self) -> None:
        loop = self._loop
        self._stop_timer()
        if loop is None or loop.is_closed():
            return
        now = loop.time()
        while (turn := self._waiters.first()) is not None:
            due = max(self._slot + self._margin.interval, self._log[0] + self._window, self._pause.next_at)
            if turn and (bulk_at := self._bulk_at()) > due:
                if self._waiters.interactive:
                    turn = Priority.INTERACTIVE
                else:
                    due = bulk_at
            if due > now:
                self._set_timer(loop, due - now)
                return
            self._give(turn, due, now)
        if not self._pause.active:
            self._gate = self._log[0] + self._window

    def _give(self, turn: Priority, due: float, now: float) -> None:
        try:
            self._day.take()
        except MutexError as error:
            self._waiters.fail(partial(copy, error))
            return
        except BaseException as error:
            # Nothing of ours, and still nobody may be left waiting.
            self._waiters.fail(partial(LimiterUnavailableError, f"the limiter failed: {type(error).__name__}"))
            raise
        # A late timer is made up for by two permits at most.
        self._slot = max(due, now - 2 * self._margin.interval)
        self._log.append(now)
        if self._pause.active:
            self._pause.probing(now)
        self._note_wait(now - self._waiters.serve(turn, now), now)

    def _bulk_at(self) -> float:
        """When the next bulk permit leaves enough to interactive calls.

        At most half of the permits in half a window; and the last few only when as many come free in the next slots.
        Neither slows an evenly spaced run: the first by a permit more than half, the second by an interval less.
        """
        margin, log, window = self._margin, self._log, self._window
        return max(log[-margin.half] + window / 2, log[margin.spare] + window - (margin.spare + 1) * margin.interval)

    def _joined(self, priority: Priority, now: float) -> None:
        self._gate = math.inf
        # Midnight is not missed, and a wall clock that jumps is noticed within a second.
        self._look_at = now + min(1.0, self._day.end - self._day.clock())
        # With a timer set, only an interactive call that finds none of its kind may be due before it.
        if self._timer is None or (not priority and self._waiters.interactive == 1):
            self._serve()

    def _give_back(self, permit: float) -> None:
        self._day.give_back()
        if permit in self._log:
            self._log.remove(permit)
            # Whatever the permit pushed out of the log was older than a window, so "never" is as good.
            self._log.appendleft(-math.inf)
        if self._pause.active:
            self._pause.unsent()
        self._slot = -math.inf
        self._serve()

    def _held(self, permit: float, *, fresh: bool) -> None:  # noqa: ARG002 -- others need the permit
        self._gate = math.inf
        if fresh:
            self._log = deque(self._log, maxlen=self._margin.permits)

    def _resumed(self, permit: float, now: float) -> None:  # noqa: ARG002 -- others need the permit
        # No burst: act as if the last window had been used evenly.
        permits, interval = self._margin.permits, self._margin.interval
        even = (now - self._window + (k + 1) * interval for k in range(permits))
        self._log = deque(map(max, self._log, even), maxlen=permits)
        self._gate = math.inf

    def _used(self, now: float) -> int:
        return sum(sent > now - self._window for sent in self._log)

    def _moved(self, now: float, *, same_clock: bool) -> None:
        if not same_clock:
            # The log's times mean nothing on this clock: take it that the last window was full.
            self._log = deque([now] * self._margin.permits, maxlen=self._margin.permits)
            self._slot = -math.inf
        self._gate = math.inf if self._pause.active else self._log[0] + self._window
        self._look_at = -math.inf
