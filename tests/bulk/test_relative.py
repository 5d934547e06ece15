"""Changes that are computed from what a slot holds, edits that expect something, and edits that change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import assert_holds, edits_for, held, landed, session_for
from support import ONCE

from aiomutex import InvalidRequestError, MutexSession, Slot, SlotChange, SlotEdit, StaleSlotError
from aiomutex.bulk import preview, undo
from aiomutex.emulator import Dialect
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from pathlib import Path

    from bulk_support import Editor


async def test_changes_build_on_each_other(emulator: MutexEmulator, editor: Editor) -> None:
    slot = emulator.groups["1"].slots[0]
    slot.experiments, slot.individuals = [5, 6], ["ada"]
    changes: list[SlotEdit | SlotChange] = [
        SlotChange(1, 1, add_experiments=[7]),
        SlotChange(1, 1, remove_experiments=[5], add_holdouts=[9]),
        SlotEdit(1, 1, individuals=["bob"]),
        SlotChange(1, 1, add_individuals=["eve", "bob"], remove_experiments=[404]),
    ]
    report = await editor.edit_slots(changes)
    assert [outcome.status for outcome in sorted(report.outcomes, key=lambda each: each.position)] == ["applied"] * 4
    assert_holds(emulator, {("1", 1): {"experiments": [6, 7], "holdouts": [9], "individuals": ["bob", "eve"]}})
    assert all(set(body) != {"experiments", "holdouts", "individuals"} for _, _, body in landed(emulator))


@pytest.mark.parametrize("verify", [False, True])
async def test_a_change_that_changes_nothing_is_not_sent(
    emulator: MutexEmulator, session: MutexSession, verify: bool
) -> None:
    emulator.groups["1"].slots[0].experiments = [5]
    report = await session.edit_slots([SlotChange(1, 1, add_experiments=[5])] * 3, verify=verify)
    assert len(report.unchanged) == 3
    assert not landed(emulator)
    assert str(report) == "3 edits: 0 applied, 3 unchanged"


async def test_changes_are_resumed_and_undone(emulator: MutexEmulator, session: MutexSession, tmp_path: Path) -> None:
    addresses = [(str(group), 1) for group in range(1, 21)]
    before = held(emulator, addresses)
    changes = [SlotChange(group, 1, add_experiments=[900]) for group in range(1, 21)]
    for _ in range(2):
        report = await session.edit_slots(changes, journal=tmp_path / "run.db", verify=True)
        assert not report.failed
    assert len(landed(emulator)) == 20
    assert len((await undo(session, tmp_path / "run.db")).applied) == 20
    assert held(emulator, addresses) == before


async def test_after_a_failed_write_a_change_builds_on_a_new_read(emulator: MutexEmulator) -> None:
    emulator.groups["1"].slots[0].experiments = [5]
    emulator.fail_next(1, kind="reset-after", method="PATCH")
    async with session_for(emulator.url) as session:
        report = await session.edit_slots([SlotChange(1, 1, add_experiments=[n]) for n in (6, 7)])
    assert len(report.applied) == 2
    assert_holds(emulator, {("1", 1): {"experiments": [5, 6, 7]}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (SlotChange(1, 1), "the change is empty"),
        (SlotChange(1, 0, add_experiments=[1]), "slot_index"),
        (SlotChange(1, 1, add_experiments=[1], remove_experiments=[1]), "both contain"),
        (SlotChange(1, 1, add_experiments=["1"]), "add_experiments"),  # type: ignore[list-item]
        (SlotEdit(1, 1, experiments=[1], expected={"cohorts": []}), "expected must be a Slot"),
        (SlotEdit(1, 1, experiments=[1], expected={"experiments": ["x"]}), "experiments"),
        (SlotEdit(1, 1, experiments=[1], expected=[]), "expected must be a Slot"),
    ],
)
async def test_an_invalid_edit_is_rejected_before_anything_is_sent(
    emulator: MutexEmulator, session: MutexSession, change: Any, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        await session.edit_slots([*edits_for(5), change])
    assert not emulator.requests
    report = await session.edit_slots(iter([*edits_for(5), change]))
    assert [message in str(outcome.error) for outcome in report.failed] == [True]


async def test_a_change_of_a_missing_slot_fails(session: MutexSession) -> None:
    report = await session.edit_slots([SlotChange(1, 9, add_experiments=[1])])
    assert "slot_index must be a slot of group 1 (1, 2, 3), not 9" in str(report.failed[0].error)


@pytest.mark.parametrize(
    ("expected", "status"),
    [
        ({"experiments": [5, 6]}, "applied"),
        ({"experiments": [6, 5], "holdouts": []}, "applied"),
        ({"experiments": [7]}, "applied"),  # what the edit writes
        ({"experiments": [5]}, "failed"),
        ({"holdouts": [1]}, "failed"),
        ([{"experiments": [1]}, {"experiments": [5, 6]}], "applied"),
        (Slot(index=1, percentage=1, experiments=[5, 6]), "applied"),
        (Slot(index=1, percentage=1, experiments=[5]), "failed"),
    ],
)
async def test_an_edit_is_made_only_if_its_slot_holds_what_it_expects(
    emulator: MutexEmulator, editor: Editor, expected: Any, status: str
) -> None:
    slot = emulator.groups["1"].slots[0]
    slot.experiments = [7] if expected == {"experiments": [7]} else [5, 6]
    report = await editor.edit_slots([SlotEdit(1, 1, experiments=[7], expected=expected)])
    [outcome] = report.outcomes
    assert outcome.status == status
    if status == "failed":
        assert isinstance(outcome.error, StaleSlotError)
        assert not landed(emulator)
    assert slot.experiments == ([7] if status == "applied" else [5, 6])


async def test_an_old_page_does_not_make_an_edit_stale() -> None:
    async with MutexEmulator(groups=60, limits=False) as emulator, session_for(emulator.url) as session:
        emulator.dialect = Dialect(list_lag=3600.0)
        await session.edit_slots([SlotEdit(group, 1, experiments=[1]) for group in range(1, 61)])
        guarded = [SlotEdit(group, 1, experiments=[2], expected={"experiments": [1]}) for group in range(1, 61)]
        assert len((await session.edit_slots(guarded)).applied) == 60


async def test_unchanged_edits_are_skipped_with_the_edits_before_them_in_mind(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    emulator.groups["1"].slots[0].experiments = [1]
    edits = [SlotEdit(1, 1, experiments=[n]) for n in (1, 2, 2, 1, 1)]
    report = await session.edit_slots(edits, skip_unchanged=True, journal=tmp_path / "run.db", verify=True)
    statuses = [outcome.status for outcome in sorted(report.outcomes, key=lambda each: each.position)]
    assert statuses == ["unchanged", "applied", "applied", "applied", "applied"]
    assert [body["experiments"] for _, _, body in landed(emulator)] == [[2], [1]]
    again = await session.edit_slots(edits, skip_unchanged=True, journal=tmp_path / "run.db", verify=True)
    assert len(again.skipped) == 5


async def test_a_second_run_of_the_same_edits_writes_nothing() -> None:
    async with MutexEmulator(groups=200, limits=False) as emulator, session_for(emulator.url) as session:
        edits = [SlotEdit(group, 1, experiments=[group]) for group in range(1, 201)]
        await session.edit_slots(edits)
        emulator.clear_history()
        report = await session.edit_slots(edits, skip_unchanged=True, verify=True)
        assert len(report.unchanged) == 200
        assert len(emulator.requests) == 1


async def test_an_edit_after_a_failed_one_is_sent_although_the_slot_may_hold_it(emulator: MutexEmulator) -> None:
    emulator.groups["1"].slots[0].experiments = [1]
    emulator.fail_next(1, kind="reset-before", method="PATCH")
    async with session_for(emulator.url, retry=ONCE) as session:
        edits = [SlotEdit(1, 1, experiments=[2]), SlotEdit(1, 1, experiments=[1])]
        report = await session.edit_slots(edits, skip_unchanged=True)
    assert [outcome.status for outcome in report.outcomes] == ["unknown", "applied"]
    assert emulator.groups["1"].slots[0].experiments == [1]


async def test_a_preview_knows_changes_and_expectations(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.groups["1"].slots[0].experiments = [5]
    found = await preview(
        session,
        [
            SlotChange(1, 1, add_experiments=[6]),
            SlotChange(1, 1, add_experiments=[5]),
            SlotEdit(1, 1, experiments=[8], expected={"experiments": [5]}),
        ],
    )
    assert (found.unchanged, len(found.differences)) == (1, 1)
    assert found.differences[0].added == {"experiments": [6]}
    assert [problem.position for problem in found.impossible] == [2]
