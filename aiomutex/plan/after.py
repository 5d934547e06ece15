"""What groups look like once a plan is applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from aiomutex.models import MutexGroup, NewGroup, Slot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex.plan.changes import GroupPlan, Plan

__all__ = ["after", "apply_to"]


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
    return MutexGroup(
        id=key,
        project_id=str(new.project_id),
        name=new.name,
        key=key,
        description=new.description or None,
        evaluation_mode=new.evaluation_mode or "remote",
        bucketing_key=new.bucketing_key or "amplitude_id",
        bucketing_salt=new.bucketing_salt or key,
        slots=[
            Slot(
                index=index,
                percentage=slot.percentage,
                experiments=list(slot.experiments or ()),
                holdouts=list(slot.holdouts or ()),
                individuals=list(slot.individuals or ()),
            )
            for index, slot in enumerate(new.slots, 1)
        ],
    )
