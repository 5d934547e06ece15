"""A fleet's run without a queue: a function plays the workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from bulk_support import edits_for

from aiomutex import BulkReport, LimiterUnavailableError, OutcomeUnknownError, SlotOutcome
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import OutcomeStream
from aiomutex.fleet.run import FleetRun
from aiomutex.fleet.wire import encode_report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex.fleet.wire import Job


def stream_over(
    send: Callable[[Job], Awaitable[str]], count: int, on_outcome: Callable[[SlotOutcome], object]
) -> OutcomeStream:
    run = FleetRun(send, asyncio.Event().wait, Settings(concurrency=3), batch_size=5, verify=False)
    return OutcomeStream(run, iter(edits_for(count, groups=count)), on_outcome)


async def apply_all(job: Job) -> str:
    outcomes = [SlotOutcome(edit=edit.to_edit(), status="applied", position=n) for n, edit in enumerate(job.edits)]
    return encode_report(BulkReport(outcomes=outcomes))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConnectionError("gone"), "unknown"),
        (LimiterUnavailableError("gone").with_attempts(0, maybe_applied=True), "unknown"),
        (LimiterUnavailableError("gone"), "skipped"),
    ],
)
async def test_a_job_without_a_result_stops_the_run_before_the_end_of_its_input(error: Exception, status: str) -> None:
    async def fail(_: Job) -> str:
        raise error

    reported: list[SlotOutcome] = []
    async with (stream := stream_over(fail, 20_000, reported.append)):
        async for _ in stream:
            pass
    assert stream.pulled == len(reported) <= 2 * 3 * 5
    statuses = Counter[str](outcome.status for outcome in reported)
    assert set(statuses) <= {status, "skipped"}
    assert statuses[status] > 0
    assert statuses["unknown"] <= 3 * 5
    assert isinstance(stream.stopped_by, LimiterUnavailableError | OutcomeUnknownError)


async def test_an_exception_of_on_outcome_ends_the_run_and_it_is_not_called_again() -> None:
    positions: list[int] = []

    def fail(outcome: SlotOutcome) -> None:
        positions.append(outcome.position)
        raise KeyError(outcome.position)

    stream = stream_over(apply_all, 100, fail)

    async def run() -> None:
        async with stream:
            async for _ in stream:
                pass

    with pytest.raises(KeyError, match=r"^0$") as caught:
        await run()
    assert caught.value.__context__ is None
    assert positions == [0]
    assert stream.unfinished


async def test_an_exception_of_on_outcome_hides_no_other_exception_when_the_stream_is_left() -> None:
    sent = asyncio.Event()

    async def never_finish(_: Job) -> str:
        sent.set()
        await asyncio.Event().wait()
        raise AssertionError

    def fail(outcome: SlotOutcome) -> None:
        raise KeyError(outcome.status)

    async def leave() -> None:
        async with stream_over(never_finish, 100, fail):
            await sent.wait()

    async def leave_with_an_error() -> None:
        async with stream_over(never_finish, 100, fail):
            await sent.wait()
            raise ValueError("first")

    async def iterate() -> None:
        async with (stream := stream_over(never_finish, 100, fail)):
            await anext(stream)

    with pytest.raises(KeyError, match="unknown"):
        await leave()
    with pytest.raises(ValueError, match="first"):
        await leave_with_an_error()
    sent.clear()
    task = asyncio.create_task(iterate())
    await sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
