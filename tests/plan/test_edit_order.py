from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from aiomutex.plan import DesiredGroup, DesiredSlot, after, plan
from aiomutex.plan.changes import edit_rounds

from .strategies import LISTS, moves, moving, states, written

if TYPE_CHECKING:
    from aiomutex import MutexGroup, SlotEdit
    from aiomutex.plan import Desired


OTHER = tuple(DesiredSlot(percentage=10, experiments=members) for members in ((), (2,), (5,)))


def edits_of(state: tuple[list[MutexGroup], Desired]) -> list[SlotEdit]:
    live, desired = state
    return [edit for edits in edit_rounds(plan(desired, live).changes) for edit in edits]


def shown(edits: list[SlotEdit]) -> list[tuple[int, object]]:
    return [(edit.slot_index, edit.experiments) for edit in edits]


def members(group: MutexGroup) -> set[tuple[str, object]]:
    return {(name, member) for slot in group.slots for name in LISTS for member in getattr(slot, name)}


def assert_all_stay(live: list[MutexGroup], desired: Desired, failing: int | None = None) -> None:
    """Send the edits of a plan; edit number ``failing`` of a group fails, and the group's later rounds are skipped."""
    changes = plan(desired, live)
    ends = {group.id: group for group in after(changes, live)}
    for change in changes.changes:
        for group in live:
            if group.id != change.group_id or change.action == "archive":
                continue
            staying = members(group) & members(ends[group.id])
            number, current = 0, group
            for edits in edit_rounds([change]):
                numbers = range(number, number + len(edits))
                for edit in edits:
                    if number != failing:
                        current = written(current, edit)
                    assert staying <= members(current)
                    number += 1
                if failing in numbers:
                    break
            else:
                left = plan(desired, [current]).groups
                assert not any(change.added for each in left for change in each.lists)


@given(state=states() | moves.map(lambda move: moving(*move)), failing=st.none() | st.integers(0, 6))
@example(state=moving([[7], []], [[8], [7]]), failing=None)
@example(state=moving([[7], []], [[8], [7]]), failing=0)
@example(state=moving([[1], [2], [3]], [[2], [3], [1]]), failing=None)
def test_a_member_that_stays_in_a_group_is_always_in_one_of_its_slots_even_after_a_failure(
    state: tuple[list[MutexGroup], Desired], failing: int | None
) -> None:
    assert_all_stay(*state, failing)


def test_a_slot_is_edited_after_the_slot_that_gains_its_member() -> None:
    assert shown(edits_of(moving([[7], []], [[8], [7]]))) == [(2, [7]), (1, [8])]
    assert shown(edits_of(moving([[7], [], []], [[8], [7], [9]]))) == [(2, [7]), (3, [9]), (1, [8])]


def test_a_slot_that_members_move_to_and_from_holds_old_and_new_members_in_between() -> None:
    assert shown(edits_of(moving([[1], [2], []], [[9], [1], [2]]))) == [(2, [1, 2]), (3, [2]), (1, [9]), (2, [1])]
    assert shown(edits_of(moving([[7], [8]], [[8], [7]]))) == [(1, [7, 8]), (2, [7, 8]), (1, [8]), (2, [7])]


def test_a_round_removes_only_members_that_an_earlier_round_added() -> None:
    live, desired = moving([[1], [2], []], [[9], [1], [2]])
    other = replace(live[0], id="8", key="b")
    both = replace(desired, groups=(*desired.groups, DesiredGroup(project_id="1", key="b", slots=OTHER)))
    rounds = edit_rounds(plan(both, [*live, other]).changes)
    assert [[(edit.group_id, edit.slot_index) for edit in edits] for edits in rounds] == [
        [("7", 2), ("7", 3), ("8", 1), ("8", 3)],
        [("7", 1), ("7", 2)],
    ]


def test_slots_that_do_not_exchange_members_are_edited_once_in_order() -> None:
    assert shown(edits_of(moving([[1], [2], [3]], [[4], [], [3, 5]]))) == [(1, [4]), (2, []), (3, [3, 5])]
