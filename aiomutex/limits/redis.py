"""The limiter for several machines: workers lease scheduled send times from a budget in Redis.

A few send times are leased at once and slightly ahead, so most permits cost no round trip. One clock schedules them,
so no two workers send at the same time. Waiters never touch Redis: one task per limiter leases for all of them.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import get_running_loop
from collections import deque
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Literal

from aiomutex._util.checks import check_integer, describe
from aiomutex._util.tasks import run_to_completion
from aiomutex.errors import ConfigurationError, LimiterUnavailableError, MutexError
from aiomutex.limits.daily_budget import DailyBudget
from aiomutex.limits.fallback import RETRY_INTERVAL, FallbackPacer
from aiomutex.limits.interface import Priority
from aiomutex.limits.lease import HORIZON, Feedback, Lease, LeaseRequest
from aiomutex.limits.margin import Margin
from aiomutex.limits.queueing import QueueingLimiter
from aiomutex.limits.shared_budget import SharedBudget

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisRateLimiter"]

_MAX_LEASE = 20
"""The most send times leased at once."""
_MEAN_LEASE = 4.5
"""Send times that an exchange should bring on average, so that it pays for its round trip."""


class RedisRateLimiter(QueueingLimiter):
    """At most ``per_second`` requests in any second and ``per_day`` on a UTC day, for all workers that share ``name``.

    Pass the service's limits; the margin below them is that of ``LocalRateLimiter``. The second and the day follow the
    Redis server's clock. After an idle window up to half a window's permits are granted at once; the others are evenly
    spaced. Priorities apply within each worker.

    If Redis fails, waiters get ``LimiterUnavailableError``. With ``on_backend_failure="local"`` each worker instead
    waits one window and continues with ``1 / workers`` of the limits. That is safe if Redis is down for all workers. A
    worker that alone loses its connection adds its share to what the others send.

    Args:
        url_or_client: A Redis URL (Redis 6 or later, or Valkey), or a ``redis.asyncio`` client, which you close
            yourself. Turn off the client's own retries: they would hide failures from the limiter.
        name: The name of the budget, for example the project's ID. Limiters with the same name share one budget.
        per_second: Requests the service allows per second.
        per_day: Requests the service allows per UTC day.
        safe: Keep the wider margin, for networks whose delay varies by more than about 20 ms.
        on_backend_failure: ``"raise"`` or ``"local"``.
        workers: The most processes that share the budget; required with ``"local"``.
        timeout: Seconds to wait for a response from Redis, at most 60.

    Raises:
        ConfigurationError: An argument is invalid.
        ImportError: redis-py is not installed; it comes with the extra ``redis``.

    Example:
        >>> from aiomutex.limits.redis import RedisRateLimiter
        >>> limiter = RedisRateLimiter("redis://127.0.0.1:6379", name="project")
        >>> limiter
        <RedisRateLimiter 'project' at 127.0.0.1:6379 · 0 of 97 permits used in 1.02 s · 0 of 100,000 today · 0 waiting>
        >>> await limiter.aclose()
    """

    def __init__(
        self,
        url_or_client: str | Redis,
        *,
        name: str,
        per_second: int = 100,
        per_day: int = 100_000,
        safe: bool = False,
        on_backend_failure: Literal["raise", "local"] = "raise",
        workers: int | None = None,
        timeout: float = 0.5,
    ) -> None:
        margin = Margin.below(per_second, safe=safe)
        check_integer("per_day", per_day, least=1, error=ConfigurationError)
        if on_backend_failure not in ("raise", "local"):
            raise ConfigurationError(
                f'on_backend_failure must be "raise" or "local", not {describe(on_backend_failure)}'
            )
        if on_backend_failure == "local":
            check_integer('with on_backend_failure="local", workers', workers, least=1, error=ConfigurationError)
        self._budget = SharedBudget(url_or_client, name, timeout)
        super().__init__(margin, DailyBudget(per_day))
        self._name = name
        self._max_permits = margin.permits
        self._workers = workers if on_backend_failure == "local" else None
        self._timeout = timeout
        # A send time missed by more than this is lost: the margin's extra window covers no longer delay.
        self._max_lateness = (margin.window - 1.0) * 0.6
        self._reset()
        self._closed = False

    def _reset(self) -> None:
        self._leased: deque[float] = deque()
        self._fallback: FallbackPacer | None = None
        self._unreported = 0
        self._exchange_task: asyncio.Task[None] | None = None
        self._feedback: Feedback | None = None
        self._uncertain = False
        self._last_used = (-math.inf, 0)  # when Redis last responded, and the permits used in that window
        # When the next exchange is due while callers wait, and when it is due for the first of them.
        self._next_exchange = self._not_before = -math.inf

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait until one request may be sent.

        Args:
            priority: ``Priority.BULK`` waits behind interactive calls, but gets at least every eighth permit.

        Returns:
            The permit: when it was granted, in seconds of the event loop's clock.

        Raises:
            DailyBudgetExhaustedError: The daily budget is exhausted, or seems to be.
            LimiterUnavailableError: Redis cannot be reached, or does not respond in time.
            ConfigurationError: Redis rejects the password, or the limiter is closed or used by another event loop.
        """
        if self._closed:
            raise ConfigurationError("this RedisRateLimiter is closed")
        loop = get_running_loop()
        if loop is not self._loop:
            self._attach(loop)
        return await self._wait(loop, priority)

    async def aclose(self) -> None:
        """Close the limiter and the connections it opened. Waiters get a ``LimiterUnavailableError``."""
        self._closed = True
        self._stop_timer()
        self._waiters.fail_all(lambda: LimiterUnavailableError("the limiter was closed while requests waited"))
        await run_to_completion(self._disconnect())

    async def _disconnect(self) -> None:
        if self._exchange_task is not None:
            self._exchange_task.cancel()
            await asyncio.wait([self._exchange_task])
        await self._budget.aclose()

    def __repr__(self) -> str:
        fallback = " · without Redis" if self._fallback else ""
        return f"<RedisRateLimiter {self._name!r} at {self._budget.address} · {self._describe()}{fallback}>"

    # Granting permits

    def _serve(self) -> None:
        self._stop_timer()
        loop = self._loop
        if loop is None or loop.is_closed() or self._closed:
            return
        now = loop.time()
        leased = self._leased
        while (priority := self._waiters.next_priority()) is not None:
            while leased and leased[0] < now - self._max_lateness:
                leased.popleft()
            if not leased and self._fallback:
                self._schedule_fallback(self._fallback, now)
            if not leased or leased[0] > now:
                break
            self._grant(priority, leased.popleft(), now)
        wake_at = leased[0] if leased else math.inf
        if self._exchange_task is None:
            if self._feedback or (len(self._waiters) > len(leased) and now >= self._next_exchange):
                self._exchange_task = loop.create_task(self._exchange(loop), name="aiomutex-limiter")
            elif len(self._waiters) > len(leased):
                wake_at = min(wake_at, self._next_exchange)
        if self._waiters and wake_at < math.inf:
            self._set_timer(loop, wake_at - now)

    def _grant(self, priority: Priority, send_time: float, now: float) -> None:
        if self._fallback:
            try:
                self._fallback.take(send_time)
            except MutexError as error:
                self._waiters.fail_all(partial(copy, error))
                return
            self._unreported += 1
        if self._pause.active:
            self._pause.probe_sent(now)
        self._log_long_wait(now - self._waiters.grant(priority, now), now)

    def _schedule_fallback(self, fallback: FallbackPacer, now: float) -> None:
        """Schedule a send time without Redis, unless it is back or the last attempt to reach it is too old."""
        if now >= fallback.ends_at:
            self._fallback = None
        elif now <= fallback.valid_until:
            self._leased.append(fallback.next(max(now, self._pause.next_probe_at)))

    def _on_join(self, priority: Priority, now: float) -> None:  # noqa: ARG002 -- LocalRateLimiter needs the time
        if len(self._waiters) == 1:
            # Nobody waited before, so the pace of exchanges under backlog does not apply.
            self._next_exchange = self._not_before
        if self._timer is None or (not priority and self._waiters.interactive == 1):
            self._serve()

    def _give_back(self, permit: float) -> None:
        # The next waiter may still use it, if it comes soon enough.
        self._leased.appendleft(permit)
        if self._pause.active:
            self._pause.probe_returned()
        self._serve()

    # Exchanges with Redis

    async def _exchange(self, loop: asyncio.AbstractEventLoop) -> None:
        """Report to the shared budget, lease send times from it, and grant them."""
        asked_at = loop.time()
        feedback, self._feedback = self._feedback, None
        unreported, self._unreported = self._unreported, 0
        request = self._request(unreported, feedback)
        try:
            lease, steady = await self._budget.lease(request, loop.time)
        except asyncio.CancelledError:
            raise
        except MutexError as error:
            self._feedback = self._feedback or feedback
            self._unreported += unreported
            self._uncertain = True
            self._on_failure(error, loop.time())
        except BaseException as error:
            # A bug or an interrupt: without this the waiters would wait forever.
            self._uncertain = True
            self._waiters.fail_all(partial(LimiterUnavailableError, f"the limiter failed: {type(error).__name__}"))
            raise
        else:
            self._uncertain = not steady
            self._apply(lease, asked_at, loop.time(), steady=steady)
        finally:
            self._exchange_task = None
        self._serve()

    def _request(self, unreported: int, feedback: Feedback | None) -> LeaseRequest:
        return LeaseRequest(
            max_permits=self._max_permits,
            window=self._window,
            fallback_grace=RETRY_INTERVAL + self._timeout if self._workers else 0.0,
            per_day=self._daily_budget.limit,
            wanted=min(_MAX_LEASE, max(0, len(self._waiters) - len(self._leased))),
            uncertain=self._uncertain,
            day=self._daily_budget.day,
            used=self._daily_budget.used,
            spacing=_MEAN_LEASE * self._margin.interval,
            unreported=unreported,
            feedback=feedback,
        )

    def _apply(self, lease: Lease, asked_at: float, now: float, *, steady: bool) -> None:
        """Take over the state of the shared budget and the leased send times."""
        offset = self._budget.clock_offset
        self._daily_budget.clock = lambda: (self._loop.time() if self._loop else 0.0) + offset
        self._daily_budget.sync(lease.day, lease.used)
        self._last_used = (now, lease.used_in_window)
        if self._fallback:
            # Redis assumes a full window, so its first send time is one window after the fallback must end.
            self._fallback.ends_at = self._fallback.valid_until = now + lease.next_free - self._window
        self._next_exchange = now + lease.wait
        self._not_before = self._next_exchange if lease.paused or self._fallback else -math.inf
        if self._feedback:
            # A 429 arrived during the exchange, which knows nothing of it.
            return
        self._margin = self._margin._replace(permits=min(self._margin.permits, lease.permits))
        self._mirror_pause(lease, asked_at, now)
        if not steady:
            return
        if self._fallback is None or not lease.send_times:
            self._leased.extend(lease.send_times)
        if self._daily_budget.exhausted and not self._leased:
            self._waiters.fail_all(self._daily_budget.exhausted_error)

    def _mirror_pause(self, lease: Lease, asked_at: float, now: float) -> None:
        """Enter or leave the pause that all workers share."""
        if not lease.paused:
            if self._pause.active:
                self._pause.end()
            return
        self._pause.mirror(
            now,
            asked_at=asked_at,
            until=now + lease.pause_left,
            first_429_at=now - lease.since_first_429,
            failed_probes=lease.failed_probes,
            suspected_on=lease.day if lease.suspected else None,
            requested_wait=lease.requested_wait or None,
        )
        if lease.suspected and not lease.is_probe:
            self._waiters.fail_all(self._suspected_error)

    def _on_failure(self, error: MutexError, now: float) -> None:
        """Fail the waiters, or continue without Redis if this was asked for."""
        if self._workers is None or isinstance(error, ConfigurationError):
            self._not_before = self._next_exchange = -math.inf
            self._waiters.fail_all(partial(copy, error))
            return
        if self._fallback is None or now >= self._fallback.ends_at:
            # After one silent window, send times that other workers leased just before no longer count.
            start = now + self._window + HORIZON + self._budget.latency
            self._fallback = FallbackPacer(self._max_permits, self._window, self._workers, start, self._daily_budget)
        self._fallback.valid_until = now + RETRY_INTERVAL + self._timeout
        self._not_before = self._next_exchange = now + RETRY_INTERVAL

    # The pause after a 429

    def _on_throttled(self, permit: float, *, started: bool) -> None:  # noqa: ARG002 -- every 429 is reported
        self._leased.clear()
        pause = self._pause
        self._feedback = Feedback(
            kind="throttled",
            permit=self._budget.earliest_server_time(permit),
            permits=self._margin.permits,
            delay=pause.until - self._now(),
            failed_probes=pause.failed_probes,
            suspected=pause.suspected_on is not None,
            requested_wait=pause.requested_wait or 0.0,
        )

    def _on_resumed(self, permit: float, now: float) -> None:  # noqa: ARG002 -- Redis has its own clock
        self._feedback = Feedback(kind="answered", permit=self._budget.earliest_server_time(permit))

    # State and event loops

    def _count_used(self, now: float) -> int:
        responded_at, used = self._last_used
        return used if now - responded_at < self._window else 0

    def _on_new_loop(self, now: float, *, same_clock: bool) -> None:  # noqa: ARG002 -- nothing here outlives the loop
        # Redis has logged what it leased on the last loop, but not what was sent without it.
        uncertain = self._uncertain or self._fallback is not None
        self._reset()
        self._uncertain = uncertain
        self._budget.reset()
