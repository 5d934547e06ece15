# Some tests use private attributes, to set a clock or to assert that nothing leaked.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import contextlib
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run

from aiomutex.errors import DailyBudgetExhaustedError
from aiomutex.limits import LocalRateLimiter
from aiomutex.limits.daily_budget import DailyBudget, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
HOUR = 3600.0


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def spend(day: DailyBudget, count: int) -> None:
    for _ in range(count):
        day.take()


def test_the_error_says_how_much_is_used_and_when_it_resets() -> None:
    clock = Clock(NOON + 8 * HOUR + 48 * 60)
    day = DailyBudget(100_000, used=100_000, clock=clock)
    with pytest.raises(DailyBudgetExhaustedError) as caught:
        day.take()
    assert str(caught.value) == (
        "100,000 of 100,000 requests used today; the budget resets at 2026-11-24T00:00:00Z (in 3 h 12 min)"
    )
    assert caught.value.resets_at == datetime(2026, 11, 24, tzinfo=UTC)
    assert (caught.value.used, caught.value.limit, caught.value.suspected) == (100_000, 100_000, False)


@pytest.mark.parametrize(
    ("seconds", "text"), [(11_520, "3 h 12 min"), (720, "12 min"), (59.6, "1 min"), (40, "40 s"), (-3, "0 s")]
)
def test_durations_are_formatted_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_budget_resets_at_midnight_utc() -> None:
    clock = Clock()
    day = DailyBudget(10, used=10, clock=clock)
    clock.now = NOON + 12 * HOUR - 0.001
    with pytest.raises(DailyBudgetExhaustedError):
        day.take()
    clock.now = NOON + 12 * HOUR
    spend(day, 10)
    with pytest.raises(DailyBudgetExhaustedError):
        day.take()


def test_a_clock_set_back_does_not_reset_the_budget() -> None:
    clock = Clock()
    day = DailyBudget(100, clock=clock)
    spend(day, 60)
    clock.now += 24 * HOUR  # the clock is set to a wrong date …
    spend(day, 30)
    clock.now -= 24 * HOUR  # … and corrected: all ninety were sent today
    spend(day, 10)
    with pytest.raises(DailyBudgetExhaustedError):
        day.take()
    clock.now += 24 * HOUR  # true this time, but unknowable: the forty count again
    spend(day, 60)
    with pytest.raises(DailyBudgetExhaustedError):
        day.take()
    clock.now += 24 * HOUR
    spend(day, 100)


@pytest.mark.parametrize("days", [1, 3, 400])
def test_a_clock_set_back_and_corrected_does_not_reset_the_budget(days: int) -> None:
    clock = Clock()
    day = DailyBudget(100, clock=clock)
    spend(day, 90)
    clock.now -= days * 24 * HOUR
    spend(day, 6)
    clock.now += days * 24 * HOUR
    spend(day, 4)
    for moved in (-days, days, 0):
        clock.now += moved * 24 * HOUR
        with pytest.raises(DailyBudgetExhaustedError):
            day.take()
    clock.now += 24 * HOUR
    spend(day, 100)


def test_yesterdays_requests_count_only_while_the_clock_shows_yesterday() -> None:
    clock = Clock()
    day = DailyBudget(100, clock=clock)
    spend(day, 60)
    clock.now += 24 * HOUR
    spend(day, 30)
    clock.now -= 24 * HOUR
    assert used(day) == 90
    spend(day, 5)
    clock.now += 24 * HOUR
    assert used(day) == 35


@pytest.mark.parametrize("days", [2, 400])
def test_after_a_clock_was_days_ahead_the_budget_returns_by_the_second_midnight(
    days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    uptime = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: uptime)

    def pass_by(hours: float) -> None:
        nonlocal uptime
        uptime += hours * HOUR
        clock.now += hours * HOUR

    day = DailyBudget(100, clock=clock)
    clock.now += days * 24 * HOUR
    spend(day, 100)
    clock.now -= days * 24 * HOUR
    for hours in (0, 12, 11):
        pass_by(hours)
        with pytest.raises(DailyBudgetExhaustedError):
            day.take()
    pass_by(13)
    spend(day, 100)
    pass_by(24)
    spend(day, 100)


def used(day: DailyBudget) -> int:
    day.follow_clock()
    return day.used


# What happens on one day: how many days the clock is set back, and how many requests are attempted then.
SETBACKS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=8)


