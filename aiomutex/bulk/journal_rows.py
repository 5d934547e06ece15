"""The rows of a journal: facts about the run, edits, and slots. Each has a checksum, which is verified when read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from aiomutex.bulk.journal_file import JournalFile, checksum
from aiomutex.bulk.slot_lists import SlotLists
from aiomutex.errors import JournalError
from aiomutex.models import SlotEdit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aiomutex.bulk.group_queues import Item
    from aiomutex.models import SlotChange

Progress = Literal["new", "sent", "applied", "failed", "unknown", "written"]

_PROGRESS: Final[tuple[Progress, ...]] = ("new", "sent", "applied", "failed", "unknown", "written")
_DAMAGED: Final = -1
_SELECT_SLOT: Final = "SELECT CAST(group_id AS BLOB), slot, last, CAST(data AS BLOB), sum FROM slots"


class SlotRecord(msgspec.Struct, array_like=True):
    """What a journal knows of one slot."""

    group_id: str
    slot_index: int
    before: SlotLists
    """What it held before the run."""
    last: int = 0
    """A number that grows with each write of any slot; negative if the entry is damaged."""
    after: SlotLists = SlotLists()
    """What the run wrote and the service confirmed."""
    unconfirmed: list[SlotLists] = []
    """What the run sent since, with an unknown outcome. Each may have been applied."""
    done: int = -1
    """The position of the last edit that was applied."""
    undo: int = 0
    """2 once it is written back. Earlier versions set it to 1 before that."""
    late: list[SlotLists] = []
    """Writes of which an attempt got no response. It may arrive after later writes, and after the run."""
    path: int = 0
    """The slot of the path that changed it, if it is another one."""

    @property
    def is_written(self) -> bool:
        """Whether the run wrote the slot, or may have written it."""
        return self.is_damaged or not self.after.is_empty or bool(self.unconfirmed)

    @property
    def is_damaged(self) -> bool:
        """Whether only the slot is known. Its lists are empty."""
        return self.last == _DAMAGED


_decoder = msgspec.json.Decoder(SlotRecord)


def digest_of(edit: SlotEdit | SlotChange) -> int:
    """A number of 64 bits that identifies an edit."""
    lists: Any = SlotLists.of_edit(edit) if isinstance(edit, SlotEdit) else edit
    data = msgspec.json.encode((edit.group_id, edit.slot_index, lists))
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


class JournalRows(JournalFile):
    """An open file with the rows of a journal. What is to be written is passed to ``_record``."""

    _facts: dict[str, int]

    def _read_facts(self) -> dict[str, int]:
        with self._translating():
            rows = self._open.execute("SELECT CAST(name AS BLOB), value, sum FROM facts").fetchall()
            for name, value, check in rows:
                if check != checksum(name, value) or not isinstance(value, int):
                    raise self._damaged("a fact about the run")
            return {name.decode(): value for name, value, _ in rows}

    def _set_fact(self, name: str, value: int) -> None:
        self._facts[name] = value
        key = name.encode()
        row = key, value, checksum(key, value)
        self._record(lambda: self._open.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", row))

    def _edits_from(self, start: int) -> Iterator[tuple[int, int, Progress]]:
        """The recorded edits from a position on: position, digest and progress of each."""
        rows = self._open.execute("SELECT * FROM edits WHERE position >= ? ORDER BY position", (start,))
        for position, digest, progress, check in rows:
            if check != checksum(position, digest, progress) or progress not in range(len(_PROGRESS)):
                raise self._damaged(f"edit {position}")
            yield position, digest, _PROGRESS[progress]

    def _put_edits(self, items: Sequence[Item], progress: Progress) -> None:
        rows = [(item.position, digest_of(item.edit), _PROGRESS.index(progress)) for item in items]
        with_sums = ((*row, checksum(*row)) for row in rows)
        self._open.executemany("INSERT OR REPLACE INTO edits VALUES (?, ?, ?, ?)", with_sums)

    def _slot(self, group_id: str, slot_index: int) -> SlotRecord | None:
        rows = self._open.execute(f"{_SELECT_SLOT} WHERE group_id = ? AND slot = ?", (group_id.encode(), slot_index))
        if (row := rows.fetchone()) is None:
            return None
        if (record := _record_of(row)) is None:
            raise self._damaged(f"slot {slot_index} of group {group_id}")
        return record

    def _put_slot(self, record: SlotRecord) -> None:
        data = msgspec.json.encode(record)
        row = record.group_id.encode(), record.slot_index, record.last, data, checksum(data)
        self._open.execute("INSERT OR REPLACE INTO slots VALUES (?, ?, ?, ?, ?)", row)

    def _damaged(self, what: str) -> JournalError:
        return JournalError(f"journal {self.path} is damaged: the entry of {what} has a wrong checksum")

    def _records(self) -> Iterator[SlotRecord]:
        for row in self._open.execute(f"{_SELECT_SLOT} ORDER BY last DESC").fetchall():
            group_id, slot_index = str(row[0] or b"", errors="replace"), row[1] if isinstance(row[1], int) else 0
            yield _record_of(row) or SlotRecord(group_id, slot_index, SlotLists(), last=_DAMAGED)


def _record_of(row: tuple[Any, ...]) -> SlotRecord | None:
    """The record in a row; ``None`` if the row is damaged."""
    *key, data, check = row
    record = _decoder.decode(data) if check == checksum(data) else None
    return record if record and [record.group_id.encode(), record.slot_index, record.last] == key else None
