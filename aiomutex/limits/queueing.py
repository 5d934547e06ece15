"""What all limiters of this package share: the queue of callers, the pause after a 429, the move between event loops.

Where permits come from is up to the limiters built on it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from asyncio import get_running_loop
from typing import TYPE_CHECKING

import msgspec

from aiomutex._util.checks import check_integer
from aiomutex.errors import ConfigurationError, MutexError
from aiomutex.limits.daily_budget import DailyBudget, format_duration
from aiomutex.limits.interface import LimiterState, Priority, RateLimiter
from aiomutex.limits.margin import Margin, Recovery
from aiomutex.limits.pause import MAX_PAUSE, Pause
from aiomutex.limits.waiters import Waiters

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("aiomutex.limits")

_MIN_TIMER = 0.001  # seconds; a loop that counts in milliseconds may fire early, and would spin until due
_LONG_WAIT = 5.0  # seconds in the queue that are worth a log record, at most once a minute
_CLOCK_TOLERANCE = 0.05  # seconds by which the clocks of two event loops may differ and still count as the same clock


class QueueingLimiter(RateLimiter):
    """A limiter whose callers wait in a queue until ``_serve`` has a permit for them."""

    _label = ""  # in reprs, what the state belongs to
    _fork_error = ""  # why a fork of a process that used the limiter must not; a shared budget knows what that got

    def __init__(self, per_second: int, per_day: int, *, safe: bool, used_today: int = 0) -> None:
        self._full = self._margin = margin = Margin.below(per_second, safe=safe)  # without 429s, and the current one
        check_integer("per_day", per_day, least=1, error=ConfigurationError)
        check_integer("used_today", used_today, least=0, error=ConfigurationError)
        self._recovery = Recovery()
        self._window = margin.window
        self._daily_budget = DailyBudget(per_day, used=used_today)
        self._pause = Pause()
        self._waiters = Waiters()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock_offset = math.nan  # the loop's clock minus the system's monotonic clock
        self._timer: asyncio.TimerHandle | None = None
        self._next_warning_at = -math.inf
        self._granted = self._waits = self._throttled = 0
        self._wait_seconds = 0.0
        self._pid = 0  # the process that uses it; 0 before the first use

    # What each limiter implements

    def _grant_due(self, loop: asyncio.AbstractEventLoop, now: float) -> float:
        """Grant the permits that are due, and return when the next one is."""
        raise NotImplementedError

    def _take(self, due: float, now: float) -> None:
        """Use the permit that was due at ``due``, or raise a ``MutexError``."""

    def _on_join(self, priority: Priority, now: float) -> None:
        """Handle a caller that was just enqueued."""

    def _give_back(self, permit: float) -> None:
        """Take back a permit whose caller was cancelled in the loop iteration that granted it."""

    def _on_throttled(self, permit: float) -> None:
        """Handle a pause that a 429 to the request of ``permit`` started or extended."""

    def _on_resumed(self, permit: float, now: float) -> None:
        """Handle the end of the pause, which a response to the request of ``permit`` brought."""

    def _count_used(self, now: float) -> int:
        """Permits used in the current window."""
        raise NotImplementedError

    def _on_new_loop(self, now: float, *, same_clock: bool) -> None:
        """Handle the move to another event loop."""

    # The public interface they share

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait until one request may be sent, and return its permit; see ``RateLimiter.acquire``."""
        loop = get_running_loop()
        if loop is not self._loop:
            self._attach(loop)
        now = loop.time()
        self._follow_recovery(now)
        self._ensure_budget(now)
        future = self._waiters.join(loop, priority, now)
        try:
            self._on_join(priority, now)
            # If a timer is set, only the first interactive call may be due before it.
            if self._timer is None or (not priority and len(self._waiters.interactive) == 1):
                self._serve()
            return await future
        except BaseException:
            self._waiters.leave(future)
            if future.done() and not future.cancelled() and not future.exception():
                # Granted and cancelled in the same loop iteration: without this the permit would be lost.
                self._granted -= 1
                self._pause.probe_returned()
                self._give_back(future.result())
                self._serve()
            elif not self._waiters:
                self._serve()  # with an empty queue: stops the timer and reopens the fast path
            raise

    def throttled(self, permit: float, retry_after: float | None = None) -> None:
        """Report that a request got a 429. Every caller of the limiter waits.

        The wait is ``retry_after``, or else one window, doubled with each further 429. Then one request is sent, and
        once it gets a response other than 429 the others follow, evenly spaced. If the service asks for more than five
        minutes, or four such single requests in a row get a 429, the daily budget counts as exhausted and callers get
        the error for that. See ``RateLimiter.throttled`` for the arguments.
        """
        now = self._now()
        pause = self._pause
        started = not pause.active
        self._throttled += 1
        self._daily_budget.follow_clock()
        if not pause.throttled(permit, retry_after, now, window=self._window, today=self._daily_budget.day):
            return
        lower = started and pause.suspected_on is None
        # A longer wait is about the day, and midnight may end it early.
        resumes_at = min(pause.until, now + MAX_PAUSE)
        self._recovery = self._recovery.throttled(self._full, now, resumes_at, lower=lower)
        self._follow_recovery(now)
        if pause.suspected_on is not None:
            error = self._daily_budget.suspected_error(pause.requested_wait)
            logger.warning("%s", error, extra={"aiomutex_used": error.used, "aiomutex_limit": error.limit})
            self._waiters.fail_all(error)
        elif started:
            fields = {"aiomutex_paused_for": pause.until - now, "aiomutex_permits": self._margin.permits}
            message = "the service answered 429: pausing for %.1f s, then sending a single request; %s"
            rate = f"from now on at most {self._margin.permits} requests in {self._window:.2f} s"
            raises = f"one more after each {format_duration(self._recovery.wait)} without a 429"
            logger.warning(message, pause.until - now, f"{rate}, {raises}", extra=fields)
        self._on_throttled(permit)
        self._serve()

    def answered(self, permit: float) -> None:
        """Report that the request of ``permit`` got any response but a 429."""
        if permit <= self._pause.ends_after:
            return
        self._pause.end()
        logger.info("the service accepts requests again")
        self._on_resumed(permit, self._now())
        self._serve()

    def state(self) -> LimiterState:
        """Return a snapshot of the limiter, without waiting.

        After a pause, permits that are held back to resume gently count as used.
        """
        now = self._now()
        self._daily_budget.follow_clock()
        self._follow_recovery(now)
        return LimiterState(
            used=self._count_used(now),
            per_window=self._margin.permits,
            window=self._window,
            used_today=self._daily_budget.used,
            per_day=self._daily_budget.limit,
            resets_at=self._daily_budget.resets_at,
            waiting=len(self._waiters),
            paused_for=max(0.0, self._pause.until - now),
            granted_total=self._granted,
            waits_total=self._waits,
            wait_seconds_total=self._wait_seconds,
            throttled_total=self._throttled,
            pauses_total=self._pause.count,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._label}{self._describe()}>"

    def _describe(self) -> str:
        state = self.state()
        paused = f" · paused for {state.paused_for:.1f} s" if state.paused_for else ""
        return (
            f"{state.used} of {state.per_window} permits used in {state.window:.2f} s"
            f" · {state.used_today:,} of {state.per_day:,} today · {state.waiting:,} waiting{paused}"
        )

    # Waiting

    def _ensure_budget(self, now: float) -> None:
        """Raise if the daily budget is exhausted, by our count or by the service's responses."""
        self._daily_budget.ensure_available()
        pause = self._pause
        if pause.suspected_on is None:
            return
        if pause.suspected_on != self._daily_budget.day:
            pause.restart(now)
        elif now < pause.next_probe_at:
            raise self._daily_budget.suspected_error(pause.requested_wait)

    def _follow_recovery(self, now: float) -> None:
        permits, before = self._recovery.permits(self._full.permits, now), self._margin.permits
        if permits != before:
            self._margin = self._margin._replace(permits=permits)
            if permits > before:
                logger.info("no 429 for a while: from now on at most %d requests in %.2f s", permits, self._window)

    def _serve(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = self._loop
        if loop is not None and not loop.is_closed():
            now = loop.time()
            if (due := self._grant_due(loop, now)) < math.inf:
                self._timer = loop.call_later(max(due - now, _MIN_TIMER), self._serve)

    def _grant(self, priority: Priority, due: float, now: float) -> None:
        try:
            self._take(due, now)
        except MutexError as error:
            self._waiters.fail_all(error)
            return
        if self._pause.active:
            self._pause.probe_sent(now)
        waited = now - self._waiters.grant(priority, now)
        self._granted += 1
        if waited > _MIN_TIMER:
            self._waits += 1
            self._wait_seconds += waited
        if waited > _LONG_WAIT and now >= self._next_warning_at:
            self._next_warning_at = now + 60
            message = "requests wait %.1f s for a permit: %d waiting, at most %d in %.2f s"
            fields = {"aiomutex_permit_wait": waited}
            logger.warning(message, waited, len(self._waiters), self._margin.permits, self._window, extra=fields)

    # Event loops and their clocks

    def _now(self) -> float:
        return time.monotonic() if self._loop is None or self._loop.is_closed() else self._loop.time()

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Move to another event loop: the limiter's first, or the next one after the last has ended."""
        if self._pid not in (0, os.getpid()):
            if self._fork_error:
                raise ConfigurationError(self._fork_error)
            self._waiters = Waiters()  # those of the parent process
        elif self._loop is not None:
            self._waiters.detach(self._loop, type(self).__name__)
        self._pid = os.getpid()
        now = loop.time()
        offset = now - time.monotonic()
        same_clock = self._loop is None or abs(offset - self._clock_offset) < _CLOCK_TOLERANCE
        if not same_clock:
            self._pause.restart(now)
            self._recovery = msgspec.structs.replace(self._recovery, since=now)
            self._next_warning_at = -math.inf
        self._loop, self._clock_offset, self._timer = loop, offset, None
        self._on_new_loop(now, same_clock=same_clock)