@given(st.lists(SETBACKS, max_size=6))
def test_no_day_exceeds_its_budget_if_the_clock_starts_each_day_right_and_is_set_back_later(
    days: list[list[tuple[int, int]]],
) -> None:
    clock = Clock()
    day = DailyBudget(10, clock=clock)
    for number, setbacks in enumerate(days):
        granted = 0
        for days_back, attempts in [(0, 1), *setbacks]:
            clock.now = NOON + (number - days_back) * 24 * HOUR
            for _ in range(attempts):
                with contextlib.suppress(DailyBudgetExhaustedError):
                    day.take()
                    granted += 1
        assert 1 <= granted <= 10


def with_clock(limiter: LocalRateLimiter, clock: Callable[[], float]) -> LocalRateLimiter:
    limiter._daily_budget = DailyBudget(limiter._daily_budget.limit, clock=clock)
    return limiter


def test_the_limiter_follows_a_wall_clock_that_jumps() -> None:
    async def main() -> None:
        import asyncio  # noqa: PLC0415 -- only this test sleeps

        clock = Clock()
        limiter = with_clock(LocalRateLimiter(per_day=50), clock)
        for _ in range(50):
            await limiter.acquire()
        clock.now += 24 * HOUR
        await limiter.acquire()
        assert limiter.state().used_today == 1
        assert limiter.state().resets_at == datetime(2026, 11, 25, tzinfo=UTC)
        for _ in range(9):
            await limiter.acquire()
        # The fast path notices within a second, too.
        clock.now += 24 * HOUR
        await asyncio.sleep(1.01)
        await limiter.acquire()
        assert limiter.state().used_today == 1

    run(main())


def test_used_today_counts_against_the_budget() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(per_day=10, used_today=8)
        await limiter.acquire()
        await limiter.acquire()
        with pytest.raises(DailyBudgetExhaustedError):
            await limiter.acquire()
        over = LocalRateLimiter(per_day=10, used_today=12)
        with pytest.raises(DailyBudgetExhaustedError, match="12 of 10 requests used today"):
            await over.acquire()

    run(main())


def test_warnings_come_at_80_and_95_per_cent_once_a_day(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    day = DailyBudget(1000, clock=clock)
    with caplog.at_level(logging.WARNING, "aiomutex.limits"):
        spend(day, 799)
        assert caplog.records == []
        spend(day, 1)
        assert caplog.messages == [
            "800 of 1,000 requests used today (80%); the budget resets at 2026-11-24T00:00:00Z (in 12 h 0 min)"
        ]
        assert vars(caplog.records[0]).items() >= {"aiomutex_used": 800, "aiomutex_limit": 1000}.items()
        spend(day, 149)
        assert len(caplog.records) == 1
        spend(day, 51)
        assert len(caplog.records) == 2
        assert "950 of 1,000 requests used today (95%)" in caplog.messages[1]
        clock.now += 24 * HOUR
        spend(day, 800)
        assert len(caplog.records) == 3


def test_the_fast_path_warns_at_exactly_the_request_that_reaches_a_threshold(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(per_day=100)
        for count in range(1, 97):
            await limiter.acquire()
            assert len(caplog.records) == (count >= 80) + (count >= 95)

    with caplog.at_level(logging.WARNING, "aiomutex.limits"):
        run(main())


def test_a_start_above_a_threshold_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "aiomutex.limits"):
        day = DailyBudget(100, used=96, clock=Clock())
        spend(day, 3)
    assert len(caplog.records) == 1


def test_a_synced_count_warns_once_a_day(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    day = DailyBudget(100, clock=clock)
    with caplog.at_level(logging.WARNING, "aiomutex.limits"):
        day.sync(day.day, 79)
        assert (day.used, len(caplog.records)) == (79, 0)
        day.sync(day.day, 80)
        day.sync(day.day, 90)
        assert (day.used, len(caplog.records)) == (90, 1)
        day.sync(day.day + 1, 80)
        assert (day.used, len(caplog.records)) == (80, 2)
    assert day.day == int(NOON // 86_400) + 1
    assert day.resets_at == datetime(2026, 11, 25, tzinfo=UTC)


def test_a_permit_given_back_does_not_count() -> None:
    day = DailyBudget(10, used=1, clock=Clock())
    day.give_back()
    assert day.used == 0
    day.give_back()
    assert day.used == 0


def test_the_suspected_error_states_its_evidence() -> None:
    day = DailyBudget(100, used=12, clock=Clock())
    suspicion = (
        "so the daily budget is probably exhausted (12 of 100 requests counted here; other clients may have used the "
        "rest); it resets at 2026-11-24T00:00:00Z (in 12 h 0 min)"
    )
    assert str(day.suspected_error(7200.0)) == f"the service asked to wait 2 h 0 min, {suspicion}"
    evidence = "the service keeps answering single requests with 429"
    assert str(day.suspected_error(None)) == f"{evidence}, {suspicion}"
    assert (day.suspected_error(None).used, day.suspected_error(None).limit) == (12, 100)
