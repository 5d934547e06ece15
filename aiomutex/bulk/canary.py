"""The canary of a run: one change is written and read back before any other is sent.

The documentation leaves open how the service reads a slot edit. A run that assumes the wrong reading would damage slot
after slot, so the first change shows which one holds. Knows slots, but sends and reads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from aiomutex.bulk.slot_lists import SlotLists, changed_lists, find_difference, same_items, slot_holds
from aiomutex.models import SLOT_LISTS, SlotChange, SlotEdit, find_slot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiomutex.bulk.group_queues import Item
    from aiomutex.errors import VerificationError
    from aiomutex.models import MutexGroup, Slot

FEW: Final = 20
"""An input of at most this many edits has no canary, and after this many that showed nothing there is none any more."""
CHANGE: Final = 1
"""Shown by any change: the slot addressed is the one that changes."""
REMOVAL: Final = 2
"""Shown by a change that removes something: lists are replaced and not merged."""
COHORTS: Final = 4
"""Shown by a change of a slot with cohorts: it keeps them."""


class Canary:
    """What the canaries of a session have shown. Its runs hold ``lock`` from before a canary until it is read back."""

    def __init__(self) -> None:
        self.shown = 0
        self.lock = anyio.Lock()
        self._tries = 0

    def is_wanted(self, item: Item, slot: Slot | None, *, skips: bool) -> bool:
        """Whether an edit may show something new, given what its slot holds, if that is known.

        If it is not, only an empty list is known to remove items. With ``skips``, an edit that changes nothing is not
        sent.
        """
        if self._tries >= FEW:
            return False
        has_new_cohorts = not self.shown & COHORTS and slot is not None and bool(slot.cohorts)
        is_new = not self.shown & CHANGE or has_new_cohorts or (not self.shown & REMOVAL and _removes(item, slot))
        is_sent = isinstance(item.edit, SlotEdit) and not skips
        return is_new and (is_sent or slot is None or not _changes_nothing(item, slot))

    def begin(self, item: Item, slot: Slot | None) -> None:
        """Make an edit a canary, before it is written."""
        self._tries += 1
        item.is_canary = True
        if slot is not None and not _changes_nothing(item, slot):
            item.shows = CHANGE | (REMOVAL if _removes(item, slot) else 0) | (COHORTS if slot.cohorts else 0)


def _changes_nothing(item: Item, slot: Slot) -> bool:
    if isinstance(item.edit, SlotChange):
        return changed_lists(item.edit, SlotLists.of_slot(slot)).is_empty
    return slot_holds(slot, item.lists)


def _removes(item: Item, slot: Slot | None) -> bool:
    if isinstance(item.edit, SlotChange):
        return any(getattr(item.edit, f"remove_{name}") for name in SLOT_LISTS)
    return any(
        items is not None and (not items or not {*items}.issuperset(getattr(slot, name, ())))
        for name, items in item.lists._asdict().items()
    )


def displaced_slot(before: MutexGroup, after: MutexGroup, index: int, lists: SlotLists) -> Slot | None:
    """The slot, as it was before, that took what was written to slot ``index``, if that one did not change."""
    old, new = find_slot(before, index), find_slot(after, index)
    if old is None or not slot_holds(new, SlotLists.of_slot(old)):
        return None
    others = [slot for slot in before.slots if slot.index != index and not slot_holds(slot, lists)]
    return next((slot for slot in others if slot_holds(find_slot(after, slot.index), lists)), None)


def find_misreading(before: MutexGroup, after: MutexGroup, index: int, lists: SlotLists) -> VerificationError | None:
    """The difference, if a service has read a slot edit otherwise than this library, with the reading that fits.

    ``None`` if there is no difference, or if somebody else's write explains it better. ``after`` must show the write: a
    read that lags may show lists of an earlier run in other slots.
    """
    old, new = find_slot(before, index), find_slot(after, index)
    if old is None or new is None:
        return None
    if (slot := displaced_slot(before, after, index, lists)) is not None:
        error = find_difference(after, slot.index, SlotLists.of_slot(slot), slot)
        readings = [f"it was changed by a write to slot {index}, so the service may count slots from 0"]
    else:
        error = find_difference(after, index, lists, old)
        readings = list(_misreadings(old, new, lists))
        if not readings and slot_holds(new, SlotLists.of_slot(old)):
            readings = ["the service confirmed the write, but has not made it"]
    if error is None or not readings:
        return None
    return error.explain("; ".join(readings), msgspec.to_builtins(before))


def _misreadings(old: Slot, new: Slot, lists: SlotLists) -> Iterator[str]:
    for name, items in lists._asdict().items():
        held, holds = getattr(old, name), getattr(new, name)
        if items is None and not same_items(held, holds):
            yield f"{name} was not given, and has changed all the same"
        elif items is not None and not same_items(items, holds) and same_items([*held, *items], holds):
            yield f"the service adds to {name} instead of replacing the list"
    if {*old.cohorts} - {*new.cohorts}:
        yield "the slot has lost cohorts"
