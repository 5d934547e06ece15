"""Which edit goes next: groups concurrently, the edits of one group one after another in the order given.

Pure bookkeeping, without a clock or I/O.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from aiomutex.bulk.slot_lists import SlotLists
from aiomutex.models import SlotEdit, find_slot

if TYPE_CHECKING:
    from aiomutex._api.requests import Request
    from aiomutex.bulk.late_writes import LateWrite
    from aiomutex.errors import MutexError
    from aiomutex.models import MutexGroup, Slot, SlotChange


class Item:
    """One edit of a run, with its position and its request."""

    __slots__ = (
        "_lists", "attempts", "edit", "is_answered", "is_canary", "is_late", "is_repeat", "position", "request",
        "shows", "was_sent",
    )  # fmt: skip

    def __init__(self, position: int, edit: SlotEdit | SlotChange, request: Request[None] | None) -> None:
        self.position = position
        self.edit = edit
        self.request = request  # ``None`` for a change, whose request depends on what the slot holds
        self.was_sent = False  # it was sent before, and its outcome is unknown
        self.is_answered = False  # the service confirmed its write, in this run or in an earlier one
        self.is_late = False  # an attempt of its write got no response, and may still arrive
        self.is_canary = False  # it is read back, whatever the run does otherwise
        self.shows = 0  # what a canary shows if it is applied
        self.is_repeat = False  # this run has written it, and writes it again because a late write has overwritten it
        self.attempts = 0  # the number of requests of earlier writes by this run
        self._lists: SlotLists | None = None

    @property
    def group_id(self) -> str:
        """The group's id."""
        return str(self.edit.group_id)

    @property
    def lists(self) -> SlotLists:
        """The lists it writes; those of a change are set before it is written."""
        if self._lists is None:
            self._lists = SlotLists.of_edit(self.edit) if isinstance(self.edit, SlotEdit) else SlotLists()
        return self._lists

    @lists.setter
    def lists(self, lists: SlotLists) -> None:
        self._lists = lists


class Written(NamedTuple):
    """Identical edits that were written with one request, and wait for a read."""

    batch: list[Item]
    attempts: int
    at: float
    """When the last response came, on the event loop's clock."""
    error: MutexError | None = None
    """Why it is unknown whether they were written."""

    @property
    def slot_index(self) -> int:
        """The slot's index."""
        return self.batch[0].edit.slot_index


class GroupQueue:
    """The waiting edits of one group, and what is known of the group meanwhile."""

    __slots__ = (
        "before", "doubtful", "group_id", "is_from_page", "is_parked", "items", "late", "needs_before", "read_again",
        "read_at", "stretch", "unconfirmed", "wants_read", "written",
    )  # fmt: skip

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.items: deque[Item] = deque()
        self.before: MutexGroup | None = None
        """The group as read last, but with the slots in ``written`` as they were before."""
        self.read_at = 0.0  # when it was read, on the event loop's clock
        self.is_from_page = False  # whether it was read from a page of the listing
        self.written: list[Written] = []  # what was written but not read back yet
        self.stretch = 0  # the stretch of the run in which the first of it was written
        self.doubtful: set[int] = set()
        """Slots that may hold something else than ``before`` and ``written`` say, because a write failed."""
        self.unconfirmed: dict[int, list[SlotLists]] = {}
        """By slot, the writes with an unknown outcome since the last confirmed one."""
        self.late: dict[int, list[LateWrite]] = {}
        """By slot, the writes that might have arrived after those in ``written``."""
        self.read_again: dict[int, float] = {}
        """Slots that did not hold what was expected, and when to read them again, on their own."""
        self.wants_read = False  # whether nothing more is written before the group is read
        self.needs_before = False  # whether that is because the next edit cannot be made without it
        self.is_parked = False  # whether all that is left to do now is a read

    def slot_before(self, index: int) -> Slot | None:
        """The slot in ``before``."""
        return None if self.before is None else find_slot(self.before, index)

    def desired(self) -> dict[int, SlotLists]:
        """By slot, what was written and is not read back yet."""
        desired: dict[int, SlotLists] = {}
        for each in self.written:
            desired[each.slot_index] = desired.get(each.slot_index, SlotLists()).updated(each.batch[0].lists)
        return desired

    def written_to(self, index: int) -> list[Written]:
        """What was written to a slot and is not read back yet."""
        return [each for each in self.written if each.slot_index == index]

    def take_written(self, index: int) -> list[Written]:
        """Remove what was written to a slot."""
        taken = self.written_to(index)
        self.written = [each for each in self.written if each.slot_index != index]
        self.late.pop(index, None)
        return taken

    def take(self) -> list[Item]:
        """Remove the next edit and the identical ones that follow it directly: one request serves them all."""
        batch = [self.items.popleft()]
        first = batch[0]
        while self.items and _share_a_request(first, self.items[0]):
            batch.append(self.items.popleft())
        return batch


def _share_a_request(one: Item, other: Item) -> bool:
    if one.is_repeat or other.is_repeat:
        return one.is_repeat and other.is_repeat and one.edit.slot_index == other.edit.slot_index
    return one.edit == other.edit and one.was_sent == other.was_sent


class Queues:
    """All groups with waiting edits, or with one in flight."""

    def __init__(self) -> None:
        self._groups: dict[str, GroupQueue] = {}

    def add(self, item: Item) -> GroupQueue | None:
        """Queue an item. Return its group if that makes the group ready to be served."""
        group_id = item.group_id
        group = self._groups.get(group_id)
        if group is not None:
            group.items.append(item)
            if not group.is_parked or group.wants_read:
                return None
            group.is_parked = False
            return group
        group = self._groups[group_id] = GroupQueue(group_id)
        group.items.append(item)
        return group

    def release(self, group: GroupQueue) -> bool:
        """Forget the group if no edits wait in it; return whether some do."""
        if group.items:
            return True
        del self._groups[group.group_id]
        return False
