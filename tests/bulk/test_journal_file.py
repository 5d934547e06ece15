"""What a journal's file is: private, in place, durable, and used by one process."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import HERE, ROOT, after, assert_holds, edits_for

from aiomutex import JournalError, MutexSession
from aiomutex.bulk import undo
from aiomutex.bulk.journal import Journal
from aiomutex.bulk.journal_file import JournalFile, checksum

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiomutex.testing import MutexEmulator


@pytest.mark.parametrize("exists", [False, True])
async def test_only_the_owner_can_read_a_journal_and_its_log(
    session: MutexSession, tmp_path: Path, exists: bool
) -> None:
    modes: set[int] = set()

    def look(_: object) -> None:
        modes.update(stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir())

    previous = os.umask(0)
    try:
        if exists:
            (tmp_path / "run.db").touch()
        await session.edit_slots(edits_for(3), journal=tmp_path / "run.db", on_outcome=look)
    finally:
        os.umask(previous)
    assert modes == {0o600}


@pytest.mark.parametrize("target", ["missing", "empty"])
async def test_a_journal_is_never_created_through_a_symbolic_link(
    session: MutexSession, tmp_path: Path, target: str
) -> None:
    aim = tmp_path / "aim"
    if target == "empty":
        aim.touch()
    (tmp_path / "run.db").symlink_to(aim)
    with pytest.raises(JournalError, match=r"run\.db.*(unable to open|is a symbolic link)"):
        await session.edit_slots(edits_for(3), journal=tmp_path / "run.db")
    assert not aim.exists() or aim.read_bytes() == b""


async def test_the_log_of_a_journal_does_not_follow_a_symbolic_link(session: MutexSession, tmp_path: Path) -> None:
    aim = tmp_path / "aim"
    aim.write_text("precious")
    (tmp_path / "run.db-wal").symlink_to(aim)
    (tmp_path / "run.db-journal").symlink_to(aim)
    await session.edit_slots(edits_for(3), journal=tmp_path / "run.db")
    assert aim.read_text() == "precious"


async def test_a_journal_may_be_opened_through_a_symbolic_link(session: MutexSession, tmp_path: Path) -> None:
    await session.edit_slots(edits_for(3), journal=tmp_path / "run.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "run.db")
    assert len((await undo(session, tmp_path / "link.db")).applied) == 3


def delete(path: Path) -> None:
    path.unlink()


def delete_log(path: Path) -> None:
    path.with_name("run.db-wal").unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("other.db"))


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize("change", [delete, delete_log, rename, replace])
async def test_a_journal_that_is_no_longer_in_place_ends_the_run(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    emulator.latency = 0.01
    changed: list[int] = []

    def interfere(_: object) -> None:
        if not changed:
            change(tmp_path / "run.db")
            changed.append(emulator.writes.total())

    with pytest.raises(JournalError, match="was deleted or replaced while in use"):
        await session.edit_slots(edits_for(300), journal=tmp_path / "run.db", on_outcome=interfere, concurrency=4)
    assert emulator.writes.total() <= changed[0] + 8


async def test_concurrent_writes_share_commits_and_the_event_loop_never_waits(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: Any = JournalFile
    commit, loop = inside._commit, asyncio.get_running_loop()
    commits: list[bool] = []

    def watched(file: JournalFile) -> None:
        if threading.current_thread() is not threading.main_thread():
            ran = threading.Event()
            loop.call_soon_threadsafe(ran.set)
            commits.append(ran.wait(10))
        commit(file)

    monkeypatch.setattr(JournalFile, "_commit", watched)
    edits = edits_for(200)
    report = await session.edit_slots(edits, journal=tmp_path / "run.db", concurrency=20)
    assert len(report.applied) == 200
    assert_holds(emulator, after(edits))
    assert all(commits)
    assert 0 < len(commits) < 200, "one commit for each of the 400 entries would be no group"


async def test_a_sent_edit_is_on_the_disk(emulator: MutexEmulator, session: MutexSession, tmp_path: Path) -> None:
    with Journal(tmp_path / "run.db") as journal:
        inside: Any = journal
        assert inside._open.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


FORK = """
import asyncio, os, selectors, sys
from aiomutex import JournalError, LocalRateLimiter, MutexSession, SlotEdit
from aiomutex.bulk.group_queues import Item
from aiomutex.bulk.journal import Journal
from aiomutex.bulk.options import request_of
from aiomutex.models import MutexGroup, Slot

def item(n):
    edit = SlotEdit(1, n, experiments=[n])
    return Item(n, edit, request_of(edit))

GROUP = MutexGroup(id="1", slots=[Slot(index=n, percentage=10) for n in range(1, 6)])

async def parent(journal):
    await journal.record_sent([item(1)], GROUP)
    if (child := os.fork()) == 0:
        try:
            await journal.record_sent([item(2)], GROUP)
        except JournalError as error:
            print(error, flush=True)
        if sys.argv[2] == "close":
            journal.close()
        sys.exit(0)
    os.waitpid(child, 0)
    await journal.record_sent([item(3)], GROUP)

# A child that exits would remove the parent's sockets from an epoll object, which both share.
def loop():
    return asyncio.SelectorEventLoop(selectors.SelectSelector())

with Journal(sys.argv[1]) as journal, asyncio.Runner(loop_factory=loop) as runner:
    runner.run(parent(journal))
with Journal(sys.argv[1]) as journal:
    print(sorted(record.slot_index for record in journal.written_slots()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("how", ["close", "exit"])
async def test_a_forked_process_cannot_use_a_journal_and_does_not_harm_it(tmp_path: Path, how: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORK, str(tmp_path / "run.db"), how,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{HERE}"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert "opened before a fork; open it again in this process" in output.decode(), errors.decode()
    assert output.decode().splitlines()[-1] == "[1, 3]", errors.decode()
    assert process.returncode == 0


def test_the_checksums_in_existing_journals_stay_right() -> None:
    assert checksum(b"total", 5) == -1_325_010_481
