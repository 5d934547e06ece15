"""Calls are cancelled at each of their awaits. Nothing may be left behind, wherever that was."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from bulk_support import assert_true, commit_inline, edits_for, left_over, session_for

from aiomutex.bulk import undo
from aiomutex.bulk.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path
    from typing import Any

    from aiomutex import MutexSession, SlotOutcome
    from aiomutex.testing import MutexEmulator


@pytest.fixture(autouse=True)
def inline_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    commit_inline(monkeypatch)


async def cancelled_after(turns: int, work: Coroutine[Any, Any, object]) -> bool:
    """Cancel ``work`` after a number of event loop iterations; return whether it was still running."""
    task = asyncio.create_task(work, name="the work")
    for _ in range(turns):
        await asyncio.sleep(0)
        if task.done():
            await task
            return False
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def clean(emulator: MutexEmulator, session: MutexSession) -> None:
    assert not left_over(session)
    await session.get_group(1)


@pytest.mark.parametrize("mode", ["plain", "journal", "verify"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.deep)])
async def test_a_run_can_be_cancelled_at_every_await(
    emulator: MutexEmulator, tmp_path: Path, mode: str, step: int
) -> None:
    async with session_for(emulator.url) as session:
        for turns in range(0, 400, step):
            emulator.clear_history()
            reported: list[SlotOutcome] = []
            path = tmp_path / f"{turns}.db" if mode == "journal" else None
            edits = edits_for(6, groups=3, start=1 + turns * 10)
            run = session.edit_slots(
                edits, journal=path, verify=mode == "verify", on_outcome=reported.append, concurrency=2
            )
            running = await cancelled_after(turns, run)
            await asyncio.sleep(0.002)  # requests that had arrived are finished by now
            assert_true(emulator, reported)
            await clean(emulator, session)
            if path is not None and path.exists():
                Journal(path).close()
            if not running:
                break
        else:
            raise AssertionError("the run never ended")


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.deep)])
@pytest.mark.parametrize("call", ["change", "move", "undo"])
async def test_a_change_a_move_and_an_undo_can_be_cancelled_at_every_await(
    emulator: MutexEmulator, tmp_path: Path, step: int, call: str
) -> None:
    async with session_for(emulator.url) as session:
        for turns in range(0, 500, step):
            slots = emulator.groups["1"].slots
            slots[0].experiments, slots[1].experiments = [1], []
            path = tmp_path / f"{turns}.db"
            if call == "undo":
                await session.edit_slots(edits_for(4, groups=2), journal=path)
            work: dict[str, Coroutine[Any, Any, object]] = {}
            if call == "change":
                work["it"] = session.change_slot(1, 1, add_experiments=[5])
            elif call == "move":
                work["it"] = session.move_experiment(1, 1, 1, 2)
            else:
                work["it"] = undo(session, path, concurrency=2)
            running = await cancelled_after(turns, work["it"])
            await clean(emulator, session)
            held = slots[0].experiments + slots[1].experiments
            assert call != "move" or 1 in held, "the experiment was in no slot"
            if call == "undo":
                await undo(session, path)
                assert slots[0].experiments == [1]
            if not running:
                break
        else:
            raise AssertionError("the call never ended")
