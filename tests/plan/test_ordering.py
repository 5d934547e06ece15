from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import example, given

from aiomutex.plan import plan
from aiomutex.plan.ordering import slot_edits

from .strategies import LISTS, fillings, moving, states, written

if TYPE_CHECKING:
    from aiomutex import MutexGroup, SlotEdit
    from aiomutex.plan import Desired


def edits_of(state: tuple[list[MutexGroup], Desired]) -> list[SlotEdit]:
    live, desired = state
    return slot_edits(plan(desired, live).changes)


def shown(edits: list[SlotEdit]) -> list[tuple[int, object]]:
    return [(edit.slot_index, edit.experiments) for edit in edits]


def members(group: MutexGroup) -> set[tuple[str, object]]:
    return {(name, member) for slot in group.slots for name in LISTS for member in getattr(slot, name)}


@given(state=states() | fillings.map(lambda filling: moving(*filling)))
@example(state=moving([[7], []], [[8], [7]]))
@example(state=moving([[1], [2], [3]], [[2], [3], [1]]))
def test_who_stays_in_a_group_is_in_one_of_its_slots_all_the_while(state: tuple[list[MutexGroup], Desired]) -> None:
    live, desired = state
    made = plan(desired, live)
    for step in made.changes:
        for group in live:
            if group.id != step.group_id:
                continue
            moments = [group]
            for edit in slot_edits([step]):
                moments.append(written(moments[-1], edit))
            staying = members(moments[0]) & members(moments[-1])
            assert all(staying <= members(moment) for moment in moments)
            end = {(each.slot_index, each.field): set(each.after) for each in step.lists}
            slots = {slot.index: slot for slot in moments[-1].slots}
            assert all(set(getattr(slots[index], name)) == after for (index, name), after in end.items())


def test_a_slot_that_gains_and_loses_waits_for_the_one_that_takes_its_member() -> None:
    assert shown(edits_of(moving([[7], []], [[8], [7]]))) == [(2, [7]), (1, [8])]
    assert shown(edits_of(moving([[1], [2], []], [[9], [1], [2]]))) == [(3, [2]), (2, [1]), (1, [9])]


def test_a_circle_is_broken_by_one_slot_that_holds_both_for_a_moment() -> None:
    assert shown(edits_of(moving([[7], [8]], [[8], [7]]))) == [(1, [7, 8]), (2, [7]), (1, [8])]
    # Slot 1 waits for the circle and is no part of it, so it is written once.
    assert shown(edits_of(moving([[5], [7], [8]], [[6], [8, 5], [7]]))) == [
        (2, [5, 7, 8]),
        (1, [6]),
        (3, [7]),
        (2, [5, 8]),
    ]


def test_slots_that_pass_nothing_on_are_written_once_each_in_their_order() -> None:
    assert shown(edits_of(moving([[1], [2], [3]], [[4], [], [3, 5]]))) == [(1, [4]), (2, []), (3, [3, 5])]
