"""The lists of a slot: compare them, merge them, and find what differs from a slot that was read back.

Pure. The service documents no order inside a list, so two lists are equal when they hold the same items.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from msgspec import UNSET

from aiomutex.errors import StaleSlotError, VerificationError
from aiomutex.models import SLOT_LISTS, SlotEdit, find_slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiomutex.models import MutexGroup, Slot

__all__ = [
    "GuardedEdit",
    "SlotLists",
    "find_difference",
    "find_stale",
    "same_items",
    "slot_holds",
    "with_unconfirmed",
    "without_overwritten",
]

_MAX_UNCONFIRMED: Final = 20
"""Unconfirmed writes of one slot that are kept, the latest ones. An outage may leave any number of them."""


class SlotLists(NamedTuple):
    """The lists of one slot that can be written; ``None`` for a list that is not given."""

    experiments: list[int] | None = None
    holdouts: list[int] | None = None
    individuals: list[str] | None = None

    @classmethod
    def of_edit(cls, edit: SlotEdit) -> Self:
        """The lists an edit gives. The items of a set are sorted, so that every process gets the same order."""
        given: list[Any] = []
        for name in SLOT_LISTS:
            items = getattr(edit, name)
            in_order: Any = sorted if isinstance(items, AbstractSet) else list
            given.append(None if items is UNSET else in_order(items))
        return cls(*given)

    @classmethod
    def of_slot(cls, slot: Slot) -> Self:
        """The lists a slot holds."""
        return cls(slot.experiments, slot.holdouts, slot.individuals)

    @property
    def is_empty(self) -> bool:
        """Whether no list is given."""
        return self == (None, None, None)

    def updated(self, newer: SlotLists) -> SlotLists:
        """The newer lists where they are given, else these."""
        pairs: Any = zip(self, newer, strict=True)
        return SlotLists(*(old if new is None else new for old, new in pairs))

    def only(self, other: SlotLists) -> SlotLists:
        """These lists where ``other`` gives one."""
        pairs: Any = zip(self, other, strict=True)
        return SlotLists(*(None if given is None else items for items, given in pairs))

    def without(self, other: SlotLists) -> SlotLists:
        """These lists where ``other`` gives none."""
        pairs: Any = zip(self, other, strict=True)
        return SlotLists(*(items if given is None else None for items, given in pairs))

    def edit_of(self, group_id: str, slot_index: int) -> SlotEdit:
        """The edit that writes these lists to a slot."""
        given: dict[str, Any] = {name: items for name, items in self._asdict().items() if items is not None}
        return SlotEdit(group_id, slot_index, **given)


class GuardedEdit(SlotEdit, frozen=True, kw_only=True):
    """An edit that is made only if its slot still holds what the edit is based on."""

    based_on: tuple[SlotLists, ...] = ()
    """What the lists to be written may hold: what they held, and what earlier edits of the caller made of them."""


def same_items(one: list[Any] | None, other: list[Any] | None) -> bool:
    """Whether two lists hold the same items, in any order."""
    return one == other or (one is not None and other is not None and set(one) == set(other))


def slot_holds(slot: Slot | None, desired: SlotLists) -> bool:
    """Whether a slot holds the desired lists. Lists that are not given do not count."""
    return slot is not None and all(
        items is None or same_items(items, actual)
        for items, actual in zip(desired, SlotLists.of_slot(slot), strict=True)
    )


def find_difference(
    group: MutexGroup, index: int, desired: SlotLists, before: Slot | None, unconfirmed: Sequence[SlotLists] = ()
) -> VerificationError | None:
    """Compare a slot that was read back with what it should hold.

    Args:
        group: The group as read back.
        index: The slot's index.
        desired: The lists written.
        before: The slot before the write. Its cohorts, and lists that are not desired, should be unchanged.
        unconfirmed: Later writes with an unknown outcome. A list may also be what one of them gave.

    Returns:
        The difference, if there is one.
    """
    slot = find_slot(group, index)
    expected: dict[str, list[Any]] = {}
    for name, items in zip(SLOT_LISTS, desired, strict=True):
        if items is not None:
            expected[name] = items
        elif before is not None:
            expected[name] = getattr(before, name)
    if before is not None:
        expected["cohorts"] = list(before.cohorts)
    if slot is not None and all(
        same_items(items, getattr(slot, name))
        or any(same_items(getattr(each, name, None), getattr(slot, name)) for each in unconfirmed)
        for name, items in expected.items()
    ):
        return None
    actual = {} if slot is None else {name: list(getattr(slot, name)) for name in expected}
    return VerificationError(
        group_id=group.id,
        slot_index=index,
        expected={name: _sorted(items) for name, items in expected.items()},
        actual={name: _sorted(items) for name, items in actual.items()},
    )


def find_stale(edit: SlotEdit, group: MutexGroup | None) -> StaleSlotError | None:
    """Whether the slot of a guarded edit was changed by somebody else: the error to report then."""
    if not isinstance(edit, GuardedEdit) or group is None:
        return None
    slot, desired = find_slot(group, edit.slot_index), SlotLists.of_edit(edit)
    names = [name for name, items in zip(SLOT_LISTS, desired, strict=True) if items is not None]
    allowed = (*edit.based_on, desired)
    if slot is not None and all(
        any(same_items(getattr(each, name), getattr(slot, name)) for each in allowed) for name in names
    ):
        return None
    return StaleSlotError(
        group_id=group.id,
        slot_index=edit.slot_index,
        expected={name: _sorted(getattr(edit.based_on[-1], name) or []) for name in names},
        actual={} if slot is None else {name: _sorted(getattr(slot, name)) for name in names},
    )


def _sorted(items: list[Any]) -> list[Any]:
    return sorted(items, key=lambda item: (isinstance(item, str), item))


def with_unconfirmed(unconfirmed: list[SlotLists], lists: SlotLists) -> list[SlotLists]:
    """The unconfirmed writes of a slot and one more."""
    return [*unconfirmed, lists][-_MAX_UNCONFIRMED:]


def without_overwritten(unconfirmed: list[SlotLists], confirmed: SlotLists) -> list[SlotLists]:
    """What is left of unconfirmed writes when a later write is confirmed: the lists that it did not give."""
    left = [lists.without(confirmed) for lists in unconfirmed]
    return [lists for lists in left if not lists.is_empty]
