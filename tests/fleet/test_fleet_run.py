"""A fleet's run without Redis: an object plays the queue and the workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from bulk_support import edits_for
from msgspec import UNSET
from virtual_time import run

from aiomutex import (
    LimiterUnavailableError,
    LocalRateLimiter,
    MutexError,
    OutcomeUnknownError,
    SlotEdit,
    SlotOutcome,
)
from aiomutex._api import requests
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import OutcomeStream
from aiomutex.fleet.broker import FleetBroker
from aiomutex.fleet.dispatcher import Dispatcher
from aiomutex.fleet.run import FleetRun
from aiomutex.fleet.wire import Answer, PackedError, Result, unpack_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Queue:
    """A queue whose jobs all have the result that ``work`` returns for their requests, or none if it raises."""

    claim_timeout = 0.2

    def __init__(self, work: Callable[[list[Any]], str]) -> None:
        self.work = work
        self.results: dict[str, str] = {}
        self.done_at: dict[str, float] = {}
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
    assert stream.stopped_by.attempts == 0
    assert queue.has_left


class AwayBeforeJobs(Queue):
    """A queue that cannot be reached from the moment at which the first job is ready."""

    async def exchange(self, run: str, given: dict[str, list[str]], *job: Any) -> tuple[set[str], list[str], bool]:
        if given["waiting"]:
            assert not job
            raise ConnectionError("gone")
        return await super().exchange(run, given, *job)


def test_edits_of_a_job_that_never_left_the_caller_are_skipped() -> None:
    async def main() -> None:
        reported: list[SlotOutcome] = []
        async with (stream := stream_over(AwayBeforeJobs(apply_all), 10, reported.append)):
            async for _ in stream:
                pass
        assert {outcome.status for outcome in reported} == {"skipped"}

    run(main())


class Prompt(Queue):
    """A queue whose jobs are done after 50 ms."""

    claim_timeout = 30.0

    async def exchange(self, run: str, given: dict[str, list[str]], *job: Any) -> tuple[set[str], list[str], bool]:
        now = asyncio.get_running_loop().time()
        waiting = [each if self.done_at.get(each, now + 1) <= now else "" for each in given["waiting"]]
        if job:
            self.done_at[job[0]] = now + 0.05
        return await super().exchange(run, {**given, "waiting": waiting}, *job)


def test_results_are_looked_for_often_while_they_come() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        queue: Any = Prompt(apply_all)
        fleet_run = FleetRun(Dispatcher(queue, batch_size=1, max_jobs=1), Settings(concurrency=1, canary=False))
        start = loop.time()
        async with OutcomeStream(fleet_run, iter(edits_for(20, groups=20)), None) as stream:
            async for _ in stream:
                pass
        assert stream.counts == {"applied": 20}
        return loop.time() - start

    assert run(main()) < 0.5 + 20 * (0.05 + 0.02)


class Recording(Queue):
    """A queue that records which groups the run takes, writes and frees, and the number of requests in each job."""

    claim_timeout = 30.0

    def __init__(self, work: Callable[[list[Any]], str]) -> None:
        super().__init__(work)
        self.leases: list[tuple[str, str]] = []
        self.sizes: list[int] = []

    async def exchange(self, run: str, given: dict[str, list[str]], *job: Any) -> tuple[set[str], list[str], bool]:
        if job:
            self.leases += [("write", group) for group in job[2]]
            self.sizes.append(len(msgspec.json.decode(job[1])))
        else:
            self.leases += [(name, group) for name in ("freed", "wanted") for group in given[name]]
        return await super().exchange(run, given, *job)


def test_a_run_has_a_group_until_no_edit_of_it_is_left_and_takes_it_again_for_the_next() -> None:
    async def edits() -> AsyncIterator[SlotEdit]:
        for number in (1, 2):
            yield SlotEdit(1, 1, experiments=[number])
        await asyncio.sleep(60)
        yield SlotEdit(1, 1, experiments=[3])
        await asyncio.sleep(60)

    async def main() -> None:
        queue: Any = Recording(apply_all)
        fleet_run = FleetRun(Dispatcher(queue, batch_size=5, max_jobs=3), Settings(concurrency=4, canary=False))
        async with OutcomeStream(fleet_run, edits(), None) as stream:
            async for _ in stream:
                pass
        first, second = ["wanted", "write", "write", "freed"], ["wanted", "write", "freed"]
        assert queue.leases == [(name, "1") for name in (*first, *second)]

    run(main())


def empty_pages(to_send: list[Any]) -> str:
    answers = [Answer(b'{"mutexes": []}' if "?" in path else b"", 1, []) for path, _ in to_send]
    return msgspec.json.encode(Result(answers, LocalRateLimiter().state())).decode()


@pytest.mark.parametrize(
    ("to_send", "sizes"),
    [
        pytest.param(
            [requests.edit_slot(n, 1, [n], UNSET, UNSET) for n in range(1, 7)], [2, 2, 1, 1], id="edits in equal shares"
        ),
        pytest.param([requests.list_page(10, str(n)) for n in range(4)], [1, 1, 1, 1], id="each page in its own job"),
    ],
)
def test_requests_are_shared_out_among_the_jobs(to_send: list[Any], sizes: list[int]) -> None:
    async def main() -> None:
        queue: Any = Recording(empty_pages)
        dispatcher = Dispatcher(queue, batch_size=5, max_jobs=3)
        sending = [asyncio.create_task(dispatcher.send(request)) for request in to_send]
        dispatching = asyncio.create_task(dispatcher.run())
        await asyncio.gather(*sending)
        dispatching.cancel()
        await asyncio.wait([dispatching])
        assert queue.sizes == sizes

    run(main())


def test_a_worker_abandons_a_job_that_it_has_lost() -> None:
    async def main() -> None:
        broker = FleetBroker("redis://127.0.0.1:1", "project-1", 30.0)
        async with asyncio.timeout(60):
            await broker.work("lost", asyncio.sleep(600, result=""))

    run(main())


@pytest.mark.parametrize("name", ["NewerError", "Mapping", "annotations"])
def test_an_error_that_this_version_does_not_know_is_a_plain_one(name: str) -> None:
    error = unpack_error(PackedError(name, ["broken"], {}, []))
    assert type(error) is MutexError
    assert str(error) == f"{name}: broken"


def test_a_pause_that_the_workers_reported_ends_in_time() -> None:
    async def main() -> None:
        dispatcher = Dispatcher(unused, batch_size=1, max_jobs=1)
        fleet_run = FleetRun(dispatcher, Settings(concurrency=1, canary=False))
        dispatcher.limiter_state = msgspec.structs.replace(LocalRateLimiter().state(), paused_for=10.0)
        dispatcher.received_at = asyncio.get_running_loop().time()
        await asyncio.sleep(4)
        assert fleet_run.state().paused_for == pytest.approx(6.0)
        await asyncio.sleep(7)
        assert fleet_run.state().paused_for == 0.0

    unused: Any = None
    run(main())


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
