"""Edits that were sent, and of which nobody knows yet whether they were applied, in the same run or a resumed one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bulk_support import BudgetLimiter, session_for
from support import ONCE

from aiomutex import PermissionDeniedError, SlotEdit
from aiomutex.bulk import undo
from aiomutex.emulator import Dialect, Fault

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from aiomutex import BulkReport
    from aiomutex.testing import MutexEmulator

LOST = Fault(kind="reset-after")
NEVER_ARRIVED = Fault(kind="reset-before")
FAILED = Fault(kind="status", status=503, after_commit=True)
FORBIDDEN = Fault(kind="status", status=403)
EDIT = SlotEdit(1, 1, experiments=[7])


def script(emulator: MutexEmulator, **faults: list[Fault | None]) -> None:
    """Let the next requests of each method have these faults, and none after them."""
    upcoming = {method: iter(each) for method, each in faults.items()}

    def next_fault(method: str, _path: str) -> Fault | None:
        return next(upcoming.get(method, iter(())), None)

    inside: Any = emulator.faults
    inside.next_fault = next_fault


def experiments(emulator: MutexEmulator) -> list[int]:
    return emulator.groups["1"].slots[0].experiments


async def run(emulator: MutexEmulator, edits: list[SlotEdit], journal: Path) -> BulkReport:
    async with session_for(emulator.url, retry=ONCE) as session:
        return await session.edit_slots(edits, journal=journal)


async def leave_in_doubt(emulator: MutexEmulator, edits: list[SlotEdit], journal: Path, fault: Fault) -> None:
    """Run edits of one slot whose responses are lost, and that cannot be read back."""
    script(emulator, GET=[None, *[FORBIDDEN] * len(edits)], PATCH=[fault] * len(edits))
    report = await run(emulator, edits, journal)
    assert [outcome.status for outcome in report.outcomes] == ["unknown"] * len(edits)


async def test_an_edit_in_doubt_when_the_budget_ends_is_not_failed_the_next_day(emulator: MutexEmulator) -> None:
    script(emulator, GET=[FORBIDDEN], PATCH=[FAILED, FORBIDDEN])
    async with session_for(emulator.url, rate_limiter=BudgetLimiter(1, timedelta(seconds=0.3))) as session:
        report = await session.edit_slots([EDIT], on_budget="wait")
    [outcome] = report.outcomes
    assert (outcome.status, type(outcome.error)) == ("unknown", PermissionDeniedError)
    assert experiments(emulator) == [7]


async def test_an_edit_in_doubt_does_not_fail_the_read_back_of_an_earlier_one(
    emulator: MutexEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiomutex.bulk.writer._MAX_AGE", 0.1)
    script(emulator, PATCH=[None, FAILED])
    edits = [EDIT, SlotEdit(1, 1, experiments=[8])]
    async with session_for(emulator.url, rate_limiter=BudgetLimiter(3, timedelta(seconds=0.5))) as session:
        report = await session.edit_slots(edits, on_budget="wait", verify=True)
    assert [outcome.status for outcome in report.outcomes] == ["applied", "applied"]
    assert experiments(emulator) == [8]


async def test_an_edit_in_doubt_that_a_resumed_run_cannot_look_up_stays_in_doubt_and_is_undone(
    emulator: MutexEmulator, tmp_path: Path
) -> None:
    before = list(experiments(emulator))
    await leave_in_doubt(emulator, [EDIT], tmp_path / "run.db", LOST)
    script(emulator, GET=[FORBIDDEN])
    report = await run(emulator, [EDIT], tmp_path / "run.db")
    assert [outcome.status for outcome in report.outcomes] == ["unknown"]
    assert experiments(emulator) == [7]
    async with session_for(emulator.url) as session:
        undone = await undo(session, tmp_path / "run.db")
    assert [outcome.status for outcome in undone.outcomes] == ["applied"]
    assert experiments(emulator) == before


async def test_a_canary_of_a_resumed_run_keeps_what_the_slots_held_before_the_first_run(
    emulator: MutexEmulator, tmp_path: Path
) -> None:
    before = list(experiments(emulator))
    edits = [EDIT, *(SlotEdit(1, 2, experiments=[n]) for n in range(25))]
    script(emulator, GET=[None, FORBIDDEN], PATCH=[LOST])
    async with session_for(emulator.url, retry=ONCE) as session:
        report = await session.edit_slots(edits, journal=tmp_path / "run.db", canary=False, stop_after=1)
        assert [outcome.position for outcome in report.unknown] == [0]
        report = await session.edit_slots(edits, journal=tmp_path / "run.db")
        assert len(report.applied) == 26
        assert experiments(emulator) == [7]
        undone = await undo(session, tmp_path / "run.db")
    assert [outcome.status for outcome in undone.outcomes] == ["applied", "applied"]
    assert experiments(emulator) == before


async def test_an_edit_in_doubt_that_a_resumed_run_may_not_write_stays_in_doubt(
    emulator: MutexEmulator, tmp_path: Path
) -> None:
    await leave_in_doubt(emulator, [EDIT], tmp_path / "run.db", NEVER_ARRIVED)
    script(emulator, PATCH=[FORBIDDEN])
    report = await run(emulator, [EDIT], tmp_path / "run.db")
    # What the first run sent may still arrive.
    assert [outcome.status for outcome in report.outcomes] == ["unknown"]


async def test_a_resumed_run_does_not_take_the_past_for_its_own_last_edit(
    emulator: MutexEmulator, tmp_path: Path
) -> None:
    edits = [EDIT, SlotEdit(1, 1, experiments=[8])]
    emulator.dialect = Dialect(read_lag=0.4)
    await leave_in_doubt(emulator, edits, tmp_path / "run.db", LOST)
    assert experiments(emulator) == [8]
    emulator.clock.advance(1.0)
    # The first edit is sent again. A read now shows the slot as it was before that, with the second edit in it.
    script(emulator)
    report = await run(emulator, edits, tmp_path / "run.db")
    assert [outcome.status for outcome in report.outcomes] == ["applied", "applied"]
    assert experiments(emulator) == [8]
