"""A run's memory on disk: which edits are done, which were in flight, and what each slot held before.

One SQLite file in WAL mode, held by one process at a time. Each commit survives the death of the process; the last
moments before a power failure may be lost, which makes a resumed run write a few edits again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from aiomutex.bulk.content import (
    Content,
    content_of,
    opened,
    overlaid,
    packed,
    packed_all,
    settled,
    unpacked,
    unpacked_all,
    wish_of,
)
from aiomutex.bulk.journal_file import JournalFile
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

_NUMBER: Final[dict[str, int]] = {"sent": 1, "applied": 2, "failed": 3, "unknown": 4}
_NAME: Final = {number: name for name, number in _NUMBER.items()}

Progress = Literal["new", "sent", "applied", "failed", "unknown"]


_SlotRow = tuple[str, int, bytes, bytes | None, bytes | None, int]


class SlotRecord(NamedTuple):
    """What a journal knows of one slot."""

    group_id: str
    slot_index: int
    before: Content
    """What it held before the run."""
    after: Content
    """What the run wrote and the service confirmed, ``None`` where that is nothing."""
    unsettled: list[Content]
    """What the run sent since, without learning its fate; each may have arrived."""
    undo: int
    """0: not begun, 1: sent, 2: done."""


def digest_of(edit: SlotEdit) -> int:
    """A number of 64 bits that tells two edits apart."""
    text = msgspec.json.encode((edit.group_id, edit.slot_index, wish_of(edit)))
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


class Journal(JournalFile):
    """An open journal.

    Args:
        path: The file; made if it is absent.
        must_exist: Refuse to make a new one, for an undo.

    Raises:
        JournalError: The file is no journal, is damaged, is of another version, or another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str], *, must_exist: bool = False) -> None:
        super().__init__(path, must_exist=must_exist)
        try:
            self._sequence = self._number("SELECT max(last) FROM slots") or 0
            self._known = self._number("SELECT max(position) FROM edits")
            self._total = self._number("SELECT value FROM facts WHERE name = 'total'")
        except BaseException:
            self.close()
            raise

    # A run of edits

    def begin_run(self) -> None:
        """Check that edits may be run against this journal.

        Raises:
            JournalError: It was undone, in part or whole.
        """
        if self._number("SELECT count(*) FROM slots WHERE undo > 0"):
            raise JournalError(f"journal {self.path} was undone; give a new journal to run the edits again")

    def check_input(self, edits: Iterable[SlotEdit]) -> None:
        """Compare a whole input with what is kept of the earlier run's.

        Raises:
            JournalError: It is another input.
        """
        if self._known is None and self._total is None:
            return
        with self._translating():
            rows = self._open.execute("SELECT position, digest FROM edits ORDER BY position")
            kept = next(rows, None)
            count = 0
            for position, edit in enumerate(edits):
                count += 1
                if kept is not None and kept[0] == position:
                    if kept[1] != digest_of(edit):
                        raise self._other_edit(position, edit)
                    kept = next(rows, None)
            self._check_total(count)
        if self._total is not None and count > self._total:
            raise self._more()

    def progress_of(self, position: int, edit: SlotEdit) -> Progress:
        """How far an earlier run came with the edit at ``position``.

        Edits of a slot land in the order given. So when an edit is to be sent that an applied one has overtaken (it
        had failed, say), the later one counts as new, and is sent again after it.

        Raises:
            JournalError: Another edit stood there, so this is another input.
        """
        if self._total is not None and position >= self._total:
            raise self._more()
        if self._known is None or position > self._known:
            return "new"
        with self._translating():
            row = self._open.execute("SELECT digest, progress FROM edits WHERE position = ?", (position,)).fetchone()
            slot = edit.group_id, edit.slot_index
            found = self._open.execute("SELECT done FROM slots WHERE group_id = ? AND slot = ?", slot).fetchone()
            reached = msgspec.convert(found, tuple[int] | None)
        if row is not None and row[0] != digest_of(edit):
            raise self._other_edit(position, edit)
        progress: Progress = "new" if row is None else _progress(row[1])
        if progress == "applied":
            return progress if reached is None or reached[0] >= position else "new"
        if reached is not None and reached[0] > position:
            with self._writing() as db:
                db.execute("UPDATE slots SET done = ? WHERE group_id = ? AND slot = ?", (position - 1, *slot))
        return progress

    def ended(self, total: int) -> None:
        """Note that the input ended after ``total`` edits.

        Raises:
            JournalError: An earlier run of this journal had more.
        """
        self._check_total(total)
        self._total = total
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('total', ?)", (total,))

    def _check_total(self, total: int) -> None:
        least = self._total if self._total is not None else 0 if self._known is None else self._known + 1
        if total < least:
            raise JournalError(
                f"journal {self.path} is of another input: that one had {'' if self._total else 'at least '}{least:,} "
                f"edits, this one has {total:,}"
            )

    def _more(self) -> JournalError:
        return JournalError(
            f"journal {self.path} is of another input: that one had {self._total:,} edits, this one has more"
        )

    def _other_edit(self, position: int, edit: SlotEdit) -> JournalError:
        return JournalError(
            f"journal {self.path} is of another input: edit {position} (group {edit.group_id}, "
            f"slot {edit.slot_index}) is not the one that stood there; use the same input, or a new journal"
        )

    def knows_before(self, group_id: str, slots: Collection[int]) -> bool:
        """Whether the earlier content of all these slots is kept already."""
        with self._translating():
            return all(
                self._open.execute("SELECT 1 FROM slots WHERE group_id = ? AND slot = ?", (group_id, slot)).fetchone()
                for slot in slots
            )

    def sending(self, items: Sequence[Item], before: MutexGroup | None) -> None:
        """Note, before it is sent, that one request goes out for these identical edits, and what the slot holds now.

        Args:
            items: The edits; they are for one slot.
            before: The group as read; ``None`` if the slot's earlier content is kept already.
        """
        first = items[0]
        slot = first.group_id, first.edit.slot_index
        self._sequence += 1
        with self._writing() as db:
            found = None if before is None else find_slot(before, slot[1])
            if found is not None:
                db.execute(
                    "INSERT OR IGNORE INTO slots (group_id, slot, before) VALUES (?, ?, ?)",
                    (*slot, packed(content_of(found))),
                )
            row = db.execute("SELECT CAST(open AS BLOB) FROM slots WHERE group_id = ? AND slot = ?", slot).fetchone()
            if row is not None:
                db.execute(
                    "UPDATE slots SET open = ?, last = ? WHERE group_id = ? AND slot = ?",
                    (packed_all(opened(unpacked_all(row[0]), first.wish)), self._sequence, *slot),
                )
            db.executemany(
                "INSERT OR REPLACE INTO edits VALUES (?, ?, 1)",
                [(item.position, digest_of(item.edit)) for item in items],
            )

    def finished(self, items: Sequence[Item], status: Status, *, confirmed: bool) -> None:
        """Note what became of edits that were sent.

        Args:
            items: The edits; they are for one slot, and have been told to ``sending``, perhaps by an earlier run.
            status: Their fate.
            confirmed: Whether the service confirmed the write, whatever was found afterwards.
        """
        with self._writing() as db:
            if status != "unknown":
                self._settle(db, items, applied=status == "applied", confirmed=confirmed)
            db.executemany(
                "UPDATE edits SET progress = ? WHERE position = ?", [(_NUMBER[status], item.position) for item in items]
            )

    def _settle(self, db: sqlite3.Connection, items: Sequence[Item], *, applied: bool, confirmed: bool) -> None:
        first, last = items[0], items[-1]
        slot = first.group_id, first.edit.slot_index
        row = db.execute(
            "SELECT CAST(after AS BLOB), CAST(open AS BLOB), done FROM slots WHERE group_id = ? AND slot = ?", slot
        ).fetchone()
        if row is None:
            return
        after, unsettled, wish = unpacked(row[0]), unpacked_all(row[1]), first.wish
        # A read-back confirms a write when later ones have been sent already; what became of those stays open.
        earlier: list[Content] = []
        later = unsettled
        if wish in unsettled:
            place = unsettled.index(wish)
            earlier, later = unsettled[:place], unsettled[place + 1 :]
        if confirmed:
            after, earlier = overlaid(after, wish), settled(earlier, wish)
        db.execute(
            "UPDATE slots SET after = ?, open = ?, done = ? WHERE group_id = ? AND slot = ?",
            (packed(after), packed_all(earlier + later), last.position if applied else row[2], *slot),
        )

    # An undo

    def written_slots(self) -> Iterator[SlotRecord]:
        """The slots the run wrote to, or may have, the latest first."""
        with self._translating():
            rows = self._open.execute(
                "SELECT group_id, slot, CAST(before AS BLOB), CAST(after AS BLOB), CAST(open AS BLOB), undo FROM slots "
                "WHERE after IS NOT NULL OR open IS NOT NULL ORDER BY last DESC"
            ).fetchall()
            # Columns of SQLite hold any kind of value, whatever they were declared as.
            for group_id, slot, before, after, unsettled, undo in msgspec.convert(rows, list[_SlotRow]):
                yield SlotRecord(group_id, slot, unpacked(before), unpacked(after), unpacked_all(unsettled), undo)

    def undoing(self, record: SlotRecord, *, done: bool) -> None:
        """Note that a slot's earlier content is being written back, or has been."""
        with self._writing() as db:
            db.execute(
                "UPDATE slots SET undo = ? WHERE group_id = ? AND slot = ?",
                (2 if done else 1, record.group_id, record.slot_index),
            )


def _progress(number: int) -> Progress:
    # A number from nowhere means a damaged row: the edit is sent again, which is harmless.
    return _NAME.get(number, "new")  # type: ignore[return-value]  # the names are the literals
