"""What a run wrote in the last seconds: a read may still show what a slot held before.

Knows slots and times, but sends and reads nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from aiomutex.bulk.reads import MAX_LAG
from aiomutex.bulk.slot_lists import SlotLists, slot_holds

if TYPE_CHECKING:
    from aiomutex.bulk.group_queues import Item
    from aiomutex.models import Slot


class _Recent(NamedTuple):
    at: float
    lists: SlotLists


class RecentWrites:
    """The writes of a run in the last ``MAX_LAG`` seconds, by slot."""

    def __init__(self) -> None:
        self._writes: dict[tuple[str, int], _Recent] = {}

    def note(self, item: Item) -> None:
        """Note that an edit is written now, and forget what is not recent any more."""
        now, at = asyncio.get_running_loop().time(), (item.group_id, item.edit.slot_index)
        recent = self._writes.pop(at, None)
        self._writes[at] = _Recent(now, item.lists if recent is None else recent.lists.updated(item.lists))
        while self._writes[oldest := next(iter(self._writes))].at < now - MAX_LAG:
            del self._writes[oldest]

    def has(self, item: Item) -> bool:
        """Whether the slot of an edit was written, so that a read may show an earlier write of another run."""
        recent = self._writes.get((item.group_id, item.edit.slot_index))
        return recent is not None and recent.at > asyncio.get_running_loop().time() - MAX_LAG

    def forget_content(self, item: Item) -> None:
        """Forget what was written to the slot of an edit, because reads may never show it."""
        at = item.group_id, item.edit.slot_index
        if at in self._writes:
            self._writes[at] = _Recent(self._writes[at].at, SlotLists())

    def shown_at(self, group_id: str, slot: Slot, now: float) -> float | None:
        """When a read shows what was written to a slot, if the one of ``now`` does not yet."""
        recent = self._writes.get((group_id, slot.index))
        is_hidden = recent is not None and now < recent.at + MAX_LAG and not slot_holds(slot, recent.lists)
        return recent.at + MAX_LAG if recent is not None and is_hidden else None
