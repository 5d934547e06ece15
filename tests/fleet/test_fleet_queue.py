"""What is in the queue: entries of others, jobs of callers that are gone, and groups that other runs have."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import edits_for, landed
from fleet_support import NAME, redis_of, worker
from support import until
from taskiq.formatters.json_formatter import JSONFormatter
from taskiq.message import TaskiqMessage

from aiomutex import ConfigurationError, LocalRateLimiter, SlotEdit
from aiomutex.fleet import Fleet
from aiomutex.limits.redis import RedisRateLimiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis_server import RedisServer

    from aiomutex.testing import MutexEmulator

pytestmark = pytest.mark.redis

JOBS = f"aiomutex:{NAME}:jobs"
LEASES = f"aiomutex:{NAME}:leases"


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Any]:
    async with redis_of(redis_server.url) as redis:
        yield redis


def message(task: str, job: str) -> bytes:
    text = JSONFormatter().dumps(TaskiqMessage(task_id=job, task_name=task, labels={}, args=["x", "y"], kwargs={}))
    return text.message


def foreign_entries() -> list[dict[bytes, bytes]]:
    chance = random.Random(5)
    names = [b"id", b"data", b"", b"\xff", b"x"]
    values = [b"", b"\xff\xfe", b"{}", b"null", message("others.task", "a"), message("aiomutex.edit_slots", "b")]
    made = [
        {name: chance.choice(values) for name in chance.sample(names, chance.randint(1, len(names)))} for _ in range(60)
    ]
    return [{b"id": b"b", b"data": message("aiomutex.edit_slots", "b")}, {b"data": b"x" * 10**6}, *made]


async def test_entries_of_others_are_deleted_and_stop_no_worker(
    emulator: MutexEmulator, redis_server: RedisServer, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    entries = foreign_entries()
    for fields in entries[::2]:
        await redis.xadd(JOBS, fields)
    async with worker(emulator, redis_server.url), Fleet(redis_server.url, name=NAME) as fleet:
        for fields in entries[1::2]:
            await redis.xadd(JOBS, fields)
        report = await asyncio.wait_for(fleet.edit_slots(edits_for(30, groups=10)), 30)
        assert str(report) == "30 edits: 30 applied"
        assert len(emulator.commits) == 30
        while await redis.xlen(JOBS):  # noqa: ASYNC110  # in Redis
            await asyncio.sleep(0.01)
        assert (await redis.xpending(JOBS, "workers"))["pending"] == 0
    assert "aiomutex.fleet" in {record.name for record in caplog.records}
    assert caplog.text.count("deleted an entry that is no job from the stream aiomutex:project-1:jobs") == len(entries)


async def test_an_entry_of_others_that_a_worker_died_with_is_deleted(
    emulator: MutexEmulator, redis_server: RedisServer, redis: Any
) -> None:
    await redis.xadd(JOBS, {"x": "y"})
    await redis.xgroup_create(JOBS, "workers", id="0")
    await redis.xreadgroup("workers", "dead", {JOBS: ">"})
    async with worker(emulator, redis_server.url, claim_timeout=0.2), asyncio.timeout(10):
        while await redis.xlen(JOBS):  # noqa: ASYNC110  # in Redis
            await asyncio.sleep(0.01)


async def test_a_job_has_the_same_id_in_the_queue_and_for_taskiq(redis_server: RedisServer, redis: Any) -> None:
    async with Fleet(redis_server.url, name=NAME) as fleet, fleet.stream_slot_edits(edits_for(1)):
        while not await redis.xlen(JOBS):  # noqa: ASYNC110  # in Redis
            await asyncio.sleep(0.01)
        [(_, fields)] = await redis.xrange(JOBS)
    assert JSONFormatter().loads(fields[b"data"]).task_id == fields[b"id"].decode()


async def test_a_fleet_that_was_left_is_not_open(redis_server: RedisServer) -> None:
    async with Fleet(redis_server.url, name=NAME) as fleet:
        assert repr(fleet) == f"<Fleet {NAME!r} · open>"
    assert repr(fleet) == f"<Fleet {NAME!r} · not open>"
    with pytest.raises(ConfigurationError, match="async with fleet"):
        await fleet.edit_slots([])


async def test_a_second_copy_of_a_job_is_not_done(
    emulator: MutexEmulator, redis_server: RedisServer, redis: Any
) -> None:
    async with Fleet(redis_server.url, name=NAME) as fleet:
        run = asyncio.create_task(fleet.edit_slots([SlotEdit(1, 1, experiments=[1])]))
        while not (entries := await redis.xrange(JOBS)):  # noqa: ASYNC110  # in Redis
            await asyncio.sleep(0.01)
        for _ in range(3):
            await redis.xadd(JOBS, entries[0][1])
        async with worker(emulator, redis_server.url):
            assert str(await asyncio.wait_for(run, 10)) == "1 edit: 1 applied"
    assert len(landed(emulator)) == 1


async def test_jobs_of_a_caller_that_left_are_never_done_and_free_their_groups(
    emulator: MutexEmulator, redis_server: RedisServer, redis: Any
) -> None:
    async with Fleet(redis_server.url, name=NAME) as fleet:
        edits = (SlotEdit(1, 1, experiments=[n]) for n in range(1, 100))
        async with fleet.stream_slot_edits(edits, canary=False) as stream:
            while not await redis.xlen(JOBS):  # noqa: ASYNC110  # in Redis
                await asyncio.sleep(0.01)
        assert {outcome.status for outcome in stream.unfinished} == {"unknown"}
        again = asyncio.create_task(fleet.edit_slots([SlotEdit(1, 1, experiments=[500])]))
        await asyncio.sleep(0.3)
        async with worker(emulator, redis_server.url, claim_timeout=0.5):
            report = await asyncio.wait_for(again, 10)
            assert not await redis.hlen(LEASES)
    assert str(report) == "1 edit: 1 applied"
    assert [body["experiments"] for _, _, body in landed(emulator)] == [[500]]


async def test_a_job_in_work_is_abandoned_when_its_caller_left(
    emulator: MutexEmulator, redis_server: RedisServer
) -> None:
    emulator.latency = 0.1
    async with worker(emulator, redis_server.url, claim_timeout=0.4), Fleet(redis_server.url, name=NAME) as fleet:
        async with fleet.stream_slot_edits(SlotEdit(1, 1, experiments=[n]) for n in range(1, 100)):
            await until(lambda: emulator.commits)
        report = await asyncio.wait_for(fleet.edit_slots([SlotEdit(1, 1, experiments=[500])]), 10)
    assert str(report) == "1 edit: 1 applied"
    written = [body["experiments"][0] for _, _, body in landed(emulator)]
    assert written == [*range(1, len(written)), 500]
    assert len(written) < 20


async def test_a_group_is_not_another_runs_while_a_worker_still_writes_to_it(
    emulator: MutexEmulator, redis_server: RedisServer
) -> None:
    emulator.latency = 0.5
    async with (
        worker(emulator, redis_server.url, claim_timeout=2),
        worker(emulator, redis_server.url, claim_timeout=2),  # it would do the second job, as it has waited for longer
        Fleet(redis_server.url, name=NAME) as fleet,
    ):
        async with fleet.stream_slot_edits([SlotEdit(1, 1, experiments=[1])]):
            await until(lambda: emulator.requests)
        report = await asyncio.wait_for(fleet.edit_slots([SlotEdit(1, 1, experiments=[2])]), 20)
    assert str(report) == "1 edit: 1 applied"
    first, second = [request.at for request in emulator.requests]
    assert second - first >= 0.5


async def test_a_run_that_waits_for_its_input_frees_the_groups_that_it_has_read_back(
    emulator: MutexEmulator, redis_server: RedisServer
) -> None:
    is_next = asyncio.Event()

    async def slow() -> AsyncIterator[SlotEdit]:
        yield SlotEdit(1, 1, experiments=[1])
        await is_next.wait()
        yield SlotEdit(1, 1, experiments=[3])

    async with worker(emulator, redis_server.url), Fleet(redis_server.url, name=NAME) as fleet:
        run = asyncio.create_task(fleet.edit_slots(slow(), verify=True))
        await until(lambda: emulator.commits)
        other = await asyncio.wait_for(fleet.edit_slots([SlotEdit(1, 1, experiments=[2])], verify=True), 20)
        is_next.set()
        assert str(await asyncio.wait_for(run, 20)) == "2 edits: 2 applied"
    assert str(other) == "1 edit: 1 applied"
    assert [body["experiments"] for _, _, body in landed(emulator)] == [[1], [2], [3]]


async def test_a_worker_frozen_while_it_waited_for_a_permit_does_not_use_it(
    emulator: MutexEmulator, redis_server: RedisServer
) -> None:
    limiter = LocalRateLimiter(per_second=10)
    async with (
        worker(emulator, redis_server.url, limiter, claim_timeout=0.6),
        Fleet(redis_server.url, name=NAME) as fleet,
    ):
        run = asyncio.create_task(fleet.edit_slots([SlotEdit(1, 1, experiments=[n]) for n in range(1, 12)]))
        await until(lambda: limiter.state().waiting)
        before = len(emulator.commits)
        time.sleep(1.5)  # noqa: ASYNC251  # the process is frozen
        report = await asyncio.wait_for(run, 20)
    assert str(report) == "11 edits: 11 applied"
    written = [body["experiments"][0] for _, _, body in landed(emulator)]
    assert before >= 5
    assert written == [*range(1, 12)]


async def test_a_worker_that_ends_closes_the_limiter_of_its_session(
    emulator: MutexEmulator, redis_server: RedisServer
) -> None:
    limiter = RedisRateLimiter(redis_server.url, name=NAME)
    async with worker(emulator, redis_server.url, limiter) as fleet:
        await fleet.broker.state.session.get_group("1")
    with pytest.raises(ConfigurationError, match="this RedisRateLimiter is closed"):
        await limiter.acquire()


async def test_a_run_that_waits_for_another_can_be_stopped(redis_server: RedisServer, redis: Any) -> None:
    async with Fleet(redis_server.url, name=NAME) as fleet:
        async with fleet.stream_slot_edits([SlotEdit(1, 1, experiments=[1])]):
            while not await redis.hlen(LEASES):  # noqa: ASYNC110  # in Redis
                await asyncio.sleep(0.01)
            async with fleet.stream_slot_edits([SlotEdit(1, 1, experiments=[2])]) as waiting:
                await until(lambda: waiting.pulled)
                await asyncio.sleep(0.3)  # it tries again and again
                waiting.stop()
                assert [outcome.status async for outcome in waiting] == ["skipped"]
        assert waiting.stopped_by is None


async def test_a_job_whose_entry_was_deleted_is_unknown(
    emulator: MutexEmulator, redis_server: RedisServer, redis: Any
) -> None:
    async with Fleet(redis_server.url, name=NAME) as fleet:
        run = asyncio.create_task(fleet.edit_slots([SlotEdit(1, 1, experiments=[1])]))
        while not await redis.xlen(JOBS):  # noqa: ASYNC110  # in Redis
            await asyncio.sleep(0.01)
        await redis.xtrim(JOBS, maxlen=0, approximate=False)
        async with worker(emulator, redis_server.url, claim_timeout=0.4):
            report = await asyncio.wait_for(run, 10)
    assert [outcome.status for outcome in report.outcomes] == ["unknown"]
    assert not landed(emulator)
