"""Hypothesis strategies for live groups and desired states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from aiomutex import MutexGroup, Slot, SlotEdit
from aiomutex.plan import Desired, DesiredGroup, DesiredSlot

if TYPE_CHECKING:
    from collections.abc import Sequence

LISTS = ("experiments", "holdouts", "individuals")
KEYS = ["alpha", "beta", "gamma", "on", "x-1"]
strings = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda string: string.strip() != ""
)
words = st.sampled_from(
    ["ada", "eve@example.com", "007", "null", "- a", "a: b", "#x", "Jürgen 🎈", "a\nb", "1e3", "'\"\\"]
)
ids = st.lists(st.integers(0, 9), max_size=4, unique=True)
people = st.lists(words | strings, max_size=3, unique=True)


@st.composite
def splits(draw: st.DrawFn) -> list[int]:
    cuts = sorted(draw(st.lists(st.integers(1, 99), max_size=4, unique=True)))
    return [end - start for start, end in zip([0, *cuts], [*cuts, 100], strict=True)]


@st.composite
def live_groups(draw: st.DrawFn) -> list[MutexGroup]:
    groups: list[MutexGroup] = []
    for number, key in enumerate(draw(st.lists(st.sampled_from(KEYS), unique=True)), 1):
        slots = [
            Slot(
                index=index,
                percentage=percentage,
                experiments=draw(ids),
                holdouts=draw(ids),
                individuals=draw(people),
                cohorts=draw(st.lists(st.sampled_from(["c1", "c2"]), max_size=1)),
            )
            for index, percentage in enumerate(draw(splits()), 1)
        ]
        groups.append(
            MutexGroup(
                id=str(number),
                project_id=draw(st.sampled_from(["1", "2"])),
                name=draw(words | strings),
                key=key,
                description=draw(st.none() | words | strings),
                evaluation_mode=draw(st.sampled_from(["local", "remote"])),
                bucketing_key=draw(st.sampled_from(["amplitude_id", "device_id"])),
                bucketing_salt=f"salt-{number}",
                slots=slots,
                deleted=draw(st.sampled_from([False, False, True])),
            )
        )
    return groups


@st.composite
def desired_states(draw: st.DrawFn, live: list[MutexGroup]) -> Desired:
    """Some live groups with changes, some new groups, some groups to archive."""
    groups: list[DesiredGroup] = []
    for group in live:
        if not draw(st.booleans()):
            continue
        percentages: list[int | float] = [slot.percentage for slot in group.slots]
        fields: dict[str, Any] = {}
        if draw(st.booleans()):
            fields["name"] = draw(words | strings)
        if draw(st.booleans()):
            fields["description"] = draw(st.none() | words | strings)
        if group.deleted or draw(st.integers(0, 4)) == 0:
            fields["archived"] = draw(st.booleans())
        if draw(st.integers(0, 9)) == 0:
            fields["bucketing_key"] = "user_id"
        if draw(st.integers(0, 3)):
            fields["slots"] = tuple(draw(slots_of(percentages)))
        groups.append(DesiredGroup(project_id=group.project_id, key=group.key, **fields))
    taken = {group.key for group in live}
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=2, unique=True)):
        if key not in taken:
            split = draw(splits())
            slots = tuple(draw(slots_of(list(split))))
            groups.append(DesiredGroup(project_id="1", key=key, name=draw(words | strings), slots=slots))
    return Desired(groups=tuple(groups))


@st.composite
def slots_of(draw: st.DrawFn, percentages: list[int | float]) -> list[DesiredSlot]:
    slots: list[DesiredSlot] = []
    for percentage in percentages:
        lists: dict[str, Any] = {}
        for name, members in (("experiments", ids), ("holdouts", ids), ("individuals", people)):
            if draw(st.booleans()):
                lists[name] = tuple(draw(members))
        slots.append(DesiredSlot(percentage=percentage, **lists))
    return slots


@st.composite
def states(draw: st.DrawFn) -> tuple[list[MutexGroup], Desired]:
    live = draw(live_groups())
    return live, draw(desired_states(live))


# The members of each slot before and after: few members and many slots, so that moves form chains and cycles.
moves = st.integers(2, 5).flatmap(
    lambda count: st.tuples(*[st.lists(st.lists(st.integers(1, 4), unique=True), min_size=count, max_size=count)] * 2)
)


def moving(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> tuple[list[MutexGroup], Desired]:
    slots = [Slot(index=index, percentage=10, experiments=list(held)) for index, held in enumerate(before, 1)]
    desired = tuple(DesiredSlot(percentage=10, experiments=tuple(held)) for held in after)
    group = MutexGroup(id="7", project_id="1", name="A", key="a", slots=slots)
    return [group], Desired(groups=(DesiredGroup(project_id="1", key="a", slots=desired),))


def written(group: MutexGroup, edit: SlotEdit) -> MutexGroup:
    lists = {name: list(items) for name in LISTS if (items := getattr(edit, name)) is not UNSET}
    slots = [replace(slot, **lists) if slot.index == edit.slot_index else slot for slot in group.slots]
    return replace(group, slots=slots)
