"""Closing is interrupted, or one of several tasks fails: everything is closed nevertheless."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from bulk_support import edits_for
from cancelling import (
    Loop,
    Point,
    Watch,
    cancel,
    cancel_repeatedly,
    run_ready,
    run_with_fake_clock,
    scope,
    timeout,
    watched,
)
from stopping import open_files, stop_everywhere
from support import GROUP, ONCE, RawServer, http, idle, say_nothing, session_for, until

from aiomutex import MutexError, SessionClosedError
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import OutcomeStream
from aiomutex.fleet.dispatcher import Dispatcher
from aiomutex.fleet.run import FleetRun
from aiomutex.probe import probe
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from pathlib import Path

    from cancelling import Way


@pytest.mark.parametrize("way", [cancel, scope, timeout])
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_an_interrupted_close_still_closes_the_session(way: Way, late: bool) -> None:
    async def main(loop: Loop) -> None:
        async with RawServer() as raw:
            files = open_files()
            raw.answer(http(200, GROUP), say_nothing)
            session = session_for(raw.url, max_connections=2)
            await session.__aenter__()
            await asyncio.gather(session.get_group(7))
            watch = Watch(loop, Point("close", 1, late))
            stopped = await watched(way(session.aclose(), watch), watch)
            assert watch.interrupted
            assert stopped or late
            inside: Any = session
            assert inside._transport._timer._timer is None
            await until(lambda: open_files() == files)
            await session.aclose()

    run_with_fake_clock(main)


async def test_a_call_from_a_cancelled_task_fails_when_the_session_closes(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, max_connections=1, retry=ONCE) as session:
        holder = asyncio.create_task(session.get_group(7))
        await until(lambda: raw.requests)

        async def clean_up() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                with pytest.raises(SessionClosedError, match="the session was closed during the call"):
                    await session.get_group(7)
                failed.append(True)

        failed: list[bool] = []
        task = asyncio.create_task(clean_up())
        await asyncio.sleep(0)
        task.cancel()
        inside: Any = session
        await until(lambda: inside._transport._slots._waiters)
        await session.aclose()
        await asyncio.gather(task, holder, return_exceptions=True)
        assert failed
        assert task.cancelled()


@pytest.mark.parametrize("way", [cancel, cancel_repeatedly, scope, timeout])
def test_an_emulator_leaves_nothing_behind_wherever_it_is_interrupted(way: Way, tmp_path: Path) -> None:
    emulators: list[MutexEmulator] = []
    expected: list[list[int]] = []

    def file_of(number: int) -> Path:
        return tmp_path / f"{number}.db"

    async def call() -> None:
        emulators.append(MutexEmulator(groups=2, limits=False, state_file=file_of(len(emulators))))
        expected.clear()
        async with emulators[-1] as emulator, session_for(emulator.url) as session:
            await session.edit_slot(1, 1, experiments=[5])
            emulator.groups["2"].slots[0].experiments[:] = [6]
            expected.extend(([5], [6]))

    async def after() -> None:
        with pytest.raises(RuntimeError, match="not running"):
            _ = emulators[-1].url
        # The file is unlocked and holds what was done before the end.
        async with MutexEmulator(state_file=file_of(len(emulators) - 1)) as kept:
            assert not expected or [group.slots[0].experiments for group in kept.groups.values()] == expected

    async def main(loop: Loop) -> set[str]:
        return await stop_everywhere(loop, call, way, after)

    assert run_with_fake_clock(main) >= {"listener.listening", "listener._run_callbacks", "headers"}


# ------------------------------------------------------------------ tasks of our own


class SlowQueue:
    """A fleet's queue that never replies, and is slow to end."""

    claim_timeout = 1.0

    def __init__(self, ended: list[str]) -> None:
        self.ended = ended

    async def exchange(self, run: str, given: dict[str, list[str]], *job: Any) -> tuple[set[str], list[str], bool]:
        if not job:
            return set(), [], True
        try:
            await asyncio.Event().wait()
        finally:
            await self.end("exchange")
        raise AssertionError

    async def leave(self, run: str) -> None:
        await self.end("leave")

    async def end(self, what: str) -> None:
        with anyio.CancelScope(shield=True):
            for _ in range(5):
                await asyncio.sleep(0)
        self.ended.append(what)


async def test_leaving_a_fleets_run_waits_for_its_queue_however_often_it_is_cancelled() -> None:
    ended: list[str] = []
    queue: Any = SlowQueue(ended)
    run_of_fleet = FleetRun(Dispatcher(queue, batch_size=1, max_jobs=2), Settings(concurrency=2))
    stream = OutcomeStream(run_of_fleet, edits_for(2), lambda it: ended.append(it.status))

    async def run() -> None:
        async with stream:
            async for _ in stream:
                pass

    task = asyncio.create_task(run())
    await run_ready()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["exchange", "leave", "unknown", "unknown"]


async def test_a_failed_probe_leaves_no_request_or_group_behind(raw: RawServer) -> None:
    async with MutexEmulator(groups=2, limits=False) as emulator, session_for(emulator.url) as session:
        emulator.fail_next(1, status=200, method="PATCH", path="*/slots/1")
        emulator.fail_next(1, status=200, method="PATCH", path="*/slots/1")
        emulator.fail_next(1, kind="reset-before", method="PATCH", path="*/slots/1")
        emulator.fail_next(1, kind="stall", method="PATCH", path="*/slots/2")
        with pytest.raises(MutexError):
            await probe(session, write_scratch=1)
        assert idle(session)
        assert [group for group in emulator.groups.values() if "probe" in group.key and not group.deleted] == []
