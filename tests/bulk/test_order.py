from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import after, assert_holds, assert_in_order, edits_for, held, landed, session_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiomutex import SlotEdit
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bulk_support import Editor

    from aiomutex import MutexSession


async def record_concurrency(emulator: MutexEmulator, most: Counter[str]) -> None:
    """Record the maximum number of concurrent writes at the service, for each group and for all."""
    while True:
        now = Counter(
            request.path.split("/")[4]
            for request in emulator.requests
            if request.status is None and request.method == "PATCH"
        )
        for group, count in now.items():
            most[group] = max(most[group], count)
        most["all"] = max(most["all"], now.total())
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("verify", [False, True])
async def test_each_group_has_one_write_in_flight_and_groups_are_edited_concurrently(
    emulator: MutexEmulator, editor: Editor, verify: bool
) -> None:
    emulator.latency = "15ms±5ms"
    most: Counter[str] = Counter()
    watch = asyncio.create_task(record_concurrency(emulator, most))
    report = await editor.edit_slots(edits_for(300, groups=10), verify=verify)
    watch.cancel()
    assert len(report.applied) == 300
    assert most.pop("all") > 3
    assert set(most.values()) == {1}


async def test_edits_of_a_slot_are_applied_in_the_order_given(emulator: MutexEmulator, editor: Editor) -> None:
    emulator.latency = "1ms±1ms"
    edits = edits_for(400, groups=5)
    report = await editor.edit_slots(edits)
    report.raise_for_failures()
    assert_in_order(emulator, edits)
    by_group: dict[Any, list[int]] = {}
    for outcome in report.outcomes:
        by_group.setdefault(outcome.edit.group_id, []).append(outcome.position)
    assert all(positions == sorted(positions) for positions in by_group.values())


async def test_identical_edits_in_a_row_share_a_request_and_each_has_its_outcome(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    edits = [SlotEdit(1, 1, experiments=[5])] * 50 + [SlotEdit(1, 1, experiments=[6])] * 30
    report = await session.edit_slots(edits)
    assert sorted(outcome.position for outcome in report.applied) == list(range(80))
    assert all(outcome.edit == edits[outcome.position] for outcome in report.outcomes)
    assert emulator.writes["1", 1] < 8
    assert landed(emulator)[-1][2] == {"experiments": [6]}


async def test_identical_edits_with_a_different_one_in_between_are_all_sent(
    emulator: MutexEmulator, editor: Editor
) -> None:
    edits = [SlotEdit(1, 1, experiments=[5 + n % 2]) for n in range(20)]
    await editor.edit_slots(edits)
    assert [body["experiments"][0] for _, _, body in landed(emulator)] == [5 + n % 2 for n in range(20)]


async def test_an_id_as_integer_and_as_string_is_one_group(emulator: MutexEmulator, editor: Editor) -> None:
    emulator.latency = 0.003
    edits = [SlotEdit(7 if n % 2 else "7", 1, experiments=[n]) for n in range(20)]
    await editor.edit_slots(edits)
    assert_in_order(emulator, edits)


ids = st.lists(st.integers(1, 9), max_size=3, unique=True)
lists = st.fixed_dictionaries(
    {}, optional={"experiments": ids, "holdouts": ids, "individuals": st.lists(st.sampled_from("abc"), unique=True)}
).filter(bool)


def edit_of(group: int, slot: int, given: dict[str, Any]) -> SlotEdit:
    return SlotEdit(group, slot, **given)


an_edit = st.builds(edit_of, st.integers(1, 2), st.integers(1, 2), lists)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(edits=st.lists(an_edit, max_size=25), journal=st.booleans(), verify=st.booleans(), asynchronous=st.booleans())
def test_a_run_has_the_same_effect_as_making_the_edits_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, edits: list[SlotEdit], journal: bool, verify: bool, asynchronous: bool
) -> None:
    async def source() -> AsyncIterator[SlotEdit]:
        for edit in edits:
            await asyncio.sleep(0)
            yield edit

    async def run() -> None:
        path = tmp_path_factory.mktemp("run") / "run.db" if journal else None
        async with MutexEmulator(groups=2, limits=False) as emulator, session_for(emulator.url) as session:
            addresses = [("1", 1), ("1", 2), ("2", 1), ("2", 2)]
            before = held(emulator, addresses)
            report = await session.edit_slots(source() if asynchronous else edits, journal=path, verify=verify)
            # The read-back of several edits of one slot compares it with the last one.
            assert not report.failed
            assert len(report.applied) == len(edits)
            assert_holds(emulator, after(edits, before))

    asyncio.run(run())
