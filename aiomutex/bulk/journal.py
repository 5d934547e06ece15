"""A run's progress on disk: which edits are applied, which were in flight, and what each slot held before.

One SQLite file in WAL mode, used by one process at a time. What a slot held is on the disk before its first write is
sent, so neither a killed process nor a power failure loses it.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Final

from aiomutex._util.wording import counted
from aiomutex.bulk.journal_rows import JournalRows, Progress, SlotRecord, digest_of
from aiomutex.bulk.slot_lists import SlotLists, with_unconfirmed, without_overwritten
from aiomutex.errors import JournalError
from aiomutex.models import SlotChange, find_slot

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable, Sequence

    from aiomutex.bulk.group_queues import Item
    from aiomutex.bulk.options import AnyEdit
    from aiomutex.bulk.report import Status
    from aiomutex.models import MutexGroup, Slot

_APPLY_STARTED: Final = 1
_APPLY_DONE: Final = 2
_UNDONE: Final = 2
_LATE: Final = 60.0
"""Seconds after the last write of a run that was killed, after which none of its requests arrives any more."""


class Journal(JournalRows):
    """An open journal. Its arguments and errors are those of the file."""

    def __init__(self, path: str | os.PathLike[str], *, must_exist: bool = False) -> None:
        super().__init__(path, must_exist=must_exist)
        self._reopened: dict[tuple[str, int], int] = {}
        try:
            self._sequence = self._number("SELECT max(last) FROM slots") or 0
            self._max_position = self._number("SELECT max(position) FROM edits")
            self._facts = self._read_facts()
        except BaseException:
            self.close()
            raise

    # A run of edits

    def check_not_undone(self) -> None:
        """Raise ``JournalError`` if the run was undone, at least in part."""
        if "undone" in self._facts:
            raise JournalError(f"journal {self.path} was undone; use a new journal to run the edits again")

    def check_input(self, edits: Iterable[AnyEdit]) -> None:
        """Raise ``JournalError`` if a whole input differs from what is recorded of the earlier run's."""
        if self._max_position is None and self._total is None:
            return
        with self._translating():
            rows = self._edits_from(0)
            recorded = next(rows, None)
            count = 0
            for position, edit in enumerate(edits):
                count += 1
                if recorded is not None and recorded[0] == position:
                    if recorded[1] != digest_of(edit):
                        raise self._other_edit(position, edit)
                    recorded = next(rows, None)
            self._check_total(count)
        if self._total is not None and count > self._total:
            raise self._too_many()

    def progress_of(self, position: int, edit: AnyEdit) -> Progress:
        """How far an earlier run got with the edit at ``position``; ``JournalError`` if it had a different edit there.

        The edits of a slot must be applied in the order given. If an edit is to be sent after a later one of its slot
        was applied (because it had failed, say), the later one counts as new, and is sent again after it.
        """
        if self._total is not None and position >= self._total:
            raise self._too_many()
        if self._max_position is None or position > self._max_position:
            return "sent" if self._is_unconfirmed(edit) else "new"
        slot = str(edit.group_id), edit.slot_index
        with self._translating():
            found = next(self._edits_from(position), None)
            record = self._slot(*slot)
        progress: Progress = "new"
        if found is not None and found[0] == position:
            _, digest, progress = found
            if digest != digest_of(edit):
                raise self._other_edit(position, edit)
        last_applied = self._reopened.get(slot, -1 if record is None else record.done)
        if progress == "applied":
            return progress if record is None or last_applied >= position else "new"
        if last_applied > position:
            self._reopened[slot] = position - 1
            self._record(functools.partial(self._reopen, slot))
        return progress

    def _is_unconfirmed(self, edit: AnyEdit) -> bool:
        """Whether an earlier run of an apply, whose edits are forgotten, may have made this one."""
        if "apply" not in self._facts or isinstance(edit, SlotChange):
            return False
        with self._translating():
            record = self._slot(str(edit.group_id), edit.slot_index)
        return record is not None and SlotLists.of_edit(edit) in record.unconfirmed

    def _reopen(self, slot: tuple[str, int]) -> None:
        if (record := self._slot(*slot)) is not None:
            record.done = self._reopened.pop(slot, record.done)
            self._put_slot(record)

    def record_end(self, total: int) -> None:
        """Record that the input ended after ``total`` edits; ``JournalError`` if an earlier run had more."""
        self._check_total(total)
        self._set_fact("total", total)

    @property
    def _total(self) -> int | None:
        return self._facts.get("total")

    def _check_total(self, total: int) -> None:
        least = self._total if self._total is not None else 0 if self._max_position is None else self._max_position + 1
        if total < least:
            at_least = "" if self._total else "at least "
            raise self._other_input(f"that one has {at_least}{counted(least, 'edit')}, this one has {total:,}")

    def _too_many(self) -> JournalError:
        return self._other_input(f"that one has {counted(self._total or 0, 'edit')}, this one has more")

    def _other_edit(self, position: int, edit: AnyEdit) -> JournalError:
        return self._other_input(
            f"edit {position} (group {edit.group_id}, slot {edit.slot_index}) was a different one; use the same input, "
            "or a new journal"
        )

    def _other_input(self, difference: str) -> JournalError:
        return JournalError(f"journal {self.path} belongs to a different input: {difference}")

    async def has_before(self, group_id: str, slots: Collection[int]) -> bool:
        """Whether the earlier content of all these slots is recorded."""
        await self._idle()
        with self._translating():
            records = [self._slot(group_id, slot) for slot in slots]
        return all(record is not None and record.is_written for record in records)

    async def record_sent(self, items: Sequence[Item], before: MutexGroup | None) -> None:
        """Record the request of identical edits, and what their slot holds now, so that both survive a power failure.

        ``before`` is the group as read; ``None`` if the slot's earlier content is recorded.
        """
        self._sequence += 1
        if (second := int(time.time()) + 1) != self._facts.get("active"):
            self._set_fact("active", second)
        found = None if before is None else find_slot(before, items[0].edit.slot_index)
        self._record(functools.partial(self._write_sent, items, found, self._sequence))
        await self.sync()

    def _write_sent(self, items: Sequence[Item], found: Slot | None, sequence: int) -> None:
        slot = items[0].group_id, items[0].edit.slot_index
        record = self._slot(*slot)
        if found is not None and (record is None or not record.is_written):
            record = SlotRecord(*slot, SlotLists.of_slot(found))
        if record is not None:
            record.last = sequence
            record.unconfirmed = with_unconfirmed(record.unconfirmed, items[0].lists)
            self._put_slot(record)
        self._put_edits(items, "sent")

    @property
    def shown(self) -> int:
        """What the canaries of the run have shown."""
        return self._facts.get("canary", 0)

    def record_canary(self, shown: int) -> None:
        """Record what the canaries of the run have shown."""
        self._set_fact("canary", shown)

    def record_group(self, group: MutexGroup) -> None:
        """Record what all slots of a group hold, before a canary, which may change any of them."""
        for slot in group.slots:
            self._record(functools.partial(self._write_before, group.id, slot))

    def _write_before(self, group_id: str, slot: Slot) -> None:
        if self._slot(group_id, slot.index) is None:
            self._put_slot(SlotRecord(group_id, slot.index, SlotLists.of_slot(slot)))

    def record_displaced(self, item: Item, slot: Slot) -> None:
        """Record that a write changed another slot than it should have, and what that one held before."""
        self._record(functools.partial(self._write_displaced, item, slot, self._sequence))

    def _write_displaced(self, item: Item, slot: Slot, sequence: int) -> None:
        group_id, path = item.group_id, item.edit.slot_index
        if (record := self._slot(group_id, path)) is not None:
            self._put_slot(SlotRecord(group_id, path, record.before))
        record = self._slot(group_id, slot.index) or SlotRecord(group_id, slot.index, SlotLists.of_slot(slot))
        record.after, record.last, record.path = item.lists, sequence, path
        self._put_slot(record)

    def record_answered(self, items: Sequence[Item]) -> None:
        """Record that the service confirmed a write that is to be read back. It is written with the next commit."""
        self._record(functools.partial(self._put_edits, items, "written"))

    def record_outcome(self, items: Sequence[Item], status: Status, *, confirmed: bool) -> None:
        """Record the outcome of edits of one slot that were sent. It is written with the next commit.

        ``confirmed`` says whether the service confirmed the write, whatever a read-back found.
        """
        self._record(functools.partial(self._write_outcome, items, status, confirmed=confirmed))

    def _write_outcome(self, items: Sequence[Item], status: Any, *, confirmed: bool) -> None:
        status = "applied" if status == "unchanged" else status
        self._put_edits(items, status)
        if (record := self._slot(items[0].group_id, items[0].edit.slot_index)) is None:
            return
        lists = items[0].lists
        if items[0].is_late:
            record.late = with_unconfirmed(record.late, lists)
        if status != "unknown" and (confirmed or not items[0].was_sent):
            # A read-back confirms a write when later ones may have been sent already. Those stay unconfirmed.
            place = record.unconfirmed.index(lists) if lists in record.unconfirmed else -1
            earlier, later = record.unconfirmed[: max(place, 0)], record.unconfirmed[place + 1 :]
            if confirmed:
                record.after, earlier = record.after.updated(lists), without_overwritten(earlier, lists)
            record.unconfirmed = earlier + later
        if status == "applied":
            record.done = items[-1].position
        self._put_slot(record)

    # An apply of a plan: several runs, each with the edits that are left

    def begin_apply(self) -> None:
        """Prepare for a run of an apply: keep what the slots held before, and forget the edits of earlier runs.

        A ``JournalError`` says that the journal is that of an apply that is complete or was undone, or of a bulk run.
        """
        self.check_not_undone()
        state = self._facts.get("apply")
        if state == _APPLY_DONE:
            raise JournalError(
                f"journal {self.path} belongs to a completed apply; use a new file, so that each can be undone"
            )
        if state is None and not (self._max_position is None and self._total is None):
            raise JournalError(f"journal {self.path} belongs to a bulk run, not to an apply; use a new file")
        self._facts.pop("total", None)
        self._set_fact("apply", _APPLY_STARTED)
        self._record(self._forget_edits)
        self.flush()

    def _forget_edits(self) -> None:
        self._open.execute("DELETE FROM facts WHERE CAST(name AS BLOB) = ?", (b"total",))
        self._open.execute("DELETE FROM edits")
        # Slots that were not written yet may be changed by others until they are, so their content is read again.
        for record in self._records():
            if not record.is_written:
                slot = record.group_id.encode(), record.slot_index
                self._open.execute("DELETE FROM slots WHERE group_id = ? AND slot = ?", slot)

    def end_apply(self) -> None:
        """Record that the apply is complete."""
        self._set_fact("apply", _APPLY_DONE)
        self.flush()

    # What an undo does otherwise

    @property
    def age(self) -> float:
        """Seconds since the last write was recorded."""
        return max(0.0, time.time() - self._facts.get("active", 0))

    def unsettled(self, position: int) -> Sequence[SlotLists]:  # noqa: ARG002  # for an undo
        """The writes of another process that may still arrive in the slot of an edit."""
        return ()

    def written_slots(self) -> list[SlotRecord]:
        """The slots the run wrote, or may have written, the latest first."""
        with self._translating():
            return [record for record in self._records() if record.is_written]


