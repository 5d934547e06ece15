"""After a 429 the rate is lower, and quiet time raises it again: the rule, and the limiter on a virtual clock."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits_support import most_in_a_second, take, wait_for_many
from virtual_time import run

from aiomutex.limits import LocalRateLimiter, Priority
from aiomutex.limits.margin import Margin, Recovery

WINDOW = 1.02
FULL = Margin.below(100)
MINUTE, DAY = 60.0, 86_400.0


def after_429(recovery: Recovery, now: float) -> Recovery:
    return recovery.throttled(FULL, now, now + 1.0, lower=True)


async def get_throttled(limiter: LocalRateLimiter) -> float:
    """Get a 429 and end its pause of a second; return when it ended."""
    limiter.throttled(await limiter.acquire(), 1.0)
    limiter.answered(permit := await limiter.acquire())
    return permit


def test_after_a_stray_429_each_quiet_minute_brings_one_permit_until_all_are_back() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        await asyncio.sleep(1000)
        resumed = await get_throttled(limiter)
        seen: list[tuple[float, int]] = []
        while asyncio.get_running_loop().time() < resumed + 600:
            per_window = limiter.state().per_window
            if not seen or seen[-1][1] != per_window:
                seen.append((asyncio.get_running_loop().time() - resumed, per_window))
            await asyncio.sleep(0.5)
        assert seen == [(0.0, 95), (60.0, 96), (120.0, 97)]

    run(main())


def test_under_backlog_the_full_rate_returns_and_no_window_has_too_many_permits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        resumed = await get_throttled(limiter)
        # No caller joins the queue later: the limiter notices the time by itself.
        times = sorted(await take(limiter, 95 * 130, Priority.BULK))
        for start, end, permits in ((0, 59, 95), (61, 119, 96), (121, 130, 97)):
            part = [at for at in times if resumed + start < at < resumed + end]
            assert len(part) == pytest.approx((end - start) * permits / WINDOW, rel=0.002)
            assert most_in_a_second(part, WINDOW) <= permits
        assert most_in_a_second(times, WINDOW) <= 97
        await asyncio.sleep(2)
        assert most_in_a_second(await take(limiter, 200), WINDOW) == 97  # the burst from idle is whole again

    with caplog.at_level(logging.INFO, "aiomutex.limits"):
        run(main())
    assert [record.getMessage() for record in caplog.records if "while" in record.getMessage()] == [
        "no 429 for a while: from now on at most 96 requests in 1.02 s",
        "no 429 for a while: from now on at most 97 requests in 1.02 s",
    ]


def test_a_429_soon_after_each_raise_doubles_the_wait_up_to_a_day() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        await get_throttled(limiter)
        waits: list[float] = []
        for n in range(13):
            resumed, permits = await get_throttled(limiter), limiter.state().per_window
            await asyncio.sleep(min(MINUTE * 2**n, DAY) - 5)
            while limiter.state().per_window == permits:  # noqa: ASYNC110 -- nothing announces a raise
                await asyncio.sleep(1)
            waits.append(asyncio.get_running_loop().time() - resumed)
            await asyncio.sleep(500)
        assert waits[0] == pytest.approx(MINUTE)  # before the first raise there is nothing to double
        assert waits == pytest.approx([min(MINUTE * 2**n, DAY) for n in range(13)], abs=1.0)
        assert waits[-1] == pytest.approx(DAY, abs=1.0)

    run(main())


def test_one_raise_doubles_the_wait_once_and_a_raise_that_held_does_not() -> None:
    recovery = after_429(Recovery(), 1000.0)
    assert (recovery.permits(97, 1060.9), recovery.permits(97, 1061.0)) == (95, 96)
    early = after_429(recovery, 1061.0 + 599.9)
    assert early.wait == 2 * MINUTE
    assert after_429(early, 1700.0).wait == 2 * MINUTE  # no raise since
    assert after_429(recovery, 1121.0 + 599.9).wait == 2 * MINUTE  # the last raise counts


def test_once_the_full_rate_held_for_ten_minutes_the_wait_is_a_minute_again() -> None:
    slow = Recovery(lowest=95, since=0.0, wait=DAY)
    assert after_429(slow, 2 * DAY + 599).wait == DAY  # at most a day
    assert after_429(slow, 2 * DAY + 600).wait == MINUTE
    assert after_429(slow, DAY + 601).wait == DAY  # held, but this was not the full rate


def test_the_429s_of_probes_delay_the_recovery_without_lowering_the_rate() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        permit = await limiter.acquire()
        for _ in range(3):
            limiter.throttled(permit, 50.0)
            permit = await limiter.acquire()
        limiter.answered(permit)
        assert limiter.state().per_window == 95
        await asyncio.sleep(60)
        assert limiter.state().per_window == 96

    run(main())


@pytest.mark.parametrize(("per_second", "permits", "floor"), [(1, 1, 1), (2, 1, 1), (10, 9, 8), (100, 97, 80)])
def test_no_number_of_429s_lowers_the_rate_below_four_fifths_of_the_limit(
    per_second: int, permits: int, floor: int
) -> None:
    full, recovery = Margin.below(per_second), Recovery()
    assert full.permits == permits
    for _ in range(100):
        recovery = recovery.throttled(full, 0.0, 1.0, lower=True)
    assert recovery.permits(permits, 0.0) == floor


@given(
    st.lists(st.tuples(st.floats(0, 2 * DAY), st.booleans()), max_size=40),
    st.integers(1, 200),
    st.floats(0, 5 * DAY),
)
def test_the_permits_stay_between_their_floor_and_the_full_rate(
    throttled: list[tuple[float, bool]], per_second: int, quiet: float
) -> None:
    full, recovery, now = Margin.below(per_second), Recovery(), 0.0
    for pause, lower in throttled:
        now += pause
        before = recovery.permits(full.permits, now)
        recovery = recovery.throttled(full, now, now + 1.0, lower=lower)
        after = recovery.permits(full.permits, now)
        assert after == (max(full.min_permits, before - full.step) if lower else before)
        assert MINUTE <= recovery.wait <= DAY
    assert full.min_permits <= recovery.permits(full.permits, now + quiet) <= full.permits
    assert recovery.permits(full.permits, now + 60 * DAY) == full.permits


def test_the_totals_count_permits_waits_429s_and_pauses() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(used_today=50)
        permits = await take(limiter, 97)
        assert (limiter.state().granted_total, limiter.state().waits_total) == (97, 0)
        start = asyncio.get_running_loop().time()
        waits = [at - start for at in await asyncio.gather(*wait_for_many(limiter, 10))]
        state = limiter.state()
        assert (state.granted_total, state.waits_total) == (107, 10)
        assert state.wait_seconds_total == pytest.approx(sum(waits))
        limiter.throttled(permits[0], 1.0)
        limiter.throttled(permits[1], 1.0)  # covered by the same pause
        await get_throttled(limiter)
        state = limiter.state()
        assert (state.granted_total, state.throttled_total, state.pauses_total) == (109, 3, 1)

    run(main())


def test_a_permit_of_a_cancelled_caller_is_not_counted() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        limiter.throttled(await limiter.acquire(), 1.0)
        first, second = wait_for_many(limiter, 2)
        asyncio.get_running_loop().call_later(1.0 + 5e-10, first.cancel)  # in the loop iteration that grants it
        await second
        assert limiter.state().granted_total == limiter.state().used_today == 2

    run(main())
