"""Orders the slot edits of a plan so that a member that stays in a group is in one of its slots at all times. Pure.

An edit writes whole lists of one slot. To move a member takes two edits, and the new slot must come first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiomutex.models import SlotEdit
from aiomutex.plan.desired import unique

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex.plan.changes import GroupPlan, ListChange


def edit_rounds(changes: Iterable[GroupPlan]) -> list[list[SlotEdit]]:
    """Return the slot edits of a plan, in at most two rounds to be sent one after another.

    A member that moves joins its new slot in the first round and leaves the old one in the second. So it stays in the
    old one if the edit of the new one fails. Only a slot that members move to and that others leave is edited twice.
    """
    rounds: tuple[list[SlotEdit], list[SlotEdit]] = [], []
    for group in changes:
        joining = {(change.field, member) for change in group.lists for member in change.added}
        leaving = {(change.field, member) for change in group.lists for member in change.removed}
        moving = joining & leaving
        by_slot: dict[int, list[ListChange]] = {}
        for change in sorted(group.lists, key=lambda change: change.slot_index):
            by_slot.setdefault(change.slot_index, []).append(change)
        for index, lists in by_slot.items():
            before, between, after = dict[str, Any](), dict[str, Any](), dict[str, Any]()
            for each in lists:
                staying = [member for member in each.removed if (each.field, member) in moving]
                before[each.field], after[each.field] = each.before, each.after
                between[each.field] = list(unique([*each.after, *staying])) if staying else each.after
            known = [before]
            if between == after or any((each.field, member) in moving for each in lists for member in each.added):
                rounds[0].append(SlotEdit(group.group_id or "", index, expected=(before,), **between))
                known.append(between)
            if rest := {name: after[name] for name in after if known[-1][name] != after[name]}:
                rounds[1].append(SlotEdit(group.group_id or "", index, expected=tuple(known), **rest))
    return [edits for edits in rounds if edits]
