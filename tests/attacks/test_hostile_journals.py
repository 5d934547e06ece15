"""Journals with malicious tables raise a typed error; nothing is sent."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

import pytest
from bulk_support import edits_for
from support import session_for

from aiomutex import InvalidRequestError, JournalError
from aiomutex.bulk import undo
from aiomutex.bulk.journal import Journal

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
    "strings instead of numbers": "INSERT INTO slots VALUES ('7', 'x', '[]', '[]', NULL, 'y', 'z', 'u')",
    "numbers instead of strings": "INSERT INTO slots VALUES (7, 1, 5, 6, 7, 1, 1, 0)",
    "bytes instead of strings": "INSERT INTO slots VALUES (x'ff', 1, x'ff', x'ff', x'ff', 1, 1, 0)",
    "a string that is not UTF-8": "INSERT INTO slots VALUES (CAST(x'ff' AS TEXT), 1, '[]', '[]', NULL, 1, 1, 0)",
    "nested lists": "INSERT INTO slots VALUES ('7', 1, replace(hex(zeroblob(50000)), '0', '['), '[]', NULL, 1, 1, 0)",
    "a slot of 10 MB": "INSERT INTO slots VALUES ('7', 1, zeroblob(10000000), zeroblob(10000000), NULL, 1, 1, 0)",
    "a string as the total": "INSERT INTO facts VALUES ('total', 'many')",
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
        if "INSERT INTO slots" not in sql:
            with pytest.raises(JournalError, match=r"journal .*run\.db"):
                await session.edit_slots(edits_for(5), journal=tmp_path / "run.db")
    assert not emulator.requests


async def test_a_group_id_in_a_journal_cannot_leave_its_path_segment(emulator: MutexEmulator, tmp_path: Path) -> None:
    with Journal(tmp_path / "run.db"):
        pass
    with sqlite3.connect(tmp_path / "run.db") as db:
        db.execute("INSERT INTO slots VALUES ('../../x?y#', 1, '[[1],null,null]', '[[2],null,null]', NULL, 1, 1, 0)")
    db.close()
    async with session_for(emulator.url) as session:
        report = await undo(session, tmp_path / "run.db", force=True)
        with pytest.raises(InvalidRequestError, match=r"group_id must be .*not '\.\./\.\./x"):
            raise report.failed[0].error or AssertionError
    assert not emulator.requests


async def test_a_journal_whose_counter_is_exhausted_is_an_error(emulator: MutexEmulator, tmp_path: Path) -> None:
    async with session_for(emulator.url) as session:
        await session.edit_slots(edits_for(1), journal=tmp_path / "run.db")
        with sqlite3.connect(tmp_path / "run.db") as db:
            db.execute("UPDATE slots SET last = 9223372036854775807")
            db.execute("DELETE FROM facts")
        db.close()
        emulator.clear_history()
        with pytest.raises(JournalError, match="too large"):
            await session.edit_slots(edits_for(2), journal=tmp_path / "run.db")
    assert not any(request.method == "PATCH" for request in emulator.requests)
