# Some tests use private attributes, to set a clock or to assert that nothing leaked.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import logging
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
from limits_support import most_in_a_second, wait_for_many
from virtual_time import VirtualTimeLoop, run

from aiomutex.limits import LocalRateLimiter
from aiomutex.limits.pause import PROBE_TIMEOUT, Pause

WINDOW = 1.02


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_429_pauses_every_caller_for_as_long_as_the_service_asks() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        permit = await limiter.acquire()
        waiting = wait_for_many(limiter, 3)  # the fast path granted these already
        await asyncio.sleep(0)
        limiter.throttled(permit + 0.0, 7.0)
        start = now()
        assert limiter.state().paused_for == 7.0
        assert await limiter.acquire() == pytest.approx(start + 7.0)
        await asyncio.gather(*waiting)

    run(main())


def test_without_retry_after_the_wait_is_a_window_and_doubles_with_each_failed_probe() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        permit = await limiter.acquire()
        for doubling in range(4):
            start = now()
            limiter.throttled(permit)
            permit = await limiter.acquire()
            factor = (permit - start) / (WINDOW * 2**doubling)
            assert 1 <= factor <= 1.25 + 1e-6

    run(main())


def test_late_429s_of_one_burst_do_not_add_up() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        permits = [await limiter.acquire() for _ in range(90)]
        limiter.throttled(permits[0], 3.0)
        end = now() + 3.0
        for permit in permits[1:]:
            await asyncio.sleep(0.01)
            limiter.throttled(permit, 5.0)
        assert limiter.state().per_window == 95  # one step down, not ninety
        assert await limiter.acquire() == pytest.approx(end)
        await asyncio.sleep(0.2)
        limiter.throttled(permits[5], 5.0)  # still from before the pause
        limiter.answered(now())
        assert limiter.state().paused_for == 0

    run(main())


def test_one_probe_ends_the_pause_and_the_others_follow_evenly() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        limiter.throttled(await limiter.acquire(), 1.0)
        tasks = wait_for_many(limiter, 200)
        probe = await tasks[0]
        await asyncio.sleep(2.0)
        assert sum(task.done() for task in tasks) == 1
        limiter.answered(probe)
        resumed = now()
        times = sorted((await asyncio.gather(*tasks))[1:])
        assert times[0] > resumed
        gaps = [b - a for a, b in pairwise(times)]
        assert min(gaps) >= WINDOW / 95 - 1e-6
        assert times[-1] - resumed == pytest.approx(199 * WINDOW / 95, rel=0.02)

    run(main())


def test_no_burst_follows_a_pause_without_waiters() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        limiter.throttled(await limiter.acquire(), 100.0)
        await asyncio.sleep(200.0)
        limiter.answered(await limiter.acquire())
        times = await asyncio.gather(*wait_for_many(limiter, 30))
        assert most_in_a_second(times, 0.1) <= 10

    run(main())


def test_a_failed_probe_pauses_again() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        limiter.throttled(await limiter.acquire(), 1.0)
        tasks = wait_for_many(limiter, 3)
        probe = await tasks[0]
        await asyncio.sleep(0.1)
        limiter.throttled(probe, 2.0)
        assert limiter.state().paused_for == pytest.approx(2.0)
        again = await tasks[1]
        assert again == pytest.approx(probe + 2.1)
        limiter.answered(again)
        await tasks[2]
        assert limiter.state().per_window == 95  # only the first 429 of a pause lowers the permits

    run(main())


def test_a_probe_without_a_reported_response_does_not_block_forever() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        limiter.throttled(await limiter.acquire(), 1.0)
        first, second, third = wait_for_many(limiter, 3)
        lost = await first
        assert await second == pytest.approx(lost + PROBE_TIMEOUT)
        # A late response of the lost probe ends the pause, too.
        limiter.answered(lost)
        assert await third < lost + PROBE_TIMEOUT + 0.1

    run(main())


