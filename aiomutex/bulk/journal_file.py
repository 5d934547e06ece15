"""The SQLite file of a journal: opened by one process at a time, checked before it is changed, written in transactions.

Knows SQLite and what can be wrong with a file, but not what a journal records.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from weakref import WeakSet

import msgspec

from aiomutex._util.files import never_close
from aiomutex.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

_APPLICATION_ID: Final = 0x616D7578  # "amux"
_VERSION: Final = 3
_MAGIC: Final = b"SQLite format 3\0"
_COLLECT: Final = 0.005  # seconds in which entries are collected for one commit

_SCHEMA: Final = f"""
CREATE TABLE facts (name BLOB PRIMARY KEY, value INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE edits (
    position INTEGER PRIMARY KEY, digest INTEGER NOT NULL, progress INTEGER NOT NULL, sum INTEGER NOT NULL
);
CREATE TABLE slots (
    group_id BLOB NOT NULL, slot INTEGER NOT NULL, last INTEGER NOT NULL, data BLOB NOT NULL, sum INTEGER NOT NULL,
    PRIMARY KEY (group_id, slot)
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
"""


def checksum(*values: object) -> int:
    """A checksum of a row's values, in four bytes. SQLite itself does not notice a changed bit in a value."""
    return zlib.crc32(msgspec.msgpack.encode(values)) - 2**31


def _plain(sql: str) -> str:
    return " ".join(sql.split())


_TABLES: Final = {_plain(statement) for statement in _SCHEMA.split(";") if "CREATE" in statement}


class JournalFile:
    """An open file, used by one process at a time.

    What is recorded is collected and committed in a thread, so that the event loop never waits for the disk, and one
    commit serves everything recorded meanwhile. The event loop does not write while the thread commits.

    Args:
        path: The file; created if it does not exist.
        must_exist: Do not create a file, for an undo.

    Raises:
        JournalError: The file is not a journal, is damaged, has a different version, or is in use by another process.
    """

    def __init__(self, path: str | os.PathLike[str], *, must_exist: bool = False) -> None:
        self.path = os.fspath(path)
        # SQLite gives some names, such as ":memory:", another meaning. An absolute path is always a file.
        self._file = Path(os.fsdecode(self.path)).absolute()
        self._db: sqlite3.Connection | None = None
        self._pending: list[Callable[[], object]] = []
        self._batch: asyncio.Future[None] | None = None  # done when the entries that are being collected are committed
        self._committing: asyncio.Future[None] | None = None  # as above, for the commit that is running
        self._timer: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, "aiomutex journal")
        self._failure: JournalError | None = None
        self._identity: list[tuple[int, int] | None] = []
        if not must_exist:
            self._create()
        elif not self._file.exists():
            raise JournalError(f"journal {self.path} does not exist")
        with self._translating():
            self._db = sqlite3.connect(
                f"{self._file.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0.2, check_same_thread=False
            )
            try:
                self._prepare(self._db, must_exist=must_exist)
            except BaseException:
                self.close()
                raise
        self._identity = self._identify()
        _open_files.add(self)

    def _create(self) -> None:
        """Create the file if there is none. SQLite would follow a link, and let everyone read the file."""
        try:
            os.close(os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise JournalError(f"journal {self.path} cannot be created: {error.strerror}") from None

    def _prepare(self, db: sqlite3.Connection, *, must_exist: bool) -> None:
        # A hostile file may hold triggers and views. This keeps their functions from running.
        db.execute("PRAGMA trusted_schema = OFF")
        # Checked before anything is changed: a file that is not a journal must not be modified.
        is_new = self._is_new(db)
        if is_new and (must_exist or self._has_other_bytes()):
            raise JournalError(f"{self.path} is not an aiomutex journal")
        if is_new:
            if self._file.is_symlink():
                raise JournalError(f"{self.path} is a symbolic link to a file that is not a journal")
            self._file.chmod(0o600)
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        if is_new and self._is_new(db):
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
        db.execute("COMMIT")
        if (problem := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise JournalError(f"journal {self.path} is damaged: {problem}")

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
        with self._file.open("rb") as file:
            start = file.read(len(_MAGIC))
        return bool(start) and start != _MAGIC

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is recorded and close the file. Closing it again does nothing."""
        if (db := self._db) is None:
            return
        self._thread.shutdown()
        # Entries lost here cost a resumed run some reads; code that depends on them awaits ``sync`` first.
        with contextlib.suppress(JournalError):
            self.flush()
        self._db = None
        db.close()

    def abandon(self) -> None:
        """Give the file up in a forked process. Closing it here would delete what the parent is writing."""
        if self._db is not None:
            never_close(self._db)
            self._failure = JournalError(f"journal {self.path} was opened before a fork; open it again in this process")
            self._db = None

    def _identify(self) -> list[tuple[int, int] | None]:
        """Which files the names of the journal and of its log lead to."""
        found: list[tuple[int, int] | None] = []
        for name in (self._file, self._file.with_name(f"{self._file.name}-wal")):
            try:
                status = name.stat()
            except FileNotFoundError:
                found.append(None)
            else:
                found.append((status.st_dev, status.st_ino))
        return found

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} · {'closed' if self._db is None else 'open'}>"

    @property
    def _open(self) -> sqlite3.Connection:
        if self._failure is not None:
            raise JournalError(*self._failure.args)
        if self._db is None:
            raise JournalError(f"journal {self.path} is closed")
        return self._db

    def _number(self, query: str) -> int | None:
        with self._translating():
            row = self._open.execute(query).fetchone()
            return None if row is None else msgspec.convert(row[0], int | None)

    # Writing

    def flush(self) -> None:
        """Commit what is recorded at once, while no other commit is running."""
        if self._timer is not None:
            self._timer.cancel()
        self._batch, self._committing = None, self._batch
        self._write()
        self._commit()
        self._end(None)

    async def sync(self) -> None:
        """Wait until all that was recorded so far survives a power failure."""
        if (batch := self._batch or self._committing) is not None:
            # Not awaited directly: a cancelled caller would cancel it for all others.
            await asyncio.wait([batch])
        _ = self._open

    async def _idle(self) -> None:
        """Wait while the thread commits. A query would block the event loop until it has."""
        while self._committing is not None:
            await asyncio.wait([self._committing])

    def _record(self, write: Callable[[], object]) -> None:
        """Have ``write`` called in the next transaction."""
        _ = self._open
        self._pending.append(write)
        if self._batch is None:
            self._batch = asyncio.get_running_loop().create_future()
            if self._committing is None:
                self._schedule()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_COLLECT, self._start)

    def _start(self) -> None:
        self._batch, self._committing = None, self._batch
        try:
            self._write()
        except JournalError as error:
            self._end(error)
            return
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._thread, self._commit).add_done_callback(lambda done: self._end(done.exception()))

    def _write(self) -> None:
        """Begin a transaction and make the writes collected so far."""
        writes, self._pending = self._pending, []
        with self._translating(), self._rolling_back() as db:
            if not db.in_transaction:
                db.execute("BEGIN")
            for write in writes:
                write()

    def _commit(self) -> None:
        with self._translating(), self._rolling_back() as db:
            if self._identity != self._identify():
                raise JournalError(f"journal {self.path} was deleted or replaced while in use")
            db.execute("COMMIT")

    def _end(self, error: BaseException | None) -> None:
        """Wake everyone who waits for the commit, and begin the next one if there is more to write."""
        if error is not None:
            self._failure = error if isinstance(error, JournalError) else JournalError(str(error))
        done, self._committing = self._committing, None
        if self._batch is not None and self._db is not None:
            self._schedule()
        if done is not None and not done.done():
            done.set_result(None)

    @contextlib.contextmanager
    def _rolling_back(self) -> Generator[sqlite3.Connection]:
        db = self._open
        try:
            yield db
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


_open_files: WeakSet[JournalFile] = WeakSet()


def _after_fork() -> None:
    for file in _open_files:
        file.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
