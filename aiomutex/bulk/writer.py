"""One write and its result: what the slot held before, whether it holds the write, and what a lost response means.

Knows the requests and the journal, but neither the order of edits nor the end of a run.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from aiomutex._api import requests
from aiomutex.bulk.late_writes import is_unanswered
from aiomutex.bulk.reads import MAX_LAG
from aiomutex.bulk.slot_lists import (
    GuardedEdit,
    SlotLists,
    find_difference,
    find_stale,
    slot_holds,
    with_unconfirmed,
    without_overwritten,
)
from aiomutex.errors import DailyBudgetExhaustedError, JournalError, MutexError, VerificationError
from aiomutex.models import find_slot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container

    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallResult
    from aiomutex.bulk.group_queues import GroupQueue, Item
    from aiomutex.bulk.journal import Journal
    from aiomutex.bulk.late_writes import LateWrites
    from aiomutex.bulk.report import Status
    from aiomutex.models import MutexGroup, Slot

__all__ = ["SlotWriter", "WriteResult"]

_NEVER: Final = float("inf")
_MAX_AGE: Final = 60.0
"""Seconds after which a group is read again. Its next edit may wait much longer, for a permit or the next day."""


class WriteResult(NamedTuple):
    """The outcome of a batch of identical edits."""

    batch: list[Item]
    status: Status
    error: MutexError | None
    attempts: int


def _slot_before(group: GroupQueue, index: int) -> Slot | None:
    return None if group.before is None else find_slot(group.before, index)


def _desired(group: GroupQueue) -> dict[int, SlotLists]:
    """By slot, what was written and is not read back yet."""
    desired: dict[int, SlotLists] = {}
    for batch, _ in group.written:
        index = batch[0].edit.slot_index
        desired[index] = desired.get(index, SlotLists()).updated(batch[0].lists)
    return desired


def _take_written(group: GroupQueue, slots: Container[int]) -> list[tuple[list[Item], int]]:
    """Remove what was written to some slots."""
    taken = [each for each in group.written if each[0][0].edit.slot_index in slots]
    group.written = [each for each in group.written if each[0][0].edit.slot_index not in slots]
    group.late = {index: late for index, late in group.late.items() if index not in slots}
    return taken


class SlotWriter:
    """Writes slots for a run.

    Args:
        send: Sends a request with the run's options.
        late: The run's writes that may still arrive, if writes are read back.
    """

    def __init__(self, send: Callable[[Request[Any]], Awaitable[CallResult[Any]]], late: LateWrites | None) -> None:
        self._send = send
        self.journal: Journal | None = None
        """Where each write is recorded before and after, if anywhere."""
        self._late = late
        self._written_at: dict[tuple[str, int], float] = {}
        """When this run last wrote a slot, for the slots of which a read may still show what they held before."""

    async def write(self, group: GroupQueue, batch: list[Item]) -> WriteResult | None:
        """Send the one request of a batch.

        Returns:
            Its outcome; ``None`` if ``read_back`` will find it.

        Raises:
            DailyBudgetExhaustedError: The daily budget is exhausted. If its ``maybe_applied`` is true, the request was
                sent at least once.
            JournalError: The write could not be recorded. If that was before the write, nothing was sent.
        """
        item = batch[0]
        try:
            if item.was_sent and self._late is not None:
                await self._late.add(group.group_id, item.edit.slot_index, item.lists)
            if item.was_sent and not self._was_written(item) and await self._slot_holds(item):
                return self._recorded(WriteResult(batch, "applied", None, 0))
            await self._read_before(group, batch)
            if (stale := find_stale(item.edit, group.before)) is not None:
                return WriteResult(batch, "failed", stale, 0)
            if self.journal is not None:
                await self.journal.record_sent(batch, group.before)
            self._note_write(item)
            result = await self._send(item.request)
        except (DailyBudgetExhaustedError, JournalError):
            raise
        except MutexError as error:
            failure = error
        else:
            await self._expect_late(group, item.edit.slot_index, item.lists, result.earlier)
            return self._written(group, batch, result.attempts)
        await self._expect_late(group, item.edit.slot_index, item.lists, (failure, *failure.earlier))
        return await self._resolve(group, batch, failure)

    def _note_write(self, item: Item) -> None:
        now, at = asyncio.get_running_loop().time(), (item.group_id, item.edit.slot_index)
        self._written_at.pop(at, None)
        self._written_at[at] = now
        while self._written_at[oldest := next(iter(self._written_at))] < now - MAX_LAG:
            del self._written_at[oldest]

    def _was_written(self, item: Item) -> bool:
        """Whether this run wrote the slot, so that a read that lags may show an earlier write of another run."""
        at = self._written_at.get((item.group_id, item.edit.slot_index), -_NEVER)
        return at > asyncio.get_running_loop().time() - MAX_LAG

    def expect_again(self, group: GroupQueue, batch: list[Item]) -> None:
        """Note that a batch was sent, has no outcome, and will be written again later."""
        index = batch[0].edit.slot_index
        group.unconfirmed[index] = with_unconfirmed(group.unconfirmed.get(index, []), batch[0].lists)
        for item in batch:
            item.was_sent = True

    async def _expect_late(
        self, group: GroupQueue, slot_index: int, lists: SlotLists, errors: tuple[MutexError, ...]
    ) -> None:
        """After these errors of its attempts, a write may arrive late and overwrite later ones."""
        if self._late is not None and any(map(is_unanswered, errors)):
            await self._late.add(group.group_id, slot_index, lists)

    def _written(self, group: GroupQueue, batch: list[Item], attempts: int) -> WriteResult | None:
        index, lists = batch[0].edit.slot_index, batch[0].lists
        group.unconfirmed[index] = without_overwritten(group.unconfirmed.get(index, []), lists)
        if self._late is not None:
            group.written.append((batch, attempts))
            known = group.late.get(index, [])
            if late := [*known, *(each for each in self._late.of(group.group_id, index) if each not in known)]:
                group.late[index] = late
            return None
        return self._recorded(WriteResult(batch, "applied", None, attempts))

    def is_old(self, group: GroupQueue) -> bool:
        """Whether the group was read too long ago to distinguish our changes from those of others."""
        return group.before is not None and asyncio.get_running_loop().time() - group.read_at > _MAX_AGE

    def readable_at(self, group: GroupQueue) -> float:
        """When something that was written can be read back, on the event loop's clock; infinity if nothing was."""
        if group.written and not group.late:
            return 0.0
        return min((self._slot_readable_at(group, *each) for each in _desired(group).items()), default=_NEVER)

    def is_readable(self, group: GroupQueue) -> bool:
        """Whether something that was written can be read back now."""
        return self.readable_at(group) <= asyncio.get_running_loop().time()

    def _slot_readable_at(self, group: GroupQueue, index: int, lists: SlotLists) -> float:
        """When no late write can change the slot any more."""
        before = _slot_before(group, index)
        return max((late.until for late in group.late.get(index, ()) if late.would_change(lists, before)), default=0.0)

    def _readable(self, group: GroupQueue) -> dict[int, SlotLists]:
        """By slot, what was written and can be read back now."""
        now = asyncio.get_running_loop().time()
        return {
            index: lists
            for index, lists in _desired(group).items()
            if self._slot_readable_at(group, index, lists) <= now
        }

    async def read_back(self, group: GroupQueue) -> list[WriteResult]:
        """Read the group once, and compare each slot with what was written to it since the last read.

        A slot that a late write may still change is left for a later call. One that it did change is written again.

        Raises:
            DailyBudgetExhaustedError: The daily budget is exhausted; the same call continues later.
        """
        readable = self._readable(group)
        findings: dict[int, tuple[MutexError | None, int]] = {}
        try:
            actual = await self._read(group.group_id)
            for index, lists in readable.items():
                before, unconfirmed = _slot_before(group, index), group.unconfirmed.get(index, ())
                difference = find_difference(actual, index, lists, before, unconfirmed)
                findings[index] = difference, 0
                left_by_late = (lists.updated(late.lists) for late in group.late.get(index, ()))
                if difference and any(find_difference(actual, index, each, before) is None for each in left_by_late):
                    findings[index] = await self._write_again(group, index, lists, find_slot(actual, index))
        except DailyBudgetExhaustedError:
            raise
        except MutexError as error:
            return self.unread(group, error)
        written = _take_written(group, readable)
        self._keep(group, actual)
        results: list[WriteResult] = []
        for batch, attempts in written:
            finding, more = findings[batch[0].edit.slot_index]
            if finding is None or isinstance(finding, VerificationError):
                status: Status = "failed" if finding else "applied"
                results.append(self._recorded(WriteResult(batch, status, finding, attempts + more)))
            else:
                results.append(self._unknown(group, batch, finding, attempts + more))
        return results

    async def _write_again(
        self, group: GroupQueue, index: int, lists: SlotLists, before: Slot | None
    ) -> tuple[MutexError | None, int]:
        """Write what a late write overwrote; return what is wrong afterwards, and the attempts."""
        given: list[Any] = [UNSET if items is None else items for items in lists]
        attempts = 0
        try:
            result = await self._send(requests.edit_slot(group.group_id, index, *given))
            attempts = result.attempts
            await self._expect_late(group, index, lists, result.earlier)
            return find_difference(await self._read(group.group_id), index, lists, before), attempts
        except DailyBudgetExhaustedError:
            raise
        except MutexError as error:
            return error, attempts or error.attempts

    def unread(self, group: GroupQueue, error: MutexError) -> list[WriteResult]:
        """The results of writes that cannot be read back: their outcome is unknown."""
        written = _take_written(group, self._readable(group))
        return [self._unknown(group, batch, error, attempts) for batch, attempts in written]

    def unsent(self, group: GroupQueue, batch: list[Item], error: MutexError) -> WriteResult:
        """The result of a write that was sent without a response and cannot be sent again."""
        return self._unknown(group, batch, error, error.attempts)

    def _unknown(self, group: GroupQueue, batch: list[Item], error: MutexError, attempts: int) -> WriteResult:
        index = batch[0].edit.slot_index
        group.unconfirmed[index] = with_unconfirmed(group.unconfirmed.get(index, []), batch[0].lists)
        return self._recorded(WriteResult(batch, "unknown", error, attempts))

    async def _read_before(self, group: GroupQueue, batch: list[Item]) -> None:
        """Read the group once before its first edit, if the journal or the read-back needs that."""
        if group.before is not None and (self.is_readable(group) or not self.is_old(group)):
            return
        slots = {item.edit.slot_index for item in (*batch, *group.items)}
        if (
            self._late is not None
            or isinstance(batch[0].edit, GuardedEdit)
            or (self.journal is not None and not await self.journal.has_before(group.group_id, slots))
        ):
            self._keep(group, await self._read(group.group_id))

    def _keep(self, group: GroupQueue, actual: MutexGroup) -> None:
        """Keep a group as read, but with the slots that are not read back yet as they were before."""
        before = {index: _slot_before(group, index) for index in _desired(group)}
        slots = [before.get(slot.index) or slot for slot in actual.slots]
        group.before = msgspec.structs.replace(actual, slots=slots) if before else actual
        group.read_at = asyncio.get_running_loop().time()

    async def _resolve(self, group: GroupQueue, batch: list[Item], error: MutexError) -> WriteResult | None:
        """Decide between failed, applied and unknown after a request failed, with a read if that can help."""
        was_sent = batch[0].was_sent
        if not error.maybe_applied and not was_sent:
            return self._recorded(WriteResult(batch, "failed", error, error.attempts))
        try:
            actual = await self._read(group.group_id)
        except MutexError:
            return self._unknown(group, batch, error, error.attempts)
        if slot_holds(find_slot(actual, batch[0].edit.slot_index), batch[0].lists):
            # Keeping ``actual`` as ``group.before`` would hide the effect of earlier edits that are not read back yet.
            return self._written(group, batch, error.attempts)
        # An attempt without a response may still arrive after this read, as one of an earlier run; others cannot.
        if was_sent or any(map(is_unanswered, (error, *error.earlier))):
            return self._unknown(group, batch, error, error.attempts)
        return self._recorded(WriteResult(batch, "failed", error, error.attempts))

    async def _slot_holds(self, item: Item) -> bool:
        return slot_holds(find_slot(await self._read(item.group_id), item.edit.slot_index), item.lists)

    async def _read(self, group_id: str) -> MutexGroup:
        result = await self._send(requests.get_group(group_id))
        group: MutexGroup = result.value
        return group

    def _recorded(self, result: WriteResult) -> WriteResult:
        if self.journal is not None:
            batch, status, error, _ = result
            confirmed = status == "applied" or isinstance(error, VerificationError)
            self.journal.record_outcome(batch, status, confirmed=confirmed)
        return result
