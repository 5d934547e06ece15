"""Taking a journaled run back: each slot it wrote gets its earlier content again, the latest first.

Resumable like the run itself, from the same journal. Slots that somebody changed since are told and left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from aiomutex.bulk.content import check, find_slot, holds, restoring
from aiomutex.bulk.report import BulkReport, SlotOutcome
from aiomutex.errors import JournalError, MutexError
from aiomutex.tasks import unwrapped

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from aiomutex.bulk.content import Content
    from aiomutex.bulk.journal import Journal, SlotRecord
    from aiomutex.bulk.report import Status
    from aiomutex.models import MutexGroup
    from aiomutex.session import MutexSession

__all__ = ["undo"]

_UNDONE: Final = 2


async def undo(
    session: MutexSession,
    journal: str | os.PathLike[str],
    *,
    force: bool = False,
    concurrency: int = 16,
    on_outcome: Callable[[SlotOutcome], object] | None = None,
) -> BulkReport:
    """Write back what each slot held before a journaled run.

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
        One outcome for each slot the run wrote; ``edit`` is what was, or would have been, written back.

    Raises:
        JournalError: The journal is missing, damaged, or open in another process.
    """
    from aiomutex.bulk.journal import Journal  # noqa: PLC0415  # SQLite is imported where it is used only

    outcomes: list[SlotOutcome] = []
    with Journal(journal, must_exist=True) as kept:
        groups: dict[str, list[tuple[int, SlotRecord]]] = {}
        for position, record in enumerate(kept.written_slots()):
            groups.setdefault(record.group_id, []).append((position, record))
        waiting = iter(groups.values())

        def tell(outcome: SlotOutcome) -> None:
            outcomes.append(outcome)
            if on_outcome is not None:
                on_outcome(outcome)

        async def work() -> None:
            for records in waiting:
                await _restore_group(session, kept, records, force=force, tell=tell)

        with unwrapped():
            async with anyio.create_task_group() as tasks:
                for _ in range(min(concurrency, len(groups))):
                    tasks.start_soon(work)
    return BulkReport(outcomes=outcomes)


async def _restore_group(
    session: MutexSession,
    journal: Journal,
    records: list[tuple[int, SlotRecord]],
    *,
    force: bool,
    tell: Callable[[SlotOutcome], None],
) -> None:
    """Look once, write each slot that is to be written, look once more."""

    def judge(
        position: int, record: SlotRecord, status: Status, error: MutexError | None = None, note: str = ""
    ) -> None:
        edit = restoring(record.group_id, record.slot_index, _earlier(record))
        tell(SlotOutcome(edit=edit, status=status, position=position, error=error, note=note))

    sent: list[tuple[int, SlotRecord]] = []
    group: MutexGroup | None = None
    for position, record in records:
        if record.undo == _UNDONE:
            judge(position, record, "skipped", note="undone already, says the journal")
            continue
        try:
            group = group or await session.get_group(record.group_id)
            slot = find_slot(group, record.slot_index)
            if holds(slot, _earlier(record)):
                journal.undoing(record, done=True)
                judge(position, record, "applied", note="it holds its earlier content already")
            elif not force and not holds(slot, record.after):
                judge(position, record, "skipped", note="somebody changed it since the run; force overwrites that")
            else:
                journal.undoing(record, done=False)
                edit = restoring(record.group_id, record.slot_index, _earlier(record))
                await session.edit_slot(**msgspec.structs.asdict(edit))
                sent.append((position, record))
        except JournalError:
            raise
        except MutexError as error:
            judge(position, record, "unknown" if error.maybe_applied else "failed", error)
    if not sent:
        return
    try:
        group = await session.get_group(sent[0][1].group_id)
    except MutexError as error:
        for position, record in sent:
            judge(position, record, "unknown", error)
        return
    for position, record in sent:
        difference = check(group, record.slot_index, _earlier(record), None)
        if difference is None:
            journal.undoing(record, done=True)
        judge(position, record, "failed" if difference else "applied", difference)


def _earlier(record: SlotRecord) -> Content:
    """What a slot held before, of the lists that the run wrote."""
    before, after = record.before, record.after
    return (
        None if after[0] is None else before[0],
        None if after[1] is None else before[1],
        None if after[2] is None else before[2],
    )
