"""A fleet of ``taskiq worker`` processes with a real Redis, and the emulator in its own process."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import ROOT, EmulatorProcess, after, edits_for
from fleet_support import KEY, Worker
from redis import Redis

from aiomutex import (
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    SlotEdit,
    SlotOutcome,
    TooManyFailuresError,
)
from aiomutex.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis_server import RedisServer


def client_of(url: str) -> Any:
    return Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]  # untyped upstream


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of an empty Redis."""
    return redis_server.url


async def stream_of(edits: list[SlotEdit]) -> AsyncIterator[SlotEdit]:
    for edit in edits:
        yield edit


@pytest.mark.deep
@pytest.mark.redis
async def test_a_killed_worker_loses_no_edit(redis_url: str) -> None:
    edits = edits_for(500, groups=60)
    expected = after(edits)
    reported: list[SlotOutcome] = []
    with (
        EmulatorProcess(groups=60, latency="10ms±5ms", keep_requests=50_000) as emulator,
        Worker(emulator.url, redis_url) as first,
        Worker(emulator.url, redis_url),
        Worker(emulator.url, redis_url) as third,
    ):

        async def kill_first() -> None:
            while await asyncio.to_thread(emulator.ask, "count") < 150:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.05)
            first.kill()

        async with Fleet(redis_url, name="project-1", claim_timeout=1.5, batch_size=20, max_jobs=12) as fleet:
            killing = asyncio.create_task(kill_first())
            report = await asyncio.wait_for(fleet.edit_slots(stream_of(edits), on_outcome=reported.append), 60)
            await killing
        slots = emulator.ask("slots")
        busiest, _, rejected = emulator.ask("limits")
        commits = emulator.ask("commits")
        output = third.terminate()
    assert str(report) == "500 edits: 500 applied"
    assert sorted(outcome.position for outcome in reported) == list(range(500))
    assert all(outcome.edit == edits[outcome.position] for outcome in reported)
    assert {address: slots["{}/{}".format(*address)][0] for address in expected} == {
        address: lists["experiments"] for address, lists in expected.items()
    }
    assert len(commits) - 500 <= 12 * 20  # only jobs of the dead worker were repeated
    assert busiest <= 100
    assert rejected == 0
    assert KEY not in output
    with client_of(redis_url) as client:
        assert client.xlen("aiomutex:project-1:jobs") == 0  # finished jobs are deleted
        assert [key for key in client.scan_iter() if b"results" in key] == []


@pytest.mark.deep
@pytest.mark.redis
async def test_a_worker_finishes_its_job_after_sigterm(redis_url: str) -> None:
    with (
        EmulatorProcess(groups=15, latency="100ms", limits=False) as emulator,
        Worker(emulator.url, redis_url) as worker,
    ):
        async with Fleet(redis_url, name="project-1", max_jobs=1) as fleet:
            run = asyncio.create_task(fleet.edit_slots(edits_for(15, groups=15)))
            while not await asyncio.to_thread(emulator.ask, "commits"):  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.05)
            await asyncio.to_thread(worker.terminate)
            report = await asyncio.wait_for(run, 10)
        assert str(report) == "15 edits: 15 applied"
        assert len(emulator.ask("commits")) == 15


@pytest.mark.redis
async def test_outcomes_are_the_same_as_on_one_machine(redis_url: str) -> None:
    edits = [
        SlotEdit(1, 1, experiments=[5]),
        SlotEdit(999, 1, experiments=[6]),
        SlotEdit("2", 3, holdouts=[7], individuals=["x"]),
    ]
    # The job is queued before the first worker starts.
    with EmulatorProcess(groups=5, limits=False) as emulator:
        async with Fleet(redis_url, name="project-1") as fleet:
            assert repr(fleet) == "<Fleet 'project-1' · open>"
            run = asyncio.create_task(fleet.edit_slots(edits, verify=True))
            await asyncio.sleep(0.5)
            with Worker(emulator.url, redis_url):
                report = await asyncio.wait_for(run, 30)
                assert str(report) == "3 edits: 2 applied, 1 failed"
                error = report.failed[0].error
                assert isinstance(error, NotFoundError)
                assert (error.status, error.method, error.attempts) == (404, "GET", 1)
                assert report.failed[0].edit == edits[1]
                with pytest.raises(ExceptionGroup):
                    report.raise_for_failures()
                with pytest.raises(
                    InvalidRequestError, match=r"edits\[1\]: slot_index must be an integer from 1 to 20, not 0"
                ):
                    await fleet.edit_slots([SlotEdit(1, 1, experiments=[1]), SlotEdit(1, 0, experiments=[1])])
                mixed = await fleet.edit_slots(iter([SlotEdit(1, 0, experiments=[1]), SlotEdit(1, 1, experiments=[1])]))
                assert [(each.position, each.status) for each in mixed.outcomes] == [(0, "failed"), (1, "applied")]


