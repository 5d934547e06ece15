"""Undo a journaled run: write back what each slot held before, the latest slot first.

An undo can be resumed from the same journal, like the run itself. Slots changed since the run are reported and skipped.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, overload

import msgspec
from msgspec import UNSET

from aiomutex._util.checks import check_integer
from aiomutex.bulk.preview import Preview, Problem, ReadingSession
from aiomutex.bulk.preview import preview as preview_edits
from aiomutex.bulk.reads import MAX_LAG
from aiomutex.bulk.report import BulkReport, SlotOutcome
from aiomutex.bulk.run import ALREADY_APPLIED, NOT_SENT
from aiomutex.bulk.slot_lists import SlotLists, same_items
from aiomutex.errors import JournalError, StaleSlotError
from aiomutex.models import SlotEdit

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from aiomutex.bulk.journal import UndoJournal
    from aiomutex.bulk.journal_rows import SlotRecord
    from aiomutex.bulk.options import Edits
    from aiomutex.bulk.stream import OutcomeStream

CHANGED_SINCE: Final = (
    "changed since the run, or the service merges lists instead of replacing them; force overwrites the slot"
)
"""The note of a slot that no longer holds what the run wrote."""
_MERGED: Final = "the service has added what the run wrote to the lists of the slot; writing the slot cannot remove it"
"""The note of a slot that holds what it held before and what the run wrote."""
_NOTES: Final = {
    ALREADY_APPLIED: "already undone, according to the journal",
    NOT_SENT: "not sent: the undo was stopped before",
}
_DAMAGED: Final = "the slot's entry in the journal is damaged; its earlier content is unknown"


class StreamingSession(Protocol):
    """What an undo needs of a session."""

    def stream_slot_edits(
        self,
        edits: Edits,
        *,
        concurrency: int | None = None,
        journal: Any = None,
        verify: bool = False,
        skip_unchanged: bool = False,
    ) -> OutcomeStream:
        """Write many slots."""
        ...


@overload
async def undo(
    session: StreamingSession,
    journal: str | os.PathLike[str],
    *,
    preview: Literal[False] = False,
    force: bool = False,
    concurrency: int = 16,
    on_outcome: Callable[[SlotOutcome], object] | None = None,
) -> BulkReport: ...
@overload
async def undo(
    session: ReadingSession, journal: str | os.PathLike[str], *, preview: Literal[True], force: bool = False
) -> Preview: ...
async def undo(
    session: Any,
    journal: str | os.PathLike[str],
    *,
    preview: bool = False,
    force: bool = False,
    concurrency: int = 16,
    on_outcome: Callable[[SlotOutcome], object] | None = None,
) -> BulkReport | Preview:
    """Write back what each slot held before a journaled run, as it was read shortly before the first write to it.

    Only the lists that the run wrote are written back, so changes of other lists stay. A slot that no longer holds what
    the run wrote is ``skipped`` with a note, unless ``force`` is true. The groups are read before and after, as in a
    verified run. Only slot edits are undone: an archive, for example, detaches experiments for good. A slot that the
    canary changed by the path of another slot is written back by that path.

    Args:
        session: An open session, or a fleet.
        journal: The journal of the run.
        preview: Write nothing, and return what the undo would change and cost. Slots that changed since the run are
            ``impossible``.
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
    from aiomutex.bulk.journal import UndoJournal  # noqa: PLC0415  # only runs with a journal import SQLite

    outcomes: list[SlotOutcome] = []

    def report(outcome: SlotOutcome) -> None:
        outcomes.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)

    with UndoJournal(journal) as opened:
        if preview:
            return await _preview(session, opened, force=force)
        for position, record in opened.damaged.items():
            edit = SlotEdit(record.group_id, record.slot_index)
            report(SlotOutcome(edit=edit, status="failed", position=position, error=JournalError(_DAMAGED)))
        for position, record in opened.displaced.items():
            outcome = await _undo_displaced(session, position, record, force=force)
            if outcome.status == "applied":
                opened.record_restored(record)
            report(outcome)
        positions = list(opened.records)
        edits = [_edit_of(record, force=force) for record in opened.records.values()]
        stream: OutcomeStream = session.stream_slot_edits(
            iter(edits), journal=opened, verify=True, concurrency=concurrency
        )
        async with stream:
            async for outcome in stream:
                report(_of_undo(outcome, positions[outcome.position]))
            for number in range(stream.pulled, len(edits)):
                skipped = SlotOutcome(edit=edits[number], status="skipped", position=number, note=NOT_SENT)
                report(_of_undo(skipped, positions[number]))
    return BulkReport(outcomes=outcomes, stopped_by=stream.stopped_by)


