"""Which edit goes next: groups concurrently, the edits of one group one after another in the order given.

Pure bookkeeping, without a clock or I/O.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from aiomutex.bulk.slot_lists import SlotLists

if TYPE_CHECKING:
    from aiomutex._api.requests import Request
    from aiomutex.bulk.late_writes import LateWrite
    from aiomutex.models import MutexGroup, SlotEdit

__all__ = ["GroupQueue", "Item", "Queues"]


class Item:
    """One edit of a run, with its position and its request."""

    __slots__ = ("_lists", "edit", "position", "request", "was_sent")

    def __init__(self, position: int, edit: SlotEdit, request: Request[None], *, was_sent: bool = False) -> None:
        self.position = position
        self.edit = edit
        self.request = request
        self.was_sent = was_sent
        """An earlier run sent it, and its outcome is unknown."""
        self._lists: SlotLists | None = None

    @property
    def group_id(self) -> str:
        """The group's id."""
        return str(self.edit.group_id)

    @property
    def lists(self) -> SlotLists:
        """The lists it gives."""
        if self._lists is None:
            self._lists = SlotLists.of_edit(self.edit)
        return self._lists


class GroupQueue:
    """The waiting edits of one group, and what is known of the group meanwhile."""

    __slots__ = ("before", "group_id", "is_parked", "items", "late", "read_at", "unconfirmed", "written")

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.items: deque[Item] = deque()
        self.before: MutexGroup | None = None
        """The group as read before the first of these edits, if a journal or the read-back needs it."""
        self.read_at = 0.0
        """When it was read, on the event loop's clock."""
        self.written: list[tuple[list[Item], int]] = []
        """Batches written but not read back yet, with the attempts they took."""
        self.unconfirmed: dict[int, list[SlotLists]] = {}
        """By slot, the writes with an unknown outcome since the last confirmed one."""
        self.late: dict[int, list[LateWrite]] = {}
        """By slot, the writes that might have arrived after those in ``written``."""
        self.is_parked = False
        """Whether all that is left to do is a read at a later time."""

    def take(self) -> list[Item]:
        """Remove the next edit and the identical ones that follow it directly: one request serves them all."""
        batch = [self.items.popleft()]
        first = batch[0]
        while self.items and self.items[0].edit == first.edit and self.items[0].was_sent == first.was_sent:
            batch.append(self.items.popleft())
        return batch


class Queues:
    """All groups with waiting edits, or with one in flight."""

    def __init__(self) -> None:
        self._groups: dict[str, GroupQueue] = {}

    def add(self, item: Item) -> GroupQueue | None:
        """Queue an item. Return its group if that makes the group ready to be served."""
        group_id = item.group_id
        group = self._groups.get(group_id)
        if group is not None:
            was_parked, group.is_parked = group.is_parked, False
            group.items.append(item)
            return group if was_parked else None
        group = self._groups[group_id] = GroupQueue(group_id)
        group.items.append(item)
        return group

    def release(self, group: GroupQueue) -> bool:
        """Forget the group if no edits wait in it; return whether some do."""
        if group.items:
            return True
        del self._groups[group.group_id]
        return False