class UndoJournal(Journal):
    """A journal whose run is undone: its edits are those that write back what the slots held before."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, must_exist=True)
        slots = dict(enumerate(self.written_slots()))
        self.damaged = {position: record for position, record in slots.items() if record.is_damaged}
        """Entries of which only the slot is known, by position among the slots written."""
        self.displaced = {position: record for position, record in slots.items() if record.path}
        """Slots that were changed by a write to another one."""
        self.records = {at: record for at, record in slots.items() if not (record.is_damaged or record.path)}
        """The slots that can be undone, by position."""
        self._in_order = list(self.records.values())

    def unsettled(self, position: int) -> Sequence[SlotLists]:
        """The writes of the run that may still arrive."""
        record = self._in_order[position]
        return [*record.unconfirmed, *record.late] if self.age < _LATE else ()

    def progress_of(self, position: int, edit: AnyEdit) -> Progress:  # noqa: ARG002  # the order is this journal's own
        """How far an earlier undo got. A slot is written again even if it was: a read may show what it held before."""
        return "applied" if self._in_order[position].undo == _UNDONE else "new"

    async def has_before(self, group_id: str, slots: Collection[int]) -> bool:  # noqa: ARG002  # a run needs them
        """An undo records nothing that a slot held."""
        return True

    async def record_sent(self, items: Sequence[Item], before: MutexGroup | None) -> None:  # noqa: ARG002  # as above
        """Record that a slot's earlier content is being written back."""
        self._mark_undone()
        await self.sync()

    def record_answered(self, items: Sequence[Item]) -> None:
        """Nothing is recorded before the slot is read back."""

    def record_outcome(self, items: Sequence[Item], status: Status, *, confirmed: bool) -> None:  # noqa: ARG002  # as above
        """Record that a slot's earlier content has been written back."""
        if status == "applied":
            for item in items:
                self.record_restored(self._in_order[item.position])

    def _mark_undone(self) -> None:
        if "undone" not in self._facts:
            self._set_fact("undone", 1)

    def record_restored(self, record: SlotRecord) -> None:
        """Record that a slot has been written back."""
        self._mark_undone()
        record.undo = _UNDONE
        self._record(functools.partial(self._put_slot, record))

    def record_end(self, total: int) -> None:
        """An undo has no end of its own."""
