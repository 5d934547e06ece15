"""One write and its result: what the slot held before, whether it holds the write, and what a lost response means.

Knows the requests and the journal, but neither the order of edits nor the end of a run, nor how groups are read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from aiomutex._api import requests
from aiomutex.bulk.canary import displaced_slot, find_misreading
from aiomutex.bulk.group_queues import Item, Written
from aiomutex.bulk.late_writes import is_unanswered
from aiomutex.bulk.options import FATAL
from aiomutex.bulk.reads import MAX_LAG
from aiomutex.bulk.recent_writes import RecentWrites
from aiomutex.bulk.slot_lists import (
    SlotLists,
    changed_lists,
    find_difference,
    find_stale,
    no_slot,
    slot_holds,
    with_unconfirmed,
    without_overwritten,
)
from aiomutex.errors import DailyBudgetExhaustedError, JournalError, MutexError, NotFoundError, VerificationError
from aiomutex.models import SlotChange, find_slot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallResult
    from aiomutex.bulk.group_queues import GroupQueue
    from aiomutex.bulk.journal import Journal
    from aiomutex.bulk.late_writes import LateWrites
    from aiomutex.bulk.report import Status
    from aiomutex.models import MutexGroup, Slot

_MAX_AGE: Final = 60.0
"""Seconds after which a group is read again, because our changes could no longer be distinguished from those of others.
Its next edit may wait much longer, for a permit or the next day."""
_LONG: Final = 2 * MAX_LAG
"""Seconds after which a change of other lists than those written is more likely somebody else's than the service's."""
_CHANGED: Final = "written, but other lists of the slot have changed since they were read, perhaps by someone else"


class WriteResult(NamedTuple):
    """The outcome of a batch of identical edits."""

    batch: list[Item]
    status: Status
    error: MutexError | None
    attempts: int
    note: str = ""


class SlotWriter:
    """Writes slots for a run, with ``send``.

    ``late`` are its writes that may still arrive, if writes are read back.
    """

    def __init__(
        self,
        send: Callable[[Request[Any]], Awaitable[CallResult[Any]]],
        late: LateWrites | None,
        *,
        skip_unchanged: bool = False,
    ) -> None:
        self._send = send
        self.journal: Journal | None = None  # where each write is recorded before and after, if anywhere
        self._late = late
        self._skips = skip_unchanged
        self._recent = RecentWrites()
        self._settled_at = 0.0
        """From when on reads show the writes of the run that is undone, on the event loop's clock."""

    def expect_lag(self, age: float) -> None:
        """Expect that reads do not show yet what another run wrote ``age`` seconds ago."""
        self._settled_at = _now() + MAX_LAG - age

    # ------------------------------------------------------------------ before a write

    async def needs_reading(self, group: GroupQueue) -> bool:
        """Whether the group must be read before its next edit."""
        item = group.items[0]
        is_bound = _is_bound(item)
        if group.before is not None and _now() - group.read_at <= _MAX_AGE:
            index = item.edit.slot_index
            if is_doubtful := is_bound and index in group.doubtful:
                group.read_again[index] = self._slot_readable_at(group, index)  # before that, the doubt would stay
            return is_doubtful
        if is_bound or group.written or self._late is not None or self._skips:
            return True
        slots = {item.edit.slot_index for item in group.items}
        return self.journal is not None and not await self.journal.has_before(group.group_id, slots)

    async def write(self, group: GroupQueue, batch: list[Item]) -> list[WriteResult]:
        """Send the one request of a batch, if it is to be sent, and return what is known of the outcomes then.

        That is nothing if a read will find it, or if ``group.wants_read`` says that it must be read first, and may have
        later edits that an earlier run made as well. A ``DailyBudgetExhaustedError`` may come after the request was
        sent (``maybe_applied``), a ``JournalError`` after or before it.
        """
        item = batch[0]
        index = item.edit.slot_index
        if group.before is not None and not item.is_repeat and (self._skips or _is_bound(item)):
            known = self._known(group, group.before, batch)
            if known or group.wants_read:
                return known
        try:
            if self._late is not None:
                earlier = () if self.journal is None else self.journal.unsettled(item.position)
                for lists in (*earlier, item.lists) if item.was_sent and not item.is_answered else earlier:
                    await self._late.add(group.group_id, index, lists)
            if self.journal is not None:
                await self.journal.record_sent(batch, group.before)
            self._recent.note(item)
            request = item.request or requests.edit_slot(group.group_id, index, *item.lists.arguments)
            result = await self._send(request)
        except (DailyBudgetExhaustedError, JournalError):
            raise
        except MutexError as error:
            failure = error
        else:
            await self._expect_late(group, item, result.earlier)
            return self._written(group, batch, result.attempts)
        await self._expect_late(group, item, (failure, *failure.earlier))
        return self._failed(group, batch, failure)

    def _known(self, group: GroupQueue, before: MutexGroup, batch: list[Item]) -> list[WriteResult]:
        """The outcomes that follow from what the slot holds; nothing if the batch is to be written."""
        item = batch[0]
        edit, index = item.edit, item.edit.slot_index
        slot, written = find_slot(before, index), group.desired().get(index)
        if item.was_sent and not written and not self._recent.has(item) and (settled := _settle(group, batch, slot)):
            self._recent.note(item)  # a read that lags may show the slot as it was between these and the next one
            return [self._recorded(WriteResult([each], "applied", None, 0)) for each in settled]
        content = None if slot is None else SlotLists.of_slot(slot).updated(written or SlotLists())
        if isinstance(edit, SlotChange):
            if content is None:
                return [self._recorded(WriteResult(batch, "failed", no_slot(before, index), 0))]
            for each in batch:
                each.lists = changed_lists(edit, content)
            is_unchanged = item.lists.is_empty
        else:
            if edit.expected is not UNSET and (stale := find_stale(edit, before, content)) is not None:
                if not group.is_from_page and group.read_at >= self._settled_at:
                    return [self._recorded(WriteResult(batch, "failed", stale, 0))]
                group.read_again[index] = self._settled_at
                group.wants_read = group.needs_before = True
                group.items.extendleft(reversed(batch))
                return []
            is_certain = not group.unconfirmed.get(index) and (written is not None or not self._recent.has(item))
            is_unchanged = self._skips and is_certain and slot_holds(content, item.lists)
        if not is_unchanged:
            return []
        return [self._recorded(WriteResult(batch, "applied" if item.was_sent else "unchanged", None, 0))]

    def expect_again(self, group: GroupQueue, batch: list[Item]) -> None:
        """Note that a batch was sent, has no outcome, and will be written again later."""
        self._doubt(group, batch[0])
        for item in batch:
            item.was_sent = True

    def _doubt(self, group: GroupQueue, item: Item) -> None:
        """Note a write that may or may not have been made."""
        index = item.edit.slot_index
        group.doubtful.add(index)
        group.unconfirmed[index] = with_unconfirmed(group.unconfirmed.get(index, []), item.lists)

    async def _expect_late(self, group: GroupQueue, item: Item, errors: tuple[MutexError, ...]) -> None:
        """After these errors of its attempts, a write may arrive late and overwrite later ones."""
        item.is_late = item.is_late or any(map(is_unanswered, errors))
        item.is_canary = item.is_canary and not item.is_late  # what a read shows may not be the last of it
        if self._late is not None and item.is_late:
            await self._late.add(group.group_id, item.edit.slot_index, item.lists)

    # ------------------------------------------------------------------ after a write

    def _written(self, group: GroupQueue, batch: list[Item], attempts: int) -> list[WriteResult]:
        item = batch[0]
        index, lists = item.edit.slot_index, item.lists
        group.unconfirmed[index] = without_overwritten(group.unconfirmed.get(index, []), lists)
        if self._late is None and not item.is_canary:
            if (slot := group.slot_before(index)) is not None and group.before is not None:
                after = SlotLists.of_slot(slot).updated(lists)
                group.before = _with_slots(group.before, [msgspec.structs.replace(slot, **after._asdict())])
            return [self._recorded(WriteResult(batch, "applied", None, attempts))]
        if self.journal is not None:
            self.journal.record_answered(batch)
        for each in batch:
            each.is_answered = True
        self._wait_for_read(group, Written(batch, attempts, _now()))
        return []

    def _failed(self, group: GroupQueue, batch: list[Item], error: MutexError) -> list[WriteResult]:
        """Decide that a write failed, or let a read decide, if the service may have made it."""
        item = batch[0]
        if not (error.maybe_applied or item.was_sent or item.is_repeat):
            return [self._recorded(WriteResult(batch, "failed", error, error.attempts))]
        group.doubtful.add(item.edit.slot_index)
        group.read_again[item.edit.slot_index] = 0.0
        group.wants_read = True
        self._wait_for_read(group, Written(batch, error.attempts, _now(), error))
        return []

    def _wait_for_read(self, group: GroupQueue, written: Written) -> None:
        group.written.append(written)
        if self._late is not None:
            index = written.slot_index
            known = group.late.get(index, [])
            if late := [*known, *(each for each in self._late.of(group.group_id, index) if each not in known)]:
                group.late[index] = late

    def readable_in(self, group: GroupQueue) -> float:
        """After how many seconds a read is of use; 0 or less for now."""
        if group.wants_read and not group.read_again:
            return 0.0
        slots = {*group.read_again, *(each.slot_index for each in group.written)}
        return min((self._slot_readable_at(group, index) for index in slots), default=0.0) - _now()

    def _slot_readable_at(self, group: GroupQueue, index: int) -> float:
        """When a read of the slot is of use, and no late write can change it any more."""
        again = group.read_again.get(index, 0.0)
        if (written := group.written_to(index)) and written[-1].error is not None:
            return again
        lists, before = group.desired().get(index, SlotLists()), group.slot_before(index)
        late = (each.until for each in group.late.get(index, ()) if each.would_change(lists, before))
        return max(again, *late, 0.0)

    def judge(self, group: GroupQueue, actual: MutexGroup | MutexError, *, from_page: bool) -> list[WriteResult]:
        """Compare a group that was just read with what was written to it, and keep it for the edits to come.

        A slot that does not hold what was written is left for a later read, because a page may be old, and so may a
        single read within ``MAX_LAG`` seconds of the write. Edits that a late write has overwritten are queued again.
        Nothing may have been written to the group since the read began.
        """
        now = _now()
        readable = [index for index in group.desired() if self._slot_readable_at(group, index) <= now]
        group.read_again = {index: at for index, at in group.read_again.items() if at > now}
        if isinstance(actual, FATAL):  # a later read would fail as well
            readable, group.read_again = [*group.desired()], {}
        if isinstance(actual, MutexError):
            return self._unread(group, readable, actual)
        group.needs_before = group.needs_before and bool(group.read_again)
        results: list[WriteResult] = []
        for index in readable:
            certain_at = max(each.at for each in group.written_to(index)) + MAX_LAG
            is_certain = now >= certain_at and not from_page
            results += self._judge_doubt(group, actual, index, is_certain=is_certain, from_page=from_page)
            is_open = index not in group.read_again and bool(group.written_to(index))
            if is_open and self._slot_readable_at(group, index) <= now:
                results += self._judge_slot(group, actual, index, is_certain=is_certain)
            if index in group.read_again and not from_page:
                group.read_again[index] = certain_at
        waiting = {index: group.slot_before(index) for index in group.desired()}
        for slot in actual.slots if group.items else ():
            shown_at = self._recent.shown_at(group.group_id, slot, now)
            if shown_at is not None and slot.index not in waiting:
                group.read_again[slot.index] = shown_at
                group.needs_before = True
        group.before = _with_slots(actual, [slot for slot in waiting.values() if slot is not None])
        group.read_at, group.is_from_page = now, from_page
        group.doubtful &= {*waiting, *group.read_again}
        group.wants_read = bool(group.read_again)
        return results

    def _judge_doubt(
        self, group: GroupQueue, actual: MutexGroup, index: int, *, is_certain: bool, from_page: bool
    ) -> list[WriteResult]:
        """Decide about the last write of a slot, if it failed, unless the slot holds it."""
        batch, attempts, _, error = last = group.written_to(index)[-1]
        if error is None:
            return []
        if slot_holds(find_slot(actual, index), batch[0].lists):
            group.written[group.written.index(last)] = last._replace(error=None)
            return []
        # An attempt without a response may still arrive after this read, as one of an earlier run; others cannot.
        may_arrive = batch[0].was_sent or batch[0].is_repeat or any(map(is_unanswered, (error, *error.earlier)))
        if from_page or not (may_arrive or is_certain):
            group.read_again[index] = 0.0
            return []
        group.written.remove(last)
        self._recent.forget_content(batch[0])
        if may_arrive:
            return [self._unknown(group, batch, error, attempts)]
        return [self._recorded(WriteResult(batch, "failed", error, attempts))]

    def _judge_slot(self, group: GroupQueue, actual: MutexGroup, index: int, *, is_certain: bool) -> list[WriteResult]:
        """Decide about the writes of a slot."""
        lists, before = group.desired()[index], group.slot_before(index)
        note, difference = "", None
        is_canary = group.written_to(index)[0].batch[0].is_canary
        if is_canary and is_certain and group.before is not None:
            misread = find_misreading(group.before, actual, index, lists)
            if misread is not None:
                return self._misread(group, actual, index, misread)
        if self._late is not None or is_canary:
            difference = find_difference(actual, index, lists, before, group.unconfirmed.get(index, ()))
        if difference is not None:
            left_by_late = (lists.updated(late.lists) for late in group.late.get(index, ()))
            if any(find_difference(actual, index, each, before) is None for each in left_by_late):
                for batch, attempts, _, _ in reversed(group.take_written(index)):
                    for item in batch:
                        item.lists, item.request, item.is_repeat = lists, None, True
                        item.attempts += attempts
                    group.items.extendleft(reversed(batch))
                return []
            slot = find_slot(actual, index)
            is_long_ago = _now() > group.read_at + _LONG
            if is_long_ago and slot and before and slot_holds(slot, lists) and slot.cohorts == before.cohorts:
                note, difference = _CHANGED, None
            elif not is_certain:
                group.read_again[index] = 0.0
                return []
        return [
            self._recorded(WriteResult(batch, "failed" if difference else "applied", difference, attempts, note))
            for batch, attempts, _, _ in group.take_written(index)
        ]

    def _misread(
        self, group: GroupQueue, actual: MutexGroup, index: int, error: VerificationError
    ) -> list[WriteResult]:
        """The result of a canary, if the service read it otherwise."""
        [(batch, attempts, _, _)] = group.take_written(index)
        result = self._recorded(WriteResult(batch, "failed", error, attempts))
        slot = None if group.before is None else displaced_slot(group.before, actual, index, batch[0].lists)
        if self.journal is not None and slot is not None:
            self.journal.record_displaced(batch[0], slot)
        return [result]

    def _unread(self, group: GroupQueue, readable: list[int], error: MutexError) -> list[WriteResult]:
        """The results if a group cannot be read: writes are unknown, and an edit that needs the read fails."""
        results = [
            self._unknown(group, batch, cause or error, attempts)
            for index in readable
            for batch, attempts, _, cause in group.take_written(index)
        ]
        group.wants_read = bool(group.read_again)  # of other slots, which are not readable yet
        if group.items and group.needs_before and not isinstance(error, DailyBudgetExhaustedError):
            # If there is no such group, none of its edits can be made.
            batches = [group.take()]
            while group.items and isinstance(error, NotFoundError):
                batches.append(group.take())
            for batch in batches:
                failed = WriteResult(batch, "failed", error, error.attempts)
                results.append(self.unsent(group, batch, error) if batch[0].was_sent else self._recorded(failed))
        return results

    def unsent(self, group: GroupQueue, batch: list[Item], error: MutexError) -> WriteResult:
        """The result of a write that was sent without a response, and is not sent again or looked up."""
        return self._unknown(group, batch, error, error.attempts)

    def _unknown(self, group: GroupQueue, batch: list[Item], error: MutexError, attempts: int) -> WriteResult:
        self._doubt(group, batch[0])
        self._recent.forget_content(batch[0])
        return self._recorded(WriteResult(batch, "unknown", error, attempts))

    def _recorded(self, result: WriteResult) -> WriteResult:
        if self.journal is not None:
            batch, status, error, *_ = result
            confirmed = status == "applied" or isinstance(error, VerificationError)
            self.journal.record_outcome(batch, status, confirmed=confirmed)
        return result


