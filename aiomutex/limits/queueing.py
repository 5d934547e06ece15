"""What every limiter of this package does alike: the line of waiters, the pause after a 429, the move between loops.

Where permits come from is the affair of the limiters built on it.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from aiomutex.limits.interface import LimiterState, Priority
from aiomutex.limits.pause import Pause
from aiomutex.limits.waiters import Waiters

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from aiomutex.errors import DailyBudgetExhaustedError
    from aiomutex.limits.daily_budget import DailyBudget
    from aiomutex.limits.margin import Margin

__all__ = ["SHORTEST_SLEEP", "QueueingLimiter"]

logger = logging.getLogger("aiomutex.limits")

SHORTEST_SLEEP = 0.001
"""Seconds. Loops that count in milliseconds may wake a timer early; this keeps them from waking it in a circle."""
_LONG_WAIT = 5.0
"""Seconds in the line that are worth a record in the log, once a minute at most."""
_SAME_CLOCK = 0.05
"""Seconds that two event loops' clocks may be apart and still count as one."""


class QueueingLimiter:
    """A limiter whose callers stand in line until :meth:`_serve` finds a permit for them."""

    def __init__(self, margin: Margin, day: DailyBudget) -> None:
        self._margin = margin
        self._window = margin.window
        self._day = day
        self._pause = Pause()
        self._waiters = Waiters()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._epoch = math.nan
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_until = -math.inf

    # For the limiters built on this one

    def _serve(self) -> None:
        """Give out what is due, and set the timer for the rest."""
        raise NotImplementedError

    def _joined(self, priority: Priority, now: float) -> None:
        """Somebody has come into line."""
        raise NotImplementedError

    def _give_back(self, permit: float) -> None:
        """A permit was given to somebody who was cancelled in the same turn of the loop."""
        raise NotImplementedError

    def _held(self, permit: float, *, fresh: bool) -> None:
        """A pause has begun (``fresh``) or grown because the request of ``permit`` was refused."""
        raise NotImplementedError

    def _resumed(self, permit: float, now: float) -> None:
        """The pause has ended because the request of ``permit`` was accepted."""
        raise NotImplementedError

    def _used(self, now: float) -> int:
        """Permits of the current window that are taken."""
        raise NotImplementedError

    def _moved(self, now: float, *, same_clock: bool) -> None:
        """The limiter has come to another event loop."""
        raise NotImplementedError

    # The public face they share

    def throttled(self, permit: float, retry_after: float | None = None) -> None:
        """Tell that the service answered 429 to the request of ``permit``.

        Everybody waits for ``retry_after`` seconds, else for one window, doubled with each further refusal. One request
        goes ahead then, and its good answer frees the others, evenly spaced. A wait above five minutes, or four single
        requests refused in a row, mean that the day's budget is gone: callers get the error for it.
        """
        now = self._now()
        pause = self._pause
        fresh = not pause.active
        self._day.look()
        if not pause.throttled(permit, retry_after, now, window=self._window, today=self._day.number):
            return
        if pause.suspected_on is not None:
            logger.warning("%s", self._suspicion())
            self._waiters.fail(self._suspicion)
        elif fresh:
            self._margin = self._margin.lowered()
            logger.warning(
                "the service answered 429: nothing is sent for %.1f s, then one request goes ahead; "
                "at most %d in %.2f s from now on",
                pause.until - now,
                self._margin.permits,
                self._window,
            )
        self._held(permit, fresh=fresh)
        self._serve()

    def answered(self, permit: float) -> None:
        """Tell that the service answered the request of ``permit`` with anything but 429."""
        if permit <= self._pause.news_after:
            return
        self._pause.end()
        logger.info("the service accepts requests again")
        self._resumed(permit, self._now())
        self._serve()

    def state(self) -> LimiterState:
        """The count at this moment. After a pause, permits held back to resume gently count as used."""
        now = self._now()
        self._day.look()
        return LimiterState(
            used=self._used(now),
            per_window=self._margin.permits,
            window=self._window,
            used_today=self._day.used,
            per_day=self._day.limit,
            resets_at=self._day.resets_at,
            waiting=len(self._waiters),
            paused_for=max(0.0, self._pause.until - now),
        )

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait for the right to send one request now."""
        raise NotImplementedError

    async def __aenter__(self) -> None:
        """Take one permit."""
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Do nothing: a permit is spent when the request is sent."""

    def _facts(self) -> str:
        """The state in words, for reprs."""
        state = self.state()
        paused = f" · paused for {state.paused_for:.1f} s" if state.paused_for else ""
        return (
            f"{state.used} of {state.per_window} permits used in {state.window:.2f} s"
            f" · {state.used_today:,} of {state.per_day:,} today · {state.waiting:,} waiting{paused}"
        )

    # Waiting

    async def _wait(self, loop: asyncio.AbstractEventLoop, priority: Priority) -> float:
        now = loop.time()
        self._refuse(now)
        future = self._waiters.join(loop, priority, now)
        try:
            self._joined(priority, now)
            return await future
        except BaseException:
            self._waiters.leave(future)
            if future.done() and not future.cancelled() and not future.exception():
                # Served and cancelled in one turn of the loop: the permit was never seen.
                self._give_back(future.result())
            elif not self._waiters:
                self._serve()
            raise

    def _refuse(self, now: float) -> None:
        """Raise if the day's budget is gone, by our count or by the service's answers."""
        self._day.check()
        pause = self._pause
        if pause.suspected_on is None:
            return
        if pause.suspected_on != self._day.number:
            pause.restart(now)
        elif now < pause.next_at:
            raise self._suspicion()

    def _suspicion(self) -> DailyBudgetExhaustedError:
        return self._day.suspected(self._pause.asked)

    def _note_wait(self, waited: float, now: float) -> None:
        if waited > _LONG_WAIT and now >= self._quiet_until:
            self._quiet_until = now + 60
            logger.warning(
                "requests wait %.1f s for a permit: %d are in line, and at most %d may be sent in %.2f s",
                waited,
                len(self._waiters),
                self._margin.permits,
                self._window,
            )

    def _set_timer(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        self._timer = loop.call_later(max(delay, SHORTEST_SLEEP), self._serve)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Event loops and their clocks

    def _now(self) -> float:
        return time.monotonic() if self._loop is None or self._loop.is_closed() else self._loop.time()

    def _adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Move to another event loop: the limiter's first, or the next after the last one has ended."""
        if self._loop is not None:
            self._waiters.forget(self._loop, type(self).__name__)
        now = loop.time()
        epoch = now - time.monotonic()
        same_clock = self._loop is None or abs(epoch - self._epoch) < _SAME_CLOCK
        if not same_clock:
            self._pause.restart(now)
            self._quiet_until = -math.inf
        self._loop, self._epoch, self._timer = loop, epoch, None
        self._moved(now, same_clock=same_clock)
