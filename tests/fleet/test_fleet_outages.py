"""Redis goes away for a moment, or for good, from the caller or from a worker: what a fleet makes of it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import pytest
from bulk_support import assert_in_order, edits_for, landed, session_for
from redis.asyncio import Redis
from support import until
from taskiq.api import run_receiver_task

from aiomutex import LimiterUnavailableError, OutcomeUnknownError, SlotEdit
from aiomutex.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from redis_server import RedisServer

    from aiomutex.fleet.broker import FleetBroker
    from aiomutex.testing import MutexEmulator

pytestmark = pytest.mark.redis

NAME = "project-1"


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of an empty Redis."""
    return redis_server.url


def redis_of(url: str) -> Any:
    return Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]  # untyped upstream


class Line:
    """The way to Redis, which can be cut, and can lose an answer."""

    def __init__(self, redis_url: str) -> None:
        self._port = int(redis_url.rpartition(":")[2].partition("/")[0])
        self._ends: set[asyncio.StreamWriter] = set()
        self._visits: set[asyncio.Task[None]] = set()
        self.is_up = True
        self._fatal: tuple[bytes, bool] | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *error: object) -> None:
        self.cut()
        self._server.close()
        await asyncio.gather(*self._visits, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        self.is_up = False
        for end in self._ends:
            end.close()

    def cut_at(self, passing: bytes, *, for_good: bool = False) -> None:
        """Cut it when this passes: Redis gets it and cannot answer, or it is lost with an answer."""
        self._fatal = passing, for_good

    @property
    def has_been_cut(self) -> bool:
        """Whether what ``cut_at`` waited for has passed."""
        return self._fatal is None

    async def cut_for(self, seconds: float) -> None:
        self.cut()
        await asyncio.sleep(seconds)
        self.is_up = True

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._visits.add(task)
        if not self.is_up:
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._ends |= {writer, back}
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer, answers=True))

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                fatal = self._fatal
                if fatal is None or fatal[0] not in data:
                    writer.write(data)
                    continue
                self._fatal = None
                if not answers:
                    writer.write(data)
                    await writer.drain()
                self.cut()
                self.is_up = not fatal[1]
        writer.close()


@contextlib.asynccontextmanager
async def worker(emulator: MutexEmulator, redis_url: str, **options: Any) -> AsyncGenerator[Fleet]:
    """A worker in this process."""
    fleet = Fleet(redis_url, name=NAME, session=lambda: session_for(emulator.url), **options)
    task = asyncio.create_task(run_receiver_task(fleet.broker, run_startup=True))
    try:
        await until(lambda: hasattr(fleet.broker.state, "keeping"))
        yield fleet
    finally:
        task.cancel()
        await asyncio.wait([task])
        await fleet.broker.shutdown()


async def nothing_left(redis_url: str) -> bool:
    async with redis_of(redis_url) as redis:
        return await redis.xlen(f"aiomutex:{NAME}:jobs") == 0 and len(await redis.keys("*")) == 1


async def test_edits_stay_in_order_when_the_callers_connections_break(emulator: MutexEmulator, redis_url: str) -> None:
    emulator.latency = 0.05
    edits = [SlotEdit(1, 1, experiments=[n]) for n in range(1, 12)]
    async with (
        worker(emulator, redis_url),
        worker(emulator, redis_url),
        Line(redis_url) as line,
        Fleet(line.url, name=NAME, batch_size=5) as fleet,
    ):
        run = asyncio.create_task(fleet.edit_slots(edits))
        await until(lambda: emulator.commits)
        await line.cut_for(0.01)
        report = await asyncio.wait_for(run, 30)
    assert str(report) == "11 edits: 11 applied"
    assert_in_order(emulator, edits)
    assert await nothing_left(redis_url)


async def test_a_job_is_done_once_when_nobody_heard_that_it_is_queued(emulator: MutexEmulator, redis_url: str) -> None:
    async with worker(emulator, redis_url), Line(redis_url) as line, Fleet(line.url, name=NAME) as fleet:
        line.cut_at(b"XADD")
        report = await asyncio.wait_for(fleet.edit_slots(edits_for(1)), 30)
    assert line.has_been_cut
    assert str(report) == "1 edit: 1 applied"
    assert len(emulator.commits) == 1
    assert await nothing_left(redis_url)


async def test_an_answer_is_fetched_again_when_it_was_lost(emulator: MutexEmulator, redis_url: str) -> None:
    async with worker(emulator, redis_url), Line(redis_url) as line, Fleet(line.url, name=NAME) as fleet:
        line.cut_at(b"stopped_by")  # as it stands in an answer
        report = await asyncio.wait_for(fleet.edit_slots(edits_for(1)), 30)
    assert line.has_been_cut
    assert str(report) == "1 edit: 1 applied"


async def test_without_redis_the_run_stops_and_what_was_not_queued_is_skipped(redis_url: str) -> None:
    edits = iter(edits_for(20_000, groups=5_000))
    async with Line(redis_url) as line, Fleet(line.url, name=NAME, claim_timeout=0.2, batch_size=5) as fleet:
        line.cut()
        stream = fleet.stream_slot_edits(edits)
        async with stream:
            statuses = {outcome.status async for outcome in stream}
    assert statuses == {"skipped"}
    assert isinstance(stream.stopped_by, LimiterUnavailableError)
    assert "has been unavailable for 0.2 s" in str(stream.stopped_by)
    assert stream.pulled <= 2 * 12 * 5


