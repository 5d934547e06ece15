"""A run's progress on disk: which edits are applied, which were in flight, and what each slot held before.

One SQLite file in WAL mode, used by one process at a time. Each commit survives the death of the process. A power
failure may lose the latest commits; a resumed run then writes a few edits again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from aiomutex._util.wording import counted
from aiomutex.bulk.journal_file import JournalFile
from aiomutex.bulk.slot_lists import SlotLists, decode_all, encode_all, with_unconfirmed, without_overwritten
from aiomutex.errors import JournalError
from aiomutex.models import find_slot

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from aiomutex.bulk.group_queues import Item
    from aiomutex.bulk.report import Status
    from aiomutex.models import MutexGroup, SlotEdit

__all__ = ["Journal", "Progress", "SlotRecord"]

_NUMBERS: Final[dict[str, int]] = {"sent": 1, "applied": 2, "failed": 3, "unknown": 4}
_NAMES: Final = {number: name for name, number in _NUMBERS.items()}

_APPLY_STARTED: Final = 1
_APPLY_DONE: Final = 2

Progress = Literal["new", "sent", "applied", "failed", "unknown"]

_SlotRow = tuple[str, int, bytes, bytes | None, bytes | None, int]


class SlotRecord(NamedTuple):
    """What a journal knows of one slot."""

    group_id: str
    slot_index: int
    before: SlotLists
    """What it held before the run."""
    after: SlotLists
    """What the run wrote and the service confirmed."""
    unconfirmed: list[SlotLists]
    """What the run sent since, with an unknown outcome. Each may have been applied."""
    undo: int
    """0: not started, 1: sent, 2: done."""


def digest_of(edit: SlotEdit) -> int:
    """A number of 64 bits that identifies an edit."""
    data = msgspec.json.encode((edit.group_id, edit.slot_index, SlotLists.of_edit(edit)))
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


class Journal(JournalFile):
    """An open journal.

    Args:
        path: The file; created if it does not exist.
        must_exist: Do not create a file, for an undo.

    Raises:
        JournalError: The file is not a journal, is damaged, has a different version, or is in use by another process.
    """

    def __init__(self, path: str | os.PathLike[str], *, must_exist: bool = False) -> None:
        super().__init__(path, must_exist=must_exist)
        try:
            self._sequence = self._number("SELECT max(last) FROM slots") or 0
            self._max_position = self._number("SELECT max(position) FROM edits")
            self._total = self._number("SELECT value FROM facts WHERE name = 'total'")
        except BaseException:
            self.close()
            raise

    # A run of edits

    def check_not_undone(self) -> None:
        """Check that edits may be run with this journal.

        Raises:
            JournalError: The run was undone, at least in part.
        """
        if self._number("SELECT count(*) FROM slots WHERE undo > 0"):
            raise JournalError(f"journal {self.path} was undone; use a new journal to run the edits again")

    def check_input(self, edits: Iterable[SlotEdit]) -> None:
        """Compare a whole input with what is recorded of the earlier run's input.

        Raises:
            JournalError: The input is a different one.
        """
        if self._max_position is None and self._total is None:
            return
        with self._translating():
            rows = self._open.execute("SELECT position, digest FROM edits ORDER BY position")
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

    def progress_of(self, position: int, edit: SlotEdit) -> Progress:
        """How far an earlier run got with the edit at ``position``.

        The edits of a slot must be applied in the order given. If an edit is to be sent after a later one of its slot
        was applied (because it had failed, say), the later one counts as new, and is sent again after it.

        Raises:
            JournalError: The earlier run had a different edit at this position.
        """
        if self._total is not None and position >= self._total:
            raise self._too_many()
        if self._max_position is None or position > self._max_position:
            return "new"
        slot = edit.group_id, edit.slot_index
        with self._translating():
            row = self._open.execute("SELECT digest, progress FROM edits WHERE position = ?", (position,)).fetchone()
            found = self._open.execute("SELECT done FROM slots WHERE group_id = ? AND slot = ?", slot).fetchone()
            last_applied = msgspec.convert(found, tuple[int] | None)
        if row is not None and row[0] != digest_of(edit):
            raise self._other_edit(position, edit)
        progress: Progress = "new" if row is None else _progress(row[1])
        if progress == "applied":
            return progress if last_applied is None or last_applied[0] >= position else "new"
        if last_applied is not None and last_applied[0] > position:
            with self._writing() as db:
                db.execute("UPDATE slots SET done = ? WHERE group_id = ? AND slot = ?", (position - 1, *slot))
        return progress

    def record_end(self, total: int) -> None:
        """Record that the input ended after ``total`` edits.

        Raises:
            JournalError: An earlier run with this journal had more edits.
        """
        self._check_total(total)
        self._total = total
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('total', ?)", (total,))

    def _check_total(self, total: int) -> None:
        least = self._total if self._total is not None else 0 if self._max_position is None else self._max_position + 1
        if total < least:
            at_least = "" if self._total else "at least "
            raise self._other_input(f"that one has {at_least}{counted(least, 'edit')}, this one has {total:,}")

    def _too_many(self) -> JournalError:
        return self._other_input(f"that one has {counted(self._total or 0, 'edit')}, this one has more")

    def _other_edit(self, position: int, edit: SlotEdit) -> JournalError:
        return self._other_input(
            f"edit {position} (group {edit.group_id}, slot {edit.slot_index}) was a different one; use the same input, "
            "or a new journal"
        )

    def _other_input(self, difference: str) -> JournalError:
        return JournalError(f"journal {self.path} belongs to a different input: {difference}")

    def has_before(self, group_id: str, slots: Collection[int]) -> bool:
        """Whether the earlier content of all these slots is recorded."""
        with self._translating():
            return all(
                self._open.execute("SELECT 1 FROM slots WHERE group_id = ? AND slot = ?", (group_id, slot)).fetchone()
                for slot in slots
            )

    def record_sent(self, items: Sequence[Item], before: MutexGroup | None) -> None:
        """Record, before it is sent, the request of identical edits, and what their slot holds now.

        Args:
            items: The edits; they are for one slot.
            before: The group as read; ``None`` if the slot's earlier content is recorded.
        """
        first = items[0]
        slot = first.group_id, first.edit.slot_index
        self._sequence += 1
        with self._writing() as db:
            found = None if before is None else find_slot(before, slot[1])
            if found is not None:
                db.execute(
                    "INSERT OR IGNORE INTO slots (group_id, slot, before) VALUES (?, ?, ?)",
                    (*slot, SlotLists.of_slot(found).encode()),
                )
            row = db.execute("SELECT CAST(open AS BLOB) FROM slots WHERE group_id = ? AND slot = ?", slot).fetchone()
            if row is not None:
                unconfirmed = with_unconfirmed(decode_all(row[0]), first.lists)
                db.execute(
                    "UPDATE slots SET open = ?, last = ? WHERE group_id = ? AND slot = ?",
                    (encode_all(unconfirmed), self._sequence, *slot),
                )
            db.executemany(
                "INSERT OR REPLACE INTO edits VALUES (?, ?, 1)",
                [(item.position, digest_of(item.edit)) for item in items],
            )

    def record_outcome(self, items: Sequence[Item], status: Status, *, confirmed: bool) -> None:
        """Record the outcome of edits that were sent.

        Args:
            items: The edits; they are for one slot, and ``record_sent`` has recorded them, perhaps in an earlier run.
            status: Their status.
            confirmed: Whether the service confirmed the write, whatever a read-back found.
        """
        with self._writing() as db:
            if status != "unknown":
                self._update_slot(db, items, applied=status == "applied", confirmed=confirmed)
            db.executemany(
                "UPDATE edits SET progress = ? WHERE position = ?",
                [(_NUMBERS[status], item.position) for item in items],
            )

    def _update_slot(self, db: sqlite3.Connection, items: Sequence[Item], *, applied: bool, confirmed: bool) -> None:
        lists, last = items[0].lists, items[-1]
        slot = last.group_id, last.edit.slot_index
        row = db.execute(
            "SELECT CAST(after AS BLOB), CAST(open AS BLOB), done FROM slots WHERE group_id = ? AND slot = ?", slot
        ).fetchone()
        if row is None:
            return
        after, unconfirmed = SlotLists.decode(row[0]), decode_all(row[1])
        # A read-back confirms a write when later ones may have been sent already. Those stay unconfirmed.
        earlier: list[SlotLists] = []
        later = unconfirmed
        if lists in unconfirmed:
            place = unconfirmed.index(lists)
            earlier, later = unconfirmed[:place], unconfirmed[place + 1 :]
        if confirmed:
            after, earlier = after.updated(lists), without_overwritten(earlier, lists)
        db.execute(
            "UPDATE slots SET after = ?, open = ?, done = ? WHERE group_id = ? AND slot = ?",
            (after.encode(), encode_all(earlier + later), last.position if applied else row[2], *slot),
        )

    # An apply of a plan: several runs, each with the edits that are left

    def begin_apply(self) -> None:
        """Prepare for a run of an apply: keep what the slots held before, and forget the edits of earlier runs.

        Raises:
            JournalError: The journal belongs to an apply that is complete or was undone, or to a bulk run.
        """
        self.check_not_undone()
        state = self._number("SELECT value FROM facts WHERE name = 'apply'")
        if state == _APPLY_DONE:
            raise JournalError(
                f"journal {self.path} belongs to a completed apply; use a new file, so that each can be undone"
            )
        if state is None and not (self._max_position is None and self._total is None):
            raise JournalError(f"journal {self.path} belongs to a bulk run, not to an apply; use a new file")
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('apply', ?)", (_APPLY_STARTED,))
            db.execute("DELETE FROM facts WHERE name = 'total'")
            db.execute("DELETE FROM edits")
            # Slots that were not written yet may be changed by others until they are, so their content is read again.
            db.execute("DELETE FROM slots WHERE after IS NULL AND open IS NULL")

    def end_apply(self) -> None:
        """Record that the apply is complete."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('apply', ?)", (_APPLY_DONE,))

    # An undo

    def written_slots(self) -> Iterator[SlotRecord]:
        """The slots the run wrote, or may have written, the latest first."""
        with self._translating():
            rows = self._open.execute(
                "SELECT group_id, slot, CAST(before AS BLOB), CAST(after AS BLOB), CAST(open AS BLOB), undo FROM slots "
                "WHERE after IS NOT NULL OR open IS NOT NULL ORDER BY last DESC"
            ).fetchall()
            # SQLite columns can hold values of any type, so a damaged or hostile file needs this check.
            for group_id, slot, before, after, unconfirmed, undo in msgspec.convert(rows, list[_SlotRow]):
                yield SlotRecord(
                    group_id,
                    slot,
                    SlotLists.decode(before),
                    SlotLists.decode(after),
                    decode_all(unconfirmed),
                    undo,
                )

    def record_undo(self, record: SlotRecord, *, done: bool) -> None:
        """Record that a slot's earlier content is being written back, or has been."""
        with self._writing() as db:
            db.execute(
                "UPDATE slots SET undo = ? WHERE group_id = ? AND slot = ?",
                (2 if done else 1, record.group_id, record.slot_index),
            )


def _progress(number: int) -> Progress:
    # An unexpected number means a damaged row. The edit is sent again, which is harmless.
    return _NAMES.get(number, "new")  # type: ignore[return-value]  # the names are the literals
