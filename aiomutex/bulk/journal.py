"""A run's memory on disk: which edits are done, which were in flight, and what each slot held before.

One SQLite file in WAL mode, held by one process at a time. Each commit survives the death of the process; the last
moments before a power failure may be lost, which makes a resumed run write a few edits again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self

import msgspec

from aiomutex.bulk.content import Content, content_of, find_slot, packed, unpacked, wish_of
from aiomutex.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence
    from types import TracebackType

    from aiomutex.bulk.queues import Item
    from aiomutex.bulk.report import Status
    from aiomutex.models import MutexGroup, SlotEdit

__all__ = ["Journal", "Progress", "SlotRecord"]

_APPLICATION_ID: Final = 0x616D7578  # "amux"
_VERSION: Final = 1
_NUMBER: Final[dict[str, int]] = {"sent": 1, "applied": 2, "failed": 3, "unknown": 4}
_NAME: Final = {number: name for name, number in _NUMBER.items()}

Progress = Literal["new", "sent", "applied", "failed", "unknown"]

_SCHEMA: Final = f"""
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE edits (
    position INTEGER PRIMARY KEY, digest INTEGER NOT NULL, progress INTEGER NOT NULL, attempts INTEGER NOT NULL,
    error TEXT
);
CREATE TABLE slots (
    group_id TEXT NOT NULL, slot INTEGER NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL, last INTEGER NOT NULL,
    undo INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, slot)
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
"""


class SlotRecord(NamedTuple):
    """What a journal knows of one slot."""

    group_id: str
    slot_index: int
    before: Content
    """What it held before the run."""
    after: Content
    """What the run wrote, ``None`` where it wrote nothing."""
    undo: int
    """0: not begun, 1: sent, 2: done."""


def digest_of(edit: SlotEdit) -> int:
    """A number of 64 bits that tells two edits apart."""
    text = msgspec.json.encode((edit.group_id, edit.slot_index, wish_of(edit)))
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


class Journal:
    """An open journal.

    Args:
        path: The file; made if it is absent.
        must_exist: Refuse to make a new one, for an undo.

    Raises:
        JournalError: The file is no journal, is damaged, is of another version, or another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str], *, must_exist: bool = False) -> None:
        self.path = os.fspath(path)
        if must_exist and not Path(self.path).exists():
            raise JournalError(f"there is no journal {self.path}")
        self._db: sqlite3.Connection | None = None
        with self._translating():
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=0.2, check_same_thread=False)
            try:
                self._prepare(self._db)
            except BaseException:
                self.close()
                raise
        self._sequence = self._number("SELECT max(last) FROM slots") or 0
        self._known = self._number("SELECT max(position) FROM edits")
        self._total = self._number("SELECT value FROM facts WHERE name = 'total'")

    def _prepare(self, db: sqlite3.Connection) -> None:
        # A file from elsewhere may hold triggers and views; none of their functions shall run.
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
        db.execute("COMMIT")
        if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise JournalError(f"{self.path} is an SQLite file, but no journal of aiomutex")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            raise JournalError(f"journal {self.path} is of version {version}; this library reads version {_VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Closing again does nothing."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def __repr__(self) -> str:
        return f"<Journal {self.path} · {'closed' if self._db is None else 'open'}>"

    # A run of edits

    def begin_run(self) -> None:
        """Check that edits may be run against this journal.

        Raises:
            JournalError: It was undone, in part or whole.
        """
        if self._number("SELECT count(*) FROM slots WHERE undo > 0"):
            raise JournalError(f"journal {self.path} was undone; give a new journal to run the edits again")

    def progress_of(self, position: int, edit: SlotEdit) -> Progress:
        """How far an earlier run came with the edit at ``position``.

        Raises:
            JournalError: Another edit stood there, so this is another input.
        """
        if self._total is not None and position >= self._total:
            raise JournalError(
                f"journal {self.path} is of another input: that one had {self._total:,} edits, this one has more"
            )
        if self._known is None or position > self._known:
            return "new"
        with self._translating():
            row = self._open.execute("SELECT digest, progress FROM edits WHERE position = ?", (position,)).fetchone()
        if row is None:
            return "new"
        if row[0] != digest_of(edit):
            raise JournalError(
                f"journal {self.path} is of another input: edit {position} (group {edit.group_id}, "
                f"slot {edit.slot_index}) is not the one that stood there; use the same input, or a new journal"
            )
        return _NAME[row[1]]  # type: ignore[return-value]  # the names are the literals

    def ended(self, total: int) -> None:
        """Note that the input ended after ``total`` edits.

        Raises:
            JournalError: An earlier run of this journal had more.
        """
        if self._known is not None and total <= self._known:
            raise JournalError(
                f"journal {self.path} is of another input: that one had at least {self._known + 1:,} edits, "
                f"this one has {total:,}"
            )
        self._total = total
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('total', ?)", (total,))

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
        group_id, slot = str(first.edit.group_id), first.edit.slot_index
        self._sequence += 1
        with self._writing() as db:
            found = None if before is None else find_slot(before, slot)
            if found is not None:
                db.execute(
                    "INSERT OR IGNORE INTO slots (group_id, slot, before, after, last) VALUES (?, ?, ?, ?, 0)",
                    (group_id, slot, packed(content_of(found)), packed((None, None, None))),
                )
            row = db.execute("SELECT after FROM slots WHERE group_id = ? AND slot = ?", (group_id, slot)).fetchone()
            if row is not None:
                old = unpacked(row[0])
                after = [new if new is not None else kept for new, kept in zip(first.wish, old, strict=True)]
                db.execute(
                    "UPDATE slots SET after = ?, last = ? WHERE group_id = ? AND slot = ?",
                    (msgspec.json.encode(after), self._sequence, group_id, slot),
                )
            db.executemany(
                "INSERT OR REPLACE INTO edits VALUES (?, ?, 1, 0, NULL)",
                [(item.position, digest_of(item.edit)) for item in items],
            )

    def finished(self, items: Sequence[Item], status: Status, attempts: int, error: str | None) -> None:
        """Note what became of edits."""
        with self._writing() as db:
            db.executemany(
                "INSERT OR REPLACE INTO edits VALUES (?, ?, ?, ?, ?)",
                [(item.position, digest_of(item.edit), _NUMBER[status], attempts, error) for item in items],
            )

    # An undo

    def written_slots(self) -> Iterator[SlotRecord]:
        """The slots the run wrote to, the latest first."""
        with self._translating():
            rows = self._open.execute(
                "SELECT group_id, slot, before, after, undo FROM slots WHERE last > 0 ORDER BY last DESC"
            ).fetchall()
        for group_id, slot, before, after, undo in rows:
            yield SlotRecord(group_id, slot, unpacked(before), unpacked(after), undo)

    def undoing(self, record: SlotRecord, *, done: bool) -> None:
        """Note that a slot's earlier content is being written back, or has been."""
        with self._writing() as db:
            db.execute(
                "UPDATE slots SET undo = ? WHERE group_id = ? AND slot = ?",
                (2 if done else 1, record.group_id, record.slot_index),
            )

    # SQLite

    @property
    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise JournalError(f"journal {self.path} is closed")
        return self._db

    def _number(self, query: str) -> int | None:
        with self._translating():
            row = self._open.execute(query).fetchone()
        return None if row is None else row[0]

    @contextlib.contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        db = self._open
        with self._translating():
            db.execute("BEGIN")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextlib.contextmanager
    def _translating(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            problem = str(error)
            if isinstance(error, sqlite3.OperationalError) and "locked" in problem:
                problem = "it is in use by another process"
            elif isinstance(error, sqlite3.DatabaseError | msgspec.MsgspecError):
                problem = f"it cannot be used, or is no journal: {problem}"
        else:
            return
        raise JournalError(f"journal {self.path}: {problem}")