@pytest.mark.deep
@pytest.mark.redis
async def test_a_revoked_key_stops_the_run_and_never_reaches_redis(redis_url: str) -> None:
    key = "mgmt-revoked-77aa12"
    command = [shutil.which("redis-cli") or "valkey-cli", "-u", redis_url, "monitor"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as monitor:  # noqa: ASYNC220  # read at the end
        with (
            EmulatorProcess(groups=60, key="another", limits=False) as server,
            Worker(server.url, redis_url, key) as worker,
        ):
            async with Fleet(redis_url, name="project-1") as fleet:
                report = await asyncio.wait_for(fleet.edit_slots(edits_for(2_000, groups=60)), 60)
            output = worker.terminate()
        monitor.terminate()
        commands = monitor.communicate()[0]
    assert isinstance(report.stopped_by, AuthenticationError)
    assert report.stopped_by.status == 401
    assert len(report.outcomes) == 2_000
    assert len(report.skipped) > 1_000
    assert "aiomutex.edit_slots" in commands
    assert key not in commands
    assert key not in output


@pytest.mark.deep
@pytest.mark.redis
async def test_a_run_stops_after_the_given_number_of_failures(redis_url: str) -> None:
    many = [SlotEdit(900 + n, 1, experiments=[1]) for n in range(1_000)]
    with EmulatorProcess(groups=5, limits=False) as emulator, Worker(emulator.url, redis_url):
        async with Fleet(redis_url, name="project-1") as fleet:
            stopped = await asyncio.wait_for(fleet.edit_slots(many, stop_after=5), 60)
    assert isinstance(stopped.stopped_by, TooManyFailuresError)
    assert len(stopped.outcomes) == 1_000
    assert 5 <= len(stopped.failed) <= 12 * (5 + 48)
    assert len(stopped.skipped) == 1_000 - len(stopped.failed)


@pytest.mark.deep
@pytest.mark.redis
async def test_leaving_early_reports_the_edits_that_workers_have(redis_url: str) -> None:
    with EmulatorProcess(groups=60, latency="5ms", limits=False) as emulator, Worker(emulator.url, redis_url):
        async with Fleet(redis_url, name="project-1", batch_size=10, max_jobs=4) as fleet:
            reported: list[SlotOutcome] = []
            stream = fleet.stream_slot_edits(
                stream_of(edits_for(500, groups=60)), on_outcome=reported.append, canary=False
            )
            async with stream as outcomes:
                async for _ in outcomes:
                    break
            assert len({outcome.position for outcome in reported}) == len(reported)
            assert {outcome.status for outcome in stream.unfinished} <= {"applied", "unknown"}
            assert 0 < len(stream.unfinished) <= 64 + 10 * 4  # nothing is started beyond 64 unconsumed outcomes
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("aiomutex")]


async def test_a_fleet_must_be_open_to_edit() -> None:
    fleet = Fleet("redis://127.0.0.1:1", name="project-1")
    assert repr(fleet) == "<Fleet 'project-1' · not open>"
    with pytest.raises(ConfigurationError, match="async with fleet"):
        await fleet.edit_slots([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer from 1, not 0 (int)"),
        ({"batch_size": 0.5}, "batch_size must be an integer from 1, not 0.5 (float)"),
        ({"max_jobs": True}, "max_jobs must be an integer from 1, not True (bool)"),
        ({"claim_timeout": 0}, "claim_timeout must be a number of seconds above 0, not 0 (int)"),
        ({"claim_timeout": "1"}, "claim_timeout must be a number of seconds above 0, not '1' (str)"),
        ({"name": ""}, "name must be a non-empty string, not '' (str)"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], message: str) -> None:
    options = {"name": "x", **options}
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        Fleet("redis://127.0.0.1:1", **options)


def test_without_the_extra_the_error_names_it_and_the_core_works() -> None:
    code = (
        "import sys; sys.modules['taskiq'] = None; import aiomutex, aiomutex.bulk; print('core')\n"
        "try: import aiomutex.fleet\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "core" in done.stdout
    assert "pip install 'aiomutex[fleet]'" in done.stdout
    code = "import sys, aiomutex, aiomutex.bulk; print([name for name in sys.modules if 'taskiq' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
