# Some tests use private attributes, to set a clock or to assert that nothing leaked.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits_support import most_in_a_second, take
from virtual_time import VirtualTimeLoop, run

from aiomutex._util.checks import describe
from aiomutex.errors import ConfigurationError, DailyBudgetExhaustedError
from aiomutex.limits import LimiterState, LocalRateLimiter, Priority, RateLimiter

WINDOW = 1.02


def test_it_is_a_rate_limiter_with_a_state() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        assert isinstance(limiter, RateLimiter)
        async with limiter:
            pass
        state = limiter.state()
        assert isinstance(state, LimiterState)
        assert (state.used, state.per_window, state.window, state.used_today, state.per_day) == (
            1,
            97,
            1.02,
            1,
            100_000,
        )
        assert (state.waiting, state.paused_for) == (0, 0.0)

    run(main())


def test_the_state_of_a_limiter_that_keeps_no_totals_says_zero() -> None:
    state = LimiterState(
        used=1,
        per_window=2,
        window=1.0,
        used_today=3,
        per_day=4,
        resets_at=datetime.now(UTC),
        waiting=5,
        paused_for=6.0,
    )
    totals = (
        state.granted_total,
        state.waits_total,
        state.wait_seconds_total,
        state.throttled_total,
        state.pauses_total,
    )
    assert totals == (0, 0, 0.0, 0, 0)


