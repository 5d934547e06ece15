"""Writes that got no response and may still arrive: a later edit of the slot is certain only when they no longer can.

Knows slots and times, but sends and reads nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from aiomutex.bulk.slot_lists import SlotLists, same_items
from aiomutex.errors import DeadlineExceededError, MutexError, TransportError

if TYPE_CHECKING:
    from aiomutex.models import Slot

_MIN_WAIT: Final = 10.0
"""Seconds after which a write without a response is expected to be applied or lost, if no attempt takes longer."""
_MAX_WRITES: Final = 1000


def is_unanswered(error: MutexError) -> bool:
    """Whether an attempt that failed with ``error`` may be applied after anything that is read or written now."""
    return (isinstance(error, TransportError) and error.sent) or (
        isinstance(error, DeadlineExceededError) and error.maybe_applied
    )


class LateWrite(NamedTuple):
    """A write that may still arrive."""

    group_id: str
    slot_index: int
    lists: SlotLists
    until: float
    """The time on the event loop's clock from which on a read shows whether it arrived."""

    def would_change(self, lists: SlotLists, before: Slot | None) -> bool:
        """Whether it would change a slot that held ``before``, and to which ``lists`` were written."""
        expected = lists if before is None else SlotLists.of_slot(before).updated(lists)
        pairs = zip(self.lists, expected, strict=True)
        return any(items is not None and not same_items(items, held) for items, held in pairs)


class LateWrites:
    """The writes of a run that may still arrive, at most 1,000, if a request may take ``attempt_timeout`` seconds."""

    def __init__(self, attempt_timeout: float) -> None:
        self._wait = max(_MIN_WAIT, attempt_timeout)
        self._writes: deque[LateWrite] = deque()

    async def add(self, group_id: str, slot_index: int, lists: SlotLists) -> None:
        """Expect a write from now on. If there are too many, wait first until one of them can no longer arrive."""
        now = asyncio.get_running_loop().time
        while self._live() >= _MAX_WRITES:  # noqa: ASYNC110  # time is what it waits for
            await asyncio.sleep(self._writes[0].until - now())
        self._writes.append(LateWrite(group_id, slot_index, lists, now() + self._wait))

    def of(self, group_id: str, slot_index: int) -> list[LateWrite]:
        """The writes of a slot that may still arrive."""
        self._live()
        return [each for each in self._writes if (each.group_id, each.slot_index) == (group_id, slot_index)]

    def _live(self) -> int:
        """Forget the writes that can no longer arrive, and count the others."""
        now = asyncio.get_running_loop().time()
        while self._writes and self._writes[0].until <= now:
            self._writes.popleft()
        return len(self._writes)
