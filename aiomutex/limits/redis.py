"""The limiter for several machines: workers lease scheduled send times from a budget in Redis.

A few send times are leased at once and slightly ahead, so most permits cost no round trip. One clock schedules them,
so no two workers send at the same time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec

from aiomutex._util.checks import check_integer, describe
from aiomutex.errors import ConfigurationError
from aiomutex.limits.daily_budget import DailyBudget
from aiomutex.limits.leasing import LeasingLimiter
from aiomutex.limits.messages import HORIZON
from aiomutex.limits.redis_budget import RedisBudget

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from aiomutex.errors import MutexError
    from aiomutex.limits.messages import Lease, LeaseRequest

__all__ = ["RedisRateLimiter"]

_RETRY_INTERVAL = 0.5
"""Seconds between two attempts to reach Redis. Well below a window: Redis grants nothing in the first window after its
return, and by its end every busy worker must know that it is back."""


class _Fallback(msgspec.Struct):
    """One worker's share of the limits while Redis is unavailable, evenly spaced and without bursts.

    So the shares of all workers together stay below the limit.
    """

    interval: float
    daily_budget: DailyBudget
    next: float  # the next send time
    ends_at: float = math.inf  # when Redis takes over again, once it has been reached
    valid_until: float = -math.inf  # how long the last failed attempt to reach Redis allows to continue without it


class RedisRateLimiter(LeasingLimiter[RedisBudget]):
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
        workers: The most processes that share the budget, at most one for each permit of a window (97 of 100 per
            second); required with ``"local"``.
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

    _mean_lease = 4.5  # so that an exchange pays for its round trip

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
        if on_backend_failure not in ("raise", "local"):
            raise ConfigurationError(
                f'on_backend_failure must be "raise" or "local", not {describe(on_backend_failure)}'
            )
        budget = RedisBudget(url_or_client, name, timeout)
        super().__init__(per_second, per_day, safe=safe, budget=budget)
        if on_backend_failure == "local":
            field, most = 'with on_backend_failure="local", workers', min(self._full.permits, per_day)
            check_integer(field, workers, least=1, most=most, error=ConfigurationError)
        self._label = f"{name!r} at {budget.address} · "
        self._timeout = timeout
        self._workers = workers if on_backend_failure == "local" else None
        self._unreported = self._reported = 0  # permits used without Redis, and those that the last exchange reports
        if not isinstance(url_or_client, str):
            self._fork_error = (
                "this RedisRateLimiter and its redis.asyncio client were used before a fork; create both after it"
            )

    def _reset(self) -> None:
        super()._reset()
        self._fallback: _Fallback | None = None

    def _describe(self) -> str:
        return super()._describe() + (" · without Redis" if self._fallback else "")

    # A share of the limits while Redis is unavailable

    def _schedule_without_budget(self, now: float) -> None:
        if self._fallback and now >= self._fallback.ends_at:
            self._fallback = None
        elif (own := self._fallback) and (due := max(own.next, now, self._pause.next_probe_at)) <= own.valid_until:
            self._leased.append(due)

    def _take(self, due: float, now: float) -> None:  # noqa: ARG002 -- LocalRateLimiter needs the time
        if self._fallback:
            self._fallback.daily_budget.take()
            self._fallback.next = due + self._fallback.interval
            self._unreported += 1

    def _request(self) -> LeaseRequest:
        request = super()._request()
        request.unreported = self._reported = self._unreported
        request.fallback_grace = _RETRY_INTERVAL + self._timeout if self._workers else 0.0
        return request

    def _apply(self, lease: Lease, asked_at: float, now: float) -> None:
        self._unreported -= self._reported
        if self._fallback:
            # Redis assumes a full window, so its first send time is one window after the fallback must end.
            self._fallback.ends_at = self._fallback.valid_until = now + lease.next_free - self._window
            lease.send_times = []
            self._leased.clear()  # a send time after that is void
        super()._apply(lease, asked_at, now)
        if self._fallback:
            self._not_before = self._next_exchange

    def _on_failure(self, request: LeaseRequest, error: MutexError, now: float) -> None:
        if self._workers is None or isinstance(error, ConfigurationError):
            super()._on_failure(request, error, now)
            return
        if self._fallback is None or now >= self._fallback.ends_at:
            # After one silent window, send times that other workers leased just before no longer count.
            start = now + self._window + HORIZON + self._budget.latency
            permits, workers, daily = self._full.permits, self._workers, self._daily_budget
            interval = self._window / (permits // workers)
            used = -(-daily.used // workers) + self._unreported
            share = DailyBudget(daily.limit // workers, used=used, clock=daily.clock)
            self._fallback = _Fallback(interval, share, start)
        self._fallback.valid_until = now + _RETRY_INTERVAL + self._timeout
        self._not_before = self._next_exchange = now + _RETRY_INTERVAL

    def _on_new_loop(self, now: float, *, same_clock: bool) -> None:
        if self._fallback:
            # Redis has logged what it leased on the last loop, but not what was sent without it.
            self._uncertain = True
        super()._on_new_loop(now, same_clock=same_clock)
        self._budget.reset()
