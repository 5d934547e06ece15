"""Everything at once against a service that fails a tenth of all requests: nothing lost, nothing twice, all true."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path

import pytest
from support import connector_of, session_for

from aiomutex import NewGroup, NewSlot, NotFoundError, OutcomeUnknownError, RetryPolicy, SlotEdit
from aiomutex.testing import MutexEmulator

FAULTS = ["reset-before:2%", "reset-after:2%", "500:2%", "503:2%", "truncate:2%"]
PATIENT = RetryPolicy(max_attempts=10, base=0.001, cap=0.05)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.deep
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_edits_reads_and_creates_in_the_midst_of_faults(seed: int) -> None:
    order = random.Random(seed)
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    files = open_files()
    async with MutexEmulator(groups=400, limits=False, faults=FAULTS, seed=seed, keep_requests=100) as emulator:
        edits = [
            SlotEdit(1 + order.randrange(400), 1 + order.randrange(3), experiments=[number]) for number in range(10_000)
        ]
        creates = [
            NewGroup(project_id=1, name=f"new {n}", key=f"new-{n}", slots=[NewSlot(percentage=100)]) for n in range(500)
        ]
        async with session_for(emulator.url, retry=PATIENT, deadline=120.0) as session:
            wrong: list[str] = []

            async def read() -> None:
                for _ in range(500):
                    group_id = order.randrange(1, 420)
                    try:
                        group = await session.get_group(group_id)
                    except NotFoundError:
                        if group_id <= 400:
                            wrong.append(f"group {group_id} was not found")
                    else:
                        if group.id != str(group_id):
                            wrong.append(f"asked for {group_id}, got {group.id}")

            async def create(group: NewGroup) -> None:
                try:
                    created = await session.create_group(group)
                except OutcomeUnknownError:
                    return
                if emulator.groups[created.id].key != group.key:
                    wrong.append(f"{created} is not {group.key}")

            async def create_all() -> None:
                waiting = iter(creates)

                async def work() -> None:
                    for group in waiting:
                        await create(group)

                await asyncio.gather(*(work() for _ in range(8)))

            bulk = asyncio.create_task(session.edit_slots(edits))
            await asyncio.gather(create_all(), *(read() for _ in range(10)))
            report = await bulk
            assert wrong == []

            # Each edit has one outcome, each outcome is true, and the last edit of a slot is what it holds.
            assert len(report.outcomes) == 10_000
            assert sorted(outcome.position for outcome in report.outcomes) == list(range(10_000))
            last: dict[tuple[str, int], SlotEdit] = {}
            by_position = {outcome.position: outcome for outcome in report.outcomes}
            for position, edit in enumerate(edits):
                if by_position[position].status == "applied":
                    last[str(edit.group_id), edit.slot_index] = edit
            unsure = {(str(o.edit.group_id), o.edit.slot_index) for o in report.outcomes if o.status != "applied"}
            for (group_id, slot), edit in last.items():
                if (group_id, slot) not in unsure:
                    assert emulator.groups[group_id].slots[slot - 1].experiments == edit.experiments
            assert len(report.applied) >= 9_990

            # No key was created twice, whatever was lost on the way.
            keys = [group.key for group in emulator.groups.values()]
            assert len(keys) == len(set(keys))
            assert sum(key.startswith("new-") for key in keys) >= 490

            assert not connector_of(session)._acquired
    await asyncio.sleep(0.05)  # what the server still has to close
    gc.collect()  # tasks and futures that failed unseen speak up when they are collected
    assert unhandled == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_files() == files
