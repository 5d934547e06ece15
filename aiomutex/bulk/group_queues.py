"""Which edit goes next: one write in flight per group, edits of a group in the order given, groups side by side.

Pure bookkeeping, without a clock or I/O.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from aiomutex.bulk.content import wish_of

if TYPE_CHECKING:
    from aiomutex._api.requests import Request
    from aiomutex.bulk.content import Content
    from aiomutex.models import MutexGroup, SlotEdit

__all__ = ["GroupQueue", "Item", "Queues"]


class Item:
    """One edit on its way through a run."""

    __slots__ = ("_wish", "edit", "position", "request", "settle")

    def __init__(self, position: int, edit: SlotEdit, request: Request[None], *, settle: bool = False) -> None:
        self.position = position
        self.edit = edit
        self.request = request
        self.settle = settle
        """A run before this one sent it and did not learn its fate."""
        self._wish: Content | None = None

    @property
    def group_id(self) -> str:
        """The group it is for."""
        return str(self.edit.group_id)

    @property
    def wish(self) -> Content:
        """What it gives."""
        if self._wish is None:
            self._wish = wish_of(self.edit)
        return self._wish


class GroupQueue:
    """The edits of one group that wait, and what is known of the group while they do."""

    __slots__ = ("before", "group_id", "items", "read_at", "unsettled", "written")

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.items: deque[Item] = deque()
        self.before: MutexGroup | None = None
        """The group as it was read before the first of these edits, where a journal or a read-back needs it."""
        self.read_at = 0.0
        """When that was, on the event loop's clock."""
        self.written: list[tuple[list[Item], int]] = []
        """Items written and not read back yet, with the attempts they took."""
        self.unsettled: dict[int, list[Content]] = {}
        """By slot, what was sent after its last confirmed write and may have arrived."""

    def take(self) -> list[Item]:
        """The next edit, with the identical ones that follow it at once: one request serves them all."""
        batch = [self.items.popleft()]
        first = batch[0]
        while self.items and self.items[0].edit == first.edit and self.items[0].settle == first.settle:
            batch.append(self.items.popleft())
        return batch


class Queues:
    """All groups with waiting edits. A group whose edit is in flight is not handed out."""

    def __init__(self) -> None:
        self._groups: dict[str, GroupQueue] = {}

    def add(self, item: Item) -> GroupQueue | None:
        """Queue an item; the group if it is new and so ready to be worked on."""
        group_id = item.group_id
        group = self._groups.get(group_id)
        if group is not None:
            group.items.append(item)
            return None
        group = self._groups[group_id] = GroupQueue(group_id)
        group.items.append(item)
        return group

    def done_with(self, group: GroupQueue) -> bool:
        """Forget the group if nothing waits in it; whether something does."""
        if group.items:
            return True
        del self._groups[group.group_id]
        return False
