"""Cancelled callers lose no permit and disturb nobody else."""

# Some tests use private attributes, to set a clock or to assert that nothing leaked.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import random

import pytest
from limits_support import most_in_a_second, take
from virtual_time import run

from aiomutex.limits import LocalRateLimiter, Priority

WINDOW = 1.02


def test_a_storm_of_cancellations_loses_no_permit_and_keeps_the_order() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        random_ = random.Random(3)
        served: list[tuple[int, float]] = []

        async def one(number: int) -> None:
            served.append((number, await limiter.acquire(Priority(number % 2))))

        tasks = [asyncio.ensure_future(one(n)) for n in range(5000)]
        doomed = random_.sample(tasks, 4500)
        for index, task in enumerate(doomed):
            if index % 300 == 0:
                await asyncio.sleep(0.011)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for priority in Priority:
            numbers = [n for n, _ in served if n % 2 == priority]
            assert numbers == sorted(numbers)
        times = [t for _, t in served]
        assert {n for n, _ in served} >= set(range(5000)) - {tasks.index(t) for t in doomed}
        assert most_in_a_second(times) <= 97
        assert limiter.state().waiting == 0
        assert limiter.state().used_today == len(served)
        # No permit was lost: the rate stayed full to the end.
        assert len(times) / (max(times) - min(times)) >= 0.97 * 97 / WINDOW

    run(main())


def test_a_permit_granted_to_a_task_cancelled_in_the_same_iteration_goes_to_the_next() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limiter = LocalRateLimiter()
        await take(limiter, 97)
        first, second = (asyncio.ensure_future(limiter.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        limiter._waiters.grant(Priority.INTERACTIVE, loop.time())  # what the timer does
        limiter._log.append(loop.time())
        limiter._daily_budget.take()
        first.cancel()
        assert await second
        assert first.cancelled()
        assert limiter.state().used_today == 98
        assert len(limiter._log) == 97  # no permit was lost
        assert sum(t > loop.time() - WINDOW for t in limiter._log) <= 97

    run(main())


@pytest.mark.parametrize("moment", [-5e-10, 5e-10], ids=["before", "after"])
def test_the_next_waiter_gets_the_permit_of_a_task_cancelled_as_it_is_granted(moment: float) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(per_second=1)
        start = await limiter.acquire()
        first, second, third = (asyncio.ensure_future(limiter.acquire()) for _ in range(3))
        await asyncio.sleep(0)
        # Within the resolution of the loop's clock around the time at which the permit is due.
        asyncio.get_running_loop().call_at(start + WINDOW + moment, first.cancel)
        assert await second == pytest.approx(start + WINDOW)
        assert first.cancelled()
        assert await third == pytest.approx(start + 2 * WINDOW)
        assert limiter.state().used_today == 3

    run(main())


def test_cancelling_the_only_waiter_stops_the_timer() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        await take(limiter, 97)
        task = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0)
        assert limiter._timer is None
        assert limiter.state().waiting == 0
        await asyncio.sleep(2)
        before = asyncio.get_running_loop().time()
        assert await limiter.acquire() == before

    run(main())


def test_a_waiter_may_have_a_timeout() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(1)
        await limiter.acquire()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await limiter.acquire()
        assert await limiter.acquire() == pytest.approx(1000.0 + WINDOW)

    run(main())
