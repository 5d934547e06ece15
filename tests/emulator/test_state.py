"""Snapshots, JSON files, and the SQLite state file."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aiomutex.emulator import Dialect, MutexEmulator

from .helpers import Api

if TYPE_CHECKING:
    from .conftest import Start

NEW = {"projectId": 1, "name": "n", "key": "k", "slots": [{"percentage": 100}]}
ROOT = Path(__file__).parents[2]


async def test_a_snapshot_can_be_restored_several_times(start: Start) -> None:
    api = await start(groups=3)
    api.emulator.groups["1"].slots[0].experiments = [5]
    before = (await api.list()).body
    snapshot = api.emulator.snapshot()
    for _ in range(2):
        await api.edit_slot("1", 1, {"experiments": [6]})
        await api.edit("2", {"archive": True})
        await api.create(NEW)
        del api.emulator.groups["3"]
        assert (await api.list()).body != before
        api.emulator.restore(snapshot)
        assert (await api.list()).body == before


async def test_a_dump_can_be_loaded(start: Start, tmp_path: Path) -> None:
    api = await start(groups=50_000)
    await api.edit_slot("1", 1, {"experiments": [6], "individuals": ["ü"]})
    await api.edit("2", {"archive": True})
    await api.create(NEW)
    del api.emulator.groups["3"]
    api.emulator.dump(tmp_path / "state.json")
    assert (tmp_path / "state.json").stat().st_size < 10_000
    other = await start()
    other.emulator.load(tmp_path / "state.json")
    for query in ({"limit": 5}, {"cursor": 49_990}):
        assert (await other.list(**query)).body == (await api.list(**query)).body


async def test_a_page_of_the_service_can_be_loaded(start: Start, tmp_path: Path) -> None:
    api = await start(groups=3)
    (tmp_path / "page.json").write_bytes((await api.list()).body)
    other = await start(dialect=Dialect())
    other.emulator.load(tmp_path / "page.json")
    assert (await other.list()).body == (await api.list()).body
    (tmp_path / "list.json").write_text('[{"id": "5"}]')
    other.emulator.load(tmp_path / "list.json")
    assert list(other.emulator.groups) == ["5"]


@pytest.mark.parametrize("text", ['{"x": 1}', "5", "[5]", '{"groups": {}}'])
def test_a_file_without_groups_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ValueError, match="must be"):
        MutexEmulator().load(tmp_path / "state.json")


async def test_a_state_file_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with Api(MutexEmulator(groups=1000, state_file=path)) as api:
        await api.edit_slot("1", 1, {"experiments": [6], "individuals": ["ü"]})
        await api.edit("2", {"archive": True})
        await api.create(NEW)
        api.emulator.groups["5"].name = "changed without a request"
        del api.emulator.groups["7"]
        before = (await api.list()).body, (await api.list(cursor=900)).body
    async with Api(MutexEmulator(groups=5, state_file=path)) as api:
        assert ((await api.list()).body, (await api.list(cursor=900)).body) == before
        assert (await api.create(NEW)).status == 400
        api.emulator.restore(MutexEmulator(groups=2).snapshot())
    assert len(MutexEmulator(state_file=path).groups) == 2


async def test_an_added_group_is_saved_at_once(start: Start, tmp_path: Path) -> None:
    api = await start(state_file=tmp_path / "state.db")
    api.emulator.add_group("7")
    assert list(MutexEmulator(state_file=tmp_path / "state.db").groups) == ["7"]


def test_an_empty_state_file_has_no_groups(tmp_path: Path) -> None:
    (tmp_path / "state.db").touch()
    assert len(MutexEmulator(groups=3, state_file=tmp_path / "state.db").groups) == 3


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
async def test_only_the_owner_can_read_files_with_user_ids(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        async with Api(MutexEmulator(groups=2, state_file=tmp_path / "state.db")) as api:
            await api.edit_slot("1", 1, {"individuals": ["ann"]})
            api.emulator.dump(tmp_path / "dump.json")
            modes = modes_in(tmp_path)
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm", "dump.json"), 0o600)


def test_a_symbolic_link_is_neither_followed_nor_truncated(tmp_path: Path) -> None:
    target, link, absent = tmp_path / "target", tmp_path / "link", tmp_path / "absent"
    for content in (b"", b"precious"):
        target.write_bytes(content)
        link.unlink(missing_ok=True)
        emulator = MutexEmulator(groups=1, state_file=link)
        link.symlink_to(target)
        for use in (partial(MutexEmulator, state_file=link), emulator.__enter__):
            with pytest.raises(ValueError, match="link cannot be used as a state file: it is a symbolic link"):
                use()
        with pytest.raises(OSError, match="link"):
            emulator.dump(link)
        assert target.read_bytes() == content
    link.unlink()
    link.symlink_to(absent)
    with pytest.raises(ValueError, match="symbolic link"):
        MutexEmulator(state_file=link)
    with pytest.raises(OSError, match="link"):
        MutexEmulator().dump(link)
    assert not absent.exists()


def test_another_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE cookies (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"other\.db is not a state file: it has a table cookies"):
        MutexEmulator(state_file=path)
    assert path.read_bytes() == before


async def test_the_error_names_a_state_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere/state\.db cannot be used as a state file: unable to open"):
        await MutexEmulator(state_file=tmp_path / "nowhere" / "state.db").__aenter__()
    path = tmp_path / "state.db"
    emulator = MutexEmulator(state_file=path)
    path.write_text("written by another process")
    with pytest.raises(ValueError, match=r"state\.db cannot be used as a state file: file is not a database"):
        await emulator.__aenter__()
    path.unlink()
    async with emulator:
        assert path.stat().st_size


async def test_a_state_file_serves_one_emulator_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with Api(MutexEmulator(groups=3, state_file=path)) as api:
        with pytest.raises(ValueError, match=r"state\.db cannot be used as a state file: database is locked"):
            await MutexEmulator(state_file=path).__aenter__()
        assert (await api.edit_slot("1", 1, {"experiments": [6]})).status == 200
        assert MutexEmulator(state_file=path).groups["1"].slots[0].experiments == [6], "it can be read"
    async with Api(MutexEmulator(state_file=path)) as api:
        assert api.emulator.groups["1"].slots[0].experiments == [6]


def test_groups_are_saved_from_several_threads(tmp_path: Path) -> None:
    with MutexEmulator(groups=200, state_file=tmp_path / "state.db") as emulator, ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(emulator.add_group, name="new"), range(1, 201)))
        assert {group.name for group in MutexEmulator(state_file=tmp_path / "state.db").groups.values()} == {"new"}


SERVER = """
import asyncio, sys
from aiomutex.emulator import MutexEmulator, serve
emulator = MutexEmulator(groups=3, state_file=sys.argv[1])
asyncio.run(serve(emulator, on_ready=lambda emulator: print(emulator.url, flush=True)))
"""


async def test_confirmed_changes_survive_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    process = subprocess.Popen([sys.executable, "-c", SERVER, path], stdout=subprocess.PIPE, text=True, cwd=ROOT)  # noqa: ASYNC220
    assert process.stdout is not None
    with process.stdout as output:
        url = output.readline().strip()
    async with Api(MutexEmulator()) as api:
        # The client of this Api sends its requests to the other process.
        api.url = url
        replies = [await api.edit_slot(str(1 + n % 3), 1, {"experiments": [n]}) for n in range(30)]
        replies.append(await api.create(NEW))
    assert {reply.status for reply in replies} == {200}
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    async with Api(MutexEmulator(state_file=path)) as api:
        assert [api.emulator.groups[str(n)].slots[0].experiments for n in (1, 2, 3)] == [[27], [28], [29]]
        assert api.emulator.groups["4"].key == "k"
