"""Journals with malicious tables raise a typed error; nothing is sent."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

import pytest
from bulk_support import edits_for
from support import session_for

from aiomutex import InvalidRequestError, JournalError
from aiomutex.bulk import undo
from aiomutex.bulk.journal import Journal
from aiomutex.bulk.journal_file import checksum

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex.testing import MutexEmulator

ENDLESS: Final = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)"
HOSTILE_SQL: Final[dict[str, str]] = {
    "an endless view": f"DROP TABLE edits; CREATE VIEW edits AS {ENDLESS} SELECT n AS position FROM c",
    "an endless trigger": "CREATE TRIGGER t AFTER INSERT ON edits BEGIN INSERT INTO facts "
    f"SELECT * FROM ({ENDLESS} SELECT n, n FROM c); END",
    "a computed column": "DROP TABLE facts; CREATE TABLE facts (name TEXT, value AS (zeroblob(900000000)))",
    "an expensive check": "DROP TABLE facts; CREATE TABLE facts (name TEXT, value CHECK (randomblob(900000000)))",
    "an expensive default": "DROP TABLE facts; CREATE TABLE facts (name, value DEFAULT (randomblob(900000000)))",
    "an additional table": "CREATE TABLE more (x)",
    "a missing table": "DROP TABLE facts",
    "a string as the total": "INSERT INTO facts VALUES ('total', 'many', 0)",
}


@pytest.mark.parametrize("sql", HOSTILE_SQL.values(), ids=HOSTILE_SQL.keys())
async def test_a_hostile_journal_is_an_error_and_nothing_is_sent(
    emulator: MutexEmulator, tmp_path: Path, sql: str
) -> None:
    with Journal(tmp_path / "run.db"):
        pass
    with sqlite3.connect(tmp_path / "run.db") as db:
        db.executescript(sql)
    db.close()
    async with session_for(emulator.url) as session:
        with pytest.raises(JournalError, match=r"journal .*run\.db"):
            await undo(session, tmp_path / "run.db")
        with pytest.raises(JournalError, match=r"journal .*run\.db"):
            await session.edit_slots(edits_for(5), journal=tmp_path / "run.db")
    assert not emulator.requests


RECORD: Final = b'["7",1,[[1],null,null],1,[[2],null,null],[],0,0]'
HOSTILE_ROWS: Final[dict[str, tuple[Any, ...]]] = {
    "strings instead of numbers": (b"7", "x", "y", b'["7","x",[[1],null,null],"y",[[2],null,null],[],"z","u"]'),
    "numbers instead of strings": (7, 1, 1, b"[7,1,5,1,6,7,1,0]"),
    "numbers only": (7, 1, 1, 7),
    "bytes instead of strings": (b"\xff", 1, 1, b"\xff"),
    "a string that is not UTF-8": (b"\xff", 1, 1, RECORD.replace(b"7", b"\xff")),
    "the row of another slot": (b"7", 2, 1, RECORD),
    "nested lists": (b"7", 1, 1, b"[" * 100_000),
    "a slot of 10 MB": (b"7", 1, 1, bytes(10_000_000)),
    "no checksum": (b"7", 1, 1, RECORD, 0),
}


def insert(path: Path, group_id: Any, slot: Any, last: Any, data: Any, check: int | None = None) -> None:
    check = checksum(data) if check is None else check
    with sqlite3.connect(path) as db:
        db.execute("INSERT OR REPLACE INTO slots VALUES (?, ?, ?, ?, ?)", (group_id, slot, last, data, check))
    db.close()


@pytest.mark.parametrize("row", HOSTILE_ROWS.values(), ids=HOSTILE_ROWS.keys())
async def test_a_hostile_row_is_an_error_or_a_failed_slot_and_nothing_is_sent(
    emulator: MutexEmulator, tmp_path: Path, row: tuple[Any, ...]
) -> None:
    with Journal(tmp_path / "run.db"):
        pass
    insert(tmp_path / "run.db", *row)
    async with session_for(emulator.url) as session:
        with pytest.raises((JournalError, ExceptionGroup), match=r"journal .*(run\.db|is damaged)|1 failed"):
            (await undo(session, tmp_path / "run.db", force=True)).raise_for_failures()
    assert not emulator.requests


async def test_a_group_id_in_a_journal_cannot_leave_its_path_segment(emulator: MutexEmulator, tmp_path: Path) -> None:
    with Journal(tmp_path / "run.db"):
        pass
    insert(tmp_path / "run.db", b"../../x?y#", 1, 1, RECORD.replace(b"7", b"../../x?y#"))
    async with session_for(emulator.url) as session:
        report = await undo(session, tmp_path / "run.db", force=True)
        with pytest.raises(InvalidRequestError, match=r"group_id must be .*not '\.\./\.\./x"):
            raise report.failed[0].error or AssertionError
    assert not emulator.requests


async def test_a_journal_whose_counter_is_exhausted_is_an_error(emulator: MutexEmulator, tmp_path: Path) -> None:
    async with session_for(emulator.url) as session:
        await session.edit_slots(edits_for(1), journal=tmp_path / "run.db")
        largest = 2**63 - 1
        row = b'["2",1,[[1],null,null],%d,[[2],null,null],[],0,0]' % largest
        insert(tmp_path / "run.db", b"2", 1, largest, row)
        with sqlite3.connect(tmp_path / "run.db") as db:
            db.execute("DELETE FROM facts")
        db.close()
        emulator.clear_history()
        with pytest.raises(JournalError, match="too large"):
            await session.edit_slots(edits_for(2), journal=tmp_path / "run.db")
    assert not any(request.method == "PATCH" for request in emulator.requests)
