"""One write and its result: what the slot held before, whether it holds the write, and what a lost response means.

Knows the requests and the journal, but neither the order of edits nor the end of a run.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiomutex._api import requests
from aiomutex.bulk.slot_lists import (
    GuardedEdit,
    SlotLists,
    find_difference,
    find_stale,
    slot_holds,
    with_unconfirmed,
    without_overwritten,
)
from aiomutex.errors import DailyBudgetExhaustedError, JournalError, MutexError, TransportError, VerificationError
from aiomutex.models import find_slot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallResult
    from aiomutex.bulk.group_queues import GroupQueue, Item
    from aiomutex.bulk.journal import Journal
    from aiomutex.bulk.report import Status
    from aiomutex.models import MutexGroup

__all__ = ["SlotWriter", "WriteResult"]

_MAX_AGE: Final = 60.0
"""Seconds after which a group is read again. Its next edit may wait much longer, for a permit or the next day."""


class WriteResult(NamedTuple):
    """The outcome of a batch of identical edits."""

    batch: list[Item]
    status: Status
    error: MutexError | None
    attempts: int


class SlotWriter:
    """Writes slots for a run.

    Args:
        send: Sends a request with the run's options.
        verify: Whether writes are read back.
    """

    def __init__(self, send: Callable[[Request[Any]], Awaitable[CallResult[Any]]], *, verify: bool) -> None:
        self._send = send
        self.journal: Journal | None = None
        """Where each write is recorded before and after, if anywhere."""
        self._verify = verify

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
            if item.was_sent and await self._slot_holds(item):
                return self._recorded(WriteResult(batch, "applied", None, 0))
            await self._read_before(group, batch)
            if (stale := find_stale(item.edit, group.before)) is not None:
                return WriteResult(batch, "failed", stale, 0)
            if self.journal is not None:
                await self.journal.record_sent(batch, group.before)
            result = await self._send(item.request)
        except (DailyBudgetExhaustedError, JournalError):
            raise
        except MutexError as error:
            failure = error
        else:
            return self._written(group, batch, result.attempts)
        return await self._resolve(group, batch, failure)

    def _written(self, group: GroupQueue, batch: list[Item], attempts: int) -> WriteResult | None:
        index, lists = batch[0].edit.slot_index, batch[0].lists
        group.unconfirmed[index] = without_overwritten(group.unconfirmed.get(index, []), lists)
        if self._verify:
            group.written.append((batch, attempts))
            return None
        return self._recorded(WriteResult(batch, "applied", None, attempts))

    def is_old(self, group: GroupQueue) -> bool:
        """Whether the group was read too long ago to distinguish our changes from those of others."""
        return group.before is not None and asyncio.get_running_loop().time() - group.read_at > _MAX_AGE

    async def read_back(self, group: GroupQueue) -> list[WriteResult]:
        """Read the group once, and compare each slot with what was written to it since the last read.

        Raises:
            DailyBudgetExhaustedError: The daily budget is exhausted; nothing was read.
        """
        try:
            actual = await self._read(group.group_id)
        except DailyBudgetExhaustedError:
            raise
        except MutexError as error:
            return self.unread(group, error)
        written, group.written = group.written, []
        desired: dict[int, SlotLists] = {}
        for batch, _ in written:
            index = batch[0].edit.slot_index
            desired[index] = desired.get(index, SlotLists()).updated(batch[0].lists)
        before = group.before
        self._keep(group, actual)
        differences = {
            index: find_difference(
                actual,
                index,
                lists,
                None if before is None else find_slot(before, index),
                group.unconfirmed.get(index, ()),
            )
            for index, lists in desired.items()
        }
        results: list[WriteResult] = []
        for batch, attempts in written:
            difference = differences[batch[0].edit.slot_index]
            status: Status = "failed" if difference else "applied"
            results.append(self._recorded(WriteResult(batch, status, difference, attempts)))
        return results

    def unread(self, group: GroupQueue, error: MutexError) -> list[WriteResult]:
        """The results of writes that cannot be read back: their outcome is unknown."""
        written, group.written = group.written, []
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
        if group.before is not None and (group.written or not self.is_old(group)):
            return
        slots = {item.edit.slot_index for item in (*batch, *group.items)}
        if (
            self._verify
            or isinstance(batch[0].edit, GuardedEdit)
            or (self.journal is not None and not await self.journal.has_before(group.group_id, slots))
        ):
            self._keep(group, await self._read(group.group_id))

    def _keep(self, group: GroupQueue, actual: MutexGroup) -> None:
        group.before, group.read_at = actual, asyncio.get_running_loop().time()

    async def _resolve(self, group: GroupQueue, batch: list[Item], error: MutexError) -> WriteResult | None:
        """Decide between failed, applied and unknown after a request failed, with a read if that can help."""
        if not error.maybe_applied:
            return self._recorded(WriteResult(batch, "failed", error, error.attempts))
        try:
            actual = await self._read(group.group_id)
        except MutexError:
            return self._unknown(group, batch, error, error.attempts)
        if slot_holds(find_slot(actual, batch[0].edit.slot_index), batch[0].lists):
            # Keeping ``actual`` as ``group.before`` would hide the effect of earlier edits that are not read back yet.
            return self._written(group, batch, error.attempts)
        # An attempt without a response may still arrive after this read; one with a response cannot.
        if any(isinstance(each, TransportError) for each in (error, *error.earlier)):
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
