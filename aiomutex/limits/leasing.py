"""What limiters with a shared budget do in each process: lease scheduled send times ahead, and grant them to callers.

One exchange with the budget serves several callers. Callers never touch the budget: one task per limiter leases for all
of them, so cancelling a caller cancels no exchange.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec.structs import replace

from aiomutex._util.tasks import run_to_completion
from aiomutex.errors import ConfigurationError, LimiterUnavailableError, MutexError
from aiomutex.limits.messages import Feedback, LeaseRequest
from aiomutex.limits.queueing import QueueingLimiter

if TYPE_CHECKING:
    from aiomutex.limits.interface import Priority
    from aiomutex.limits.machine import MachineBudget
    from aiomutex.limits.messages import Lease
    from aiomutex.limits.redis_budget import RedisBudget

_MAX_LOSSES = 3  # exchanges in a row that found the budget empty
_MAX_LEASE = 20  # the most send times leased at once

BudgetT = TypeVar("BudgetT", bound="MachineBudget | RedisBudget")


class LeasingLimiter(QueueingLimiter, Generic[BudgetT]):
    """A limiter that leases from ``budget``."""

    _mean_lease: float  # send times that an exchange should bring on average

    def __init__(self, per_second: int, per_day: int, *, safe: bool, budget: BudgetT) -> None:
        super().__init__(per_second, per_day, safe=safe)
        self._budget = budget
        # A send time missed by more than this is lost: the margin's extra window covers no longer delay.
        self._max_lateness = (self._window - 1.0) * 0.6
        self._closed = self._uncertain = False
        self._reset()

    def _reset(self) -> None:
        self._leased: deque[float] = deque()
        self._exchange_task: asyncio.Task[None] | None = None
        self._feedback: Feedback | None = None
        self._losses = 0
        self._last_used = (-math.inf, 0)  # when the budget last responded, and the permits used in that window
        # When the next exchange is due while callers wait, and when it is due for the first of them.
        self._next_exchange = self._not_before = -math.inf

    async def aclose(self) -> None:
        """Close the limiter and what it opened. Waiters get a ``LimiterUnavailableError``."""
        self._closed = True
        self._waiters.fail_all(LimiterUnavailableError("the limiter was closed while requests waited"))
        self._serve()  # which stops the timer
        await run_to_completion(self._disconnect())

    async def _disconnect(self) -> None:
        if self._exchange_task is not None:
            self._exchange_task.cancel()
            await asyncio.wait([self._exchange_task])
        await self._budget.aclose()

    # Granting permits

    def _ensure_budget(self, now: float) -> None:
        if self._closed:
            raise ConfigurationError(f"this {type(self).__name__} is closed")
        super()._ensure_budget(now)

    def _grant_due(self, loop: asyncio.AbstractEventLoop, now: float) -> float:
        if self._closed:
            return math.inf
        leased = self._leased
        while (priority := self._waiters.next_priority()) is not None:
            while leased and leased[0] < now - self._max_lateness:
                leased.popleft()
            if not leased:
                self._schedule_without_budget(now)
            if not leased or leased[0] > now:
                break
            self._grant(priority, leased.popleft(), now)
        wake_at = leased[0] if leased else math.inf
        # With the day's budget used up, the other waiters fail when the last of the lease is used. Until then, asking
        # for more would be a busy loop.
        is_last_lease = leased and self._daily_budget.used >= self._daily_budget.limit
        wants_more = len(self._waiters) > len(leased) and not is_last_lease
        if self._exchange_task is None:
            if self._feedback or (wants_more and now >= self._next_exchange):
                # Not ``loop.create_task``: an eager task may end before its name is assigned here, and block the rest.
                self._exchange_task = asyncio.Task(self._exchange(loop), loop=loop, name="aiomutex-limiter")
            elif wants_more:
                wake_at = min(wake_at, self._next_exchange)
        return wake_at if self._waiters else math.inf

    def _schedule_without_budget(self, now: float) -> None:
        """Schedule a send time while the budget is unavailable, if the limiter can."""

    def _on_join(self, priority: Priority, now: float) -> None:  # noqa: ARG002 -- other limiters need them
        if len(self._waiters) == 1:
            # Nobody waited before, so the pace of exchanges under backlog does not apply.
            self._next_exchange = self._not_before

    def _give_back(self, permit: float) -> None:
        # The next waiter may still use it, if it comes soon enough.
        self._leased.appendleft(permit)

    # Exchanges with the budget

    async def _exchange(self, loop: asyncio.AbstractEventLoop) -> None:
        """Report to the shared budget, lease send times from it, and grant them."""
        asked_at = loop.time()
        request = self._request()
        self._feedback = None
        try:
            lease = await self._budget.lease(request, loop.time)
        except asyncio.CancelledError:
            raise
        except MutexError as error:
            self._feedback = self._feedback or request.feedback
            self._uncertain = True
            self._on_failure(request, error, loop.time())
        except BaseException as error:
            # A bug or an interrupt: without this the waiters would wait forever.
            self._uncertain = True
            self._waiters.fail_all(LimiterUnavailableError(f"the limiter failed: {type(error).__name__}"))
            raise
        else:
            self._uncertain = False
            self._apply(lease, asked_at, loop.time())
            self._losses = self._losses + 1 if lease.was_empty else 0
            if self._losses >= _MAX_LOSSES:
                # Each loss costs a silent window, so without an error the callers would wait forever.
                self._losses = 0
                message = f"{self._budget.address} loses the shared budget again and again; are its keys evicted?"
                self._on_failure(request, LimiterUnavailableError(message), loop.time())
        finally:
            self._exchange_task = None
        self._serve()

    def _request(self) -> LeaseRequest:
        wanted = min(_MAX_LEASE, max(0, len(self._waiters) - len(self._leased)))
        return LeaseRequest(
            max_permits=self._full.permits,
            window=self._window,
            per_day=self._daily_budget.limit,
            wanted=wanted,
            interactive=min(wanted, len(self._waiters.interactive)),
            uncertain=self._uncertain,
            day=self._daily_budget.day,
            used=self._daily_budget.used,
            spacing=self._mean_lease * self._margin.interval,
            feedback=self._feedback,
        )

    def _apply(self, lease: Lease, asked_at: float, now: float) -> None:
        """Take over the state of the shared budget and the leased send times."""
        offset = self._budget.clock_offset
        self._daily_budget.clock = lambda: (self._loop.time() if self._loop else 0.0) + offset
        self._daily_budget.sync(lease.day, lease.used)
        self._last_used = (now, lease.used_in_window)
        self._next_exchange = now + lease.wait
        self._not_before = self._next_exchange if lease.paused else -math.inf
        if self._feedback:
            # A 429 arrived during the exchange, which knows nothing of it.
            return
        self._recovery = replace(lease.recovery, since=now + lease.recovery.since)
        self._follow_recovery(now)
        if lease.paused:
            self._pause.mirror(lease, asked_at, now)
            if lease.suspected and not lease.is_probe:
                self._waiters.fail_all(self._daily_budget.suspected_error(self._pause.requested_wait))
        elif self._pause.active:
            self._pause.end()
        self._leased.extend(lease.send_times)
        if self._daily_budget.used >= self._daily_budget.limit and not self._leased:
            self._waiters.fail_all(self._daily_budget.exhausted_error())

    def _on_failure(self, request: LeaseRequest, error: MutexError, now: float) -> None:  # noqa: ARG002 -- for subclasses
        self._not_before = self._next_exchange = -math.inf
        self._waiters.fail_all(error)

    # The pause after a 429

    def _on_throttled(self, permit: float) -> None:
        self._leased.clear()
        pause = self._pause
        now = self._now()
        self._feedback = Feedback(
            kind="throttled",
            permit=self._budget.earliest_server_time(permit),
            recovery=replace(self._recovery, since=self._recovery.since - now),
            delay=pause.until - now,
            failed_probes=pause.failed_probes,
            suspected=pause.suspected_on is not None,
            requested_wait=pause.requested_wait or 0.0,
        )

    def _on_resumed(self, permit: float, now: float) -> None:  # noqa: ARG002 -- the budget has its own clock
        self._feedback = Feedback(kind="answered", permit=self._budget.earliest_server_time(permit))

    # State and event loops

    def _count_used(self, now: float) -> int:
        responded_at, used = self._last_used
        return used if now - responded_at < self._window else 0

    def _on_new_loop(self, now: float, *, same_clock: bool) -> None:  # noqa: ARG002 -- nothing here outlives the loop
        # The budget has logged what it leased on the last loop. Its callers are gone, so that is lost.
        self._reset()
