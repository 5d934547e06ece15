"""Redis is unreachable for a moment or for good, for the caller or for a worker."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import pytest
from bulk_support import assert_in_order, edits_for, landed
from fleet_support import NAME, redis_of, worker
from support import until

from aiomutex import LimiterUnavailableError, OutcomeUnknownError, SlotEdit
from aiomutex.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from redis_server import RedisServer

    from aiomutex.fleet.broker import FleetBroker
    from aiomutex.testing import MutexEmulator

pytestmark = pytest.mark.redis


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of an empty Redis."""
    return redis_server.url


class Proxy:
    """A proxy before Redis that can cut connections, and lose a reply."""

    def __init__(self, redis_url: str) -> None:
        self._port = int(redis_url.rpartition(":")[2].partition("/")[0])
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.Task[None]] = set()
        self.is_up = True
        self._cut_at: tuple[bytes, bool] | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *error: object) -> None:
        self.cut()
        self._server.close()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        self.is_up = False
        for writer in self._writers:
            writer.close()

    def cut_at(self, passing: bytes, *, for_good: bool = False) -> None:
        """Cut all connections when these bytes pass. Redis gets a request, but a reply is lost.

        Args:
            passing: Bytes of a request or a reply.
            for_good: Whether to reject new connections as well.
        """
        self._cut_at = passing, for_good

    @property
    def has_been_cut(self) -> bool:
        """Whether the bytes passed to ``cut_at`` have passed."""
        return self._cut_at is None

    async def cut_for(self, seconds: float) -> None:
        self.cut()
        await asyncio.sleep(seconds)
        self.is_up = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        if not self.is_up:
            writer.close()
            return
        upstream, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, back}
        await asyncio.gather(self._relay(reader, back), self._relay(upstream, writer, is_reply=True))

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                cut_at = self._cut_at
                if cut_at is None or cut_at[0] not in data:
                    writer.write(data)
                    continue
                self._cut_at = None
                if not is_reply:
                    writer.write(data)
                    await writer.drain()
                self.cut()
                self.is_up = not cut_at[1]
        writer.close()


async def nothing_left(redis_url: str) -> bool:
    async with redis_of(redis_url) as redis:
        return await redis.xlen(f"aiomutex:{NAME}:jobs") == 0 and len(await redis.keys("*")) == 1


async def test_edits_stay_in_order_when_the_caller_reconnects(emulator: MutexEmulator, redis_url: str) -> None:
    emulator.latency = 0.05
    edits = [SlotEdit(1, 1, experiments=[n]) for n in range(1, 12)]
    async with (
        worker(emulator, redis_url),
        worker(emulator, redis_url),
        Proxy(redis_url) as proxy,
        Fleet(proxy.url, name=NAME, batch_size=5) as fleet,
    ):
        run = asyncio.create_task(fleet.edit_slots(edits))
        await until(lambda: emulator.commits)
        await proxy.cut_for(0.01)
        report = await asyncio.wait_for(run, 30)
    assert str(report) == "11 edits: 11 applied"
    assert_in_order(emulator, edits)
    assert await nothing_left(redis_url)


async def test_a_job_is_queued_once_when_the_reply_is_lost(emulator: MutexEmulator, redis_url: str) -> None:
    async with worker(emulator, redis_url), Proxy(redis_url) as proxy, Fleet(proxy.url, name=NAME) as fleet:
        proxy.cut_at(b"aiomutex.edit_slots")
        report = await asyncio.wait_for(fleet.edit_slots(edits_for(1)), 30)
    assert proxy.has_been_cut
    assert str(report) == "1 edit: 1 applied"
    assert len(emulator.commits) == 1
    assert await nothing_left(redis_url)


async def test_a_result_is_fetched_again_when_the_reply_is_lost(emulator: MutexEmulator, redis_url: str) -> None:
    async with worker(emulator, redis_url), Proxy(redis_url) as proxy, Fleet(proxy.url, name=NAME) as fleet:
        proxy.cut_at(b"answers")  # a part of every result
        report = await asyncio.wait_for(fleet.edit_slots(edits_for(1)), 30)
    assert proxy.has_been_cut
    assert str(report) == "1 edit: 1 applied"


async def test_without_redis_the_run_stops_and_skips_its_edits(redis_url: str) -> None:
    edits = iter(edits_for(20_000, groups=5_000))
    async with Proxy(redis_url) as proxy, Fleet(proxy.url, name=NAME, claim_timeout=0.2, batch_size=5) as fleet:
        proxy.cut()
        stream = fleet.stream_slot_edits(edits)
        async with stream:
            statuses = {outcome.status async for outcome in stream}
    assert statuses == {"skipped"}
    assert isinstance(stream.stopped_by, LimiterUnavailableError)
    assert "has been unavailable for 0.2 s" in str(stream.stopped_by)
    assert stream.pulled <= 1_000


