"""Compares live groups with a desired state and returns the plan that leads there. Pure: no I/O.

There are three kinds of differences. Those in mutable fields become changes. Those in fields that are fixed at creation
become errors and never a replacement of the group, unless the file asks for a successor. Those in cohorts become notes.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

from msgspec import UNSET
from msgspec.structs import replace

from aiomutex._api import validation
from aiomutex.errors import InvalidRequestError
from aiomutex.models import SLOT_LISTS, MutexGroup, NewGroup, NewSlot
from aiomutex.plan.changes import FieldChange, GroupPlan, ListChange, Plan, apply_to, by_index, created, fingerprint
from aiomutex.plan.desired import GROUP_FIELDS, DesiredGroup, identity_of, project_number, unique
from aiomutex.plan.successor import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiomutex.plan.desired import Desired, DesiredSlot, Identity


def plan(desired: Desired, live: Iterable[MutexGroup], *, split: bool = True) -> Plan:
    """Plan the changes that lead from the live groups to a desired state. Pure: reads and writes nothing.

    Args:
        desired: The desired state.
        live: All groups of the service's listing.
        split: Whether a slot of a group that replaces another may become several, so that fewer users move.
    """
    by_identity: dict[Identity, list[MutexGroup]] = {}
    for each in live:
        by_identity.setdefault(identity_of(each.project_id, each.key), []).append(each)
    kept = {group.identity for group in desired.groups if group.archived is not True}
    replacing = Counter(group.replaced for group in desired.groups)
    mentioned = {group.identity for group in desired.groups} | replacing.keys()
    unmentioned = [group for each in by_identity.keys() - mentioned for group in by_identity[each] if not group.deleted]
    left_out: dict[tuple[Any, ...], list[str]] = {}
    for each in unmentioned:
        for trait in _traits(each):
            left_out.setdefault(trait, []).append(each.key)
    changes: list[GroupPlan] = []
    compared: list[MutexGroup] = []
    for group in desired.groups:
        if group.archived is True and group.identity in replacing:
            continue  # its successor archives it
        namesakes = by_identity.get(group.identity, [])
        candidates = [each for each in namesakes if not each.deleted] or namesakes[-1:]
        replaced = [each for each in by_identity.get(group.replaced, ()) if not each.deleted] if group.replaced else []
        is_kept = group.replaced in kept or replacing[group.replaced] > 1
        new, errors = resolve(group, replaced, candidates, is_kept=is_kept, split=split)
        change = _compare(new, candidates[0], len(candidates)) if candidates else _create(new, left_out)
        if errors:
            change = GroupPlan(project_id=group.project_id, key=group.key, action="none", errors=errors)
        changes.append(change)
        compared += [*candidates[:1], *replaced]
        if replaced and not change.errors:
            successor = created(change.new) if change.new is not None else apply_to(change, candidates[0])
            end = DesiredGroup(project_id=group.project_id, key=replaced[0].key, archived=True)
            archive = replace(_compare(end, replaced[0], len(replaced)), successor=successor)
            changes.append(with_affected(archive, replaced[0]))
    counts = Plan(groups=changes).counts
    members = sum(len(getattr(slot, name)) for each in compared for slot in each.slots for name in SLOT_LISTS)
    updates = counts.updates + counts.archives + counts.unarchives
    exceeded = [
        f"{count:,} of {total:,} {what} ({count / total:.0%}), more than the threshold of {threshold:.0%}"
        for count, total, what, threshold in (
            (counts.removed, members, "members leave their slots", desired.thresholds.removals),
            (updates, len(compared), "groups change", desired.thresholds.updates),
        )
        if threshold is not None and count and count / total > threshold
    ]
    shown = [change for change in changes if change.action != "none" or change.errors or change.notes]
    return Plan(groups=shown, exceeded_thresholds=exceeded, unmentioned=len(unmentioned))


def _traits(group: MutexGroup | NewGroup) -> set[tuple[Any, ...]]:
    """What a group is recognized by when its key is another: its name, its salt and its experiments."""
    experiments = {("experiment", each) for slot in group.slots for each in slot.experiments or ()}
    traits = {("name", group.name), ("salt", group.bucketing_salt), *experiments}
    return {(str(group.project_id), *trait) for trait in traits if trait[1]}


def _create(desired: DesiredGroup, left_out: Mapping[tuple[Any, ...], list[str]]) -> GroupPlan:
    change = GroupPlan(project_id=desired.project_id, key=desired.key, action="none")
    if desired.archived is True:
        return change
    if desired.name is UNSET or desired.slots is UNSET:
        return replace(change, errors=["does not exist; to create it, the file must have its name and slots"])
    fields: dict[str, Any] = {name: getattr(desired, name) for name in GROUP_FIELDS}
    slots = [_new_slot(slot) for slot in desired.slots]
    given = NewGroup(project_id=project_number(desired.project_id), key=desired.key, slots=slots, **fields)
    try:
        new = validation.new_group(given)
    except InvalidRequestError as error:
        return replace(change, errors=[f"cannot be created: {error}"])
    traits, notes = _traits(new), _cohort_notes(desired, None)
    shared = Counter(key for trait in traits for key in left_out.get(trait, ()))
    rule = "which the file leaves out: a key cannot change, so both groups will exist"
    notes += [f"looks like {key}, {rule}" for key, count in shared.most_common(1) if 2 * count >= len(traits)]
    return with_affected(replace(change, action="create", new=new, notes=notes), None)


def _new_slot(slot: DesiredSlot) -> NewSlot:
    # An empty list is the default of a new slot.
    lists: dict[str, Any] = {name: list(unique(getattr(slot, name) or ())) or UNSET for name in SLOT_LISTS}
    # A fraction stays as it is, for the validation of the whole group to reject.
    percentage: Any = int(slot.percentage) if float(slot.percentage).is_integer() else slot.percentage
    return NewSlot(percentage=percentage, **lists)


def _compare(desired: DesiredGroup, live: MutexGroup, namesakes: int) -> GroupPlan:
    change = GroupPlan(project_id=desired.project_id, key=desired.key, action="none", group_id=live.id)
    change = replace(change, fingerprint=fingerprint(live))
    if namesakes > 1:
        error = f"{namesakes} live groups have this project and key, so it is unclear which one to change"
        return replace(change, errors=[error])
    if desired.archived is True:
        return change if live.deleted else with_affected(replace(change, action="archive"), live)
    if live.deleted and desired.archived is UNSET:
        error = "is archived; add 'archived: true' to keep it archived, or 'archived: false' to unarchive it"
        return replace(change, errors=[error])
    notes = _cohort_notes(desired, live)
    if errors := _immutable_errors(desired, live):
        return replace(change, errors=errors, notes=notes)
    names = ("name", "description")
    texts: list[tuple[Any, Any, Any]] = [(name, getattr(live, name), getattr(desired, name)) for name in names]
    fields = [FieldChange(field=name, before=old, after=new) for name, old, new in texts if new not in (UNSET, old)]
    lists = _list_changes(desired, live)
    action = "unarchive" if live.deleted else "update" if fields or lists else "none"
    return with_affected(replace(change, action=action, fields=fields, lists=lists, notes=notes), live)


def with_affected(change: GroupPlan, live: MutexGroup | None) -> GroupPlan:
    """Return the plan for a group with the members and experiments that it affects while the group is like ``live``."""
    change = replace(change, old=live if change.action == "archive" else None)
    lists = [each for each in change.all_lists if each.field == "experiments"]
    experiments: set[Any] = {member for each in lists for member in (*each.added, *each.removed)}
    for group in (live if change.action in ("archive", "unarchive") else None, change.successor):
        experiments.update(experiment for slot in (group.slots if group else ()) for experiment in slot.experiments)
    members = sum(len(each.before) for each in change.all_lists) if change.old is not None else 0
    return replace(change, members=members, experiments=sorted(experiments))


def _immutable_errors(desired: DesiredGroup, live: MutexGroup) -> list[str]:
    names = zip(("evaluationMode", "bucketingKey", "bucketingSalt"), GROUP_FIELDS[2:], strict=True)
    fields: list[tuple[str, Any, Any]] = [(name, getattr(live, each), getattr(desired, each)) for name, each in names]
    differences = [each for each in fields if each[2] is not UNSET and each[1] != each[2]]
    if desired.slots is not UNSET:
        actual = [slot.percentage for slot in by_index(live)]
        expected = [slot.percentage for slot in desired.slots]
        if len(actual) != len(expected):
            differences.append(("number of slots", len(actual), len(expected)))
        elif actual != expected:
            old, new = (" / ".join(f"{percentage:g}" for percentage in each) for each in (actual, expected))
            differences.append(("percentages", old, new))
    rule = "fixed at creation, and another group would reassign its users, unless it 'replaces' this one"
    return [f"{name} cannot change from {actual} to {expected}: {rule}" for name, actual, expected in differences]


def _list_changes(desired: DesiredGroup, live: MutexGroup) -> list[ListChange]:
    changes: list[ListChange] = []
    pairs = zip(desired.slots or (), by_index(live), strict=False)  # their numbers are equal
    for (slot, actual), name in product(pairs, SLOT_LISTS):
        old, members = unique(getattr(actual, name)), getattr(slot, name)
        if members is not UNSET and (new := unique(members)) != old:
            changes.append(ListChange(slot_index=actual.index, field=name, before=[*old], after=[*new]))
    return changes


def _cohort_notes(desired: DesiredGroup, live: MutexGroup | None) -> list[str]:
    live_slots = by_index(live) if live else []
    notes: list[str] = []
    for index, slot in enumerate(desired.slots or (), 1):
        actual = live_slots[index - 1].cohorts if index <= len(live_slots) else []
        if slot.cohorts is not UNSET and set(map(str, slot.cohorts)) != set(map(str, actual)):
            old, new = (", ".join(map(str, unique(each))) or "none" for each in (actual, slot.cohorts))
            reason = "they are not written, because the service does not document a way"
            notes.append(f"slot {index} has cohorts {old}, and {new} in the file; {reason}")
    return notes
