from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from bulk_support import BudgetLimiter, after, assert_holds, edits_for, in_seconds, left_over, session_for

from aiomutex import DailyBudgetExhaustedError, InvalidRequestError, LocalRateLimiter, RetryPolicy, SlotEdit
from aiomutex.bulk.allowance import Allowance

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex import SlotOutcome
    from aiomutex.testing import MutexEmulator


@pytest.mark.parametrize("verify", [False, True])
async def test_a_run_that_exceeds_the_daily_budget_stops_and_can_be_resumed(
    emulator: MutexEmulator, tmp_path: Path, verify: bool
) -> None:
    edits = edits_for(100)
    limiter = LocalRateLimiter(5_000, 60)
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        first = await session.edit_slots(edits, journal=tmp_path / "run.db", verify=verify)
        assert isinstance(first.stopped_by, DailyBudgetExhaustedError)
        assert len(first.outcomes) == 100
        assert len(first.applied) + len(first.skipped) + len(first.unknown) == 100
        assert verify or not first.unknown
    async with session_for(emulator.url) as session:
        second = await session.edit_slots(edits, journal=tmp_path / "run.db", verify=verify)
        assert second.stopped_by is None
        assert len(second.applied) == 100 - len(first.applied)
        assert_holds(emulator, after(edits))
    assert sum(emulator.writes.values()) == 100


@pytest.mark.parametrize("mode", ["plain", "journal", "verify"])
async def test_a_run_that_exceeds_the_daily_budget_waits_for_the_next_day(
    emulator: MutexEmulator, tmp_path: Path, mode: str
) -> None:
    limiter = BudgetLimiter(50, timedelta(seconds=0.3))
    edits = edits_for(100)
    waited: set[datetime | None] = set()
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        journal = tmp_path / "run.db" if mode == "journal" else None
        stream = session.stream_slot_edits(edits, on_budget="wait", journal=journal, verify=mode == "verify")
        reported: list[SlotOutcome] = []
        async with stream as outcomes:

            async def watch() -> None:
                while True:
                    waited.add(outcomes.waiting_until)
                    await asyncio.sleep(0.01)

            watcher = asyncio.create_task(watch())
            reported.extend([outcome async for outcome in outcomes])
            watcher.cancel()
        assert outcomes.waiting_until is None
    assert [outcome.status for outcome in reported] == ["applied"] * 100
    assert limiter.resets_at in waited
    assert limiter.rejected
    assert sum(emulator.writes.values()) == 100
    assert_holds(emulator, after(edits))


async def test_stopping_a_run_ends_its_wait_for_the_next_day_at_once(emulator: MutexEmulator) -> None:
    limiter = BudgetLimiter(30, in_seconds(3_600))
    reported: list[str] = []
    async with asyncio.timeout(20), session_for(emulator.url, rate_limiter=limiter) as session:
        async with session.stream_slot_edits(edits_for(100), on_budget="wait", canary=False) as outcomes:
            async for outcome in outcomes:
                reported.append(outcome.status)
                if len(reported) == 30:
                    asyncio.get_running_loop().call_later(0.05, outcomes.stop)
        assert not left_over(session)
    assert reported.count("applied") == 30
    assert reported.count("skipped") == 70


async def test_a_run_cancelled_while_it_waits_for_the_next_day_leaves_nothing_behind(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url, rate_limiter=BudgetLimiter(5, in_seconds(3_600))) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await session.edit_slots(edits_for(100), on_budget="wait")
        assert not left_over(session)


@pytest.mark.parametrize("on_budget", ["stop", "wait"])
async def test_an_edit_sent_before_the_budget_was_exhausted_is_never_skipped(
    emulator: MutexEmulator, on_budget: str
) -> None:
    emulator.fail_next(1, kind="reset-before", method="PATCH")
    limiter = BudgetLimiter(1, timedelta(seconds=0.3))
    policy = RetryPolicy(base=0.001)
    async with session_for(emulator.url, rate_limiter=limiter, retry=policy) as session:
        report = await session.edit_slots([SlotEdit(1, 1, experiments=[5])], on_budget=on_budget)  # type: ignore[arg-type]
    if on_budget == "wait":
        assert [outcome.status for outcome in report.outcomes] == ["applied"]
        return
    assert [(outcome.status, outcome.attempts) for outcome in report.outcomes] == [("unknown", 1)]
    assert isinstance(report.stopped_by, DailyBudgetExhaustedError)


