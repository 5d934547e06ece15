"""Taking a journaled run back: each slot it wrote gets its earlier content again, the latest first.

Resumable like the run itself, from the same journal. Slots that somebody changed since are told and left alone.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, Protocol, Self

import msgspec
from msgspec import UNSET, UnsetType

from aiomutex._util.checks import check_integer
from aiomutex._util.tasks import run_workers
from aiomutex.bulk.content import check, content_of, holds, overlaid, restoring, same
from aiomutex.bulk.options import FATAL
from aiomutex.bulk.report import BulkReport, SlotOutcome
from aiomutex.errors import JournalError, MutexError
from aiomutex.limits import Priority
from aiomutex.models import find_slot

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from aiomutex.bulk.content import Content
    from aiomutex.bulk.journal import Journal, SlotRecord
    from aiomutex.bulk.report import Status
    from aiomutex.models import MutexGroup, Slot

__all__ = ["CHANGED_SINCE", "undo"]

_UNDONE: Final = 2
CHANGED_SINCE: Final = (
    "it does not hold what the run left there: somebody changed it since, or the service merges lists; "
    "force overwrites that"
)


class GroupSession(Protocol):
    """What an undo needs of a session; ``MutexSession`` has it, and so may a test's stand-in."""

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

    Only the lists the run wrote are written back, so that what others did to the other lists stays. A slot that no
    longer holds what the run left there is ``skipped`` with a note, unless ``force`` is given. Each group is read
    before and after. What it does not undo: anything but slot edits (an archive detaches experiments for good).

    Args:
        session: An open session.
        journal: The journal of the run.
        force: Write back even where somebody changed a slot since.
        concurrency: Groups in work at the same time.
        on_outcome: Called with each outcome as it comes.

    Returns:
        One outcome for each slot the run wrote; ``edit`` is what was, or would have been, written back. A refused API
        key and an exhausted day end it early (``stopped_by``); the same call later goes on.

    Raises:
        InvalidRequestError: ``concurrency`` is not an integer from 1.
        JournalError: The journal is missing, damaged, or open in another process.
    """
    check_integer("concurrency", concurrency, least=1)
    from aiomutex.bulk.journal import Journal  # noqa: PLC0415  # SQLite is imported where it is used only

    with Journal(journal, must_exist=True) as kept:
        groups: dict[str, list[tuple[int, SlotRecord]]] = {}
        for position, record in enumerate(kept.written_slots()):
            groups.setdefault(record.group_id, []).append((position, record))
        way_back = _WayBack(session.with_options(priority=Priority.BULK), kept, on_outcome, force=force)
        await run_workers(way_back.restore_group, groups.values(), concurrency)
    return BulkReport(outcomes=way_back.outcomes, stopped_by=way_back.stopped_by)


class _WayBack:
    """One undo: what it has told so far, and what stopped it."""

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
        self.outcomes: list[SlotOutcome] = []
        self.stopped_by: MutexError | None = None

    async def restore_group(self, records: list[tuple[int, SlotRecord]]) -> None:
        """Look once, write each slot that is to be written, look once more."""
        sent: list[tuple[int, SlotRecord]] = []
        group: MutexGroup | None = None
        for position, record in records:
            if record.undo == _UNDONE:
                self._tell(position, record, "skipped", note="undone already, says the journal")
                continue
            if self.stopped_by is not None:
                self._tell(position, record, "skipped", note="not sent: the undo was stopped before")
                continue
            try:
                group = group or await self._session.get_group(record.group_id)
                slot = find_slot(group, record.slot_index)
                if holds(slot, _earlier(record)):
                    self._journal.undoing(record, done=True)
                    self._tell(position, record, "applied", note="it holds its earlier content already")
                elif not self._force and not _left_alone(slot, record):
                    self._tell(position, record, "skipped", note=CHANGED_SINCE)
                else:
                    self._journal.undoing(record, done=False)
                    edit = restoring(record.group_id, record.slot_index, _earlier(record))
                    await self._session.edit_slot(**msgspec.structs.asdict(edit))
                    sent.append((position, record))
            except JournalError:
                raise
            except MutexError as error:
                self._tell(position, record, "unknown" if error.maybe_applied else "failed", error)
        if sent:
            await self._check(sent)

    async def _check(self, sent: list[tuple[int, SlotRecord]]) -> None:
        try:
            group = await self._session.get_group(sent[0][1].group_id)
        except MutexError as error:
            for position, record in sent:
                self._tell(position, record, "unknown", error)
            return
        for position, record in sent:
            difference = check(group, record.slot_index, _earlier(record), None)
            if difference is None:
                self._journal.undoing(record, done=True)
            self._tell(position, record, "failed" if difference else "applied", difference)

    def _tell(
        self, position: int, record: SlotRecord, status: Status, error: MutexError | None = None, note: str = ""
    ) -> None:
        if isinstance(error, FATAL):
            self.stopped_by = error
        edit = restoring(record.group_id, record.slot_index, _earlier(record))
        outcome = SlotOutcome(edit=edit, status=status, position=position, error=error, note=note)
        self.outcomes.append(outcome)
        if self._on_outcome is not None:
            self._on_outcome(outcome)


def _earlier(record: SlotRecord) -> Content:
    """What a slot held before, of the lists that the run wrote."""
    written = functools.reduce(overlaid, record.unsettled, record.after)
    return (
        None if written[0] is None else record.before[0],
        None if written[1] is None else record.before[1],
        None if written[2] is None else record.before[2],
    )


def _left_alone(slot: Slot | None, record: SlotRecord) -> bool:
    """Whether each list the run wrote is as it left it; where fates are unknown, that is one of several ways."""
    if slot is None:
        return False
    lists = zip(content_of(slot), record.before, record.after, *record.unsettled, strict=True)
    return all(
        all(each is None for each in (after, *unsettled))
        or same(found, before if after is None else after)
        or any(same(found, each) for each in unsettled)
        for found, before, after, *unsettled in lists
    )
