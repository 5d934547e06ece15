"""Responses that mean an exhausted daily budget, although the limiter's own count is below it."""

# Some tests use private attributes, to set a clock or to assert that nothing leaked.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import logging

import pytest
from limits_support import wait_for_many
from virtual_time import run

from aiomutex.errors import DailyBudgetExhaustedError
from aiomutex.limits import LocalRateLimiter

WINDOW = 1.02


def now() -> float:
    return asyncio.get_running_loop().time()


async def throttle_single_requests(limiter: LocalRateLimiter) -> list[float]:
    permits = [await limiter.acquire()]
    with pytest.raises(DailyBudgetExhaustedError, match="probably exhausted"):  # noqa: PT012 -- the last call raises
        while True:
            limiter.throttled(permits[-1])
            permits.append(await limiter.acquire())
    return permits


def test_repeated_429s_to_single_requests_mean_an_exhausted_daily_budget() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        permits = await throttle_single_requests(limiter)
        assert len(permits) == 5
        with pytest.raises(DailyBudgetExhaustedError) as caught:
            await limiter.acquire()
        assert caught.value.suspected
        assert caught.value.used == 5
        assert caught.value.resets_at == limiter.state().resets_at
        assert "keeps answering single requests with 429" in str(caught.value)
        assert "5 of 100,000 requests counted here" in str(caught.value)

    run(main())


def test_short_retry_after_values_do_not_shorten_the_evidence() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        permit = start = await limiter.acquire()
        with pytest.raises(DailyBudgetExhaustedError):  # noqa: PT012 -- either call may raise
            while True:
                limiter.throttled(permit, 0.5)
                permit = await limiter.acquire()
        assert now() - start >= 15 * WINDOW

    run(main())


def test_waiters_get_the_suspected_error_too() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        limiter.throttled(await limiter.acquire(), 1.0)
        tasks = wait_for_many(limiter, 4)
        probe = await tasks[0]
        limiter.throttled(probe, 80_000.0)
        results = await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert all(isinstance(r, DailyBudgetExhaustedError) and r.suspected for r in results)

    run(main())


def test_a_retry_after_of_hours_means_the_daily_budget_and_raises(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        limiter.throttled(await limiter.acquire(), 80_000.0)
        with pytest.raises(DailyBudgetExhaustedError, match="the service asked to wait 22 h 13 min") as caught:
            await limiter.acquire()
        assert caught.value.suspected
        assert limiter.state().per_window == 97  # that says nothing about the second

    with caplog.at_level(logging.WARNING, "aiomutex.limits"):
        run(main())
    (record,) = caplog.records
    assert vars(record)["aiomutex_limit"] == 100_000


def test_a_probe_a_minute_can_lift_the_suspicion() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        await throttle_single_requests(limiter)
        await asyncio.sleep(61)
        probe, other = wait_for_many(limiter, 2)
        permit = await probe
        with pytest.raises(DailyBudgetExhaustedError):
            await other  # one a minute; the others do not wait
        limiter.throttled(permit)
        await asyncio.sleep(61)
        limiter.answered(await limiter.acquire())
        await asyncio.gather(*wait_for_many(limiter, 10))

    run(main())


def test_midnight_lifts_the_suspicion() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        limiter.throttled(await limiter.acquire(), 80_000.0)
        end = limiter._daily_budget.ends_at
        limiter._daily_budget.clock = lambda: end + 1.0
        start = now()
        limiter.answered(await limiter.acquire())
        assert now() - start < WINDOW  # not the 80,000 seconds
        await asyncio.gather(*wait_for_many(limiter, 10))

    run(main())