async def test_edits_that_may_have_been_queued_when_redis_went_away_are_unknown(redis_url: str) -> None:
    async with Proxy(redis_url) as proxy, Fleet(proxy.url, name=NAME, claim_timeout=0.2, batch_size=2) as fleet:
        proxy.cut_at(b"aiomutex.edit_slots", for_good=True)
        report = await fleet.edit_slots([SlotEdit(1, 1, experiments=[n]) for n in (1, 2, 3)])
    assert [outcome.status for outcome in report.outcomes] == ["unknown", "skipped", "skipped"]
    assert report.stopped_by is report.outcomes[0].error


async def test_a_job_that_redis_rejects_is_skipped(redis_url: str) -> None:
    async with redis_of(redis_url) as redis, Fleet(redis_url, name=NAME, claim_timeout=1.0) as fleet:
        await redis.delete(f"aiomutex:{NAME}:jobs")
        await redis.set(f"aiomutex:{NAME}:jobs", "not a stream")
        report = await fleet.edit_slots(edits_for(1))
    assert str(report).startswith("1 edit: 0 applied, 1 skipped; stopped: the fleet's Redis")
    assert "WRONGTYPE" in str(report)


async def test_a_job_that_redis_lost_is_unknown_and_stops_the_run(redis_url: str) -> None:
    async with redis_of(redis_url) as redis, Fleet(redis_url, name=NAME, batch_size=1) as fleet:
        run = asyncio.create_task(fleet.edit_slots([SlotEdit(1, 1, experiments=[n]) for n in (1, 2)]))
        while not await redis.xlen(f"aiomutex:{NAME}:jobs"):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)
        await redis.flushall()
        report = await asyncio.wait_for(run, 30)
    assert [outcome.status for outcome in report.outcomes] == ["unknown", "skipped"]
    assert isinstance(report.stopped_by, OutcomeUnknownError)


async def test_a_job_whose_result_could_not_be_stored_is_done_again(emulator: MutexEmulator, redis_url: str) -> None:
    edits = [SlotEdit(1, 1, experiments=[n]) for n in range(1, 5)]
    async with (
        Proxy(redis_url) as proxy,
        worker(emulator, proxy.url, claim_timeout=1) as one,
        Fleet(redis_url, name=NAME, batch_size=2) as fleet,
    ):
        emulator.latency = 0.1
        run = asyncio.create_task(fleet.edit_slots(edits))
        await until(lambda: emulator.commits)
        proxy.cut()
        await until(lambda: not held(one.broker))
        await asyncio.sleep(0.3)  # the worker can neither store its result, nor fetch jobs, nor show that it is alive
        proxy.is_up = True
        report = await asyncio.wait_for(run, 30)
    assert str(report) == "4 edits: 4 applied"
    assert [body["experiments"][0] for _, _, body in landed(emulator)] == [1, 1, 2, 3, 4]
    assert await nothing_left(redis_url)


async def test_a_write_in_flight_is_abandoned_when_the_worker_loses_its_job(
    emulator: MutexEmulator, redis_url: str
) -> None:
    async with (
        Proxy(redis_url) as proxy,
        worker(emulator, proxy.url, claim_timeout=1) as one,
        Fleet(redis_url, name=NAME) as fleet,
    ):
        emulator.latency = 4
        async with fleet.stream_slot_edits(edits_for(1)):
            await until(lambda: emulator.commits)
            proxy.cut()
            lost = asyncio.get_running_loop().time()
            await until(lambda: not held(one.broker))
            assert asyncio.get_running_loop().time() - lost < 1


async def test_a_job_that_takes_longer_than_the_claim_timeout_is_done_once(
    emulator: MutexEmulator, redis_url: str
) -> None:
    emulator.latency = 0.3
    async with (
        worker(emulator, redis_url, claim_timeout=0.2),
        worker(emulator, redis_url, claim_timeout=0.2),
        Fleet(redis_url, name=NAME) as fleet,
    ):
        report = await asyncio.wait_for(fleet.edit_slots(edits_for(3, groups=1)), 30)
    assert str(report) == "3 edits: 3 applied"
    assert len(landed(emulator)) == 3


async def test_a_worker_continues_when_redis_restarts_empty(emulator: MutexEmulator, redis_url: str) -> None:
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
            await run_script(slow, "finish", job, "a result that comes too late")
            await asyncio.sleep(0.3)
            assert not run.done()
        # A worker that gets its own job back does not start it again.
        async with keeping_jobs(slow):
            again = asyncio.create_task(anext(jobs))
            await asyncio.sleep(1)
            assert not again.done()
            again.cancel()
        await run_script(quick, "finish", job, "TypeError: no edits")
        report = await asyncio.wait_for(run, 30)
        await slow.shutdown()
        await quick.shutdown()
    assert str(report).startswith("1 edit: 0 applied, 1 unknown; stopped: a worker failed to run the job: TypeError")


@contextlib.asynccontextmanager
async def keeping_jobs(broker: FleetBroker) -> AsyncGenerator[None]:
    task = asyncio.create_task(broker.keep_jobs())
    yield
    task.cancel()
    await asyncio.wait([task])


async def run_script(broker: Any, *arguments: str) -> None:
    await broker._run(*arguments)


def held(broker: Any) -> set[str]:
    """The jobs that a worker has fetched and not finished."""
    return set(broker._held)
