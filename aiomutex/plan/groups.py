"""What a plan needs of live groups: the digest that recognizes those that changed since, and how it leaves them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import to_builtins
from msgspec.structs import replace

from aiomutex.models import SLOT_LISTS, MutexGroup, NewGroup, NewSlot, Slot
from aiomutex.plan.desired import unique

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex.plan.changes import GroupPlan, Plan

ABSENT: Final = "absent"


def by_index(group: MutexGroup) -> list[Slot]:
    """The slots of a group, in order."""
    return sorted(group.slots, key=lambda slot: slot.index)


def member_count(*slots: Slot | NewSlot) -> int:
    """How many members slots have in the lists that can be written."""
    return sum(len(getattr(slot, name) or ()) for slot in slots for name in SLOT_LISTS)


def fingerprint(group: MutexGroup | None) -> str:
    """Return the fingerprint of a group, whatever the order of its lists; ``absent`` for ``None``.

    Example:
        >>> fingerprint(None)
        'absent'
    """
    if group is None:
        return ABSENT
    slots = [
        (
            *(slot.index, float(slot.percentage)),
            *(unique(getattr(slot, name)) for name in SLOT_LISTS),
            unique(map(str, slot.cohorts)),
        )
        for slot in by_index(group)
    ]
    fields = (
        *(group.id, group.project_id, group.key, group.name, group.description, group.evaluation_mode),
        *(group.bucketing_key, group.bucketing_salt, bool(group.deleted), slots),
    )
    return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()[:32]


def after(plan: Plan, live: Iterable[MutexGroup]) -> list[MutexGroup]:
    """Return the groups as they will be once a plan is applied, for example for ``aiomutex.traffic.compare``.

    The service chooses the ID of a new group, and its salt if the file has none; here both are its key.
    """
    changes = {change.group_id: change for change in plan.changes if change.group_id is not None}
    groups = [apply_to(changes[group.id], group) if group.id in changes else group for group in live]
    return groups + [_created(change.new) for change in plan.changes if change.new is not None]


def apply_to(change: GroupPlan, group: MutexGroup, *, revert: bool = False) -> MutexGroup:
    """Return the group with the changes applied, or reverted."""
    fields: dict[str, Any] = {each.field: each.before if revert else each.after for each in change.fields}
    lists: dict[int, dict[str, Any]] = {}
    for each in change.lists:
        lists.setdefault(each.slot_index, {})[each.field] = list(each.before if revert else each.after)
    slots = [replace(slot, **lists[slot.index]) if slot.index in lists else slot for slot in group.slots]
    if change.action in ("archive", "unarchive"):
        fields["deleted"] = (change.action == "archive") != revert
    return replace(group, slots=slots, **fields)


def _created(new: NewGroup) -> MutexGroup:
    defaults = {"id": new.key, "bucketingSalt": new.key, "evaluationMode": "remote", "bucketingKey": "amplitude_id"}
    fields: dict[str, Any] = defaults | to_builtins(new)
    fields["slots"] = [slot | {"index": index} for index, slot in enumerate(fields["slots"], 1)]
    return msgspec.convert(fields | {"description": new.description or None}, MutexGroup)
