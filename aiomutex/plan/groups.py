"""What a plan needs of live groups: the digest that recognizes those that changed since, and how it leaves them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from aiomutex.models import SLOT_LISTS, MutexGroup, NewGroup, Slot
from aiomutex.plan.desired import unique

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex.plan.changes import GroupPlan, Plan

__all__ = ["ABSENT", "after", "apply_to", "by_index", "fingerprint"]

ABSENT: Final = "absent"


def by_index(group: MutexGroup) -> list[Slot]:
    """The slots of a group, in order."""
    return sorted(group.slots, key=lambda slot: slot.index)


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
    groups: list[MutexGroup] = []
    for group in live:
        change = changes.get(group.id)
        if change is None:
            groups.append(group)
        elif change.action != "archive":
            groups.append(apply_to(change, group))
        else:
            groups.append(replace(group, deleted=True))
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
    key = new.key or ""
    slots: list[Slot] = []
    for index, slot in enumerate(new.slots, 1):
        lists: dict[str, Any] = {name: list(getattr(slot, name) or ()) for name in SLOT_LISTS}
        slots.append(Slot(index=index, percentage=slot.percentage, **lists))
    return MutexGroup(
        id=key,
        project_id=str(new.project_id),
        name=new.name,
        key=key,
        description=new.description or None,
        evaluation_mode=new.evaluation_mode or "remote",
        bucketing_key=new.bucketing_key or "amplitude_id",
        bucketing_salt=new.bucketing_salt or key,
        slots=slots,
    )