def _is_bound(item: Item) -> bool:
    """Whether what is written, and whether it is, depends on what the slot holds."""
    return item.was_sent or isinstance(item.edit, SlotChange) or item.edit.expected is not UNSET


def _settle(group: GroupQueue, batch: list[Item], slot: Slot | None) -> list[Item]:
    """The edits, ``batch`` first, that an earlier run sent and that the slot shows together.

    The fewest that it shows: a read that lags may show what the slot held before a later one of them. Those before the
    last one must have been confirmed, as the slot does not show them any more.
    """
    merged, found = SlotLists(), list[Item]()
    index = batch[0].edit.slot_index
    for item in (*batch, *(each for each in group.items if each.edit.slot_index == index)):
        if not item.was_sent or isinstance(item.edit, SlotChange):
            break
        merged = merged.updated(item.lists)
        found.append(item)
        if len(found) >= len(batch):
            if slot_holds(slot, merged):
                group.items = deque(each for each in group.items if each not in found)
                return found
            if not item.is_answered:
                break
    return []


def _with_slots(group: MutexGroup, slots: Sequence[Slot]) -> MutexGroup:
    """A group with other slots in place of those with the same index."""
    if not slots:
        return group
    others = {slot.index: slot for slot in slots}
    return msgspec.structs.replace(group, slots=[others.get(slot.index, slot) for slot in group.slots])


def _now() -> float:
    return asyncio.get_running_loop().time()
