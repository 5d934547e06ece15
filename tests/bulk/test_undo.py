from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import after, assert_holds, edits_for, held, landed, left_over, session_for
from support import ONCE, no_lag, until

from aiomutex import AuthenticationError, InvalidRequestError, JournalError, MutexSession, ServerError, SlotEdit
from aiomutex.bulk import undo
from aiomutex.bulk.undo import CHANGED_SINCE
from aiomutex.emulator import Dialect
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiomutex import SlotOutcome

ADDRESSES = [(str(group), slot) for group in range(1, 21) for slot in (1, 2, 3)]


async def test_undo_restores_every_slot_and_a_second_undo_writes_nothing(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    await session.edit_slots([SlotEdit(3, 2, experiments=[31], holdouts=[32], individuals=["x"])])
    before = held(emulator, ADDRESSES)
    edits = [*edits_for(200), SlotEdit(3, 2, individuals=["y"])]
    await session.edit_slots(edits, journal=tmp_path / "run.db")
    reported: list[SlotOutcome] = []
    report = await undo(session, tmp_path / "run.db", on_outcome=reported.append)
    assert len(report.applied) == 60
    assert sorted(outcome.position for outcome in report.outcomes) == list(range(60))
    assert {outcome.note for outcome in report.outcomes} == {""}
    assert reported == report.outcomes
    assert held(emulator, ADDRESSES) == before
    emulator.clear_history()
    again = await undo(session, tmp_path / "run.db")
    assert {(each.status, each.note) for each in again.outcomes} == {
        ("skipped", "already undone, according to the journal")
    }
    assert sorted(outcome.position for outcome in again.outcomes) == list(range(60))
    assert not emulator.requests


async def test_undo_writes_the_latest_slot_first(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    edits = [SlotEdit(1, slot, experiments=[slot]) for slot in (2, 1, 3)]
    await session.edit_slots(edits, journal=tmp_path / "run.db")
    emulator.clear_history()
    await undo(session, tmp_path / "run.db", concurrency=1)
    assert [slot for _, slot, _ in landed(emulator)] == [3, 1, 2]


async def test_undo_writes_back_only_the_lists_the_run_wrote(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    await session.edit_slots([SlotEdit(1, 1, holdouts=[5])], journal=tmp_path / "run.db")
    emulator.groups["1"].slots[0].experiments = [77]
    emulator.clear_history()
    report = await undo(session, tmp_path / "run.db")
    assert len(report.applied) == 1
    assert set(landed(emulator)[0][2]) == {"holdouts"}
    assert emulator.groups["1"].slots[0].experiments == [77]


async def test_a_slot_changed_since_the_run_is_skipped_unless_forced(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    before = held(emulator, ADDRESSES)
    await session.edit_slots(edits_for(60), journal=tmp_path / "run.db")
    emulator.groups["4"].slots[1].experiments = [4242]
    report = await undo(session, tmp_path / "run.db")
    assert [(outcome.edit.group_id, outcome.edit.slot_index) for outcome in report.skipped] == [("4", 2)]
    assert "changed since the run" in report.skipped[0].note
    assert sorted(outcome.position for outcome in report.outcomes) == list(range(60))
    assert emulator.groups["4"].slots[1].experiments == [4242]
    forced = await undo(session, tmp_path / "run.db", force=True)
    assert len(forced.applied) == 1
    assert held(emulator, ADDRESSES) == before


async def test_a_slot_that_was_set_back_to_an_earlier_edit_of_the_run_has_changed_since(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    edits = [SlotEdit(1, 1, experiments=[5]), SlotEdit(1, 1, experiments=[6])]
    assert len((await session.edit_slots(edits, journal=tmp_path / "run.db")).applied) == 2
    emulator.groups["1"].slots[0].experiments = [5]
    [outcome] = (await undo(session, tmp_path / "run.db")).outcomes
    assert (outcome.status, outcome.note) == ("skipped", CHANGED_SINCE)
    assert emulator.groups["1"].slots[0].experiments == [5]


async def test_undo_restores_what_someone_else_wrote_during_the_run_before_its_first_write(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiomutex.bulk.writer._MAX_AGE", 0.015)
    emulator.latency = 0.02
    edits = [SlotEdit(1, 1, experiments=[5]), SlotEdit(1, 1, experiments=[6]), SlotEdit(1, 2, experiments=[7])]
    run = asyncio.create_task(session.edit_slots(edits, journal=tmp_path / "run.db"))
    await until(lambda: emulator.writes["1", 1])
    emulator.groups["1"].slots[1].experiments = [4242]
    assert len((await run).applied) == 3
    assert len((await undo(session, tmp_path / "run.db")).applied) == 2
    assert emulator.groups["1"].slots[1].experiments == [4242]


async def test_a_later_failed_edit_does_not_count_as_a_change_by_someone_else(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    before = held(emulator, ADDRESSES)

    async def source() -> AsyncIterator[SlotEdit]:
        yield SlotEdit(1, 1, experiments=[5])
        while not emulator.writes["1", 1]:  # noqa: ASYNC110  # the emulator has no event for it
            await asyncio.sleep(0.002)
        emulator.fail_next(1, status=400, method="PATCH")
        yield SlotEdit(1, 1, experiments=[6])

    run = await session.edit_slots(source(), journal=tmp_path / "run.db")
    assert [outcome.status for outcome in run.outcomes] == ["applied", "failed"]
    report = await undo(session, tmp_path / "run.db")
    assert len(report.applied) == 1
    assert held(emulator, ADDRESSES) == before


async def test_a_run_of_failed_edits_leaves_nothing_to_undo(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    emulator.fail_next(1, status=400, method="PATCH")
    report = await session.edit_slots([SlotEdit(1, 1, experiments=[5])], journal=tmp_path / "run.db")
    assert len(report.failed) == 1
    assert (await undo(session, tmp_path / "run.db")).outcomes == []


@pytest.mark.parametrize("arrived", [False, True])
async def test_undo_restores_a_slot_after_an_unknown_outcome_whether_it_was_applied_or_not(
    emulator: MutexEmulator, tmp_path: Path, arrived: bool
) -> None:
    before = held(emulator, ADDRESSES)
    async with session_for(emulator.url, retry=ONCE) as session:
        emulator.fail_next(1, kind="reset-after" if arrived else "reset-before", method="PATCH")
        emulator.fail_next(2, status=500, method="GET", path="/api/1/mutexes/2")
        report = await session.edit_slots([SlotEdit(1, 1, experiments=[5])], journal=tmp_path / "run.db")
        assert not report.failed
        emulator.faults.clear()
        assert len((await undo(session, tmp_path / "run.db")).applied) == 1
    assert held(emulator, ADDRESSES) == before


async def test_an_undo_that_cannot_be_read_back_is_unknown_with_its_error(
    emulator: MutexEmulator, tmp_path: Path
) -> None:
    before = held(emulator, ADDRESSES)
    async with session_for(emulator.url, retry=ONCE) as session:
        await session.edit_slots([SlotEdit(1, 1, experiments=[5])], journal=tmp_path / "run.db")
        written = emulator.writes["1", 1]
        emulator.latency = 0.05
        undoing = asyncio.create_task(undo(session, tmp_path / "run.db"))
        await until(lambda: emulator.writes["1", 1] > written)
        emulator.fail_next(1, status=503, method="GET")
        report = await undoing
        reported = [(outcome.position, outcome.status, type(outcome.error)) for outcome in report.outcomes]
        assert reported == [(0, "unknown", ServerError)]
        assert len((await undo(session, tmp_path / "run.db")).applied) == 1
    assert held(emulator, ADDRESSES) == before


async def test_a_rejected_key_stops_an_undo_which_can_be_resumed(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    before = held(emulator, ADDRESSES)
    await session.edit_slots(edits_for(60), journal=tmp_path / "run.db")
    emulator.clear_history()
    emulator.fail_next(1_000, status=401)
    report = await undo(session, tmp_path / "run.db", concurrency=2)
    assert isinstance(report.stopped_by, AuthenticationError)
    assert len(emulator.requests) <= 4
    assert sorted(outcome.position for outcome in report.outcomes) == list(range(60))
    reported = {(outcome.status, outcome.note) for outcome in report.outcomes}
    assert reported == {("failed", ""), ("skipped", "not sent: the undo was stopped before")}
    emulator.faults.clear()
    await undo(session, tmp_path / "run.db")
    assert held(emulator, ADDRESSES) == before


async def test_undo_fails_if_the_service_merges_lists_and_shows_the_actual_content(tmp_path: Path) -> None:
    async with (
        MutexEmulator(groups=1, limits=False, dialect=Dialect(slot_patch="merge")) as emulator,
        session_for(emulator.url) as session,
    ):
        await session.edit_slots([SlotEdit(1, 1, experiments=[5])], journal=tmp_path / "run.db")
        report = await undo(session, tmp_path / "run.db")
        assert "the service has added what the run wrote" in report.skipped[0].note
        forced = await undo(session, tmp_path / "run.db", force=True)
        assert "experiments should be [101] but is [5, 101]" in str(forced.failed[0].error)


async def test_a_journal_that_was_undone_is_rejected_by_a_run(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    edits = edits_for(10)
    await session.edit_slots(edits, journal=tmp_path / "run.db")
    await undo(session, tmp_path / "run.db")
    with pytest.raises(JournalError, match="was undone"):
        await session.edit_slots(edits, journal=tmp_path / "run.db")


async def test_a_slot_that_seems_to_hold_its_earlier_content_is_written_all_the_same(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    await session.edit_slots([SlotEdit(1, 1, experiments=[5])], journal=tmp_path / "run.db")
    emulator.groups["1"].slots[0].experiments = [101]
    emulator.clear_history()
    for status, note in (("applied", ""), ("skipped", "already undone, according to the journal")):
        report = await undo(session, tmp_path / "run.db")
        assert [(each.position, each.status, each.note) for each in report.outcomes] == [(0, status, note)]
    assert [request.method for request in emulator.requests] == ["GET", "PATCH", "GET"]


@pytest.mark.parametrize("writes", [1, 2])
async def test_undo_restores_everything_although_reads_lag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, writes: int
) -> None:
    no_lag(monkeypatch, 0.6)
    async with MutexEmulator(groups=20, limits=False) as emulator, session_for(emulator.url) as session:
        before = held(emulator, ADDRESSES)
        emulator.dialect = Dialect(read_lag=0.5)
        edits = [edit for start in range(writes) for edit in edits_for(60, start=1 + 100 * start)]
        run = await session.edit_slots(edits, journal=tmp_path / "run.db")
        assert len(run.applied) == len(edits)
        report = await undo(session, tmp_path / "run.db")
        assert held(emulator, ADDRESSES) == before
        assert {(outcome.status, outcome.note) for outcome in report.outcomes} == {("applied", "")}
        assert len(report.outcomes) == 60


async def test_a_slot_that_a_late_read_shows_restored_is_not_skipped(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_lag(monkeypatch, 0.2)
    await session.edit_slots([SlotEdit(1, 1, experiments=[5])], journal=tmp_path / "run.db")
    emulator.groups["1"].slots[0].experiments = [4242]
    emulator.clear_history()
    undoing = asyncio.create_task(undo(session, tmp_path / "run.db"))
    await until(lambda: emulator.requests)
    await asyncio.sleep(0.1)
    emulator.groups["1"].slots[0].experiments = [101]
    assert [outcome.status for outcome in (await undoing).outcomes] == ["applied"]
    assert [request.method for request in emulator.requests] == ["GET", "GET", "PATCH", "GET"]
    assert (await undo(session, tmp_path / "run.db")).outcomes[0].note == "already undone, according to the journal"


@pytest.mark.parametrize(
    ("fault", "status"), [({"status": 400}, "failed"), ({"kind": "reset-before"}, "unknown")], ids=["rejected", "lost"]
)
async def test_a_write_of_an_undo_can_be_failed_or_unknown(
    emulator: MutexEmulator, tmp_path: Path, fault: dict[str, Any], status: str
) -> None:
    async with session_for(emulator.url, retry=ONCE) as session:
        await session.edit_slots([SlotEdit(1, 1, experiments=[5])], journal=tmp_path / "run.db")
        emulator.fail_next(1, method="PATCH", **fault)
        report = await undo(session, tmp_path / "run.db")
        assert [(each.position, each.status) for each in report.outcomes] == [(0, status)]
        assert report.outcomes[0].error is not None
        assert len((await undo(session, tmp_path / "run.db")).applied) == 1


async def test_undo_skips_a_slot_that_no_longer_exists(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    await session.edit_slots([SlotEdit(1, 3, experiments=[5])], journal=tmp_path / "run.db")
    del emulator.groups["1"].slots[2]
    report = await undo(session, tmp_path / "run.db")
    assert "changed since the run" in report.skipped[0].note


async def test_undo_rejects_an_empty_file_and_does_not_modify_it(session: MutexSession, tmp_path: Path) -> None:
    (tmp_path / "run.db").touch()
    with pytest.raises(JournalError, match="not an aiomutex journal"):
        await undo(session, tmp_path / "run.db")
    assert (tmp_path / "run.db").read_bytes() == b""


async def test_undo_rejects_a_missing_journal_and_invalid_arguments(session: MutexSession, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="does not exist"):
        await undo(session, tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(InvalidRequestError, match=r"^concurrency must be an integer from 1, not 0 \(int\)$"):
        await undo(session, tmp_path / "none.db", concurrency=0)


async def test_undo_with_a_tenth_of_requests_failing_restores_everything(tmp_path: Path) -> None:
    faults = ["reset-before:3%", "reset-after:3%", "500:2%", "503:2%"]
    async with MutexEmulator(groups=20, limits=False) as emulator, session_for(emulator.url) as session:
        before = held(emulator, ADDRESSES)
        await session.edit_slots(edits_for(60), journal=tmp_path / "run.db")
        assert_holds(emulator, after(edits_for(60)))
        emulator.faults.random = MutexEmulator(faults=faults).faults.random
        report = await undo(session, tmp_path / "run.db")
        assert len(report.applied) == 60
        assert held(emulator, ADDRESSES) == before
        assert not left_over(session)
