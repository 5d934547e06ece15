"""The file under a journal: opened for one process alone, checked before it is touched, each change whole or not there.

Knows SQLite and what can be wrong with a file; not what a journal tells.
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
    """An open file, held by one process at a time.

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
            # Absolute, as some other names, such as ":memory:", are none of a file to SQLite.
            file = Path(os.fsdecode(self.path)).absolute()
            self._db = sqlite3.connect(file, isolation_level=None, timeout=0.2, check_same_thread=False)
            try:
                self._prepare(self._db, must_exist=must_exist)
            except BaseException:
                self.close()
                raise

    def _prepare(self, db: sqlite3.Connection, *, must_exist: bool) -> None:
        # A file from elsewhere may hold triggers and views; none of their functions shall run.
        db.execute("PRAGMA trusted_schema = OFF")
        # Looked at before anything is changed: what is no journal stays as it is, to the last byte.
        is_new = self._is_new(db)
        if is_new and (must_exist or self._has_other_bytes()):
            raise JournalError(f"{self.path} is no journal of aiomutex")
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
            raise JournalError(f"{self.path} is an SQLite file, but no journal of aiomutex")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION:
            raise JournalError(f"journal {self.path} is of version {version}; this library reads version {_VERSION}")
        # A view in a table's place may have no end, and a trigger may do anything on the way.
        schema = {_plain(sql) for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        if schema != _TABLES:
            raise JournalError(f"journal {self.path} has not the tables of a journal")
        return False

    def _has_other_bytes(self) -> bool:
        """Whether the file holds something that SQLite would take for nothing: fewer bytes than a page has."""
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
        """Let go of the file. Closing again does nothing."""
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
                # After some failures, such as a full disk, SQLite has rolled back by itself.
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
            raise JournalError(f"journal {self.path}: it is in use by another process")
        raise JournalError(f"journal {self.path}: it cannot be used, or is no journal: {problem}")