def test_a_probe_cancelled_before_it_was_sent_is_replaced_at_once() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        limiter.throttled(await limiter.acquire(), 1.0)
        first, second = wait_for_many(limiter, 2)
        asyncio.get_running_loop().call_later(1.0, first.cancel)  # in the loop iteration that grants it
        start = now()
        assert await second == pytest.approx(start + 1.0, abs=0.01)

    run(main())


@pytest.mark.parametrize(
    ("stall", "passed", "wait"),
    [(0.0, 0.0, 100.0), (30.0, 30.0, 70.0), (500.0, 0.0, WINDOW)],
    ids=["same clock", "same clock, later", "another clock"],
)
def test_a_pause_continues_on_a_loop_with_the_same_clock_and_otherwise_sends_a_probe_at_once(
    stall: float, passed: float, wait: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = LocalRateLimiter()
    clock = SimpleNamespace(monotonic=lambda: 5.0)
    monkeypatch.setattr("aiomutex.limits.queueing.time", clock)

    async def get_throttled() -> None:
        limiter.throttled(await limiter.acquire(), 100.0)

    async def waits() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.stall(stall)
        start = now()
        return await limiter.acquire() - start

    run(get_throttled())
    clock.monotonic = lambda: 5.0 + passed
    assert run(waits()) == pytest.approx(wait, abs=0.001)


def test_429s_lower_the_permits_step_by_step_to_a_floor() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        seen: list[int] = []
        for _ in range(12):
            limiter.throttled(await limiter.acquire(), 1.0)
            seen.append(limiter.state().per_window)
            limiter.answered(await limiter.acquire())
            await asyncio.sleep(2)
        assert seen == [95, 93, 91, 89, 87, 85, 83, 81, 80, 80, 80, 80]
        assert most_in_a_second(await asyncio.gather(*wait_for_many(limiter, 300))) <= 80

    run(main())


@pytest.mark.parametrize("hint", [-1.0, math.nan])
def test_an_invalid_retry_after_is_ignored(hint: float) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        start = await limiter.acquire()
        limiter.throttled(start, hint)
        assert WINDOW <= await limiter.acquire() - start <= 1.26 * WINDOW

    run(main())


def test_a_retry_after_of_zero_does_not_cause_a_busy_loop() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        permit = start = await limiter.acquire()
        for _ in range(20):
            limiter.throttled(permit, 0.0)
            permit = await limiter.acquire()
        assert permit - start >= 20 * WINDOW / 10 - 1e-6

    run(main())


def test_a_response_changes_nothing_without_a_pause() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        permit = await limiter.acquire()
        before = limiter.state()
        limiter.answered(permit)
        assert limiter.state() == before

    run(main())


def test_a_response_to_an_earlier_request_does_not_end_a_pause() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        old, new = await limiter.acquire(), await limiter.acquire()
        await asyncio.sleep(0.1)
        limiter.throttled(new, 3.0)
        limiter.answered(old)
        assert limiter.state().paused_for == 3.0

    run(main())


def test_a_pause_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        permits = [await limiter.acquire() for _ in range(20)]
        for permit in permits:
            limiter.throttled(permit, 2.0)
        limiter.answered(await limiter.acquire())

    with caplog.at_level(logging.INFO, "aiomutex.limits"):
        run(main())
    assert [record.getMessage() for record in caplog.records] == [
        (
            "the service answered 429: pausing for 2.0 s, then sending a single request; "
            "from now on at most 95 requests in 1.02 s, one more after each 1 min without a 429"
        ),
        "the service accepts requests again",
    ]
    assert vars(caplog.records[0]).items() >= {"aiomutex_paused_for": 2.0, "aiomutex_permits": 95}.items()


def test_the_wait_ends_at_the_latest_deadline_not_the_last_reported() -> None:
    pause = Pause()
    assert pause.throttled(1.0, 60.0, 2.0, window=1.0, today=0)
    assert pause.throttled(3.0, 1.0, 4.0, window=1.0, today=0)
    assert pause.until == 62.0