async def _preview(session: ReadingSession, journal: UndoJournal, *, force: bool) -> Preview:
    edits = [_edit_of(record, force=force) for record in journal.written_slots() if not record.is_damaged]
    damaged = [
        Problem(position=position, edit=SlotEdit(record.group_id, record.slot_index), reason=_DAMAGED)
        for position, record in journal.damaged.items()
    ]
    found = await preview_edits(session, edits, verify=True)
    return msgspec.structs.replace(found, edits=found.edits + len(damaged), impossible=[*damaged, *found.impossible])


async def _undo_displaced(session: StreamingSession, position: int, record: SlotRecord, *, force: bool) -> SlotOutcome:
    """Write a slot back by the path that changed it, and read it back."""
    edit = _edit_of(record, force=True)
    if record.undo:
        return SlotOutcome(edit=edit, status="skipped", position=position, note=_NOTES[ALREADY_APPLIED])
    found = await _compare(session, record, record.after)
    if found.status != "unchanged" and not (force and isinstance(found.error, StaleSlotError)):
        return _of_undo(msgspec.structs.replace(found, edit=edit), position)
    before = SlotLists.of_edit(edit)
    async with session.stream_slot_edits([before.edit_of(record.group_id, record.path)]) as stream:
        [written] = [outcome async for outcome in stream]
    found = await _compare(session, record, before)
    if isinstance(found.error, StaleSlotError):
        await asyncio.sleep(MAX_LAG)
        found = await _compare(session, record, before)
    error = written.error or found.error
    return SlotOutcome(edit=edit, status="failed" if error else "applied", position=position, error=error)


async def _compare(session: StreamingSession, record: SlotRecord, lists: SlotLists) -> SlotOutcome:
    """Read a slot by an edit that is never sent: ``unchanged`` if it holds the lists, else ``failed``."""
    edit = msgspec.structs.replace(lists.edit_of(record.group_id, record.slot_index), expected=(lists,))
    async with session.stream_slot_edits([edit], skip_unchanged=True) as stream:
        [outcome] = [outcome async for outcome in stream]
    return outcome


def _edit_of(record: SlotRecord, *, force: bool) -> SlotEdit:
    """The edit that writes back what a slot held before, of the lists that the run wrote, if it holds what they say."""
    given = functools.reduce(SlotLists.updated, record.unconfirmed, record.after)
    edit = record.before.only(given).edit_of(record.group_id, record.slot_index)
    left = record.before.updated(record.after).only(given)
    return edit if force else msgspec.structs.replace(edit, expected=(left, *record.unconfirmed, *record.late))


def _of_undo(outcome: SlotOutcome, position: int) -> SlotOutcome:
    status, error, note = outcome.status, outcome.error, outcome.note
    edit: Any = msgspec.structs.replace(outcome.edit, expected=UNSET)
    if isinstance(error, StaleSlotError):
        is_merged = bool(error.actual) and all(
            same_items([*getattr(edit, name), *error.expected[name]], items) for name, items in error.actual.items()
        )
        status, error, note = "skipped", None, _MERGED if is_merged else CHANGED_SINCE
    note = _NOTES.get(note, note)
    return msgspec.structs.replace(outcome, edit=edit, status=status, error=error, note=note, position=position)
