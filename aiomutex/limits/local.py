"""The limiter of one process: a log of the last send times, one timer, and a queue.

Unlike a token bucket, a log allows a burst from idle and still never exceeds the limit in any window. Under backlog
permits are evenly spaced, so that varying network delay cannot pile requests up.
"""

from __future__ import annotations

import math
from asyncio import get_running_loop
from collections import deque
from typing import TYPE_CHECKING

from aiomutex.limits.interface import Priority
from aiomutex.limits.queueing import QueueingLimiter

if TYPE_CHECKING:
    import asyncio


class LocalRateLimiter(QueueingLimiter):
    """At most ``per_second`` requests in any second and ``per_day`` on a UTC day, for the tasks of one event loop.

    Pass the service's limits. The limiter keeps a margin below ``per_second``: 97 % of it in any 1.02 seconds, or,
    with ``safe``, 95 % in any 1.03 seconds. After an idle window that many permits are granted at once. While callers
    wait, permits are evenly spaced and interactive calls go first; at least every eighth goes to bulk work. Bulk work
    takes about half of the permits in half a window and leaves a tenth to interactive calls, so that they hardly wait.

    A permit need not be released. A limiter serves one event loop at a time, and another one after that has ended. It
    serves one process: others need their own share, or ``MachineRateLimiter``.

    Args:
        per_second: Requests the service allows per second.
        per_day: Requests the service allows per UTC day.
        safe: Keep the wider margin, for networks whose delay varies by more than about 20 ms.
        used_today: Requests used today already, by earlier runs or other clients.

    Raises:
        ConfigurationError: A limit is not a positive integer.

    Example:
        >>> from aiomutex import LocalRateLimiter, MutexSession
        >>> limiter = LocalRateLimiter(per_second=100, per_day=100_000)
        >>> async with MutexSession("key", base_url=url, rate_limiter=limiter) as limited:
        ...     group = await limited.get_group("1")
        >>> limiter
        <LocalRateLimiter 1 of 97 permits used in 1.02 s · 1 of 100,000 today · 0 waiting>
    """

    _fork_error = (
        "this LocalRateLimiter was used before a fork, and both processes would exceed the limit; create it after the "
        "fork, or use aiomutex.limits.machine.MachineRateLimiter"
    )

    def __init__(
        self, per_second: int = 100, per_day: int = 100_000, *, safe: bool = False, used_today: int = 0
    ) -> None:
        super().__init__(per_second, per_day, safe=safe, used_today=used_today)
        self._log: deque[float] = deque([-math.inf] * self._full.permits, maxlen=self._full.permits)
        self._last_due = -math.inf  # when the last permit granted under backlog was due
        # Between these two times the fast path of ``acquire`` needs only the day's count. While callers wait or a
        # pause is active, it is closed: ``_open_at`` is infinite.
        self._open_at = -math.inf
        self._check_clock_at = -math.inf  # when to look at the wall clock again

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait until one request may be sent, and return its permit; see ``RateLimiter.acquire``."""
        loop = get_running_loop()
        if loop is self._loop:
            now = loop.time()
            daily = self._daily_budget
            if (
                self._open_at <= now < self._check_clock_at
                and daily.used < daily.checkpoint
                and not (priority and now < self._bulk_due())
            ):
                daily.used += 1
                self._granted += 1
                log = self._log
                log.append(now)
                self._open_at = log[0] + self._window
                return now
        return await super().acquire(priority)

    def _grant_due(self, loop: asyncio.AbstractEventLoop, now: float) -> float:  # noqa: ARG002 -- others need the loop
        self._open_at = math.inf
        self._follow_recovery(now)
        while (priority := self._waiters.next_priority()) is not None:
            due = max(self._last_due + self._margin.interval, self._log[0] + self._window, self._pause.next_probe_at)
            if priority and (bulk_due := self._bulk_due()) > due:
                if self._waiters.interactive:
                    priority = Priority.INTERACTIVE
                else:
                    due = bulk_due
            if due > now:
                return due
            self._grant(priority, due, now)
        if not self._pause.active:
            self._open_at = self._log[0] + self._window
            # At midnight, and every second for a wall clock that jumps.
            self._check_clock_at = now + min(1.0, self._daily_budget.ends_at - self._daily_budget.clock())
        return math.inf

    def _take(self, due: float, now: float) -> None:
        self._daily_budget.take()
        # After a late timer, catch up by two permits at most.
        self._last_due = max(due, now - 2 * self._margin.interval)
        self._log.append(now)

    def _bulk_due(self) -> float:
        """When the next bulk permit leaves enough to interactive calls.

        Bulk work may take half of the permits in half a window, and the last tenth only if as many become free in the
        next intervals. Neither rule slows an evenly spaced run, which grants some permits slightly early and some
        slightly late: the first allows one permit more than half, the second comes one interval early.
        """
        margin, log = self._margin, self._log
        reserve = margin.permits // 10
        burst_over = log[-min(margin.permits, (margin.permits + 1) // 2 + 1)] + self._window / 2
        return max(burst_over, log[reserve] + self._window - (reserve + 1) * margin.interval)

    def _give_back(self, permit: float) -> None:
        self._daily_budget.give_back()
        if permit in self._log:
            self._log.remove(permit)
            # The time that the permit pushed out of the log was older than a window, so "never" replaces it.
            self._log.appendleft(-math.inf)
        self._last_due = -math.inf

    def _follow_recovery(self, now: float) -> None:
        super()._follow_recovery(now)
        permits = self._margin.permits
        if permits != self._log.maxlen:
            # The times that the log does not show are older than a window, so "never" replaces them.
            self._log = deque([*[-math.inf] * (permits - len(self._log)), *self._log], maxlen=permits)

    def _on_resumed(self, permit: float, now: float) -> None:  # noqa: ARG002 -- RedisRateLimiter needs permit
        # Without a burst: act as if the last window had been used evenly.
        permits, interval = self._margin.permits, self._margin.interval
        even = (now - self._window + (k + 1) * interval for k in range(permits))
        self._log = deque(map(max, self._log, even), maxlen=permits)

    def _count_used(self, now: float) -> int:
        return sum(sent > now - self._window for sent in self._log)

    def _on_new_loop(self, now: float, *, same_clock: bool) -> None:
        if not same_clock:
            # The log's times mean nothing on this clock, so assume that the last window was full.
            self._log = deque([now] * self._margin.permits, maxlen=self._margin.permits)
            self._last_due = -math.inf
        self._check_clock_at = -math.inf
