from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bulk_support import edits_for, session_for
from support import ONCE

from aiomutex import MutexSession, ServerError, SlotEdit, VerificationError
from aiomutex.emulator import Dialect
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_removal_that_a_merging_service_ignores_is_failed() -> None:
    async with (
        MutexEmulator(groups=2, limits=False, dialect=Dialect(slot_patch="merge")) as emulator,
        session_for(emulator.url) as session,
    ):
        emulator.groups["1"].slots[0].experiments = [1, 2]
        emulator.groups["2"].slots[0].experiments = []
        edits = [SlotEdit(1, 1, experiments=[1]), SlotEdit(2, 1, experiments=[9])]
        report = await session.edit_slots(edits, verify=True)
        assert [outcome.position for outcome in report.applied] == [1]
        error = report.failed[0].error
        assert isinstance(error, VerificationError)
        assert (error.group_id, error.slot_index) == ("1", 1)
        assert error.expected["experiments"] == [1]
        assert error.actual["experiments"] == [1, 2]
        assert "experiments should be [1] but is [1, 2]" in str(error)


async def test_every_edit_is_applied_if_the_service_replaces_lists(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    report = await session.edit_slots(edits_for(200), verify=True)
    assert len(report.applied) == 200


async def test_cohorts_lost_by_a_write_are_noticed() -> None:
    async with (
        MutexEmulator(groups=1, limits=False, dialect=Dialect(cohorts_on_edit="dropped")) as emulator,
        session_for(emulator.url) as session,
    ):
        emulator.groups["1"].slots[0].cohorts = ["loyal"]
        report = await session.edit_slots([SlotEdit(1, 1, experiments=[1])], verify=True)
        assert "cohorts should be ['loyal'] but is []" in str(report.failed[0].error)


async def test_a_list_that_is_not_given_is_compared_with_its_earlier_content(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.groups["1"].slots[0].holdouts = [8]
    report = await session.edit_slots([SlotEdit(1, 1, experiments=[1])], verify=True)
    assert len(report.applied) == 1


async def test_each_group_is_read_once_before_and_once_after_its_edits(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    await session.edit_slots(edits_for(200, groups=10), verify=True, canary=False)
    reads = Counter(request.path for request in emulator.requests if request.method == "GET")
    assert set(reads.values()) == {2}
    assert len(reads) == 10


async def test_the_journal_and_the_verification_share_the_read_before(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    await session.edit_slots(edits_for(60), verify=True, journal=tmp_path / "run.db", canary=False)
    assert sum(request.method == "GET" for request in emulator.requests) == 40


async def test_a_failed_read_back_makes_the_outcome_unknown(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url, retry=ONCE) as session:
        stream = session.stream_slot_edits([SlotEdit(1, 1, experiments=[5])], verify=True)
        emulator.fail_next(1, status=503, method="PATCH")  # a read shows that it was not applied
        async with stream as outcomes:
            assert [(outcome.status, type(outcome.error)) async for outcome in outcomes] == [("failed", ServerError)]
        edits = [SlotEdit(1, 1, experiments=[5])]
        emulator.latency = 0.05
        async with session.stream_slot_edits(edits, verify=True) as outcomes:
            while not emulator.writes["1", 1]:
                await _moment()
            emulator.fail_next(1, status=503, method="GET")
            assert [(outcome.status, type(outcome.error)) async for outcome in outcomes] == [("unknown", ServerError)]


async def _moment() -> None:
    import asyncio  # noqa: PLC0415

    await asyncio.sleep(0.002)


async def test_a_read_after_a_lost_response_does_not_fail_the_next_edit_of_the_slot(emulator: MutexEmulator) -> None:
    edits = [SlotEdit(1, 1, experiments=[5]), SlotEdit(1, 1, holdouts=[9])]
    emulator.fail_next(1, kind="reset-after", method="PATCH")
    async with session_for(emulator.url, retry=ONCE) as session:
        report = await session.edit_slots(edits, verify=True)
    assert [outcome.status for outcome in report.outcomes] == ["applied", "applied"]


async def test_a_group_is_read_again_before_a_write_if_its_last_read_is_old(
    emulator: MutexEmulator, session: MutexSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiomutex.bulk.writer._MAX_AGE", 0.015)
    emulator.latency = 0.02
    report = await session.edit_slots([SlotEdit(1, slot, experiments=[slot]) for slot in (1, 2, 3)], verify=True)
    assert len(report.applied) == 3
    methods = "".join(request.method[0] for request in emulator.requests)
    assert methods.count("P") == 3
    assert "PP" not in methods, "a write was not read back before the next one, by which time it is too late"


async def test_a_stopped_run_still_reads_back_what_was_written(emulator: MutexEmulator, session: MutexSession) -> None:
    edits = [SlotEdit(1, 1 + n % 3, experiments=[n]) for n in range(300)]
    emulator.latency = 0.002
    async with session.stream_slot_edits(iter(edits), verify=True) as outcomes:
        while sum(emulator.writes.values()) < 10:
            await _moment()
        outcomes.stop()
        reported = [outcome async for outcome in outcomes]
    applied = [outcome for outcome in reported if outcome.status == "applied"]
    assert len(applied) == sum(emulator.writes.values())
    assert {outcome.status for outcome in reported} == {"applied", "skipped"}
