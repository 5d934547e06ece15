"""The rate limits, on a clock that the tests move."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from aiomutex.emulator import Clock, Limits

if TYPE_CHECKING:
    from .conftest import Start

# Binary fractions: sums and differences are exact.
START = 1_000_000.0
TICK = 1 / 128


def test_request_101_in_a_second_is_rejected() -> None:
    limits = Limits()
    assert [limits.admit(START + n * TICK / 2) for n in range(101)] == [None] * 100 + ["second"]
    assert (limits.accepted, limits.rejected) == (100, 1)


def test_a_sliding_window_accepts_again_when_its_first_request_is_a_second_old() -> None:
    limits = Limits(2)
    limits.admit(START)
    limits.admit(START + 0.5)
    assert limits.admit(START + 1 - TICK) == "second"
    assert limits.wait(START + 1 - TICK) == TICK
    assert limits.admit(START + 1) is None
    assert limits.admit(START + 1) == "second"
    assert limits.admit(START + 1.5) is None


def test_a_fixed_window_resets_with_each_second_of_the_clock() -> None:
    limits = Limits(2, window="fixed")
    assert [limits.admit(START + 0.875) for _ in range(3)] == [None, None, "second"]
    assert limits.wait(START + 0.875) == 0.125
    assert [limits.admit(START + 1) for _ in range(3)] == [None, None, "second"]


def test_no_second_has_more_accepted_requests_than_the_limit() -> None:
    limits = Limits(5)
    accepted = [at for at in (START + n * 3 * TICK for n in range(500)) if limits.admit(at) is None]
    assert len(accepted) > 50
    assert all(later - earlier >= 1 for earlier, later in zip(accepted, accepted[5:], strict=False))


def test_the_daily_budget_resets_at_midnight_utc() -> None:
    midnight = datetime(2026, 11, 24, tzinfo=UTC).timestamp()
    limits = Limits(per_day=3)
    assert [limits.admit(midnight - 4 + n) for n in range(4)] == [None, None, None, "day"]
    assert limits.used_today(midnight - 1) == 3
    assert limits.used_today(midnight) == 0
    assert limits.admit(midnight) is None
    assert limits.used_today(midnight) == 1


def test_limits_that_are_not_enforced_still_count() -> None:
    limits = Limits(1, 1, enforced=False)
    assert {limits.admit(START) for _ in range(5)} == {None}
    assert (limits.accepted, limits.used_today(START)) == (5, 5)


def test_the_busiest_second_is_exact() -> None:
    limits = Limits()
    for at in (0, 0.75, 0.875, 1, 1.25, 1.75, 1.875, 5, 5.5):
        limits.arrive(START + at)
    assert limits.busiest_second() == 4  # after 0.75, up to 1.75
    assert [limits.rate(START + at) for at in (5.75, 6.25, 6.5)] == [2, 1, 0]


def test_the_memory_of_the_limits_is_bounded() -> None:
    limits = Limits(100, 1_000_000)
    for n in range(20_000):
        limits.arrive(START + n * TICK)
        limits.admit(START + n * TICK)
    assert len(limits._arrivals) == 128  # pyright: ignore[reportPrivateUsage]
    assert len(limits._counted) <= 128  # pyright: ignore[reportPrivateUsage]


def test_a_limit_below_1_is_an_error() -> None:
    with pytest.raises(ValueError, match="must be 1 or more, not 0 and 100000"):
        Limits(0)


async def test_the_limit_applies_on_arrival_whatever_the_latency(start: Start) -> None:
    api = await start(groups=1, latency=0.1)
    api.emulator.clock.freeze()
    statuses = [reply.status for reply in await asyncio.gather(*(api.get("1") for _ in range(103)))]
    assert (statuses.count(200), statuses.count(429)) == (100, 3)
    assert api.emulator.busiest_second() == 103
    api.emulator.clock.advance(1)
    assert (await api.get("1")).status == 200


async def test_requests_without_a_valid_key_use_no_budget(start: Start) -> None:
    api = await start(per_second=1, key="right")
    api.emulator.clock.freeze()
    assert [(await api.send("GET", "/api/1/mutexes", key=key)).status for key in ("x", "x", "right")] == [401, 401, 200]
    assert api.emulator.used_today == 1


async def test_an_invalid_request_uses_budget(start: Start) -> None:
    api = await start(per_second=1)
    api.emulator.clock.freeze()
    assert [(await api.get("9")).status for _ in range(2)] == [404, 429]


async def test_clear_history_resets_counts_and_keeps_groups(start: Start) -> None:
    api = await start(groups=1, per_second=1)
    api.emulator.clock.freeze()
    await api.edit("1", {"name": "x"})
    api.emulator.clear_history()
    counts = (api.emulator.used_today, api.emulator.busiest_second(), len(api.emulator.requests))
    assert (counts, list(api.emulator.commits), dict(api.emulator.writes)) == ((0, 0, 0), [], {})
    assert (await api.get("1")).status == 200
    assert api.emulator.groups["1"].name == "x"


def test_a_clock_runs_freezes_and_only_moves_forward() -> None:
    clock = Clock()
    assert abs(clock.utc() - datetime.now(UTC)) < timedelta(seconds=1)
    clock.unfreeze()
    assert abs(clock.utc() - datetime.now(UTC)) < timedelta(seconds=1)
    clock.freeze()
    frozen = clock.now()
    assert repr(clock).startswith("<Clock frozen at ")
    assert clock.now() == frozen
    clock.advance(10)
    assert clock.now() == frozen + 10
    clock.move_to(datetime(2040, 1, 1, 23, tzinfo=UTC))
    assert clock.until_midnight() == 3600
    clock.unfreeze()
    assert repr(clock).startswith("<Clock running at ")
    assert 0 <= clock.until_midnight() <= 3600
    assert clock.utc() >= datetime(2040, 1, 1, 23, tzinfo=UTC)
    before = clock.now()
    clock.advance(100)
    assert clock.now() >= before + 100
    with pytest.raises(ValueError, match="only moves forward"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="time zone"):
        clock.move_to(datetime(2050, 1, 1))  # noqa: DTZ001
