"""A fleet's run without Redis: an object plays the queue and the workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from bulk_support import edits_for

from aiomutex import LimiterUnavailableError, LocalRateLimiter, OutcomeUnknownError, SlotOutcome
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import OutcomeStream
from aiomutex.fleet.dispatcher import Dispatcher
from aiomutex.fleet.run import FleetRun
from aiomutex.fleet.wire import Answer, Result

if TYPE_CHECKING:
    from collections.abc import Callable


class Queue:
    """A queue whose jobs all have the result that ``work`` returns for their requests, or none if it raises."""

    claim_timeout: Final = 0.2

    def __init__(self, work: Callable[[list[Any]], str]) -> None:
        self.work = work
        self.results: dict[str, str] = {}
        self.queued = asyncio.Event()
        self.has_left = False

    async def exchange(self, run: str, given: dict[str, list[str]], *job: Any) -> tuple[set[str], list[str], bool]:
        if job:
            self.queued.set()
            self.results[job[0]] = self.work(msgspec.json.decode(job[1]))
        return set(), [self.results.get(each, "") for each in given["waiting"]], True

    async def leave(self, run: str) -> None:
        self.has_left = True


def stream_over(
    work: Callable[[list[Any]], str] | Queue, count: int, on_outcome: Callable[[SlotOutcome], object]
) -> OutcomeStream:
    queue: Any = work if isinstance(work, Queue) else Queue(work)
    run = FleetRun(Dispatcher(queue, batch_size=5, max_jobs=3), Settings(concurrency=15, canary=False))
    return OutcomeStream(run, iter(edits_for(count, groups=count)), on_outcome)


def apply_all(to_send: list[Any]) -> str:
    result = Result([Answer(b"", 1, []) for _ in to_send], LocalRateLimiter().state())
    return msgspec.json.encode(result).decode()


def lose_redis(_: list[Any]) -> str:
    raise ConnectionError("gone")


def break_down(_: list[Any]) -> str:
    raise TypeError("broken")


def always(result: str) -> Callable[[list[Any]], str]:
    return lambda _: result


@pytest.mark.parametrize(
    ("work", "status"),
    [
        (lose_redis, "unknown"),
        (break_down, "unknown"),
        (always("unknown"), "unknown"),
        (always("skipped"), "skipped"),
        (always("TypeError: no edits"), "unknown"),
        (always('{"answers":[]}'), "unknown"),
        (always(apply_all([])), "unknown"),
    ],
)
async def test_a_job_without_a_result_stops_the_run_before_the_end_of_its_input(
    work: Callable[[list[Any]], str], status: str
) -> None:
    reported: list[SlotOutcome] = []
    async with (stream := stream_over(queue := Queue(work), 20_000, reported.append)):
        async for _ in stream:
            pass
    assert stream.pulled == len(reported) <= 1_000
    statuses = Counter[str](outcome.status for outcome in reported)
    assert set(statuses) <= {status, "skipped"}
    assert statuses[status] > 0
    assert statuses["unknown"] <= 3 * 5
    assert isinstance(stream.stopped_by, LimiterUnavailableError | OutcomeUnknownError)
    assert queue.has_left


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
    def fail(outcome: SlotOutcome) -> None:
        raise KeyError(outcome.status)

    async def leave() -> None:
        async with stream_over(queue := Queue(lambda _: ""), 100, fail):
            await queue.queued.wait()

    async def leave_with_an_error() -> None:
        async with stream_over(queue := Queue(lambda _: ""), 100, fail):
            await queue.queued.wait()
            raise ValueError("first")

    async def iterate() -> None:
        async with (stream := stream_over(unfinished, 100, fail)):
            await anext(stream)

    with pytest.raises(KeyError, match="unknown"):
        await leave()
    with pytest.raises(ValueError, match="first"):
        await leave_with_an_error()
    unfinished = Queue(lambda _: "")
    task = asyncio.create_task(iterate())
    await unfinished.queued.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
