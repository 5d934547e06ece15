"""One write and the truth about it: what the slot held before, whether the write holds, what a lost answer left.

Knows the service's calls and the journal, not the queues' order or the run's end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiomutex._api import requests
from aiomutex.bulk.content import NOTHING, Content, check, holds, opened, overlaid, settled
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

_FRESH: Final = 60.0
"""Seconds for which a group counts as it was read. An edit may wait for its turn, or for the next day, much longer."""


class WriteResult(NamedTuple):
    """What became of a batch of identical edits."""

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
        """Send the one request that a batch stands for.

        Returns:
            What became of it; ``None`` if that is to be learned by ``read_back``.

        Raises:
            DailyBudgetExhaustedError: The day's requests are used up. If its ``maybe_applied`` is true, an attempt had
                been sent before.
            JournalError: It could not be noted: before, then nothing was sent, or after.
        """
        item = batch[0]
        try:
            if item.settle and await self._holds(item):
                # The run before this one had sent it, and here it is.
                return self._noted(WriteResult(batch, "applied", None, 0))
            await self._look_before(group, batch)
            if self.journal is not None:
                self.journal.sending(batch, group.before)
            sent = await self._send(item.request)
        except (DailyBudgetExhaustedError, JournalError):
            raise
        except MutexError as error:
            failure = error
        else:
            return self._written(group, batch, sent.attempts)
        return await self._judge(group, batch, failure)

    def _written(self, group: GroupQueue, batch: list[Item], attempts: int) -> WriteResult | None:
        index, wish = batch[0].edit.slot_index, batch[0].wish
        group.unsettled[index] = settled(group.unsettled.get(index, []), wish)
        if self._verify:
            group.written.append((batch, attempts))
            return None
        return self._noted(WriteResult(batch, "applied", None, attempts))

    def is_old(self, group: GroupQueue) -> bool:
        """Whether what is known of the group is too old to tell our changes from those of others."""
        return group.before is not None and asyncio.get_running_loop().time() - group.read_at > _FRESH

    async def read_back(self, group: GroupQueue) -> list[WriteResult]:
        """Read the group once, and compare each slot with what was written to it since the last time.

        Raises:
            DailyBudgetExhaustedError: The day's requests are used up; nothing was read.
        """
        try:
            found = await self._read(group.group_id)
        except DailyBudgetExhaustedError:
            raise
        except MutexError as error:
            return self.unread(group, error)
        written, group.written = group.written, []
        wishes: dict[int, Content] = {}
        for batch, _ in written:
            index = batch[0].edit.slot_index
            wishes[index] = overlaid(wishes.get(index, NOTHING), batch[0].wish)
        before = group.before
        self._keep(group, found)
        differences = {
            index: check(
                found,
                index,
                wish,
                None if before is None else find_slot(before, index),
                group.unsettled.get(index, ()),
            )
            for index, wish in wishes.items()
        }
        results: list[WriteResult] = []
        for batch, attempts in written:
            difference = differences[batch[0].edit.slot_index]
            results.append(self._noted(WriteResult(batch, "failed" if difference else "applied", difference, attempts)))
        return results

    def unread(self, group: GroupQueue, error: MutexError) -> list[WriteResult]:
        """What was written and cannot be read back: nobody knows whether it holds."""
        written, group.written = group.written, []
        return [self._unknown(group, batch, error, attempts) for batch, attempts in written]

    def unsent(self, group: GroupQueue, batch: list[Item], error: MutexError) -> WriteResult:
        """What was sent once, without an answer, and cannot be sent again."""
        return self._unknown(group, batch, error, error.attempts)

    def _unknown(self, group: GroupQueue, batch: list[Item], error: MutexError, attempts: int) -> WriteResult:
        index = batch[0].edit.slot_index
        group.unsettled[index] = opened(group.unsettled.get(index, []), batch[0].wish)
        return self._noted(WriteResult(batch, "unknown", error, attempts))

    async def _look_before(self, group: GroupQueue, batch: list[Item]) -> None:
        """Read the group before its first edit, once, where the journal or the read-back will need it."""
        if group.before is not None and (group.written or not self.is_old(group)):
            return
        slots = {item.edit.slot_index for item in (*batch, *group.items)}
        if self._verify or (self.journal is not None and not self.journal.knows_before(group.group_id, slots)):
            self._keep(group, await self._read(group.group_id))

    def _keep(self, group: GroupQueue, found: MutexGroup) -> None:
        group.before, group.read_at = found, asyncio.get_running_loop().time()

    async def _judge(self, group: GroupQueue, batch: list[Item], error: MutexError) -> WriteResult | None:
        """Tell apart what is known to have failed, what turns out to hold, and what nobody knows."""
        if not error.maybe_applied:
            return self._noted(WriteResult(batch, "failed", error, error.attempts))
        try:
            found = await self._read(group.group_id)
        except MutexError:
            return self._unknown(group, batch, error, error.attempts)
        if holds(find_slot(found, batch[0].edit.slot_index), batch[0].wish):
            # What was read cannot take the place of ``group.before`` while earlier edits are to be compared with that.
            return self._written(group, batch, error.attempts)
        # Where each attempt was answered, nothing is on its way any more, and what was read is the end of it.
        if any(isinstance(each, TransportError) for each in (error, *error.earlier)):
            return self._unknown(group, batch, error, error.attempts)
        return self._noted(WriteResult(batch, "failed", error, error.attempts))

    async def _holds(self, item: Item) -> bool:
        return holds(find_slot(await self._read(item.group_id), item.edit.slot_index), item.wish)

    async def _read(self, group_id: str) -> MutexGroup:
        sent = await self._send(requests.get_group(group_id))
        group: MutexGroup = sent.value
        return group

    def _noted(self, result: WriteResult) -> WriteResult:
        if self.journal is not None:
            batch, status, error, _ = result
            confirmed = status == "applied" or isinstance(error, VerificationError)
            self.journal.finished(batch, status, confirmed=confirmed)
        return result
