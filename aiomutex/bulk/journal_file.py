"""The SQLite file of a journal: opened by one process at a time, checked before it is changed, written in transactions.

Knows SQLite and what can be wrong with a file, but not what a journal records.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from aiomutex.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

__all__ = ["JournalFile"]

_APPLICATION_ID: Final = 0x616D7578  # "amux"
_VERSION: Final = 2
_MAGIC: Final = b"SQLite format 3\0"

_SCHEMA: Final = f"""
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE edits (position INTEGER PRIMARY KEY, digest INTEGER NOT NULL, progress INTEGER NOT NULL);
CREATE TABLE slots (
    group_id TEXT NOT NULL, slot INTEGER NOT NULL, before TEXT NOT NULL, after TEXT, open TEXT,
    last INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT -1, undo INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, slot)
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
"""


def _plain(sql: str) -> str:
    return " ".join(sql.split())


_TABLES: Final = {_plain(statement) for statement in _SCHEMA.split(";") if "CREATE" in statement}


class JournalFile:
    """An open file, used by one process at a time.

    Args:
        path: The file; created if it does not exist.
        must_exist: Do not create a file, for an undo.

    Raises:
        JournalError: The file is not a journal, is damaged, has a different version, or is in use by another process.
    """

    def __init__(self, path: str | os.PathLike[str], *, must_exist: bool = False) -> None:
        self.path = os.fspath(path)
        if must_exist and not Path(self.path).exists():
            raise JournalError(f"journal {self.path} does not exist")
        self._db: sqlite3.Connection | None = None
        with self._translating():
            # SQLite gives some names, such as ":memory:", another meaning. An absolute path is always a file.
            file = Path(os.fsdecode(self.path)).absolute()
            self._db = sqlite3.connect(file, isolation_level=None, timeout=0.2, check_same_thread=False)
            try:
                self._prepare(self._db, must_exist=must_exist)
            except BaseException:
                self.close()
                raise

    def _prepare(self, db: sqlite3.Connection, *, must_exist: bool) -> None:
        # A hostile file may hold triggers and views. This keeps their functions from running.
        db.execute("PRAGMA trusted_schema = OFF")
        # Checked before anything is changed: a file that is not a journal must not be modified.
        is_new = self._is_new(db)
        if is_new and (must_exist or self._has_other_bytes()):
            raise JournalError(f"{self.path} is not an aiomutex journal")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        if is_new and self._is_new(db):
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
        db.execute("COMMIT")

    def _is_new(self, db: sqlite3.Connection) -> bool:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        if not application and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return True
        if application != _APPLICATION_ID:
            raise JournalError(f"{self.path} is an SQLite file, but not an aiomutex journal")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            raise JournalError(f"journal {self.path} has version {version}; this library reads version {_VERSION}")
        # A view in place of a table may be endless, and a trigger may do anything.
        schema = {_plain(sql) for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        if schema != _TABLES:
            raise JournalError(f"journal {self.path} does not have the tables of a journal")
        return False

    def _has_other_bytes(self) -> bool:
        """Whether the file holds data that SQLite would treat as an empty database: fewer bytes than one page."""
        with Path(os.fsdecode(self.path)).open("rb") as file:
            start = file.read(len(_MAGIC))
        return bool(start) and start != _MAGIC

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing it again does nothing."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} · {'closed' if self._db is None else 'open'}>"

    @property
    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise JournalError(f"journal {self.path} is closed")
        return self._db

    def _number(self, query: str) -> int | None:
        with self._translating():
            row = self._open.execute(query).fetchone()
            return None if row is None else msgspec.convert(row[0], int | None)

    @contextlib.contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        db = self._open
        with self._translating():
            db.execute("BEGIN")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                # After some errors, such as a full disk, SQLite has already rolled back, and ROLLBACK would fail.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _translating(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, msgspec.MsgspecError, UnicodeError, OverflowError) as error:
            problem = str(error)
        else:
            return
        if "locked" in problem:
            raise JournalError(f"journal {self.path} is in use by another process")
        raise JournalError(f"journal {self.path} cannot be used, or is not a journal: {problem}")
