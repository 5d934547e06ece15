"""A fleet's run with a journal: killed, resumed and undone, by the fleet or by a session; and what a safe run costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from bulk_support import (
    ROOT,
    BudgetLimiter,
    EmulatorProcess,
    Process,
    after,
    assert_holds,
    edits_for,
    held,
    landed,
    session_for,
)
from fleet_support import HERE, KEY, NAME, worker
from support import until

from aiomutex import AuthenticationError, DailyBudgetExhaustedError, JournalError, SlotChange, SlotEdit
from aiomutex.bulk import undo
from aiomutex.fleet import Fleet
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from pathlib import Path

    from redis_server import RedisServer

pytestmark = pytest.mark.redis

EDITS: Final = 600
GROUPS: Final = 40
SEEDS: Final = range(int(os.environ.get("FLEET_SEED", "0")), int(os.environ.get("FLEET_SEEDS", "3")))
"""The seeds of the generated test. To replay one: ``FLEET_SEED=7 FLEET_SEEDS=8 pytest -m deep tests/fleet``."""


class Scene:
    """Workers and callers of one journaled run, which a test starts and kills."""

    def __init__(self, emulator: EmulatorProcess, redis_url: str, journal: Path, stack: contextlib.ExitStack) -> None:
        self.emulator = emulator
        self.stack = stack
        self.env = {
            "AMPLITUDE_MANAGEMENT_API_KEY": KEY,
            "AIOMUTEX_BASE_URL": emulator.url,
            "FLEET_REDIS": redis_url,
            "FLEET_CLAIM_TIMEOUT": "1.0",
            "FLEET_BATCH": "10",
            "FLEET_JOURNAL": str(journal),
            "PYTHONPATH": f"{ROOT}:{HERE}:{HERE.parent}",
        }

    def worker(self) -> Process:
        worker = self.stack.enter_context(Process(HERE / "fleet_workers.py", "work", env=self.env))
        worker.line()
        return worker

    def caller(self) -> Process:
        caller = self.stack.enter_context(Process(HERE / "fleet_workers.py", "call", 1, EDITS, GROUPS, env=self.env))
        caller.line()
        os.waitid(os.P_PID, caller.process.pid, os.WSTOPPED)
        os.kill(caller.process.pid, signal.SIGCONT)
        return caller

    def wait_for_writes(self, count: int) -> None:
        end = time.monotonic() + 5
        while self.emulator.ask("count") < count and time.monotonic() < end:
            time.sleep(0.005)


@pytest.mark.deep
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_run_whose_callers_and_workers_were_killed_is_resumed_and_undone(
    redis_server: RedisServer, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    journal = tmp_path / "run.db"
    with (
        EmulatorProcess(groups=GROUPS, latency="20ms", limits=False, keep_requests=100_000) as emulator,
        contextlib.ExitStack() as stack,
    ):
        scene = Scene(emulator, redis_server.url, journal, stack)
        before = emulator.ask("slots")
        workers = [scene.worker(), scene.worker()]
        killed = chance.randint(1, 3)
        for _ in range(killed):
            caller = scene.caller()
            scene.wait_for_writes(emulator.ask("count") + chance.randint(0, 250))
            if chance.random() < 0.5:
                workers.pop().kill()
                workers.append(scene.worker())
            caller.kill()
            time.sleep(chance.choice([0, 0, 0.5, 1.5]))  # noqa: ASYNC251  # nothing runs here
        # At once, while workers may still have jobs of the dead callers:
        result = scene.caller().line()
        assert set(result["outcomes"].values()) <= {"applied", "skipped"}  # skipped: applied by a dead caller
        commits = emulator.ask("commits")
        edits = edits_for(EDITS, groups=GROUPS)
        slots = emulator.ask("slots")
        expected = {f"{group}/{slot}": lists["experiments"] for (group, slot), lists in after(edits).items()}
        assert {address: slots[address][0] for address in expected} == expected
        # Each slot was written in order. A write is repeated only if its caller or its worker died with it.
        for group, slot in after(edits):
            numbers = [body["experiments"][0] for at, index, body in commits if (at, index) == (group, slot)]
            assert sorted(set(numbers)) == list(dict.fromkeys(numbers))
        assert EDITS <= len(commits) <= EDITS + 2 * killed * 96
        await asyncio.sleep(2)
        assert emulator.ask("slots") == slots  # nothing of the dead callers came later
        async with Fleet(redis_server.url, name=NAME, claim_timeout=1.0) as fleet:
            report = await undo(fleet, journal)
        assert len(report.applied) == len(expected)
        assert emulator.ask("slots") == before


async def test_a_session_resumes_and_undoes_what_a_fleet_began(
    emulator: MutexEmulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    edits = edits_for(30, groups=10)
    slots = after(edits)
    before = held(emulator, slots)
    journal = tmp_path / "run.db"
    async with worker(emulator, redis_server.url), Fleet(redis_server.url, name=NAME) as fleet:
        emulator.latency = 0.05
        async with fleet.stream_slot_edits(edits, journal=journal) as stream:
            await until(lambda: len(emulator.commits) > 5)
        assert not set(stream.counts) - {"applied", "unknown"}
        emulator.latency = 0.0
        async with session_for(emulator.url) as session:
            with pytest.raises(JournalError, match="belongs to a different input"):
                await session.edit_slots(edits[1:], journal=journal)
            report = await session.edit_slots(edits, journal=journal, verify=True)
            assert {outcome.status for outcome in report.outcomes} <= {"applied", "skipped"}
            assert_holds(emulator, slots)
            assert len((await undo(session, journal)).applied) == len(slots)
        assert held(emulator, slots) == before
        with pytest.raises(JournalError, match="was undone"):
            await fleet.edit_slots(edits, journal=journal)


async def test_relative_guarded_and_unchanged_edits_are_the_callers(
    emulator: MutexEmulator, redis_server: RedisServer
) -> None:
    held_now = emulator.groups["3"].slots[0].experiments
    edits: list[SlotEdit | SlotChange] = [
        SlotEdit(1, 1, experiments=[5]),
        SlotChange(1, 1, add_experiments=[6]),
        SlotEdit(2, 1, experiments=[7], expected={"experiments": [404]}),
        SlotEdit(3, 1, experiments=held_now),
    ]
    async with worker(emulator, redis_server.url), Fleet(redis_server.url, name=NAME) as fleet:
        report = await fleet.edit_slots(edits, skip_unchanged=True)
    statuses = {outcome.position: outcome.status for outcome in report.outcomes}
    assert statuses == {0: "applied", 1: "applied", 2: "failed", 3: "unchanged"}
    assert [body["experiments"] for _, _, body in landed(emulator)] == [[5], [5, 6]]


async def test_a_safe_run_costs_as_many_requests_as_on_one_machine(redis_server: RedisServer, tmp_path: Path) -> None:
    edits = edits_for(2_000, groups=1_000, slots=2)
    async with MutexEmulator(groups=1_000, limits=False, keep_requests=100_000) as emulator:
        async with worker(emulator, redis_server.url), Fleet(redis_server.url, name=NAME) as fleet:
            report = await fleet.edit_slots(edits, verify=True, journal=tmp_path / "run.db")
            assert str(report) == "2,000 edits: 2,000 applied"
            assert_holds(emulator, after(edits))
            on_fleet = len(emulator.requests)
            emulator.clear_history()
            assert len((await undo(fleet, tmp_path / "run.db")).applied) == 2_000
            assert len(emulator.requests) <= 2_040
        emulator.clear_history()
        async with session_for(emulator.url) as session:
            await session.edit_slots(edits, verify=True, journal=tmp_path / "local.db")
        assert on_fleet <= len(emulator.requests) + 5


async def test_a_reserve_and_the_next_day_are_known_from_the_workers(
    emulator: MutexEmulator, redis_server: RedisServer
) -> None:
    limiter: Any = BudgetLimiter(10_000, timedelta(seconds=1))
    limiter.per_window = 10**9  # as many as it grants: the run may not rely on a pace
    edits = edits_for(400, groups=10)
    async with worker(emulator, redis_server.url, limiter), Fleet(redis_server.url, name=NAME) as fleet:
        report = await fleet.edit_slots(edits, reserve=900)  # of 1,000 a day
        assert isinstance(report.stopped_by, DailyBudgetExhaustedError)
        assert 80 <= len(report.applied) <= 100
        assert report.stopped_by.resets_at == limiter.resets_at
        limiter.permits = limiter.given + 5
        async with fleet.stream_slot_edits(edits[:20], on_budget="wait") as stream:
            _ = [each async for each in stream]
        assert stream.counts == {"applied": 20}
        assert limiter.rejected


async def test_a_group_is_another_runs_until_it_has_read_it_back(
    emulator: MutexEmulator, redis_server: RedisServer
) -> None:
    runs = [[SlotEdit(group, 1, experiments=[1000 * run + group]) for group in range(1, 11)] for run in (1, 2, 3)]
    async with (
        worker(emulator, redis_server.url),
        Fleet(redis_server.url, name=NAME) as one,
        Fleet(redis_server.url, name=NAME) as other,
    ):
        reports = await asyncio.wait_for(
            asyncio.gather(
                one.edit_slots(runs[0], verify=True),
                other.edit_slots(reversed(runs[1]), verify=True),
                other.edit_slots(runs[2]),
            ),
            30,
        )
    assert [str(report) for report in reports] == ["10 edits: 10 applied"] * 3
    assert len(landed(emulator)) == 30


async def test_a_rejected_key_stops_a_run_that_reads_first(
    emulator: MutexEmulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    emulator.fail_next(1_000, status=401)
    async with worker(emulator, redis_server.url), Fleet(redis_server.url, name=NAME) as fleet:
        report = await fleet.edit_slots(edits_for(30, groups=10), journal=tmp_path / "run.db")
    assert isinstance(report.stopped_by, AuthenticationError)
    assert not landed(emulator)


def test_options_of_a_run_are_checked() -> None:
    async def main() -> None:
        fleet = Fleet("redis://127.0.0.1:1", name=NAME)
        fleet._is_open = True  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(TypeError, match="verfiy"):
            await fleet.edit_slots([], verfiy=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        with pytest.raises(ValueError, match="concurrency must be an integer from 1"):
            await fleet.edit_slots([], concurrency=0)

    asyncio.run(main())
