"""What a plan consists of, its slot edits in order, and how it leaves the groups. A digest recognizes changed ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import groupby, product
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import to_builtins
from msgspec.structs import replace

from aiomutex.models import SLOT_LISTS, MutexGroup, NewGroup, Slot, SlotEdit, SlotListName
from aiomutex.plan.desired import GROUP_FIELDS, Identity, group_name, identity_of, unique

if TYPE_CHECKING:
    from collections.abc import Iterable

ABSENT: Final = "absent"
Moves = dict[tuple[str, SlotListName, int | str], tuple[list[tuple[str, int]], list[tuple[str, int]]]]
"""By project, list and member: the slots that it leaves, and those that it joins, each with the key of its group."""
Action = Literal["create", "update", "archive", "unarchive", "none"]


def by_index(group: MutexGroup) -> list[Slot]:
    """The slots of a group, in order."""
    return sorted(group.slots, key=lambda slot: slot.index)


def current_groups(groups: Iterable[MutexGroup]) -> dict[Identity, MutexGroup]:
    """Groups by their identity; of several with the same one, a live group before an archived one."""
    return {identity_of(each.project_id, each.key): each for each in sorted(groups, key=lambda each: not each.deleted)}


class FieldChange(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A change of a group's name or description."""

    field: Literal["name", "description"]
    before: str | None
    after: str | None


