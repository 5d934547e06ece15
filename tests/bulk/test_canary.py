"""The canary: one change is read back before any other is sent, and a service that reads it otherwise stops the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import edits_for, held, session_for
from support import ONCE, no_lag

from aiomutex import JournalError, ServerError, SlotChange, SlotEdit, VerificationError
from aiomutex.bulk import undo
from aiomutex.bulk.undo import CHANGED_SINCE
from aiomutex.emulator import Dialect
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex import BulkReport
    from aiomutex.events import Attempt

BARE: dict[str, Any] = {}
WAYS = [BARE, {"verify": True}, {"skip_unchanged": True}, {"verify": True, "reads": "groups"}]


def written(emulator: MutexEmulator) -> list[str]:
    return [request.path for request in emulator.requests if request.method == "PATCH"]


def stopped_by(report: BulkReport) -> VerificationError:
    """The error of the canary, which is the one edit that failed."""
    [failed] = report.failed
    assert isinstance(failed.error, VerificationError)
    assert report.stopped_by is failed.error
    assert len(report.skipped) == len(report.outcomes) - 1
    return failed.error


def service(groups: int = 30, **dialect: Any) -> MutexEmulator:
    return MutexEmulator(groups=groups, limits=False, keep_requests=10_000, dialect=Dialect(**dialect))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("groups", [5, 30])
async def test_nothing_else_is_sent_before_the_canary_is_read_back(groups: int, way: dict[str, Any]) -> None:
    async with service(groups) as emulator, session_for(emulator.url) as session:
        emulator.latency = 0.002
        report = await session.edit_slots(edits_for(60, groups=groups), **way)
        assert len(report.applied) == 60
        paths = [(request.method, request.path) for request in emulator.requests]
        first = next(place for place, (method, _) in enumerate(paths) if method == "PATCH")
        group = paths[first][1].split("/slots")[0]
        assert paths[first + 1] == ("GET", group)
        assert ("GET", group) in paths[:first]


async def test_a_canary_costs_two_requests_once_for_a_session() -> None:
    async with service() as emulator, session_for(emulator.url) as session:
        await session.edit_slots(edits_for(60))
        assert len(emulator.requests) == 62
        await session.with_options(deadline=50.0).edit_slots(edits_for(60, start=1000))
        assert len(emulator.requests) == 122


async def test_a_relative_change_is_a_canary_too() -> None:
    async with service() as emulator, session_for(emulator.url) as session:
        changes = [
            SlotChange(number, 1, add_experiments=[7], remove_experiments=[number * 100 + 1]) for number in range(1, 31)
        ]
        await session.edit_slots(changes)
        await session.edit_slots(edits_for(60))
        assert len([request for request in emulator.requests if request.method == "GET" and not request.query]) == 2


async def test_edits_that_are_not_sent_are_no_canaries() -> None:
    async with service() as emulator, session_for(emulator.url) as session:
        await session.edit_slots(edits_for(30, groups=30), canary=False)
        changes = [SlotChange(number, 1, add_experiments=[number]) for number in range(1, 31)]
        for edits in (edits_for(30, groups=30), changes):
            emulator.clear_history()
            assert len((await session.edit_slots(edits, skip_unchanged=True)).unchanged) == 30
            assert not [request for request in emulator.requests if not request.query]


@pytest.mark.parametrize("count", [20, 21])
async def test_an_input_of_at_most_twenty_edits_has_no_canary(count: int) -> None:
    async with service() as emulator, session_for(emulator.url) as session:
        await session.edit_slots(edits_for(count))
        await session.edit_slots(edits_for(count), canary=False)
        assert len(emulator.requests) == 2 * count + (2 if count > 20 else 0)


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_slots_that_are_counted_from_0_stop_the_run_after_one_write(way: dict[str, Any]) -> None:
    async with service(slot_numbers="from 0") as emulator, session_for(emulator.url) as session:
        held = emulator.groups["1"].slots[1].experiments[:]
        error = stopped_by(await session.edit_slots(edits_for(60, groups=30), **way, concurrency=1))
        assert len(written(emulator)) == 1
        assert error.reading == "it was changed by a write to slot 1, so the service may count slots from 0"
        assert str(error).endswith(error.reading)
        assert (error.group_id, error.slot_index, error.actual["experiments"]) == ("1", 2, [1])
        assert error.group is not None
        assert error.group["slots"][1]["experiments"] == held == error.expected["experiments"]
        assert error.to_dict()["group"] == error.group


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_lists_that_are_merged_stop_the_run_after_one_write(way: dict[str, Any]) -> None:
    async with service(slot_patch="merge") as emulator, session_for(emulator.url) as session:
        error = stopped_by(await session.edit_slots(edits_for(60, groups=30), **way))
        assert len(written(emulator)) == 1
        assert error.reading == "the service adds to experiments instead of replacing the list"


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_write_that_is_confirmed_and_not_made_stops_the_run(way: dict[str, Any]) -> None:
    async with service() as emulator, session_for(emulator.url) as session:
        emulator.fail_next(10, status=200, body="OK", method="PATCH")
        error = stopped_by(await session.edit_slots(edits_for(60, groups=30), **way))
        assert len(written(emulator)) == 1
        assert error.reading == "the service confirmed the write, but has not made it"


async def test_lost_cohorts_stop_the_run_after_one_write() -> None:
    async with service(cohorts_on_edit="dropped") as emulator, session_for(emulator.url) as session:
        for group in emulator.groups.values():
            group.slots[0].cohorts.append("loyal")
        error = stopped_by(await session.edit_slots(edits_for(60, groups=30)))
        assert len(written(emulator)) == 1
        assert error.reading == "the slot has lost cohorts"


@pytest.mark.parametrize("kind", ["slot", "change"])
async def test_the_first_removal_and_the_first_slot_with_cohorts_are_canaries_of_their_own(kind: str) -> None:
    async with service(slot_patch="merge") as emulator, session_for(emulator.url) as session:
        adding: list[SlotEdit | SlotChange] = [
            SlotEdit(number, 1, experiments=[100 * number + 1, 9]) for number in range(1, 26)
        ]
        removing: list[SlotEdit | SlotChange] = [
            SlotEdit(number, 2, experiments=[])
            if kind == "slot"
            else SlotChange(number, 2, remove_experiments=[100 * number + 2])
            for number in range(1, 26)
        ]
        report = await session.edit_slots([*adding, *removing])
        assert isinstance(report.stopped_by, VerificationError)
        assert len([path for path in written(emulator) if path.endswith("/slots/2")]) == 1
    async with service(cohorts_on_edit="dropped") as emulator, session_for(emulator.url) as session:
        for group in emulator.groups.values():
            group.slots[1].cohorts.append("loyal")
        report = await session.edit_slots(edits_for(90, groups=30), verify=True)
        assert isinstance(report.stopped_by, VerificationError)
        assert len([path for path in written(emulator) if path.endswith("/slots/2")]) == 1


@pytest.mark.parametrize("way", [BARE, {"verify": True}], ids=str)
async def test_after_a_failure_or_another_writers_change_the_next_edit_serves(way: dict[str, Any]) -> None:
    def interfere(attempt: Attempt) -> None:
        if attempt.method == "PATCH" and "/2/" in attempt.path:
            emulator.groups["2"].slots[0].experiments[:] = [77]

    async with (
        service(slot_patch="merge") as emulator,
        session_for(emulator.url, on_attempt=interfere) as session,
    ):
        emulator.fail_next(1, status=400, method="PATCH")
        report = await session.edit_slots(edits_for(60, groups=30), **way, concurrency=1)
        assert isinstance(report.stopped_by, VerificationError)
        assert report.stopped_by.group_id == "3"
        assert len(written(emulator)) == 3


async def test_somebody_who_writes_the_same_to_another_slot_does_not_stop_the_run() -> None:
    def interfere(attempt: Attempt) -> None:
        if attempt.method == "PATCH" and attempt.path.endswith("/1/slots/1"):
            emulator.groups["1"].slots[1].experiments[:] = [1]

    async with service() as emulator, session_for(emulator.url, on_attempt=interfere) as session:
        assert len((await session.edit_slots(edits_for(60, groups=30))).applied) == 60


async def test_a_read_that_lags_does_not_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    no_lag(monkeypatch, 2.0)
    async with service(read_lag=0.7) as emulator, session_for(emulator.url) as session:
        report = await session.edit_slots(edits_for(60, groups=30))
        assert len(report.applied) == 60


async def test_edits_that_change_nothing_are_no_canary_for_long() -> None:
    async with service() as emulator, session_for(emulator.url) as session:
        await session.edit_slots(edits_for(90, groups=30), canary=False)
        emulator.clear_history()
        report = await session.edit_slots(edits_for(90, groups=30))
        assert len(report.applied) == 90
        assert len(emulator.requests) == 90 + 2 * 20


async def test_a_journal_remembers_its_canary_and_undo_restores_the_slot_that_changed(tmp_path: Path) -> None:
    journal = tmp_path / "run.db"
    async with service(slot_numbers="from 0") as emulator:
        slots = [("1", 1), ("1", 2), ("1", 3)]
        before = held(emulator, slots)
        async with session_for(emulator.url) as session:
            stopped_by(await session.edit_slots(edits_for(60, groups=30), journal=journal))
            assert held(emulator, slots) != before
        async with session_for(emulator.url) as session:
            found = await undo(session, journal, preview=True)
            assert [(each.slot_index, each.removed) for each in found.differences] == [(2, {"experiments": [1]})]
            report = await undo(session, journal)
            assert [(each.status, each.edit.slot_index) for each in report.outcomes] == [("applied", 2)]
            assert held(emulator, slots) == before
            [again] = (await undo(session, journal)).outcomes
            assert (again.status, again.note) == ("skipped", "already undone, according to the journal")
            with pytest.raises(JournalError, match="was undone"):
                await session.edit_slots(edits_for(60, groups=30), journal=journal)


async def test_a_slot_that_changed_since_its_canary_is_restored_only_if_forced_and_read(tmp_path: Path) -> None:
    journal = tmp_path / "run.db"
    async with service(slot_numbers="from 0") as emulator, session_for(emulator.url, retry=ONCE) as session:
        slots = [("1", 1), ("1", 2), ("1", 3)]
        before = held(emulator, slots)
        stopped_by(await session.edit_slots(edits_for(60, groups=30), journal=journal))
        emulator.groups["1"].slots[1].experiments = [4242]
        emulator.clear_history()
        [outcome] = (await undo(session, journal)).outcomes
        assert (outcome.status, outcome.note) == ("skipped", CHANGED_SINCE)
        emulator.fail_next(1, status=503, method="GET")
        [outcome] = (await undo(session, journal, force=True)).outcomes
        assert (outcome.status, type(outcome.error)) == ("failed", ServerError)
        assert not written(emulator)
        [outcome] = (await undo(session, journal, force=True)).outcomes
        assert outcome.status == "applied"
        assert outcome.edit == SlotEdit("1", 2, experiments=before["1", 2]["experiments"])
        assert held(emulator, slots) == before


async def test_a_slot_that_disappears_after_its_canary_fails_one_edit() -> None:
    def interfere(attempt: Attempt) -> None:
        if attempt.method == "PATCH" and attempt.path.endswith("/1/slots/3"):
            del emulator.groups["1"].slots[2]

    async with service() as emulator, session_for(emulator.url, on_attempt=interfere) as session:
        edits = [SlotEdit(1, 3, experiments=[7]), *(SlotEdit(number, 1, experiments=[7]) for number in range(2, 31))]
        report = await session.edit_slots(edits, concurrency=1)
        assert [type(each.error) for each in report.failed] == [VerificationError]
        assert len(report.applied) == 29


async def test_a_resumed_run_has_no_second_canary(tmp_path: Path) -> None:
    journal = tmp_path / "run.db"
    async with service() as emulator:
        async with (
            session_for(emulator.url) as session,
            session.stream_slot_edits(edits_for(90, groups=30), journal=journal) as outcomes,
        ):
            async for _ in outcomes:
                outcomes.stop()
        emulator.clear_history()
        async with session_for(emulator.url) as session:
            await session.edit_slots(edits_for(90, groups=30), journal=journal)
        paths = [request.path for request in emulator.requests if request.method == "GET" and not request.query]
        assert len(paths) == len(set(paths))
