"""Changes of one group that keep everything else: read, compute, write only what changes, read back.

All writes of one group wait for each other inside a session. Nothing locks out other writers, as the service has no
ETags: their write between our read and our write is overwritten; one between our write and our read-back is noticed.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiomutex._api import requests, validation
from aiomutex.bulk.slot_lists import SlotLists, changed_lists, check_change, find_difference, no_slot
from aiomutex.errors import DeadlineExceededError, InvalidRequestError, MutexError
from aiomutex.models import find_slot

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallResult
    from aiomutex._util.keyed_lock import KeyedLock
    from aiomutex.models import MutexGroup, Slot, SlotChange

    Send = Callable[[Request[Any]], Awaitable[CallResult[Any]]]


class GroupChange:
    """One change of a group, and whether it has written anything. ``send`` sends with what is left of the deadline.

    One of the ``locks`` is held from the first read to the last, until ``ends_at`` on the event loop's clock.
    """

    def __init__(self, send: Send, locks: KeyedLock, ends_at: float, deadline: float) -> None:
        self.send = send
        self.has_written = False
        self._locks = locks
        self._ends_at = ends_at
        self._deadline = deadline

    @asynccontextmanager
    async def locking(self, group_id: str) -> AsyncGenerator[None]:
        """Wait for earlier writes of the group, at most until the deadline, and make later ones wait."""
        try:
            async with asyncio.timeout_at(self._ends_at):
                await self._locks.acquire(group_id)
        except TimeoutError:
            first = requests.get_group(group_id)
            raise DeadlineExceededError(
                f"the deadline of {self._deadline:g} s passed while waiting for other writes of the group",
                method=first.method,
                path=first.path,
                deadline=self._deadline,
            ) from None
        try:
            yield
        except MutexError as error:
            # Without this, an error of the read-back or of a second write would say that nothing was applied.
            error.maybe_applied |= self.has_written
            raise
        finally:
            self._locks.release(group_id)


async def change_slot(change: GroupChange, slot_change: SlotChange) -> Slot:
    """Add items to and remove items from the lists of a slot; return the slot after the change."""
    slot_change = check_change(slot_change)  # the caller may change its lists while this call waits
    segment = validation.group_segment(slot_change.group_id)
    async with change.locking(segment):
        before = _existing(await _read(change, segment), slot_change.slot_index)
        desired = changed_lists(slot_change, SlotLists.of_slot(before))
        if desired.is_empty:
            return before
        return await _write(change, segment, before, desired)


async def move_experiment(
    change: GroupChange, group_id: str | int, experiment: int, from_slot: int, to_slot: int
) -> MutexGroup:
    """Move an experiment to another slot of its group; return the group after the change."""
    segment = validation.group_segment(group_id)
    source, target = validation.slot_number(from_slot), validation.slot_number(to_slot)
    validation.id_list("experiment", [experiment])
    if source == target:
        raise InvalidRequestError(f"from_slot and to_slot must differ; both are {source}")
    async with change.locking(segment):
        group = await _read(change, segment)
        left, entered = _existing(group, source), _existing(group, target)
        if experiment not in left.experiments and experiment not in entered.experiments:
            raise InvalidRequestError(
                f"experiment must be in slot {source} or slot {target} of group {segment}, not {experiment}"
            )
        # The new slot first: for a moment the experiment has the traffic of both, which the service allows. The other
        # order would leave it in no slot for a moment, and so run it on users of other slots.
        if experiment not in entered.experiments:
            await _write(change, segment, entered, SlotLists([*entered.experiments, experiment]))
        if experiment in left.experiments:
            await _write(change, segment, left, SlotLists([each for each in left.experiments if each != experiment]))
        return await _read(change, segment)


async def _read(change: GroupChange, segment: str) -> MutexGroup:
    group: MutexGroup = (await change.send(requests.get_group(segment))).value
    return group


async def _write(change: GroupChange, segment: str, before: Slot, desired: SlotLists) -> Slot:
    """Write a slot and read it back; ``VerificationError`` if it does not hold that, or anything else has changed."""
    # Without a group, the attempt does not wait for the lock that this change holds.
    await change.send(requests.edit_slot(segment, before.index, *desired.arguments)._replace(group=None))
    change.has_written = True
    group = await _read(change, segment)
    if (difference := find_difference(group, before.index, desired, before)) is not None:
        raise difference.with_attempts(1, maybe_applied=True)
    return _existing(group, before.index)


def _existing(group: MutexGroup, index: int) -> Slot:
    if (slot := find_slot(group, index)) is None:
        raise no_slot(group, index)
    return slot
