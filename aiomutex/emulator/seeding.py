"""From what people write down to groups: arguments of a test, entries of a JSON file, pages of the real service.

Seeding is lenient where a request is not: percentages need not add up to 100, because groups captured from the
service do not always.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, cast

import msgspec

from aiomutex.emulator.state import Group, GroupStore, Slot

__all__ = ["GroupSeed", "SlotSeed", "document_of", "group_of", "seeded_store", "slots_of", "store_of", "store_of_json"]

SlotSeed = int | Mapping[str, Any] | Slot
GroupSeed = Mapping[str, Any] | Group

_SNAKE = {
    "projectId": "project_id",
    "evaluationMode": "evaluation_mode",
    "bucketingKey": "bucketing_key",
    "bucketingSalt": "bucketing_salt",
    "variantKey": "variant_key",
}


def slots_of(seeds: Iterable[SlotSeed]) -> list[Slot]:
    """Slots from percentages, mappings (``percentage`` and lists; the service's names or Python's) or slots.

    Raises:
        ValueError: A mapping has a field that no slot has.
    """
    slots: list[Slot] = []
    for index, seed in enumerate(seeds, start=1):
        if isinstance(seed, Slot):
            slots.append(seed)
        elif isinstance(seed, int):
            slots.append(Slot(index=index, percentage=seed))
        elif isinstance(seed, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # files hold anything
            slots.append(_slot_of(index, seed))
        else:
            raise ValueError(  # noqa: TRY004 - as below
                f"slots[{index - 1}] is {seed!r}; it must be a percentage or a mapping"
            )
    return slots


def _slot_of(index: int, seed: Mapping[str, Any]) -> Slot:
    given = {_SNAKE.get(name, name): value for name, value in seed.items()}
    slot = Slot(index=int(given.pop("index", index)), percentage=given.pop("percentage", 0))
    for name, value in given.items():
        if name in {"experiments", "holdouts", "individuals", "cohorts"}:
            setattr(slot, name, value if isinstance(value, str) else list(value or ()))
        elif name in {"name", "variant_key"}:
            setattr(slot, name, value)
        else:
            raise ValueError(f"slots[{index - 1}] has a field {name!r}, which no slot has")
    return slot


def group_of(seed: GroupSeed, *, free_id: str) -> Group:
    """A group from a mapping (the service's field names or Python's); what is not given gets a default.

    Args:
        seed: A mapping, or a group, which is taken as it is.
        free_id: The id of a group that brings none.

    Raises:
        ValueError: The mapping has a field that no group has.
    """
    if isinstance(seed, Group):
        return seed
    given = {_SNAKE.get(name, name): value for name, value in seed.items()}
    group_id = str(given.pop("id", None) or free_id)
    group = Group(
        id=group_id,
        project_id="1",
        name=f"Group {group_id}",
        key=f"group-{group_id}",
        bucketing_salt=f"salt-{group_id}",
        slots=slots_of(given.pop("slots", (50, 50)) or ()),
    )
    for name, value in given.items():
        if not hasattr(group, name):
            raise ValueError(f"group {group_id} has a field {name!r}, which no group has")
        setattr(group, name, str(value) if name == "project_id" else value)
    return group


def seeded_store(groups: int | Iterable[GroupSeed], slots_per_group: int) -> GroupStore:
    """A store of that many generated groups, or of these groups."""
    if isinstance(groups, int):
        return GroupStore(groups, slots=slots_per_group)
    store = GroupStore()
    for seed in groups:
        group = group_of(seed, free_id=store.free_id())
        store[group.id] = group
    return store


def document_of(store: GroupStore) -> dict[str, Any]:
    """The whole state as plain data that ``store_of`` reads back."""
    return {
        "generated": {"count": store.generated, "slots": store.generated_slots, "removed": store.removed()},
        "groups": [asdict(group) for group in store.touched()],
    }


def store_of_json(data: bytes) -> GroupStore:
    """Read a state from JSON.

    Raises:
        ValueError: The text is none of what ``store_of`` reads.
    """
    try:
        return store_of(msgspec.json.decode(data))
    except RecursionError:
        raise ValueError("a state must not be nested that deep") from None


def store_of(document: object) -> GroupStore:
    """Read a state: a dump, a page of the real service (``{"mutexes": [...]}``) or a bare list of groups.

    Raises:
        ValueError: The document is none of these.
    """
    seeds: Any = document
    generated: Any = None
    if isinstance(document, dict):
        whole = cast("dict[str, Any]", document)
        generated = whole.get("generated")
        seeds = whole.get("groups", whole.get("mutexes"))
    if not isinstance(seeds, list):
        # A file that holds the wrong thing is a wrong value, not a wrong type in the caller's code.
        raise ValueError(  # noqa: TRY004
            'a state must be a list of groups, or an object that holds one under "groups" or "mutexes"',
        )
    made = msgspec.convert(generated or {}, _Generated)
    store = GroupStore(made.count, slots=made.slots)
    for group_id in made.removed:
        if group_id not in store:
            raise ValueError(f"generated.removed has {group_id!r}, which is no generated group")
        del store[group_id]
    for place, seed in enumerate(cast("list[object]", seeds)):
        if not isinstance(seed, dict):
            raise ValueError(f"a group must be an object, not {seed!r}")  # noqa: TRY004 - as above
        try:
            group = group_of(cast("dict[str, Any]", seed), free_id=store.free_id())
            msgspec.convert(asdict(group), Group)
        except (TypeError, ValueError) as error:
            raise ValueError(f"groups[{place}] is no group: {error}") from None
        store[group.id] = group
    return store


class _Generated(msgspec.Struct):
    count: int = 0
    slots: int = 3
    removed: list[str] = []
