"""A run whose power fails at any of its events is resumed and undone: nothing is lost, and everything is restored."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from power import Machine, memory_folder

from aiomutex import UNSET, SlotEdit
from aiomutex.bulk.slot_lists import SlotLists

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = 3
EDITS = [
    SlotEdit(1 + n % GROUPS, 1 + n // GROUPS % 3, experiments=[100 + n], holdouts=[n] if n % 2 else UNSET)
    for n in range(24)
]


async def events_of(folder: Path, *, verify: bool) -> Counter[str]:
    """The events of a run and its undo without a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(folder, patch, GROUPS)
        await machine.run(EDITS, verify=verify)
        await machine.undo()
        return Counter(machine.events)


async def fail_at(folder: Path, event: int, *, verify: bool, resumes: bool) -> str:
    """Let the power fail at an event of a run or of its undo; return the event."""
    rng = random.Random(event)
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(folder, patch, GROUPS)
        before = {place: dict(lists) for place, lists in machine.service.contents.items()}
        machine.cut_at = event
        report = await machine.run(EDITS, verify=verify)
        if report is None:
            machine.restart(rng)
            if resumes:
                known = set(machine.reported)
                report = await machine.run(EDITS, verify=verify)
                assert report is not None
                assert {outcome.status for outcome in report.outcomes} <= {"applied", "skipped"}
                assert known <= {outcome.position for outcome in report.skipped}
        if resumes or report is not None:
            assert machine.service.contents == expected(before)
        if not machine.path.exists():
            assert not machine.service.writes
            return machine.events[event]
        report = await machine.undo()
        if report is None:
            machine.restart(rng)
            report = await machine.undo()
        assert report is not None
        assert {outcome.status for outcome in report.outcomes} <= {"applied", "skipped"}
        assert machine.service.contents == before, f"after {machine.events[event]}"
        return machine.events[event]


def expected(before: dict[tuple[str, int], dict[str, list[Any]]]) -> dict[tuple[str, int], dict[str, list[Any]]]:
    """What the slots hold after all edits."""
    after = {place: dict(lists) for place, lists in before.items()}
    for edit in EDITS:
        lists = SlotLists.of_edit(edit)._asdict()
        after[str(edit.group_id), edit.slot_index] |= {
            name: items for name, items in lists.items() if items is not None
        }
    return after


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.deep)])
@pytest.mark.parametrize("resumes", [True, False])
@pytest.mark.parametrize("verify", [True, False])
async def test_a_power_failure_at_any_event_loses_nothing(
    tmp_path: Path, verify: bool, resumes: bool, step: int
) -> None:
    failed = Counter[str]()
    with memory_folder(tmp_path) as folder:
        whole = await events_of(folder / "whole", verify=verify)
        for event in range(0, whole.total(), step):
            failed[await fail_at(folder / str(event), event, verify=verify, resumes=resumes)] += 1
    assert set(failed) == {
        "before a request", "after a read", "before a write", "after a write", "before a commit", "after a commit"
    }  # fmt: skip
