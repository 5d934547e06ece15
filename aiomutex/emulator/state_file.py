"""State that stays: one SQLite file that holds every group as it was last written.

Each commit is in the file before it is answered, so a process that is killed loses nothing it confirmed.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import TYPE_CHECKING

import msgspec

from aiomutex.emulator.seeding import document_of, store_of

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex.emulator.state import Group, GroupStore

__all__ = ["StateFile", "read_state"]

_TABLES = """
CREATE TABLE IF NOT EXISTS generated (count INTEGER NOT NULL, slots INTEGER NOT NULL, removed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS groups (id TEXT PRIMARY KEY, body TEXT NOT NULL);
"""


def read_state(path: Path) -> GroupStore | None:
    """What ``path`` holds, or None if no emulator has written to it yet.

    Raises:
        ValueError: It holds something else.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as file:
            file.executescript(_TABLES)
            made = file.execute("SELECT count, slots, removed FROM generated").fetchone()
            if made is None:
                return None
            groups = [msgspec.json.decode(body) for (body,) in file.execute("SELECT body FROM groups")]
        generated = {"count": made[0], "slots": made[1], "removed": msgspec.json.decode(made[2])}
        return store_of({"generated": generated, "groups": groups})
    except (sqlite3.Error, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no state file: {error}") from None


class StateFile:
    """An open state file; ``close`` it when the emulator stops.

    Raises:
        ValueError: It cannot be written: its folder is missing, say, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        # Tests seed from their own thread while the server writes from its own; SQLite takes one at a time.
        with ExitStack() as stack:
            try:
                self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                stack.callback(self._file.close)
                # With a write-ahead log a commit need not wait for the disk to survive the death of the process.
                self._file.execute("PRAGMA journal_mode=WAL")
                self._file.execute("PRAGMA synchronous=NORMAL")
                self._file.executescript(_TABLES)
            except sqlite3.Error as error:
                raise ValueError(f"{path} cannot be used as a state file: {error}") from None
            stack.pop_all()

    def save(self, group: Group) -> None:
        """Write one group."""
        self._file.execute("INSERT OR REPLACE INTO groups VALUES (?, ?)", (group.id, _body_of(group)))

    def save_all(self, store: GroupStore) -> None:
        """Write everything, in place of what the file held."""
        document = document_of(store)
        generated = document["generated"]
        self._file.execute("BEGIN IMMEDIATE")
        self._file.execute("DELETE FROM groups")
        self._file.execute("DELETE FROM generated")
        removed = msgspec.json.encode(generated["removed"]).decode()
        self._file.execute("INSERT INTO generated VALUES (?, ?, ?)", (generated["count"], generated["slots"], removed))
        rows = ((group.id, _body_of(group)) for group in store.touched())
        self._file.executemany("INSERT INTO groups VALUES (?, ?)", rows)
        self._file.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _body_of(group: Group) -> str:
    return msgspec.json.encode(asdict(group)).decode()