def test_the_repr_states_facts() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(used_today=12_304)
        await take(limiter, 41)
        assert repr(limiter) == (
            "<LocalRateLimiter 41 of 97 permits used in 1.02 s · 12,345 of 100,000 today · 0 waiting>"
        )
        await take(limiter, 56)
        waiting = [asyncio.ensure_future(limiter.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        assert repr(limiter) == (
            "<LocalRateLimiter 97 of 97 permits used in 1.02 s · 12,401 of 100,000 today · 3 waiting>"
        )
        limiter.throttled(asyncio.get_running_loop().time(), 2.0)
        assert repr(limiter).endswith("· 3 waiting · paused for 2.0 s>")
        for task in waiting:
            task.cancel()

    run(main())


def test_the_state_can_be_read_without_an_event_loop() -> None:
    assert LocalRateLimiter().state().used == 0


def test_fifty_from_idle_do_not_wait() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for priority in Priority:
            assert await take(LocalRateLimiter(), 50, priority) == [start] * 50

    run(main())


@pytest.mark.parametrize("safe", [False, True])
def test_two_hundred_tasks_get_the_full_rate_and_never_more(safe: bool) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(safe=safe)
        permits, window = (95, 1.03) if safe else (97, 1.02)
        times = [t for _ in range(15) for t in await take(limiter, 200)]
        assert most_in_a_second(times) <= permits
        assert most_in_a_second(times, window) <= permits
        assert len(times) / (max(times) - min(times)) >= 0.99 * permits / window

    run(main())


@pytest.mark.parametrize(
    ("per_second", "permits"), [(1, 1), (2, 1), (3, 2), (5, 4), (10, 9), (50, 48), (100, 97), (1000, 970)]
)
@pytest.mark.parametrize("priority", Priority)
def test_limits_of_any_size_are_kept_and_fully_used(per_second: int, permits: int, priority: Priority) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(per_second)
        times = await take(limiter, permits * 5, priority)
        assert most_in_a_second(times) <= permits <= per_second
        assert max(times) - min(times) <= 5 * WINDOW + 0.01

    run(main())


def test_permits_are_evenly_spaced_under_backlog() -> None:
    async def main() -> None:
        times = await take(LocalRateLimiter(), 400)
        gaps = [b - a for a, b in pairwise(times[97:])]
        assert min(gaps) == pytest.approx(WINDOW / 97, abs=1e-6)
        assert max(gaps) == pytest.approx(WINDOW / 97, abs=1e-6)

    run(main())


def test_after_a_stalled_loop_the_limiter_catches_up_by_two_permits_only() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        limiter = LocalRateLimiter()
        await take(limiter, 97)
        tasks = [asyncio.ensure_future(limiter.acquire()) for _ in range(97)]
        await tasks[20]
        loop.stall(0.3)
        times = await asyncio.gather(*tasks)
        late = times[21]
        assert sum(t == late for t in times) == 3
        assert most_in_a_second(times) <= 97

    run(main())


def test_an_interactive_call_goes_ahead_of_bulk_work() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        loop = asyncio.get_running_loop()
        bulk = [asyncio.ensure_future(limiter.acquire(Priority.BULK)) for _ in range(400)]
        waits: list[float] = []
        # From the start of a bulk run on, because its burst leaves room.
        for _ in range(60):
            await asyncio.sleep(0.05)
            asked = loop.time()
            waits.append(await limiter.acquire() - asked)
        await asyncio.gather(*bulk)
        assert max(waits) <= 0.025

    run(main())


def test_bulk_work_gets_at_least_every_eighth_permit() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        await take(limiter, 97)
        order: list[Priority] = []

        async def one(priority: Priority) -> None:
            await limiter.acquire(priority)
            order.append(priority)

        await asyncio.gather(*(one(p) for p in [Priority.INTERACTIVE] * 200 + [Priority.BULK] * 20))
        shared = order[:160]
        assert shared.count(Priority.BULK) == 20
        assert all(Priority.BULK in shared[i : i + 8] for i in range(150))

    run(main())


def test_order_within_a_priority_is_kept() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter()
        served: list[int] = []

        async def one(number: int) -> None:
            await limiter.acquire()
            served.append(number)

        await asyncio.gather(*(one(n) for n in range(300)))
        assert served == list(range(300))

    run(main())


Arrival = tuple[float, bool, float | None, int]
arrivals = st.lists(
    st.tuples(
        st.floats(0, 0.4),  # pause before the arrivals
        st.booleans(),  # bulk
        st.none() | st.floats(0, 0.5),  # cancelled after this long
        st.integers(1, 60),  # how many at once
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(arrivals, st.sets(st.integers(0, 600), max_size=3), st.sampled_from([1, 3, 20, 100]))
def test_no_window_exceeds_its_permits_and_every_caller_is_served(
    pattern: list[Arrival], throttled: set[int], per_second: int
) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(per_second)
        granted: list[float] = []
        served: dict[Priority, list[int]] = {Priority.INTERACTIVE: [], Priority.BULK: []}

        async def one(number: int, priority: Priority) -> None:
            permit = await limiter.acquire(priority)
            granted.append(permit)
            served[priority].append(number)
            if len(granted) in throttled:
                limiter.throttled(permit)
            else:
                limiter.answered(permit)

        tasks: list[tuple[asyncio.Task[None], bool]] = []
        loop = asyncio.get_running_loop()
        for before, bulk, cancelled_after, count in pattern:
            await asyncio.sleep(before)
            for _ in range(min(count, 3 * per_second)):
                task = loop.create_task(one(len(tasks), Priority(bulk)))
                tasks.append((task, cancelled_after is not None))
                if cancelled_after is not None:
                    loop.call_later(cancelled_after, task.cancel)
        async with asyncio.timeout(len(tasks) * 1.1 + 60):
            await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
        permits = 97 * per_second // 100 or 1
        assert most_in_a_second(granted) <= permits
        assert most_in_a_second(granted, WINDOW) <= permits
        assert all(task.done() and not task.cancelled() for task, doomed in tasks if not doomed)
        for numbers in served.values():
            assert numbers == sorted(numbers)
        assert limiter.state().waiting == 0
        assert limiter.state().used_today == len(granted)

    run(main())


# Arguments


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1.5, 100.0, True, "100", None])
@pytest.mark.parametrize("field", ["per_second", "per_day"])
def test_a_limit_must_be_a_positive_integer(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LocalRateLimiter(**{field: value})
    assert str(caught.value) == f"{field} must be an integer from 1, not {describe(value)}"


def test_used_today_may_be_zero_but_not_negative() -> None:
    LocalRateLimiter(used_today=0)
    with pytest.raises(ConfigurationError, match="used_today must be an integer from 0, not -1"):
        LocalRateLimiter(used_today=-1)


# Log records and errors


def test_long_waits_are_logged_once_not_per_call(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await take(LocalRateLimiter(), 800)

    with caplog.at_level(logging.WARNING, "aiomutex.limits"):
        run(main())
    (record,) = caplog.records
    assert "requests wait 5.0 s for a permit" in record.getMessage()
    assert vars(record)["aiomutex_permit_wait"] > 4.9


def test_waiters_get_an_error_when_the_budget_runs_out() -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(per_day=100)
        results = await asyncio.gather(*(limiter.acquire() for _ in range(130)), return_exceptions=True)
        assert [isinstance(result, float) for result in results] == [True] * 100 + [False] * 30
        errors = [r for r in results if isinstance(r, DailyBudgetExhaustedError)]
        assert len(errors) == 30
        assert len({id(e) for e in errors}) == 30
        # At once, before anything is sent.
        with pytest.raises(DailyBudgetExhaustedError, match=r"^100 of 100 requests used today; the budget resets at "):
            await limiter.acquire()

    run(main())
