"""A bulk run waits for its permits and for the end of pauses; that time counts against no call's deadline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import assert_holds, assert_true, edits_for, left_over, session_for
from support import FAST, until

from aiomutex import AttemptTimeoutError, DeadlineExceededError, LocalRateLimiter, SlotEdit

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex import MutexSession, SlotOutcome
    from aiomutex.testing import MutexEmulator


def waiting_contexts(stream: Any) -> int:
    return len(stream._run._on_stop.__self__.waiting)


@pytest.mark.parametrize(
    ("options", "borrowed"), [({}, False), ({}, True), ({"verify": True}, False), ({"journal": True}, False)]
)
async def test_no_edit_fails_because_its_run_waits_for_permits(
    emulator: MutexEmulator, tmp_path: Path, options: dict[str, Any], borrowed: bool
) -> None:
    import aiohttp  # noqa: PLC0415

    emulator.latency = 0.002
    async with aiohttp.ClientSession() as http:
        limiter = LocalRateLimiter(per_second=30)
        settings: dict[str, Any] = {"rate_limiter": limiter, "deadline": 1.0, "http": http if borrowed else None}
        async with session_for(emulator.url, **settings) as session:
            if "journal" in options:
                options = {"journal": tmp_path / "run.db"}
            stream = session.stream_slot_edits(edits_for(60), **options)
            async with stream:
                outcomes = [outcome async for outcome in stream]
            assert {outcome.status for outcome in outcomes} == {"applied"}
            assert waiting_contexts(stream) == 0
            assert not left_over(session) or borrowed


async def test_a_run_waits_out_a_pause_longer_than_the_deadline_and_says_so(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url, deadline=1.0) as session:
        emulator.fail_next(status=429, retry_after=2, method="PATCH")
        edits = edits_for(300)
        waits: set[bool] = set()
        async with session.stream_slot_edits(edits) as outcomes:
            reported: list[SlotOutcome] = []
            consume = asyncio.create_task(collect(outcomes, reported))
            while not consume.done():
                if outcomes.waiting_until is not None:
                    waits.add(outcomes.in_flight > 0)
                await asyncio.sleep(0.01)
        assert {outcome.status for outcome in reported} == {"applied"}
        assert waits == {True}
        assert outcomes.waiting_until is None
    assert_true(emulator, reported)


async def collect(outcomes: Any, reported: list[SlotOutcome]) -> None:
    async for outcome in outcomes:
        reported.append(outcome)  # noqa: PERF401  # the caller sees them as they come


async def test_the_deadline_of_an_edit_counts_from_its_permit(emulator: MutexEmulator) -> None:
    emulator.fail_next(1, kind="stall", path="/api/1/mutexes/1/*")
    emulator.fail_next(1, kind="stall", path="/api/1/mutexes/2/*")
    edits = [SlotEdit(1, 1, experiments=[1])]
    started = asyncio.get_running_loop().time()
    async with session_for(emulator.url, deadline=0.2, attempt_timeout=5.0) as session:
        (outcome,) = (await session.edit_slots(edits)).outcomes
        assert isinstance(outcome.error, DeadlineExceededError)
        assert outcome.error.maybe_applied
        views = session.with_options(attempt_timeout=0.1, deadline=5.0)
        assert (await views.edit_slots([SlotEdit(2, 1, experiments=[1])])).outcomes[0].attempts == 2
    assert asyncio.get_running_loop().time() - started < 3


@pytest.mark.parametrize("times", [1, 2])
async def test_a_stopped_run_waits_for_permits_no_longer_than_the_deadline(emulator: MutexEmulator, times: int) -> None:
    async with session_for(emulator.url, deadline=0.2, rate_limiter=LocalRateLimiter(per_second=100)) as session:
        emulator.fail_next(status=429, retry_after=60, method="PATCH")
        async with asyncio.timeout(20), session.stream_slot_edits(edits_for(100)) as outcomes:
            await until(lambda: session.rate_limiter.state().paused_for)
            for _ in range(times):
                outcomes.stop()
            reported = [outcome async for outcome in outcomes]
        assert len(reported) == 100
        assert {outcome.status for outcome in reported} <= {"applied", "failed", "skipped"}
        assert_true(emulator, reported)
        assert waiting_contexts(outcomes) == 0


@pytest.mark.parametrize("sent", [False, True])
async def test_after_a_stop_an_attempt_keeps_its_timeout_and_a_retry_has_the_deadline_too(
    emulator: MutexEmulator, sent: bool
) -> None:
    async with session_for(emulator.url, deadline=5.0, attempt_timeout=0.2, retry=FAST) as session:
        emulator.fail_next(1, kind="stall", method="PATCH")
        async with session.stream_slot_edits([SlotEdit(1, 1, experiments=[7])]) as outcomes:
            await until(lambda: emulator.requests if sent else outcomes.in_flight)
            outcomes.stop()
            (outcome,) = [outcome async for outcome in outcomes]
        assert outcome.status == "applied"
        assert outcome.attempts >= 2, "a busy machine may need one more"
    assert_holds(emulator, {("1", 1): {"experiments": [7]}})


async def test_other_calls_keep_their_deadline_while_a_run_waits(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.fail_next(status=429, retry_after=60, method="PATCH")
    async with session.stream_slot_edits(edits_for(100)) as outcomes:
        await until(lambda: session.rate_limiter.state().paused_for)
        with pytest.raises((DeadlineExceededError, AttemptTimeoutError)):
            await session.with_options(deadline=0.05).get_group(1)
        assert outcomes.in_flight
    assert waiting_contexts(outcomes) == 0
