"""One limiter on one event loop after another, and on loops with other clocks."""

# Some tests use private attributes, to set a clock or to assert that nothing leaked.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import threading

import pytest
import uvloop
from limits_support import most_in_a_second, take
from virtual_time import VirtualTimeLoop, run

from aiomutex.errors import ConfigurationError
from aiomutex.limits import LocalRateLimiter, Priority

WINDOW = 1.02


def test_one_limiter_serves_one_loop_after_another() -> None:
    limiter = LocalRateLimiter(5)
    times: list[float] = []
    for _ in range(3):
        times += asyncio.run(take(limiter, 3))
    assert most_in_a_second(times) <= 4


def test_waiters_of_a_closed_loop_are_dropped() -> None:
    limiter = LocalRateLimiter(1)

    async def leave_one_waiting() -> None:
        await limiter.acquire()
        limiter._waiters.join(asyncio.get_running_loop(), Priority.BULK, 0.0)

    asyncio.run(leave_one_waiting())
    assert limiter.state().waiting == 1

    async def later() -> int:
        await limiter.acquire()
        return limiter.state().waiting

    assert asyncio.run(later()) == 0


def test_on_an_unrelated_clock_the_last_window_counts_as_full() -> None:
    limiter = LocalRateLimiter(5)
    run(take(limiter, 3))

    async def later() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.stall(100)
        start = asyncio.get_running_loop().time()
        return await limiter.acquire() - start

    assert run(later()) == pytest.approx(WINDOW)


def test_use_by_two_loops_at_once_is_an_error() -> None:
    limiter = LocalRateLimiter()
    ready, done = threading.Event(), threading.Event()

    async def first() -> None:
        await limiter.acquire()
        ready.set()
        await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(first(),))
    thread.start()
    ready.wait()
    try:
        with pytest.raises(ConfigurationError) as caught:
            asyncio.run(take(limiter, 1))
    finally:
        done.set()
        thread.join()
    assert str(caught.value) == (
        "this LocalRateLimiter is in use by another event loop (0 waiting there); "
        "use one limiter per event loop, or share a budget with aiomutex.limits.redis"
    )


def test_it_works_on_uvloop_whose_clock_counts_milliseconds() -> None:
    async def main() -> list[float]:
        return await take(LocalRateLimiter(), 160)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        times = runner.run(main())
    assert most_in_a_second(times) <= 97
    assert len(times) == 160
