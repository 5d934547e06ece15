"""Edits, reads and creates at once while every kind of fault occurs: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import TYPE_CHECKING, get_args

import pytest
from bulk_support import assert_true, landed
from stopping import open_files
from support import idle, session_for

from aiomutex import LocalRateLimiter, NewGroup, NewSlot, NotFoundError, OutcomeUnknownError, RetryPolicy, SlotEdit
from aiomutex.emulator import Fault
from aiomutex.emulator.faults import FaultKind
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from aiomutex import BulkReport, MutexSession

GROUPS = 400
FAULTS = [
    Fault(kind="status", rate=0.02, status=500),
    Fault(kind="status", rate=0.02, status=503),
    Fault(kind="status", rate=0.01, status=502, after_commit=True, body="<html>bad gateway</html>"),
    Fault(kind="status", rate=0.0005, status=429, retry_after=0.1),
    Fault(kind="reset-before", rate=0.02),
    Fault(kind="reset-after", rate=0.02),
    Fault(kind="truncate", rate=0.02),
    Fault(kind="garbage", rate=0.01),
    Fault(kind="stall", rate=0.002),
    Fault(kind="stall", rate=0.002, after_commit=True),
    Fault(kind="storm", rate=0.0001, seconds=0.3),
    # Before the attempt times out. A later change may come after the next edit of its slot.
    Fault(kind="late", rate=0.002, seconds=0.3),
    Fault(kind="maintenance", rate=0.01),
]
PATIENT = RetryPolicy(max_attempts=12, base=0.001, cap=0.05)


class Chaos:
    """Concurrent edits, reads and creates in one session. ``wrong`` lists unexpected responses."""

    def __init__(self, emulator: MutexEmulator, session: MutexSession, seed: int, size: int) -> None:
        order = random.Random(seed)
        self.emulator, self.session = emulator, session
        self.edits = [
            SlotEdit(1 + order.randrange(GROUPS), 1 + order.randrange(3), experiments=[number])
            for number in range(20 * size)
        ]
        self.reads = iter([order.randrange(1, GROUPS + 20) for _ in range(10 * size)])
        self.creates = iter(
            [NewGroup(project_id=1, name="new", key=f"new-{n}", slots=[NewSlot(percentage=100)]) for n in range(size)]
        )
        self.wrong: list[str] = []
        self.created: list[str] = []
        self.unknown: list[str] = []

    async def run(self) -> BulkReport:
        bulk = asyncio.create_task(self.session.edit_slots(self.edits))
        await asyncio.gather(*(self._read() for _ in range(10)), *(self._create() for _ in range(8)))
        return await bulk

    async def _read(self) -> None:
        for group_id in self.reads:
            try:
                group = await self.session.get_group(group_id)
            except NotFoundError:
                if group_id <= GROUPS:
                    self.wrong.append(f"group {group_id} was not found")
            else:
                # Groups beyond the first ones were created by this run.
                if group.id != str(group_id):
                    self.wrong.append(f"asked for {group_id}, got {group.id}")

    async def _create(self) -> None:
        for group in self.creates:
            key = str(group.key)
            try:
                created = await self.session.create_group(group)
            except OutcomeUnknownError:
                self.unknown.append(key)
                continue
            self.created.append(key)
            if self.emulator.groups[created.id].key != key:
                self.wrong.append(f"{created} is not {key}")

    def check(self, report: BulkReport) -> None:
        """Compare the reported outcomes with the emulator's records."""
        assert self.wrong == []

        # Each edit has one outcome, each outcome is true, and each slot holds its last edit.
        assert [each.position for each in sorted(report.outcomes, key=lambda it: it.position)] == [
            *range(len(self.edits))
        ]
        assert_true(self.emulator, report.outcomes)
        assert len(report.applied) >= len(self.edits) * 0.999
        statuses = {each.position: each.status for each in report.outcomes}
        last: dict[tuple[str, int], list[int]] = {}
        for position, edit in enumerate(self.edits):
            address = (str(edit.group_id), edit.slot_index)
            if statuses[position] == "unknown":
                last.pop(address, None)
            elif statuses[position] == "applied":
                last[address] = list(edit.experiments or ())
        for (group_id, slot), experiments in last.items():
            assert self.emulator.groups[group_id].slots[slot - 1].experiments == experiments

        # A write is repeated only while its response is missing, so never after the next edit of its slot.
        made: dict[tuple[str, int], list[int]] = {}
        for group_id, slot, body in landed(self.emulator):
            (number,) = body["experiments"]
            numbers = made.setdefault((group_id, slot), [])
            if not numbers or numbers[-1] != number:
                numbers.append(number)
        assert all(numbers == sorted(set(numbers)) for numbers in made.values())

        # No key was created twice, and none is missing.
        keys = [group.key for group in self.emulator.groups.values()]
        assert len(keys) == len(set(keys))
        assert set(self.created) <= set(keys)
        assert {key for key in keys if key.startswith("new-")} <= {*self.created, *self.unknown}
        assert len(self.unknown) <= 0.02 * (len(self.created) + len(self.unknown))


async def chaos(seed: int, size: int) -> None:
    limiter = LocalRateLimiter(per_second=5_000, per_day=100_000_000)
    async with (
        MutexEmulator(groups=GROUPS, limits=False, faults=FAULTS, seed=seed, keep_requests=100) as emulator,
        session_for(
            emulator.url, rate_limiter=limiter, retry=PATIENT, attempt_timeout=1.0, deadline=120.0, max_connections=64
        ) as session,
    ):
        run = Chaos(emulator, session, seed, size)
        run.check(await run.run())
        assert idle(session)
        assert limiter.state().waiting == 0
        print(f"seed {seed}: {emulator.limits.accepted:,} requests; {len(run.unknown)} creates of unknown outcome")


async def left_over() -> tuple[int, int]:
    """The numbers of open files and of objects. Collecting garbage reports unhandled task errors."""
    await asyncio.sleep(0.05)  # until the server has closed its connections
    gc.collect()
    return open_files(), len(gc.get_objects())


def test_every_kind_of_fault_is_used() -> None:
    assert {fault.kind for fault in FAULTS} == set(get_args(FaultKind))


@pytest.mark.deep
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_edits_reads_and_creates_during_faults(seed: int) -> None:
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    await chaos(seed, 20)  # fills caches
    files, objects = await left_over()
    await chaos(seed, 250)  # 5,000 edits, 2,500 reads, 250 creates
    more_files, more_objects = await left_over()
    assert more_files == files
    assert more_objects - objects < 500
    assert unhandled == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
