"""Undo a journaled run: write back what each slot held before, the latest slot first.

An undo can be resumed from the same journal, like the run itself. Slots changed since the run are reported and skipped.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Final, Protocol, Self

import msgspec
from msgspec import UNSET, UnsetType

from aiomutex._util.checks import check_integer
from aiomutex._util.tasks import run_workers
from aiomutex.bulk.options import FATAL
from aiomutex.bulk.reads import MAX_LAG
from aiomutex.bulk.report import BulkReport, SlotOutcome
from aiomutex.bulk.slot_lists import SlotLists, find_difference, same_items, slot_holds
from aiomutex.errors import JournalError, MutexError
from aiomutex.limits import Priority
from aiomutex.models import find_slot

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from aiomutex.bulk.journal import Journal, SlotRecord
    from aiomutex.bulk.report import Status
    from aiomutex.models import MutexGroup, Slot

__all__ = ["CHANGED_SINCE", "undo"]

CHANGED_SINCE: Final = (
    "changed since the run, or the service merges lists instead of replacing them; force overwrites the slot"
)
"""The note of a slot that no longer holds what the run wrote."""
_UNDONE: Final = 2

_Groups = dict[str, "list[tuple[int, SlotRecord]]"]


class GroupSession(Protocol):
    """What an undo needs of a session."""

    def with_options(self, *, priority: Priority) -> Self:
        """A view of the session with another priority."""
        ...

    async def get_group(self, group_id: str | int) -> MutexGroup:
        """Fetch one mutex group."""
        ...

    async def edit_slot(
        self,
        group_id: str | int,
        slot_index: int,
        *,
        experiments: Sequence[int] | UnsetType = UNSET,
        holdouts: Sequence[int] | UnsetType = UNSET,
        individuals: Sequence[str] | UnsetType = UNSET,
    ) -> None:
        """Write the lists of one slot."""
        ...


async def undo(
    session: GroupSession,
    journal: str | os.PathLike[str],
    *,
    force: bool = False,
    concurrency: int = 16,
    on_outcome: Callable[[SlotOutcome], object] | None = None,
) -> BulkReport:
    """Write back what each slot held before a journaled run, as it was read shortly before the first write to it.

    Only the lists that the run wrote are written back, so changes of other lists stay. A slot that no longer holds what
    the run wrote is ``skipped`` with a note, unless ``force`` is true. Each group is read before and after, and again
    ten seconds later if a slot is not as expected, because reads may lag behind writes. Only slot edits are undone: an
    archive, for example, detaches experiments for good.

    Args:
        session: An open session.
        journal: The journal of the run.
        force: Also write slots back that changed since the run.
        concurrency: The maximum number of groups to undo at the same time.
        on_outcome: Called with each outcome as it becomes known.

    Returns:
        One outcome for each slot the run wrote. Its ``edit`` is the edit that writes the earlier content back. A
        rejected API key or an exhausted daily budget stops the undo (``stopped_by``); the same call resumes it later.

    Raises:
        InvalidRequestError: ``concurrency`` is not an integer from 1.
        JournalError: The journal does not exist, is damaged, or is in use by another process.

    Example:
        >>> from aiomutex import SlotEdit
        >>> from aiomutex.bulk import undo
        >>> report = await session.edit_slots([SlotEdit(1, 1, experiments=[7])], journal="run.db")
        >>> print(await undo(session, "run.db"))
        1 edit: 1 applied
    """
    check_integer("concurrency", concurrency, least=1)
    from aiomutex.bulk.journal import Journal  # noqa: PLC0415  # only runs with a journal import SQLite

    with Journal(journal, must_exist=True) as opened:
        groups: _Groups = {}
        for position, record in enumerate(opened.written_slots()):
            groups.setdefault(record.group_id, []).append((position, record))
        run = _Undo(session.with_options(priority=Priority.BULK), opened, on_outcome, force=force)
        while groups:
            await run_workers(run.restore_group, groups.values(), concurrency)
            groups, run.doubtful = run.doubtful, {}
            if groups:
                await asyncio.sleep(MAX_LAG)
                run.is_late = True
        await opened.sync()
    return BulkReport(outcomes=run.outcomes, stopped_by=run.stopped_by)


class _Undo:
    """One undo, with its outcomes so far and what stopped it."""

    def __init__(
        self,
        session: GroupSession,
        journal: Journal,
        on_outcome: Callable[[SlotOutcome], object] | None,
        *,
        force: bool,
    ) -> None:
        self._session = session
        self._journal = journal
        self._on_outcome = on_outcome
        self._force = force
        self._written: set[int] = set()
        """The positions that this undo wrote, and the service confirmed."""
        self.doubtful: _Groups = {}
        """Slots whose content may be an old one, to be read again later."""
        self.is_late = False
        """Whether reads show all writes of the run and the first writes of this undo."""
        self.outcomes: list[SlotOutcome] = []
        self.stopped_by: MutexError | None = None

    async def restore_group(self, records: list[tuple[int, SlotRecord]]) -> None:
        """Read the group once, write each slot that needs it, and read the group again."""
        sent: list[tuple[int, SlotRecord]] = []
        group: MutexGroup | None = None
        for position, record in records:
            if record.is_damaged:
                error = JournalError("the slot's entry in the journal is damaged; its earlier content is unknown")
                self._report(position, record, "failed", error)
                continue
            if record.undo == _UNDONE:
                self._report(position, record, "skipped", note="already undone, according to the journal")
                continue
            was_written = position in self._written
            if self.stopped_by is not None and not was_written:
                self._report(position, record, "skipped", note="not sent: the undo was stopped before")
                continue
            try:
                group = group or await self._session.get_group(record.group_id)
                slot = find_slot(group, record.slot_index)
                is_restored = slot_holds(slot, _earlier(record))
                if was_written or (is_restored and self.is_late):
                    self._conclude(group, position, record)
                elif self._force or is_restored or _is_unchanged(slot, record):
                    # Written even if it seems to be restored: an early read may show what it held before the run.
                    self._journal.record_undo(record, done=False)
                    await self._journal.sync()
                    edit = _earlier(record).edit_of(record.group_id, record.slot_index)
                    await self._session.edit_slot(**msgspec.structs.asdict(edit))
                    self._written.add(position)
                    sent.append((position, record))
                elif self.is_late:
                    self._report(position, record, "skipped", note=CHANGED_SINCE)
                else:
                    self.doubtful.setdefault(record.group_id, []).append((position, record))
            except JournalError:
                raise
            except MutexError as error:
                self._report(position, record, "unknown" if was_written or error.maybe_applied else "failed", error)
        if sent:
            await self._read_back(sent)

    async def _read_back(self, sent: list[tuple[int, SlotRecord]]) -> None:
        try:
            group = await self._session.get_group(sent[0][1].group_id)
        except MutexError as error:
            for position, record in sent:
                self._report(position, record, "unknown", error)
            return
        for position, record in sent:
            if slot_holds(find_slot(group, record.slot_index), _earlier(record)):
                self._conclude(group, position, record)
            else:
                self.doubtful.setdefault(record.group_id, []).append((position, record))

    def _conclude(self, group: MutexGroup, position: int, record: SlotRecord) -> None:
        """Report whether a slot is restored, according to a read that shows the write."""
        difference = find_difference(group, record.slot_index, _earlier(record), None)
        if difference is None:
            self._journal.record_undo(record, done=True)
        self._report(position, record, "failed" if difference else "applied", difference)

    def _report(
        self, position: int, record: SlotRecord, status: Status, error: MutexError | None = None, note: str = ""
    ) -> None:
        if isinstance(error, FATAL):
            self.stopped_by = error
        edit = _earlier(record).edit_of(record.group_id, record.slot_index)
        outcome = SlotOutcome(edit=edit, status=status, position=position, error=error, note=note)
        self.outcomes.append(outcome)
        if self._on_outcome is not None:
            self._on_outcome(outcome)


def _earlier(record: SlotRecord) -> SlotLists:
    """What a slot held before, of the lists that the run wrote."""
    return record.before.only(functools.reduce(SlotLists.updated, record.unconfirmed, record.after))


def _is_unchanged(slot: Slot | None, record: SlotRecord) -> bool:
    """Whether each list the run wrote is as the run left it. Unconfirmed writes make several contents possible."""
    if slot is None:
        return False
    lists = zip(SlotLists.of_slot(slot), record.before, record.after, *record.unconfirmed, strict=True)
    return all(
        all(each is None for each in (after, *unconfirmed))
        or same_items(actual, before if after is None else after)
        or any(same_items(actual, each) for each in unconfirmed)
        for actual, before, after, *unconfirmed in lists
    )