async def test_what_may_have_been_queued_when_redis_went_is_unknown(redis_url: str) -> None:
    async with Line(redis_url) as line, Fleet(line.url, name=NAME, claim_timeout=0.2, batch_size=2) as fleet:
        line.cut_at(b"XADD", for_good=True)
        report = await fleet.edit_slots([SlotEdit(1, 1, experiments=[n]) for n in (1, 2, 3)])
    assert [outcome.status for outcome in report.outcomes] == ["unknown", "unknown", "skipped"]
    assert report.stopped_by is report.outcomes[0].error


async def test_a_job_that_redis_refuses_is_skipped(redis_url: str) -> None:
    async with redis_of(redis_url) as redis, Fleet(redis_url, name=NAME, claim_timeout=0.2) as fleet:
        await redis.delete(f"aiomutex:{NAME}:jobs")
        await redis.set(f"aiomutex:{NAME}:jobs", "no stream")
        report = await fleet.edit_slots(edits_for(1))
    assert str(report).startswith("1 edit: 0 applied, 1 skipped; stopped: the fleet's Redis")
    assert "WRONGTYPE" in str(report)


async def test_a_job_that_redis_lost_is_unknown_and_ends_the_run(redis_url: str) -> None:
    async with redis_of(redis_url) as redis, Fleet(redis_url, name=NAME, batch_size=1) as fleet:
        run = asyncio.create_task(fleet.edit_slots([SlotEdit(1, 1, experiments=[n]) for n in (1, 2)]))
        while not await redis.xlen(f"aiomutex:{NAME}:jobs"):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)
        await redis.flushall()
        report = await asyncio.wait_for(run, 30)
    assert [outcome.status for outcome in report.outcomes] == ["unknown", "skipped"]
    assert isinstance(report.stopped_by, OutcomeUnknownError)


async def test_a_worker_goes_on_after_an_outage_and_its_lost_answer_is_made_anew(
    emulator: MutexEmulator, redis_url: str
) -> None:
    edits = [SlotEdit(1, 1, experiments=[n]) for n in range(1, 5)]
    async with (
        Line(redis_url) as line,
        worker(emulator, line.url, claim_timeout=1) as one,
        Fleet(redis_url, name=NAME, batch_size=2) as fleet,
    ):
        emulator.latency = 0.1
        run = asyncio.create_task(fleet.edit_slots(edits))
        await until(lambda: emulator.commits)
        line.cut()
        await until(lambda: not held(one.broker))
        await asyncio.sleep(0.3)  # the answer is not stored, and the worker looks for jobs and shows itself in vain
        line.is_up = True
        report = await asyncio.wait_for(run, 30)
    assert str(report) == "4 edits: 4 applied"
    assert [body["experiments"][0] for _, _, body in landed(emulator)] == [1, 2, 1, 2, 3, 4]
    assert await nothing_left(redis_url)


async def test_a_worker_goes_on_when_redis_was_started_anew(emulator: MutexEmulator, redis_url: str) -> None:
    async with worker(emulator, redis_url), Fleet(redis_url, name=NAME) as fleet:
        async with redis_of(redis_url) as redis:
            await redis.flushall()
        report = await asyncio.wait_for(fleet.edit_slots(edits_for(1)), 30)
    assert str(report) == "1 edit: 1 applied"


async def test_only_the_worker_that_has_claimed_a_job_can_finish_it(redis_url: str) -> None:
    slow, quick = (Fleet(redis_url, name=NAME, claim_timeout=0.1).broker for _ in "ab")
    async with Fleet(redis_url, name=NAME) as fleet:
        run = asyncio.create_task(fleet.edit_slots(edits_for(1)))
        await slow.startup()
        await quick.startup()
        jobs = quick.listen()
        await anext(slow.listen())
        async with keeping_jobs(quick):
            await anext(jobs)
            (job,) = held(quick)
            assert held(slow) == held(quick)
            await slow.finish(job, b"a result that comes too late")
            assert await quick.result_of(job) is None
        # A worker that gets its own job back does not start it again.
        async with keeping_jobs(slow):
            again = asyncio.create_task(anext(jobs))
            await asyncio.sleep(1)
            assert not again.done()
            again.cancel()
        await quick.finish(job, b'{"is_err": true, "return_value": null, "execution_time": 0, "error": null}')
        report = await asyncio.wait_for(run, 30)
        await slow.shutdown()
        await quick.shutdown()
    assert str(report).startswith("1 edit: 0 applied, 1 unknown; stopped: a worker failed to run the job")


@contextlib.asynccontextmanager
async def keeping_jobs(broker: FleetBroker) -> AsyncGenerator[None]:
    task = asyncio.create_task(broker.keep_jobs())
    yield
    task.cancel()
    await asyncio.wait([task])


def held(broker: Any) -> set[str]:
    """The jobs that a worker has fetched and not finished."""
    return set(broker._held)
