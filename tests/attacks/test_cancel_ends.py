"""What ends is stopped while it does so, or fails beside others; it has ended all the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from bulk_support import edits_for
from cancelling import Loop, Point, Watch, cancel, on_leaping_clock, scope, some_turns, storm, timeout, watched
from stopping import open_files, stopped_everywhere
from support import GROUP, ONCE, RawServer, connector_of, http, idle, say_nothing, session_for, until

from aiomutex import ConnectionFailedError, MutexError
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import OutcomeStream
from aiomutex.fleet.run import FleetRun
from aiomutex.probe import probe
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from pathlib import Path

    from cancelling import Way


@pytest.mark.parametrize("way", [cancel, scope, timeout])
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_closing_that_is_stopped_has_closed(way: Way, late: bool) -> None:
    async def main(loop: Loop) -> None:
        async with RawServer() as raw:
            files = open_files()
            raw.answer(http(200, GROUP), say_nothing)
            session = session_for(raw.url, max_connections=2)
            await session.__aenter__()
            await asyncio.gather(session.get_group(7))
            watch = Watch(loop, Point("close", 1, late))
            stopped = await watched(way(session.aclose(), watch), watch)
            assert watch.struck
            assert stopped or late
            inside: Any = session
            assert inside._transport._timer._timer is None
            await until(lambda: open_files() == files)
            await session.aclose()

    on_leaping_clock(main)


async def test_who_is_being_cancelled_and_calls_all_the_same_is_told_that_the_session_closes(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, max_connections=1, retry=ONCE) as session:
        holder = asyncio.create_task(session.get_group(7))
        await until(lambda: raw.requests)

        async def clean_up() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                with pytest.raises(ConnectionFailedError, match="the session was closed during the call"):
                    await session.get_group(7)
                told.append(True)

        told: list[bool] = []
        task = asyncio.create_task(clean_up())
        await asyncio.sleep(0)
        task.cancel()
        await until(lambda: any(connector_of(session)._waiters.values()))
        await session.aclose()
        await asyncio.gather(task, holder, return_exceptions=True)
        assert told
        assert task.cancelled()


@pytest.mark.parametrize("way", [cancel, storm, scope, timeout])
def test_an_emulators_life_leaves_nothing_wherever_it_stops(way: Way, tmp_path: Path) -> None:
    lives: list[MutexEmulator] = []
    made: list[list[int]] = []

    def file_of(life: int) -> Path:
        return tmp_path / f"{life}.db"

    async def call() -> None:
        lives.append(MutexEmulator(groups=2, limits=False, state_file=file_of(len(lives))))
        made.clear()
        async with lives[-1] as emulator, session_for(emulator.url) as session:
            await session.edit_slot(1, 1, experiments=[5])
            emulator.groups["2"].slots[0].experiments[:] = [6]
            made.extend(([5], [6]))

    async def after() -> None:
        with pytest.raises(RuntimeError, match="not running"):
            _ = lives[-1].url
        # The file is free, and what was done before the end is in it.
        async with MutexEmulator(state_file=file_of(len(lives) - 1)) as kept:
            assert not made or [group.slots[0].experiments for group in kept.groups.values()] == made

    async def main(loop: Loop) -> set[str]:
        return await stopped_everywhere(loop, call, way, after)

    assert on_leaping_clock(main) >= {"listener.open", "listener._rounds", "headers"}


# ------------------------------------------------------------------ tasks of our own


async def test_a_fleets_run_that_is_left_is_waited_for_however_often_it_is_cancelled() -> None:
    ended: list[str] = []

    async def ask(_: object) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(5):
                    await asyncio.sleep(0)
            ended.append("ask")
        raise AssertionError

    run_of_fleet = FleetRun(ask, Settings(concurrency=2), batch_size=1, verify=False)
    stream = OutcomeStream(run_of_fleet, edits_for(2), lambda it: ended.append(it.status))

    async def run() -> None:
        async with stream:
            async for _ in stream:
                pass

    task = asyncio.create_task(run())
    await some_turns()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["ask", "ask", "unknown", "unknown"]


async def test_a_probe_that_fails_leaves_no_call_behind(raw: RawServer) -> None:
    async with MutexEmulator(groups=2, limits=False) as emulator, session_for(emulator.url) as session:
        emulator.fail_next(1, status=200, method="PATCH", path="*/slots/1")
        emulator.fail_next(1, status=200, method="PATCH", path="*/slots/1")
        emulator.fail_next(1, kind="reset-before", method="PATCH", path="*/slots/1")
        emulator.fail_next(1, kind="stall", method="PATCH", path="*/slots/2")
        with pytest.raises(MutexError):
            await probe(session, write_scratch=1)
        assert idle(session)
        assert [group for group in emulator.groups.values() if "probe" in group.key and not group.deleted] == []