class ListChange(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A change of one list of a slot; ``before`` and ``after`` are whole lists."""

    slot_index: int
    field: SlotListName
    before: list[int | str]
    after: list[int | str]

    def __post_init__(self) -> None:
        member_type = str if self.field == "individuals" else int
        if not all(type(member) is member_type for member in (*self.before, *self.after)):
            raise ValueError(f"{self.field} must contain only members of type {member_type.__name__}")

    @property
    def added(self) -> list[int | str]:
        """Members that join the slot, sorted."""
        return [*unique(set(self.after) - set(self.before))]

    @property
    def removed(self) -> list[int | str]:
        """Members that leave the slot, sorted."""
        return [*unique(set(self.before) - set(self.after))]


class GroupPlan(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The plan for one group."""

    project_id: str
    key: str
    action: Action
    """``unarchive`` may include changes of fields and lists, ``archive`` does not."""
    group_id: str | None = None
    """The ID of the live group; ``None`` for a create."""
    fingerprint: str = ABSENT
    """The fingerprint of the live group when the plan was made; ``absent`` for a create."""
    new: NewGroup | None = None
    old: MutexGroup | None = None
    """The group to archive."""
    successor: MutexGroup | None = None
    """For an archive: the group that replaces it, as it must be by then."""
    fields: list[FieldChange] = []
    lists: list[ListChange] = []
    members: int = 0
    """For an archive: how many members the group's slots have that its successor does not have."""
    experiments: list[int] = []
    """The experiments affected: those that join or leave a slot, or are in a group that is (un)archived."""
    errors: list[str] = []
    """Why the group cannot be changed as desired, for example because a field is fixed at creation."""
    notes: list[str] = []
    """Differences that are shown and never written."""

    def __post_init__(self) -> None:
        if (self.action == "create") is not (self.new is not None):
            raise ValueError("only the action 'create' creates a group, and it needs the group to create")
        if self.new is not None and (str(self.new.project_id), self.new.key) != (self.project_id, self.key):
            raise ValueError(f"the group to create must be {self.name}")

    @property
    def identity(self) -> Identity:
        """The project's ID and the normalized key."""
        return identity_of(self.project_id, self.key)

    @property
    def name(self) -> str:
        """How messages name the group."""
        return group_name(self.project_id, self.key)

    @property
    def awaited(self) -> Identity | None:
        """The group that must exist before this one is archived."""
        new = self.successor if self.action == "archive" else None
        return identity_of(new.project_id, new.key) if new is not None else None

    @property
    def all_lists(self) -> list[ListChange]:
        """The changes of its lists, and the lists of the slots that it creates or archives."""
        made, ended = created(self.new).slots if self.new else [], self.old.slots if self.old else []
        lists: list[Any] = [(slot.index, name, [], getattr(slot, name)) for slot in made for name in SLOT_LISTS]
        heirs = self.successor.slots if self.successor else []
        kept = {name: {member for slot in heirs for member in getattr(slot, name)} for name in SLOT_LISTS}
        for slot, name in product(ended, SLOT_LISTS):
            lists.append((slot.index, name, [each for each in getattr(slot, name) if each not in kept[name]], []))
        return [*self.lists, *(ListChange(slot_index=n, field=name, before=b, after=a) for n, name, b, a in lists)]


class Counts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The size of a plan."""

    creates: int = 0
    updates: int = 0
    archives: int = 0
    unarchives: int = 0
    added: int = 0
    """Members that join slots, those of new groups included."""
    removed: int = 0
    """Members that leave slots, those of archived groups included."""
    moved: int = 0
    """Members that move to another slot, perhaps of another group; they are not counted as added or removed."""
    errors: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The changes that lead from the live groups to a desired state."""

    groups: list[GroupPlan] = []
    """Groups with a change, an error or a note, in the order of the file."""
    exceeded_thresholds: list[str] = []
    """Thresholds of the file that the plan exceeds. Applying it then needs ``force``."""
    unmentioned: int = 0
    """How many live groups the file does not mention. They stay as they are."""

    @property
    def changes(self) -> list[GroupPlan]:
        """The groups to change."""
        return [group for group in self.groups if group.action != "none"]

    @property
    def experiments(self) -> list[int]:
        """The experiments that the changes affect, sorted."""
        return sorted({experiment for group in self.changes for experiment in group.experiments})

    @property
    def empty(self) -> bool:
        """Whether there are neither changes nor errors."""
        return not self.changes and not self.errors

    @property
    def errors(self) -> list[str]:
        """All errors, each with its group."""
        return [f"{group.name}: {error}" for group in self.groups for error in group.errors]

    @property
    def counts(self) -> Counts:
        """The size of the plan."""
        actions = Counter(f"{group.action}s" for group in self.changes)
        lists = [change for group in self.groups for change in group.all_lists]
        moves = self.moves
        return Counts(
            **actions,
            added=sum(len(change.added) for change in lists) - sum(len(joined) for _, joined in moves.values()),
            removed=sum(len(change.removed) for change in lists) - sum(len(left) for left, _ in moves.values()),
            moved=len(moves),
            errors=sum(len(group.errors) for group in self.groups),
        )

    @property
    def moves(self) -> Moves:
        """The members that leave one place and join another, or leave one group for another."""
        places, moves = Moves(), Moves()
        for group in self.groups:
            for change in group.all_lists:
                for side, members in enumerate((change.removed, change.added)):
                    for member in members:
                        sides = places.setdefault((group.project_id, change.field, member), ([], []))
                        sides[side].append((group.key, change.slot_index))
        for each, (left, joined) in places.items():
            one, other = ({key for key, _ in side} for side in (left, joined))
            if len(left) == len(joined) == 1 or (len(one) == len(other) == 1 and one != other):
                moves[each] = left, joined
        return moves


def fingerprint(group: MutexGroup | None) -> str:
    """Return the fingerprint of a group, whatever the order of its lists; ``absent`` for ``None``."""
    if group is None:
        return ABSENT
    slots: list[tuple[object, ...]] = []
    for slot in by_index(group):
        lists: list[Iterable[Any]] = [slot.experiments, slot.holdouts, slot.individuals, map(str, slot.cohorts)]
        slots.append((slot.index, float(slot.percentage), *map(unique, lists)))
    fields = [getattr(group, name) for name in ("id", "project_id", "key", *GROUP_FIELDS)]
    return hashlib.sha256(msgspec.json.encode([*fields, bool(group.deleted), slots])).hexdigest()[:32]


def is_like(live: MutexGroup, expected: MutexGroup | NewGroup) -> bool:
    """Whether a group has the slots of an expected one, and those of its fields that are known."""
    group = expected if isinstance(expected, MutexGroup) else created(expected)
    unknown = ("id", "project_id", "key", *(name for name in GROUP_FIELDS if not getattr(expected, name)))
    return fingerprint(replace(group, **{name: getattr(live, name) for name in unknown})) == fingerprint(live)


def after(plan: Plan, live: Iterable[MutexGroup]) -> list[MutexGroup]:
    """Return the groups as they will be once a plan is applied, for example for ``aiomutex.traffic.compare``.

    The service chooses the ID of a new group, and its salt if the file has none; here both are its key.
    """
    changes = {change.group_id: change for change in plan.changes if change.group_id is not None}
    groups = [apply_to(changes[group.id], group) if group.id in changes else group for group in live]
    return groups + [created(change.new) for change in plan.changes if change.new is not None]


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


def created(new: NewGroup) -> MutexGroup:
    """Return the group as it will be once it is created, as far as that is known."""
    defaults = {"id": new.key, "bucketingSalt": new.key, "evaluationMode": "remote", "bucketingKey": "amplitude_id"}
    fields: dict[str, Any] = defaults | to_builtins(new)
    fields["slots"] = [slot | {"index": index} for index, slot in enumerate(fields["slots"], 1)]
    return msgspec.convert(fields | {"description": new.description or None}, MutexGroup)


def edit_rounds(changes: Iterable[GroupPlan]) -> list[list[SlotEdit]]:
    """Return the slot edits of a plan, in at most two rounds to be sent one after another.

    An edit writes whole lists of one slot, so to move a member takes two. It joins its new slot in the first round and
    leaves the old one in the second, so it is in a slot at all times, and stays in the old one if the first edit fails.
    Only a slot that members move to and that others leave is edited twice.
    """
    rounds: tuple[list[SlotEdit], list[SlotEdit]] = [], []
    place = attrgetter("slot_index")
    for group in changes:
        joining = {(change.field, member) for change in group.lists for member in change.added}
        leaving = {(change.field, member) for change in group.lists for member in change.removed}
        moving = joining & leaving
        for index, in_slot in groupby(sorted(group.lists, key=place), key=place):
            lists = list(in_slot)
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
