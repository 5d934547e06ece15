"""Journals made by somebody else: a typed error, whatever their tables do, and nothing is sent."""

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
ATTACKS_ON_JOURNALS: Final[dict[str, str]] = {
    "a view without an end": f"DROP TABLE edits; CREATE VIEW edits AS {ENDLESS} SELECT n AS position FROM c",
    "a trigger without an end": "CREATE TRIGGER t AFTER INSERT ON edits BEGIN INSERT INTO facts "
    f"SELECT * FROM ({ENDLESS} SELECT n, n FROM c); END",
    "a column that is computed": "DROP TABLE facts; CREATE TABLE facts (name TEXT, value AS (zeroblob(900000000)))",
    "a check that computes": "DROP TABLE facts; CREATE TABLE facts (name TEXT, value CHECK (randomblob(900000000)))",
    "a default that computes": "DROP TABLE facts; CREATE TABLE facts (name, value DEFAULT (randomblob(900000000)))",
    "a further table": "CREATE TABLE more (x)",
    "a missing table": "DROP TABLE facts",
    "texts for numbers": "INSERT INTO slots VALUES ('7', 'x', '[]', '[]', NULL, 'y', 'z', 'u')",
    "numbers for texts": "INSERT INTO slots VALUES (7, 1, 5, 6, 7, 1, 1, 0)",
    "bytes for texts": "INSERT INTO slots VALUES (x'ff', 1, x'ff', x'ff', x'ff', 1, 1, 0)",
    "a text that is no UTF-8": "INSERT INTO slots VALUES (CAST(x'ff' AS TEXT), 1, '[]', '[]', NULL, 1, 1, 0)",
    "lists in lists": "INSERT INTO slots VALUES ('7', 1, replace(hex(zeroblob(50000)), '0', '['), '[]', NULL, 1, 1, 0)",
    "a slot of 10 MB": "INSERT INTO slots VALUES ('7', 1, zeroblob(10000000), zeroblob(10000000), NULL, 1, 1, 0)",
    "a text for the total": "INSERT INTO facts VALUES ('total', 'many')",
}


@pytest.mark.parametrize("attack", ATTACKS_ON_JOURNALS.values(), ids=ATTACKS_ON_JOURNALS.keys())
async def test_a_hostile_journal_is_a_journal_error_and_nothing_is_sent(
    emulator: MutexEmulator, tmp_path: Path, attack: str
) -> None:
    with Journal(tmp_path / "run.db"):
        pass
    with sqlite3.connect(tmp_path / "run.db") as db:
        db.executescript(attack)
    db.close()
    async with session_for(emulator.url) as session:
        with pytest.raises(JournalError, match=r"journal .*run\.db"):
            await undo(session, tmp_path / "run.db")
        if "INSERT INTO slots" not in attack:
            with pytest.raises(JournalError, match=r"journal .*run\.db"):
                await session.edit_slots(edits_for(5), journal=tmp_path / "run.db")
    assert not emulator.requests


async def test_a_group_that_a_journal_makes_up_leaves_no_path(emulator: MutexEmulator, tmp_path: Path) -> None:
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


async def test_a_journal_whose_count_is_at_its_end_is_a_journal_error(emulator: MutexEmulator, tmp_path: Path) -> None:
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
