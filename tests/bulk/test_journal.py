from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import after, assert_holds, edits_for, landed, session_for
from support import ONCE, until

from aiomutex import JournalError, MutexSession, SlotEdit
from aiomutex.bulk import undo
from aiomutex.bulk.group_queues import Item
from aiomutex.bulk.journal import Journal
from aiomutex.bulk.options import request_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiomutex.testing import MutexEmulator


async def stream_of(edits: list[SlotEdit]) -> AsyncIterator[SlotEdit]:
    for edit in edits:
        yield edit


async def test_repeating_a_finished_run_sends_nothing(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    edits = edits_for(100)
    first = await session.edit_slots(edits, journal=tmp_path / "run.db")
    emulator.clear_history()
    second = await session.edit_slots(edits, journal=tmp_path / "run.db")
    assert len(first.applied) == len(second.skipped) == 100
    assert {outcome.note for outcome in second.skipped} == {"already applied, according to the journal"}
    assert not emulator.requests
    second.raise_for_failures()


async def test_an_input_without_edits_can_have_a_journal(session: MutexSession, tmp_path: Path) -> None:
    for _ in range(2):
        report = await session.edit_slots([], journal=tmp_path / "run.db")
        assert not report.outcomes


async def test_a_journal_costs_one_read_per_group(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    await session.edit_slots(edits_for(60), journal=tmp_path / "run.db", canary=False)
    assert sum(request.method == "GET" for request in emulator.requests) == 20


async def test_a_stopped_run_resumes_where_it_stopped(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    edits = edits_for(600)
    async with session.stream_slot_edits(edits, journal=tmp_path / "run.db", concurrency=4) as outcomes:
        async for outcome in outcomes:
            if outcome.position > 50:
                outcomes.stop()
    assert 0 < sum(emulator.writes.values()) < 600
    report = await session.edit_slots(edits, journal=tmp_path / "run.db")
    assert len(report.applied) + len(report.skipped) == 600
    assert sum(emulator.writes.values()) == 600
    assert_holds(emulator, after(edits))


async def test_a_resumed_run_sends_failed_edits_again_and_then_the_later_edits_of_their_slots(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    edits = [SlotEdit(1, 1, experiments=[1]), SlotEdit(1, 1, experiments=[2]), SlotEdit(1, 2, experiments=[3])]
    emulator.fail_next(1, status=400, method="PATCH")
    first = await session.edit_slots(edits, journal=tmp_path / "run.db")
    assert [outcome.position for outcome in first.failed] == [0]
    second = await session.edit_slots(edits, journal=tmp_path / "run.db")
    assert sorted(outcome.position for outcome in second.applied) == [0, 1]
    assert_holds(emulator, after(edits))
    third = await session.edit_slots(edits, journal=tmp_path / "run.db")
    assert len(third.skipped) == 3


async def test_a_resumed_run_finds_out_whether_an_edit_in_flight_was_applied(
    emulator: MutexEmulator, tmp_path: Path
) -> None:
    emulator.fail_next(1, kind="reset-after", method="PATCH")
    emulator.fail_next(5, kind="reset-before", method="GET", path="/api/1/mutexes/2")
    async with session_for(emulator.url, retry=ONCE) as session:
        await session.get_group(1)
        with Journal(tmp_path / "run.db") as journal:
            item = Item(0, SlotEdit(1, 1, experiments=[7]), request_of(SlotEdit(1, 1, experiments=[7])))
            await journal.record_sent([item], await session.get_group(1))
        emulator.groups["1"].slots[0].experiments = [7]  # applied before the process died
        emulator.faults.clear()
        report = await session.edit_slots([item.edit], journal=tmp_path / "run.db")
    assert [(outcome.status, outcome.attempts) for outcome in report.outcomes] == [("applied", 0)]
    assert not landed(emulator)


def one_other(edits: list[SlotEdit]) -> list[SlotEdit]:
    return [*edits[:10], SlotEdit(11, 1, experiments=[999]), *edits[11:]]


def one_less(edits: list[SlotEdit]) -> list[SlotEdit]:
    return edits[:-1]


def one_more(edits: list[SlotEdit]) -> list[SlotEdit]:
    return [*edits, SlotEdit(1, 1, experiments=[5])]


def backwards(edits: list[SlotEdit]) -> list[SlotEdit]:
    return edits[::-1]


def nothing(_: list[SlotEdit]) -> list[SlotEdit]:
    return []


@pytest.mark.parametrize("kind", ["list", "stream"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_other, "edit 10 "),
        (one_less, ": that one has 100 edits, this one has 99"),
        (one_more, "this one has more"),
        (backwards, "edit 0 "),
        (nothing, ": that one has 100 edits, this one has 0"),
    ],
)
async def test_a_different_input_is_rejected(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, kind: str, change: Any, message: str
) -> None:
    edits = edits_for(100)
    await session.edit_slots(edits, journal=tmp_path / "run.db")
    emulator.clear_history()
    other = change(edits)
    with pytest.raises(JournalError, match=message):
        await session.edit_slots(other if kind == "list" else stream_of(other), journal=tmp_path / "run.db")
    assert not emulator.writes
    report = await session.edit_slots(edits, journal=tmp_path / "run.db")
    assert len(report.skipped) == 100


async def test_a_journal_that_is_closed_keeps_that_its_apply_is_complete(tmp_path: Path) -> None:
    with Journal(tmp_path / "apply.db") as journal:
        journal.begin_apply()
        journal.end_apply()
    with Journal(tmp_path / "apply.db") as journal, pytest.raises(JournalError, match="belongs to a completed apply"):
        journal.begin_apply()


@pytest.mark.parametrize("kind", ["list", "stream"])
async def test_an_input_that_ends_before_an_edit_of_an_unfinished_run_is_rejected(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, kind: str
) -> None:
    edits = edits_for(10)

    async def broken() -> AsyncIterator[SlotEdit]:
        for edit in edits:
            yield edit
        await until(lambda: emulator.writes.total() == 10)
        raise RuntimeError("the input broke")

    with pytest.raises(RuntimeError, match="the input broke"):
        await session.edit_slots(broken(), journal=tmp_path / "run.db")
    less = edits[:-1] if kind == "list" else stream_of(edits[:-1])
    with pytest.raises(JournalError, match="that one has at least 10 edits, this one has 9"):
        await session.edit_slots(less, journal=tmp_path / "run.db")
    assert len((await session.edit_slots(edits, journal=tmp_path / "run.db")).outcomes) == 10


async def test_a_fact_that_was_changed_in_the_file_is_noticed(session: MutexSession, tmp_path: Path) -> None:
    await session.edit_slots(edits_for(5), journal=tmp_path / "run.db")
    with sqlite3.connect(tmp_path / "run.db") as db:
        db.execute("UPDATE facts SET value = 4 WHERE CAST(name AS TEXT) = 'total'")
    db.close()
    for use in (session.edit_slots(edits_for(4), journal=tmp_path / "run.db"), undo(session, tmp_path / "run.db")):
        with pytest.raises(JournalError, match="the entry of a fact about the run has a wrong checksum"):
            await use


async def test_a_different_list_is_rejected_before_anything_is_sent(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    edits = edits_for(400)
    emulator.fail_next(1, status=400, method="PATCH", path="/api/1/mutexes/1/slots/1")
    await session.edit_slots(edits, journal=tmp_path / "run.db")
    emulator.clear_history()
    edits[390] = SlotEdit(9, 1, experiments=[77])
    with pytest.raises(JournalError, match="edit 390 "):
        await session.edit_slots(edits, journal=tmp_path / "run.db")
    assert not emulator.requests


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def nothing_of_sqlite(path: Path) -> None:
    path.write_bytes(b"group,slot\n7,1\n" * 100)


def another_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE edits (position, digest)")
    db.close()


def a_byte(path: Path) -> None:
    path.write_bytes(b"x")


def truncated(path: Path) -> None:
    with Journal(path):
        pass
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def of_a_later_version(path: Path) -> None:
    with Journal(path):
        pass
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def without_its_tables(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE other (x)")
        db.execute("PRAGMA application_id = 1634563448")
        db.execute("PRAGMA user_version = 3")
    db.close()


def a_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing_of_sqlite, "not a database"),
        (a_byte, "not an aiomutex journal"),
        (another_database, "not an aiomutex journal"),
        (truncated, "cannot be used"),
        (of_a_later_version, "has version 99"),
        (without_its_tables, "does not have the tables"),
        (a_directory, "unable to open"),
    ],
)
async def test_a_file_that_is_not_a_journal_is_rejected_and_not_modified(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, make: Any, message: str
) -> None:
    path = tmp_path / "run.db"
    make(path)
    before = contents(path)
    with pytest.raises(JournalError, match=message) as caught:
        await session.edit_slots(edits_for(5), journal=path)
    assert str(path) in str(caught.value)
    with pytest.raises(JournalError, match=message):
        await undo(session, path)
    assert not emulator.requests
    if make is not a_directory:
        assert contents(path) == before
        assert names(tmp_path) == ["run.db"]


@pytest.mark.parametrize("path", ["/proc/run.db", "/nowhere/at/all/run.db"])
async def test_the_message_names_a_path_that_cannot_be_written(session: MutexSession, path: str) -> None:
    with pytest.raises(JournalError, match=f"journal {path} cannot be created: No such file"):
        await session.edit_slots(edits_for(5), journal=path)


async def test_a_damaged_page_raises_a_journal_error(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    edits = edits_for(600)
    await session.edit_slots(edits, journal=tmp_path / "run.db")
    data = bytearray((tmp_path / "run.db").read_bytes())
    for place in range(4096, len(data), 64):
        data[place : place + 32] = b"\xff" * 32
    (tmp_path / "run.db").write_bytes(data)
    with pytest.raises(JournalError, match=r"run\.db"):
        await session.edit_slots(edits, journal=tmp_path / "run.db")


async def test_a_full_disk_ends_the_run_and_nothing_unrecorded_is_sent(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    reported: list[Any] = []
    edits = edits_for(1_200)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(JournalError, match=r"run\.db .*(disk|full)"):
            await session.edit_slots(edits, journal=tmp_path / "run.db", on_outcome=reported.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    statuses = {outcome.position: outcome.status for outcome in reported}
    assert sum(emulator.writes.values()) <= len(statuses)
    # With free space again, the same call completes the run.
    report = await session.edit_slots(edits, journal=tmp_path / "run.db")
    assert len(report.applied) + len(report.skipped) == 1_200
    assert_holds(emulator, after(edits))
    assert sum(emulator.writes.values()) <= 1_200 + 48


async def test_two_runs_of_one_process_cannot_share_a_journal(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    async with session.stream_slot_edits(edits_for(10), journal=tmp_path / "run.db"):
        with pytest.raises(JournalError, match="in use"):
            await session.edit_slots(edits_for(10), journal=tmp_path / "run.db")
    report = await session.edit_slots(edits_for(10), journal=tmp_path / "run.db")
    assert len(report.outcomes) == 10


@pytest.mark.parametrize("edits", [6_000, pytest.param(60_000, marks=pytest.mark.deep)])
async def test_a_journal_of_a_million_edits_is_below_300_megabytes(tmp_path: Path, edits: int) -> None:
    from aiomutex import MutexGroup, Slot  # noqa: PLC0415

    path = tmp_path / "run.db"
    sent: list[asyncio.Future[None]] = []
    with Journal(path) as journal:
        # Three edits per group, each of a different slot: the maximum number of rows for this number of edits.
        for n in range(0, edits, 3):
            slots = [Slot(index=slot, percentage=33, experiments=[100_000 + n, 100_001]) for slot in (1, 2, 3)]
            group = MutexGroup(id=str(100_000 + n), slots=slots)
            for slot in (1, 2, 3):
                edit = SlotEdit(
                    group.id, slot, experiments=[100_000 + n, 200_000, 300_000], individuals=["a@b.example"]
                )
                item = Item(n + slot - 1, edit, request_of(edit))
                sent.append(asyncio.ensure_future(journal.record_sent([item], group)))
                await asyncio.sleep(0)
                journal.record_outcome([item], "applied", confirmed=True)
            if len(sent) >= 60:
                await asyncio.gather(*sent)
                sent.clear()
        beside = sum(each.stat().st_size for each in tmp_path.iterdir() if each != path)  # noqa: ASYNC240  # a moment
    assert beside < 12e6
    assert path.stat().st_size / edits * 1_000_000 < 290e6


async def test_an_edit_of_a_missing_slot_fails_and_records_no_earlier_content(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    report = await session.edit_slots([SlotEdit(1, 9, experiments=[1])], journal=tmp_path / "run.db")
    assert len(report.failed) == 1
    assert (await undo(session, tmp_path / "run.db")).outcomes == []


def test_a_closed_journal_raises_a_journal_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.db")
    assert repr(journal) == f"<Journal {tmp_path / 'run.db'} · open>"
    journal.close()
    journal.close()
    assert repr(journal) == f"<Journal {tmp_path / 'run.db'} · closed>"
    with pytest.raises(JournalError, match="is closed"):
        journal.written_slots()


async def test_the_order_of_a_set_does_not_matter_to_a_journal(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    users = [f"user-{number}" for number in range(40)]
    sets: list[Any] = [SlotEdit(1, 1, individuals=set(users)), SlotEdit(1, 2, individuals=frozenset(users))]  # type: ignore[arg-type]
    await session.edit_slots(sets, journal=tmp_path / "run.db")
    # The order of a set of strings differs between processes.
    lists = [SlotEdit(1, slot, individuals=sorted(users)) for slot in (1, 2)]
    report = await session.edit_slots(lists, journal=tmp_path / "run.db")
    assert [outcome.note for outcome in report.outcomes] == ["already applied, according to the journal"] * 2


@pytest.mark.parametrize("name", [":memory:", "file:run?mode=memory"])
async def test_every_journal_name_is_a_file_name(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    await session.edit_slots(edits_for(3), journal=name)
    assert [outcome.status for outcome in (await session.edit_slots(edits_for(3), journal=name)).outcomes] == [
        "skipped"
    ] * 3
    assert (tmp_path / name).exists()
