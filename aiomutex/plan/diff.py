"""What it takes to bring live groups to a desired state: a pure function and the plan it returns.

Three kinds of differences: *mutable* ones become changes, *immutable* ones become errors and never a replacement
(which would reshuffle users), and *unmanaged* ones are shown and never written.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from aiomutex._api import validation
from aiomutex.errors import InvalidRequestError
from aiomutex.models import SLOT_LISTS, MutexGroup, NewGroup, NewSlot, Slot, SlotListName
from aiomutex.plan.desired import identity_of
from aiomutex.plan.fingerprint import ABSENT, fingerprint
from aiomutex.plan.members import sort_key, unique

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiomutex.plan.desired import Desired, DesiredGroup, DesiredSlot, Identity

__all__ = ["Action", "Counts", "FieldChange", "GroupPlan", "ListChange", "Plan", "after", "plan"]

Action = Literal["create", "update", "archive", "unarchive", "none"]
Field = Literal["name", "description"]


class FieldChange(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A text of a group that changes."""

    field: Field
    before: str | None
    after: str | None


class ListChange(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A list of a slot that changes; ``after`` is the whole list."""

    slot_index: int
    field: SlotListName
    before: list[int | str]
    after: list[int | str]

    def __post_init__(self) -> None:
        kind = str if self.field == "individuals" else int
        if not all(type(member) is kind for member in (*self.before, *self.after)):
            raise ValueError(f"{self.field} must hold members of kind {kind.__name__} alone")

    @property
    def added(self) -> list[int | str]:
        """Members that come."""
        return sorted(set(self.after) - set(self.before), key=sort_key)

    @property
    def removed(self) -> list[int | str]:
        """Members that go."""
        return sorted(set(self.before) - set(self.after), key=sort_key)


class GroupPlan(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What happens to one group."""

    project_id: str
    key: str
    action: Action
    """``unarchive`` may come with changes of fields and lists; ``archive`` comes alone."""
    group_id: str | None = None
    """The live group's id; ``None`` for a create."""
    fingerprint: str = ABSENT
    """Of the live group the plan was made for; ``absent`` for a create."""
    new: NewGroup | None = None
    fields: list[FieldChange] = []
    lists: list[ListChange] = []
    members: int = 0
    """For an archive: how many slot members the group takes with it."""
    experiments: list[int] = []
    """Experiments the change touches: those that join, leave or are archived with it."""
    errors: list[str] = []
    """Why this cannot be done, such as a difference in something immutable."""
    notes: list[str] = []
    """What is shown and never written."""

    def __post_init__(self) -> None:
        if (self.action == "create") is not (self.new is not None):
            raise ValueError("a group is created by a step with the action 'create', and by no other")
        if self.new is not None and (str(self.new.project_id), self.new.key) != (self.project_id, self.key):
            raise ValueError(f"the group to be created is not {self.name}")

    @property
    def name(self) -> str:
        """The group as messages show it."""
        return identity_of(self.project_id, self.key)


class Counts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A plan in numbers."""

    creates: int = 0
    updates: int = 0
    archives: int = 0
    unarchives: int = 0
    added: int = 0
    """Members added to slots of existing groups."""
    removed: int = 0
    """Members removed from slots; those of archived groups are not counted here."""
    errors: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What it takes to reach a desired state, group by group."""

    groups: list[GroupPlan] = []
    """Groups with a change, an error or a note, in the order of the file."""
    excesses: list[str] = []
    """Thresholds of the file that the plan exceeds; applying it then needs ``force``."""
    file: str = ""

    @property
    def changes(self) -> list[GroupPlan]:
        """Groups that change."""
        return [group for group in self.groups if group.action != "none"]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do and nothing wrong."""
        return not self.changes and not self.errors

    @property
    def errors(self) -> list[str]:
        """Every error, with the group it belongs to."""
        return [f"{group.name}: {error}" for group in self.groups for error in group.errors]

    @property
    def counts(self) -> Counts:
        """The plan in numbers."""
        actions = [group.action for group in self.groups]
        lists = [change for group in self.groups for change in group.lists]
        return Counts(
            creates=actions.count("create"),
            updates=actions.count("update"),
            archives=actions.count("archive"),
            unarchives=actions.count("unarchive"),
            added=sum(len(change.added) for change in lists),
            removed=sum(len(change.removed) for change in lists),
            errors=sum(len(group.errors) for group in self.groups),
        )


def plan(desired: Desired, live: Iterable[MutexGroup]) -> Plan:
    """What it takes to bring ``live`` to ``desired``. Pure: nothing is read and nothing is written.

    Args:
        desired: What shall be.
        live: All groups as the service lists them.

    Example:
        >>> from aiomutex.plan import parse_desired
        >>> plan(parse_desired("groups: []"), []).empty
        True
    """
    found: dict[Identity, list[MutexGroup]] = {}
    for group in live:
        found.setdefault((group.project_id, group.key), []).append(group)
    planned: list[GroupPlan] = []
    updates = existing = removed = members = 0
    for wanted in desired.groups:
        twins = found.get(wanted.identity, [])
        candidates = [group for group in twins if not group.deleted] or twins[-1:]
        if not candidates:
            planned.append(_create(wanted))
            continue
        step = _compare(wanted, candidates[0], len(candidates))
        planned.append(step)
        existing += 1
        updates += step.action != "none"
        members += _member_count(candidates[0])
        removed += step.members + sum(len(change.removed) for change in step.lists)
    excesses = [
        f"{count:,} of {whole:,} {what} ({count / whole:.0%}), more than the threshold of {bound:.0%}"
        for count, whole, what, bound in (
            (removed, members, "members leave their slots", desired.thresholds.removals),
            (updates, existing, "groups change", desired.thresholds.updates),
        )
        if bound is not None and count and count / whole > bound
    ]
    worth_showing = [step for step in planned if step.action != "none" or step.errors or step.notes]
    return Plan(groups=worth_showing, excesses=excesses, file=desired.file)


def _member_count(group: MutexGroup) -> int:
    return sum(len(slot.experiments) + len(slot.holdouts) + len(slot.individuals) for slot in group.slots)


def _create(wanted: DesiredGroup) -> GroupPlan:
    step = GroupPlan(project_id=wanted.project_id, key=wanted.key, action="none")
    if wanted.archived is True:
        return step
    if wanted.name is UNSET or wanted.slots is UNSET:
        return replace(step, errors=["does not exist, and a group to be created needs a name and slots"])
    project = wanted.project_id
    number = int(project) if re.fullmatch("[0-9]{1,18}", project) else None
    try:
        new = validation.new_group(
            NewGroup(
                project_id=project if number is None or str(number) != project else number,
                name=wanted.name,
                key=wanted.key,
                description=wanted.description,
                evaluation_mode=wanted.evaluation_mode,
                bucketing_key=wanted.bucketing_key,
                bucketing_salt=wanted.bucketing_salt,
                slots=[_new_slot(slot) for slot in wanted.slots],
            )
        )
    except InvalidRequestError as error:
        return replace(step, errors=[f"cannot be created: {error}"])
    return concerning(replace(step, action="create", new=new, notes=_cohort_notes(wanted, None)), None)


def _new_slot(slot: DesiredSlot) -> NewSlot:
    lists: dict[str, Any] = {name: _members(getattr(slot, name)) for name in SLOT_LISTS}
    # A share that is not whole is refused with the rest of the rules.
    share: Any = int(slot.percentage) if float(slot.percentage).is_integer() else slot.percentage
    return NewSlot(percentage=share, **lists)


def _members(given: Any) -> Any:
    # A list without members says nothing to a group that does not exist yet.
    return list(unique(given)) if given else UNSET


def _compare(wanted: DesiredGroup, live: MutexGroup, twins: int) -> GroupPlan:
    step = GroupPlan(
        project_id=wanted.project_id,
        key=wanted.key,
        action="none",
        group_id=live.id,
        fingerprint=fingerprint(live),
    )
    if twins > 1:
        return replace(step, errors=[f"{twins} live groups have this project and key; it is not known which is meant"])
    if wanted.archived is True:
        if live.deleted:
            return step
        return concerning(replace(step, action="archive"), live)
    if live.deleted and wanted.archived is UNSET:
        return replace(
            step, errors=["is archived; write 'archived: true' to leave it so, 'archived: false' to undo it"]
        )
    if errors := _immutable(wanted, live):
        return replace(step, errors=errors, notes=_cohort_notes(wanted, live))
    fields: list[FieldChange] = []
    if wanted.name is not UNSET and wanted.name != live.name:
        fields.append(FieldChange(field="name", before=live.name, after=wanted.name))
    if wanted.description is not UNSET and wanted.description != live.description:
        fields.append(FieldChange(field="description", before=live.description, after=wanted.description))
    lists = _list_changes(wanted, live)
    action: Action = "unarchive" if live.deleted else "update" if fields or lists else "none"
    step = replace(step, action=action, fields=fields, lists=lists, notes=_cohort_notes(wanted, live))
    return concerning(step, live)


def concerning(step: GroupPlan, live: MutexGroup | None) -> GroupPlan:
    """The step with the members and experiments that it concerns, of a group that is as ``live`` says."""
    slots: Sequence[Slot | NewSlot] = []
    if step.new is not None:
        slots = step.new.slots
    elif live is not None and step.action in ("archive", "unarchive"):
        slots = live.slots
    changes = [change for change in step.lists if change.field == "experiments"]
    experiments: set[Any] = {member for change in changes for member in (*change.added, *change.removed)}
    experiments.update(experiment for slot in slots for experiment in slot.experiments or ())
    members = _member_count(live) if live is not None and step.action == "archive" else 0
    return replace(step, members=members, experiments=sorted(experiments))


def _immutable(wanted: DesiredGroup, live: MutexGroup) -> list[str]:
    differing: list[tuple[str, object, object]] = [
        (name, shown, value)
        for name, value, shown in (
            ("evaluationMode", wanted.evaluation_mode, live.evaluation_mode),
            ("bucketingKey", wanted.bucketing_key, live.bucketing_key),
            ("bucketingSalt", wanted.bucketing_salt, live.bucketing_salt),
        )
        if value is not UNSET and value != shown
    ]
    if wanted.slots is not UNSET:
        are = [slot.percentage for slot in _by_index(live)]
        shall = [slot.percentage for slot in wanted.slots]
        if len(are) != len(shall):
            differing.append(("number of slots", len(are), len(shall)))
        elif are != shall:
            shown_are, shown_shall = (" / ".join(f"{share:g}" for share in shares) for shares in (are, shall))
            differing.append(("percentages", shown_are, shown_shall))
    rule = "fixed at creation, and replacing the group would reshuffle its users"
    return [f"{name}: {shown} live, {value} in the file; {rule}" for name, shown, value in differing]


def _by_index(live: MutexGroup) -> list[Slot]:
    return sorted(live.slots, key=lambda slot: slot.index)


def _list_changes(wanted: DesiredGroup, live: MutexGroup) -> list[ListChange]:
    if wanted.slots is UNSET:
        return []
    changes: list[ListChange] = []
    for slot, is_ in zip(wanted.slots, _by_index(live), strict=True):
        for name in SLOT_LISTS:
            shall: Sequence[int | str] | msgspec.UnsetType = getattr(slot, name)
            if shall is UNSET or set(shall) == set(getattr(is_, name)):
                continue
            before, after_ = list(unique(getattr(is_, name))), list(unique(shall))
            changes.append(ListChange(slot_index=is_.index, field=name, before=before, after=after_))
    return changes


def _cohort_notes(wanted: DesiredGroup, live: MutexGroup | None) -> list[str]:
    if wanted.slots is UNSET:
        return []
    live_slots = _by_index(live) if live else []
    notes: list[str] = []
    for index, slot in enumerate(wanted.slots, 1):
        are = live_slots[index - 1].cohorts if index <= len(live_slots) else []
        if slot.cohorts is not UNSET and set(map(str, slot.cohorts)) != set(map(str, are)):
            shown_are, shown_shall = (", ".join(map(str, unique(each))) or "none" for each in (are, slot.cohorts))
            notes.append(
                f"slot {index} cohorts are {shown_are}, the file says {shown_shall}: "
                "not written, the service documents no way to"
            )
    return notes


def after(step: Plan, live: Iterable[MutexGroup]) -> list[MutexGroup]:
    """The groups as they will be once a plan is applied, for ``aiomutex.traffic.compare``.

    Groups to be created get their key as salt if the file gives none, because the real one will be random.
    """
    changes = {group.group_id: group for group in step.changes if group.group_id is not None}
    groups: list[MutexGroup] = []
    for group in live:
        change = changes.get(group.id)
        if change is None:
            groups.append(group)
        elif change.action != "archive":
            groups.append(apply_to(change, group))
        else:
            groups.append(replace(group, deleted=True))
    return groups + [_as_group(change.new) for change in step.changes if change.new is not None]


def apply_to(change: GroupPlan, group: MutexGroup, *, back: bool = False) -> MutexGroup:
    """The group with a plan's fields and lists as they shall be, or ``back`` as they were."""
    fields: dict[str, Any] = {each.field: each.before if back else each.after for each in change.fields}
    lists: dict[int, dict[str, Any]] = {}
    for each in change.lists:
        lists.setdefault(each.slot_index, {})[each.field] = list(each.before if back else each.after)
    slots = [replace(slot, **lists[slot.index]) if slot.index in lists else slot for slot in group.slots]
    if change.action in ("archive", "unarchive"):
        fields["deleted"] = (change.action == "archive") != back
    return replace(group, slots=slots, **fields)


def _as_group(new: NewGroup) -> MutexGroup:
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