@pytest.mark.parametrize("on_budget", ["stop", "wait"])
async def test_a_budget_exhausted_before_the_read_back_leaves_the_outcome_unknown_or_waits(
    emulator: MutexEmulator, on_budget: str
) -> None:
    limiter = BudgetLimiter(2, timedelta(seconds=0.3))  # one read and one write
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        report = await session.edit_slots(
            [SlotEdit(1, 1, experiments=[5])],
            verify=True,
            on_budget=on_budget,  # type: ignore[arg-type]
        )
    assert [outcome.status for outcome in report.outcomes] == ["applied" if on_budget == "wait" else "unknown"]


def gone(resets_at: datetime, *, suspected: bool) -> DailyBudgetExhaustedError:
    return DailyBudgetExhaustedError("used up", resets_at=resets_at, used=1, limit=1, suspected=suspected)


@pytest.mark.parametrize(("suspected", "until"), [(True, 60), (False, 7_200)])
async def test_a_suspected_exhaustion_waits_a_minute_and_a_known_one_until_the_reset(
    caplog: pytest.LogCaptureFixture, suspected: bool, until: float
) -> None:
    stopped = asyncio.Event()
    budget = Allowance(LocalRateLimiter(), 0, stopped)
    started = datetime.now(UTC)
    waits = [asyncio.create_task(budget.wait_for_reset(gone(in_seconds(7_200), suspected=suspected))) for _ in range(3)]
    await asyncio.sleep(0)
    waits_until = budget.waiting_until
    assert waits_until is not None
    assert abs((waits_until - started).total_seconds() - until) < 10
    stopped.set()
    await asyncio.gather(*waits)
    assert budget.waiting_until is None
    assert caplog.messages == [f"{gone(started, suspected=False)}; the run waits"]
    assert vars(caplog.records[0])["aiomutex_waiting_until"] > started


async def test_a_suspected_exhaustion_waits_no_longer_than_until_the_reset() -> None:
    async with asyncio.timeout(20):
        await Allowance(LocalRateLimiter(), 0, asyncio.Event()).wait_for_reset(gone(in_seconds(0.01), suspected=True))


async def test_a_stopped_run_does_not_wait_for_the_next_day() -> None:
    stopped = asyncio.Event()
    stopped.set()
    budget = Allowance(LocalRateLimiter(), 0, stopped)
    async with asyncio.timeout(20):
        await budget.wait_for_reset(gone(in_seconds(3_600), suspected=False))
    assert budget.waiting_until is None


async def test_an_edit_sent_before_the_budget_was_exhausted_is_unknown_if_the_wait_is_stopped(
    emulator: MutexEmulator,
) -> None:
    emulator.fail_next(1, kind="reset-after", method="PATCH")
    limiter = BudgetLimiter(1, in_seconds(3_600))
    async with (
        session_for(emulator.url, rate_limiter=limiter, retry=RetryPolicy(base=0.001)) as session,
        session.stream_slot_edits([SlotEdit(1, 1, experiments=[5])], on_budget="wait") as outcomes,
    ):
        while outcomes.waiting_until is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        outcomes.stop()
        (reported,) = [outcome async for outcome in outcomes]
    note = "sent before the run was stopped; its outcome is unknown"
    assert (reported.status, reported.position, reported.edit.slot_index, reported.note) == ("unknown", 0, 1, note)


async def test_a_reserve_is_left_to_others(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter(5_000, 100)
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        report = await session.edit_slots(edits_for(200), reserve=30, concurrency=8)
        assert 70 - 8 <= len(report.applied) <= 70 + 8
        assert isinstance(report.stopped_by, DailyBudgetExhaustedError)
        assert "reserved for others" in str(report.stopped_by)
        state = limiter.state()
        assert report.stopped_by.resets_at == state.resets_at
        assert (report.stopped_by.used, report.stopped_by.limit) == (70, 100)
        await session.get_group(1)  # uses the reserve


async def test_a_reset_time_in_the_past_is_retried_once_a_second_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped = asyncio.Event()
    budget = Allowance(LocalRateLimiter(), 0, stopped)
    midnight = in_seconds(-1)
    waits = [asyncio.create_task(budget.wait_for_reset(gone(midnight, suspected=False))) for _ in range(3)]
    await asyncio.sleep(0)
    assert budget.waiting_until is not None
    assert 0.5 < (budget.waiting_until - datetime.now(UTC)).total_seconds() <= 1
    assert not any(wait.done() for wait in waits)
    await asyncio.gather(*waits)
    stopped.set()
    await budget.wait_for_reset(gone(midnight, suspected=False))
    assert len(caplog.messages) == 1


async def test_a_reserve_as_large_as_the_budget_is_rejected(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url, rate_limiter=LocalRateLimiter(5_000, 100)) as session:
        with pytest.raises(InvalidRequestError, match="reserve must be below the limiter's 100 requests a day"):
            await session.edit_slots(edits_for(5), reserve=100, on_budget="wait")
    assert not emulator.requests
