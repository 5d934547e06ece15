"""Keep all groups in an SQLite file.

Each change is in the file before its response is sent, so a killed process loses no change that it confirmed.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack, closing, suppress
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from aiomutex.emulator.seeding import store_of

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex.emulator.state import Group, GroupStore

# With a write-ahead log a commit survives the end of the process without waiting for the disk.
_TABLES = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS generated (count INTEGER NOT NULL, slots INTEGER NOT NULL, removed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS groups (id TEXT PRIMARY KEY, body TEXT NOT NULL);
"""


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file with user IDs: a new one has mode 0600, and a symbolic link is an error."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def read_state(path: Path) -> GroupStore | None:
    """Read the groups from a state file; None if it does not exist or is empty."""
    if path.is_symlink():
        raise ValueError(f"{path} cannot be used as a state file: it is a symbolic link")
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as file:
            tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                return None
            if others := tables - {"generated", "groups"}:
                raise ValueError(f"it has a table {min(others)}")  # noqa: TRY301  # reported like SQLite's own errors
            for count, slots, removed in file.execute("SELECT count, slots, removed FROM generated"):
                generated = {"count": count, "slots": slots, "removed": msgspec.json.decode(removed)}
                groups = [msgspec.json.decode(body) for (body,) in file.execute("SELECT body FROM groups")]
                return store_of({"generated": generated, "groups": groups})
            return None
    except (sqlite3.Error, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a state file: {error}") from None


class StateFile:
    """An open state file; a ``ValueError`` if it cannot be written or is locked by another process."""

    def __init__(self, path: Path) -> None:
        # check_same_thread: a test may add groups in its own thread while the emulator writes in another.
        self._lock = Lock()
        # SQLite would create it with mode 0644. An existing file stays as it is.
        with suppress(OSError):
            open(path, "xb", opener=open_private).close()
        try:
            if path.is_symlink():
                raise sqlite3.OperationalError("it is a symbolic link")
            with ExitStack() as stack:
                self._file = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
                self.close = self._file.close
                stack.callback(self.close)
                self._file.executescript(_TABLES)
                self._file.execute("BEGIN IMMEDIATE")
                stack.pop_all()
        except sqlite3.Error as error:
            raise ValueError(f"{path} cannot be used as a state file: {error}") from None

    def save(self, group: Group) -> None:
        """Write one group."""
        with self._lock:
            self._file.execute("INSERT OR REPLACE INTO groups VALUES (?, ?)", (group.id, _json(group)))
            self._commit()

    def save_all(self, store: GroupStore) -> None:
        """Replace the content of the file by all groups of ``store``."""
        recipe = (store.generated, store.generated_slots, _json(sorted(store.removed, key=int)))
        rows = ((group.id, _json(group)) for group in store.materialized())
        with self._lock:
            self._file.execute("DELETE FROM groups")
            self._file.execute("DELETE FROM generated")
            self._file.execute("INSERT INTO generated VALUES (?, ?, ?)", recipe)
            self._file.executemany("INSERT INTO groups VALUES (?, ?)", rows)
            self._commit()

    def _commit(self) -> None:
        # An open transaction keeps other emulators from writing to the file: each would undo the other's changes.
        self._file.execute("COMMIT")
        self._file.execute("BEGIN IMMEDIATE")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
