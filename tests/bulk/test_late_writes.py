"""An attempt without a response may be applied late: a verified run reports no later edit as applied that it undid."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import assert_holds, landed, session_for
from support import ONCE, until

from aiomutex import AttemptTimeoutError, MutexSession, SlotEdit, VerificationError
from aiomutex.bulk.late_writes import LateWrites
from aiomutex.bulk.slot_lists import SlotLists

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiomutex import SlotOutcome
    from aiomutex.testing import MutexEmulator

TIMEOUT = 0.1
LATE = 0.4
WAIT = 0.8


@pytest.fixture(autouse=True)
def nothing_arrives_late() -> None:
    """Here it does."""


@pytest.fixture
async def session(emulator: MutexEmulator, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MutexSession]:
    """A session that gives up attempts soon, and expects them to be applied or lost soon after."""
    monkeypatch.setattr("aiomutex.bulk.late_writes._MIN_WAIT", WAIT)
    async with session_for(emulator.url, attempt_timeout=TIMEOUT) as session:
        yield session


def make_late(emulator: MutexEmulator, n: int = 1, slot: int = 1) -> None:
    emulator.fail_next(n, kind="late", delay=LATE, method="PATCH", path=f"/api/1/mutexes/1/slots/{slot}")


ABC = [SlotEdit(1, 1, experiments=[n], individuals=["ada"]) for n in (1, 2, 3)]


@pytest.mark.parametrize("journaled", [False, True])
async def test_an_edit_that_a_late_attempt_overwrote_is_written_again(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, journaled: bool
) -> None:
    make_late(emulator)
    report = await session.edit_slots(ABC, verify=True, journal=tmp_path / "run.db" if journaled else None)
    assert [outcome.status for outcome in report.outcomes] == ["applied"] * 3
    assert emulator.pending_changes == 0
    assert_holds(emulator, {("1", 1): {"experiments": [3], "individuals": ["ada"]}})
    assert [body["experiments"] for _, _, body in landed(emulator)] == [[1], [2], [3], [1], [3]]


async def test_an_unverified_run_does_not_wait(emulator: MutexEmulator, session: MutexSession) -> None:
    make_late(emulator)
    async with asyncio.timeout(WAIT):
        assert len((await session.edit_slots(ABC)).applied) == 3


async def test_other_groups_and_slots_and_harmless_attempts_do_not_wait(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    make_late(emulator)
    make_late(emulator, slot=2)
    others = [SlotEdit(1 + n % 3, 1 + n % 2 * 2, holdouts=[n]) for n in range(30)]
    repeated = [SlotEdit(1, 2, experiments=[5]), SlotEdit(1, 2, holdouts=[6]), SlotEdit(1, 2, experiments=[5])]
    loop = asyncio.get_running_loop()
    seen: dict[int, float] = {}
    started = loop.time()
    async with session.stream_slot_edits([*ABC, *repeated, *others], verify=True, canary=False) as outcomes:
        async for outcome in outcomes:
            assert outcome.status == "applied"
            seen[outcome.position] = loop.time() - started
    held = {position for position, when in seen.items() if when > WAIT}
    # Slot 1 is also written by some of the others.
    assert held >= {0, 1, 2}
    assert not held & {3, 4, 5}
    assert all(
        (others[position - 6].group_id, others[position - 6].slot_index) == ("1", 1)
        for position in held
        if position > 5
    )


async def test_what_somebody_else_wrote_is_left_alone_and_the_edit_fails(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    make_late(emulator)
    run = asyncio.create_task(session.edit_slots(ABC, verify=True))
    await until(lambda: emulator.pending_changes == 0 and len(landed(emulator)) == 4)
    emulator.groups["1"].slots[0].experiments = [77]
    report = await run
    assert [type(outcome.error) for outcome in report.outcomes] == [VerificationError] * 3
    assert emulator.groups["1"].slots[0].experiments == [77]


async def test_an_attempt_that_is_lost_changes_nothing(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.fail_next(kind="stall", method="PATCH")
    report = await session.edit_slots(ABC, verify=True)
    assert [outcome.status for outcome in report.outcomes] == ["applied"] * 3
    assert len(landed(emulator)) == 3


async def test_an_edit_with_an_unknown_outcome_that_arrives_late_does_not_win(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    make_late(emulator)
    once = session.with_options(retry=ONCE)
    report = await once.edit_slots([SlotEdit(1, 1, holdouts=[8], experiments=[8]), *ABC], verify=True)
    statuses = {outcome.position: outcome.status for outcome in report.outcomes}
    assert statuses == {0: "unknown", 1: "applied", 2: "applied", 3: "applied"}
    assert isinstance(next(outcome.error for outcome in report.outcomes if not outcome.position), AttemptTimeoutError)
    assert_holds(emulator, {("1", 1): {"experiments": [3], "individuals": ["ada"], "holdouts": [8]}})


async def test_edits_that_come_while_others_wait_are_written_at_once(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    make_late(emulator)
    more = asyncio.Event()
    last = SlotEdit(1, 1, experiments=[9])

    async def source() -> AsyncIterator[SlotEdit]:
        for edit in ABC:
            yield edit
        await more.wait()
        yield last
        yield SlotEdit(1, 3, experiments=[9])

    reported: list[SlotOutcome] = []
    async with session.stream_slot_edits(source(), verify=True, on_outcome=reported.append) as outcomes:
        await until(lambda: len(landed(emulator)) == 3)
        await asyncio.sleep(0.05)  # the group waits for its read by now
        more.set()
        await until(lambda: len(landed(emulator)) == 5)
        assert emulator.pending_changes == 1
        async for _ in outcomes:
            pass
    assert sorted((outcome.position, outcome.status) for outcome in reported) == [(n, "applied") for n in range(5)]
    assert_holds(emulator, {("1", 1): {"experiments": [9]}, ("1", 3): {"experiments": [9]}})


@pytest.mark.parametrize("way", ["stop", "leave"])
async def test_a_run_that_ends_early_reports_edits_that_wait(
    emulator: MutexEmulator, session: MutexSession, way: str
) -> None:
    make_late(emulator)
    async with session.stream_slot_edits(ABC, verify=True) as outcomes:
        await until(lambda: len(landed(emulator)) == 3)
        if way == "stop":
            outcomes.stop()
            statuses = [outcome.status async for outcome in outcomes]
            assert statuses == ["applied"] * 3
    if way == "leave":
        assert [outcome.status for outcome in outcomes.unfinished] == ["unknown"] * 3


async def test_a_rejected_second_write_leaves_the_outcome_unknown(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    make_late(emulator)
    run = asyncio.create_task(session.edit_slots(ABC, verify=True))
    await until(lambda: len(landed(emulator)) == 4)
    emulator.fail_next(status=400, method="PATCH")
    report = await run
    assert [outcome.status for outcome in report.outcomes] == ["unknown"] * 3
    assert [outcome.attempts for outcome in report.outcomes] == [3, 2, 2]


async def test_at_most_a_thousand_late_writes_are_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiomutex.bulk.late_writes._MIN_WAIT", 0.2)
    late = LateWrites(0.1)
    inside: Any = late
    started = asyncio.get_running_loop().time()
    for n in range(1_500):
        await late.add(str(n), 1, SlotLists([n]))
        assert len(inside._writes) <= 1_000
    assert asyncio.get_running_loop().time() - started > 0.15
    assert [each.lists for each in late.of("1499", 1)] == [SlotLists([1499])]
    assert not late.of("1499", 2)
    await asyncio.sleep(0.3)
    assert not late.of("1499", 1)
    inside = LateWrites(33.0)
    assert inside._wait == 33.0
