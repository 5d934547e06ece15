"""One write and the truth about it: what the slot held before, whether the write holds, what a lost answer left.

Knows the service's calls and the journal, not the queues' order or the run's end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from aiomutex import protocol
from aiomutex.bulk.content import Content, check, find_slot, holds
from aiomutex.errors import DailyBudgetExhaustedError, JournalError, MutexError, TransportError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex.bulk.journal import Journal
    from aiomutex.bulk.queues import GroupQueue, Item
    from aiomutex.bulk.report import Status
    from aiomutex.models import MutexGroup
    from aiomutex.protocol import Request
    from aiomutex.sender import Sent

__all__ = ["SlotWriter", "Verdict"]


class Verdict(NamedTuple):
    """What became of a batch of identical edits."""

    batch: list[Item]
    status: Status
    error: MutexError | None
    attempts: int


class SlotWriter:
    """Writes slots for a run.

    Args:
        send: Sends a request with the run's options.
        journal: Where each write is noted before and after, if anywhere.
        verify: Whether writes are read back.
    """

    def __init__(
        self, send: Callable[[Request[Any]], Awaitable[Sent[Any]]], journal: Journal | None, *, verify: bool
    ) -> None:
        self._send = send
        self._journal = journal
        self._verify = verify

    async def write(self, group: GroupQueue, batch: list[Item]) -> Verdict | None:
        """Send the one request that a batch stands for.

        Returns:
            What became of it; ``None`` if that is to be learned by ``read_back``.

        Raises:
            DailyBudgetExhaustedError: The day's requests are used up; nothing was sent.
            JournalError: Nothing was sent, because it could not be noted.
        """
        item = batch[0]
        try:
            if item.settle and await self._holds(item):
                # The run before this one had sent it, and here it is.
                return self._noted(Verdict(batch, "applied", None, 0))
            await self._look_before(group, batch)
            if self._journal is not None:
                self._journal.sending(batch, group.before)
            sent = await self._send(item.request)
        except (DailyBudgetExhaustedError, JournalError):
            raise
        except MutexError as error:
            failure = error
        else:
            if self._verify:
                group.written.append((batch, sent.attempts))
                return None
            return self._noted(Verdict(batch, "applied", None, sent.attempts))
        return self._noted(await self._judge(batch, failure))

    async def read_back(self, group: GroupQueue) -> list[Verdict]:
        """Read the group once, and compare each slot with what was written to it since the last time."""
        written, group.written = group.written, []
        try:
            found = await self._read(group.group_id)
        except MutexError as error:
            return [self._noted(Verdict(batch, "unknown", error, attempts)) for batch, attempts in written]
        wishes: dict[int, Content] = {}
        for batch, _ in written:
            index = batch[0].edit.slot_index
            wishes[index] = _over(wishes.get(index, (None, None, None)), batch[0].wish)
        before, group.before = group.before, found
        differences = {
            index: check(found, index, wish, None if before is None else find_slot(before, index))
            for index, wish in wishes.items()
        }
        verdicts: list[Verdict] = []
        for batch, attempts in written:
            difference = differences[batch[0].edit.slot_index]
            verdicts.append(self._noted(Verdict(batch, "failed" if difference else "applied", difference, attempts)))
        return verdicts

    async def _look_before(self, group: GroupQueue, batch: list[Item]) -> None:
        """Read the group before its first edit, once, where the journal or the read-back will need it."""
        if group.before is not None:
            return
        slots = {item.edit.slot_index for item in (*batch, *group.items)}
        if self._verify or (self._journal is not None and not self._journal.knows_before(group.group_id, slots)):
            group.before = await self._read(group.group_id)

    async def _judge(self, batch: list[Item], error: MutexError) -> Verdict:
        """Tell apart what is known to have failed, what turns out to hold, and what nobody knows."""
        if not error.maybe_applied:
            return Verdict(batch, "failed", error, error.attempts)
        try:
            if await self._holds(batch[0]):
                return Verdict(batch, "applied", None, error.attempts)
        except MutexError:
            return Verdict(batch, "unknown", error, error.attempts)
        # Where each attempt was answered, nothing is on its way any more, and what was read is the end of it.
        lost = any(isinstance(each, TransportError) for each in (error, *error.earlier))
        return Verdict(batch, "unknown" if lost else "failed", error, error.attempts)

    async def _holds(self, item: Item) -> bool:
        return holds(find_slot(await self._read(item.group_id), item.edit.slot_index), item.wish)

    async def _read(self, group_id: str) -> MutexGroup:
        sent = await self._send(protocol.get_group(group_id))
        group: MutexGroup = sent.value
        return group

    def _noted(self, verdict: Verdict) -> Verdict:
        if self._journal is not None:
            error = None if verdict.error is None else str(verdict.error)
            self._journal.finished(verdict.batch, verdict.status, verdict.attempts, error)
        return verdict


def _over(old: Content, new: Content) -> Content:
    """The later content where it is given, else the earlier."""
    return (
        new[0] if new[0] is not None else old[0],
        new[1] if new[1] is not None else old[1],
        new[2] if new[2] is not None else old[2],
    )
