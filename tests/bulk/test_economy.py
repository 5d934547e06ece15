"""What a run costs in requests, when it reads, and what pages that are old may not decide."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import after, assert_holds, session_for
from support import until

from aiomutex import LocalRateLimiter, MutexSession, SlotEdit, TooManyFailuresError
from aiomutex.bulk import undo
from aiomutex.emulator import Dialect
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GROUPS = 400


@pytest.fixture
async def many() -> AsyncIterator[MutexEmulator]:
    """400 groups: one page of the listing."""
    async with MutexEmulator(groups=GROUPS, limits=False, keep_requests=100_000) as emulator:
        yield emulator


@pytest.fixture
async def session(many: MutexEmulator) -> AsyncIterator[MutexSession]:
    async with session_for(many.url) as session:
        yield session


def one_each(start: int = 1) -> list[SlotEdit]:
    return [SlotEdit(number, 1, experiments=[start + number]) for number in range(1, GROUPS + 1)]


def reads(emulator: MutexEmulator) -> tuple[int, int]:
    """How many pages and how many single groups were read."""
    pages = sum("limit" in request.query for request in emulator.requests)
    return pages, sum(request.method == "GET" for request in emulator.requests) - pages


@pytest.mark.parametrize("way", ["journal", "verify", "both", "undo"])
async def test_a_safe_run_costs_few_requests_more_than_a_bare_one(
    many: MutexEmulator, session: MutexSession, tmp_path: Path, way: str
) -> None:
    options: dict[str, Any] = {"verify": way != "journal"}
    if way != "verify":
        options["journal"] = tmp_path / "run.db"
    edits = one_each()
    if way == "undo":
        await session.edit_slots(edits, **options)
        many.clear_history()
        report = await undo(session, tmp_path / "run.db")
    else:
        report = await session.edit_slots(edits, **options)
        assert_holds(many, after(edits))
    assert len(report.applied) == GROUPS
    pages, single = reads(many)
    assert single == (0 if way == "undo" else 2)  # the canary, once for a session
    assert 1 <= pages <= 5
    assert len(many.requests) == GROUPS + pages + single


async def test_a_killed_run_is_settled_by_pages(many: MutexEmulator, session: MutexSession, tmp_path: Path) -> None:
    edits = one_each()
    async with session.stream_slot_edits(edits, verify=True, journal=tmp_path / "run.db") as outcomes:
        await until(lambda: sum(many.writes.values()) > 200)
    answered = [each for each in outcomes.unfinished if each.note == "written, but not read back when the run was left"]
    assert answered
    assert {each.status for each in answered} == {"unknown"}
    many.clear_history()
    report = await session.edit_slots(edits, verify=True, journal=tmp_path / "run.db")
    assert len(report.applied) + outcomes.counts["applied"] == GROUPS
    pages, single = reads(many)
    assert pages <= 5
    assert single < 64
    assert sum(request.method == "PATCH" for request in many.requests) <= GROUPS - 200 + 64
    assert_holds(many, after(edits))


async def test_up_to_twenty_groups_are_read_one_by_one(many: MutexEmulator, session: MutexSession) -> None:
    report = await session.edit_slots(one_each()[:20], verify=True)
    assert len(report.applied) == 20
    assert reads(many) == (0, 40)


async def test_groups_are_read_on_their_own_if_asked_for(many: MutexEmulator, session: MutexSession) -> None:
    report = await session.edit_slots(one_each()[:50], verify=True, reads="groups")
    assert len(report.applied) == 50
    assert reads(many) == (0, 100)


async def test_no_edit_fails_because_a_page_is_old(many: MutexEmulator, session: MutexSession) -> None:
    many.dialect = Dialect(list_lag=3600.0)
    report = await session.edit_slots(one_each(), verify=True)
    assert len(report.applied) == GROUPS
    pages, single = reads(many)
    assert pages <= 6
    assert single == GROUPS + 1  # each is confirmed on its own, and the canary is read before it is written


async def test_outcomes_come_while_the_input_waits(many: MutexEmulator, session: MutexSession) -> None:
    more = asyncio.Event()

    async def edits() -> AsyncIterator[SlotEdit]:
        yield one_each()[0]
        await more.wait()
        yield one_each()[1]

    async with session.stream_slot_edits(edits(), verify=True) as outcomes:
        async with asyncio.timeout(20):
            assert (await anext(outcomes)).status == "applied"
        more.set()
        assert [each.status async for each in outcomes] == ["applied"]


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_request_that_hangs_does_not_delay_the_reads_of_others(
    many: MutexEmulator, session: MutexSession, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("aiomutex.bulk.engine._PATIENCE", 0.05)
    many.fail_next(1, kind="stall", method="PATCH")
    many.latency = 0.05
    hanging, *others = one_each()[:3]

    async def edits() -> AsyncIterator[SlotEdit]:
        yield hanging
        await until(lambda: any(request.method == method for request in many.requests))
        for edit in others:
            yield edit

    async with session.stream_slot_edits(edits(), verify=True) as outcomes, asyncio.timeout(20):
        assert [(await anext(outcomes)).position for _ in others] == [1, 2]


async def test_a_run_that_stops_after_the_first_failure_writes_one_stretch(
    many: MutexEmulator, session: MutexSession
) -> None:
    many.dialect = Dialect(slot_patch="merge")
    report = await session.edit_slots(one_each(), verify=True, stop_after=1, concurrency=4, canary=False)
    assert isinstance(report.stopped_by, TooManyFailuresError)
    assert len(report.failed) >= 1
    assert sum(many.writes.values()) < 250


async def test_a_stopped_run_reads_back_what_was_written(many: MutexEmulator, session: MutexSession) -> None:
    many.latency = 0.001
    async with session.stream_slot_edits(one_each(), verify=True) as outcomes:
        await until(lambda: sum(many.writes.values()) > 20)
        outcomes.stop()
        statuses = [each.status async for each in outcomes]
    assert set(statuses) == {"applied", "skipped"}
    assert statuses.count("applied") == sum(many.writes.values())


async def test_what_is_written_can_be_read_back_before_the_day_ends(many: MutexEmulator) -> None:
    limiter = LocalRateLimiter(5_000, 150)
    async with session_for(many.url, rate_limiter=limiter) as session:
        report = await session.edit_slots(one_each(), verify=True)
    assert not report.unknown
    assert len(report.applied) == sum(many.writes.values()) >= 60
    assert len(report.skipped) == GROUPS - len(report.applied)


@pytest.mark.parametrize(
    ("long", "status", "note"), [(0.0, "applied", "other lists of the slot have changed"), (1_000.0, "failed", "")]
)
async def test_a_change_of_other_lists_is_noted_long_after_the_read_and_fails_the_edit_before(
    many: MutexEmulator, session: MutexSession, monkeypatch: pytest.MonkeyPatch, long: float, status: str, note: str
) -> None:
    monkeypatch.setattr("aiomutex.bulk.writer._LONG", long)
    edits = one_each()[:2]
    many.latency = 0.02
    run = asyncio.create_task(session.edit_slots(edits, verify=True))
    await until(lambda: many.writes["1", 1])
    many.groups["1"].slots[0].holdouts = [4242]
    report = await run
    notes = {each.edit.group_id: (each.status, each.note) for each in report.outcomes}
    assert notes["1"][0] == status
    assert note in notes["1"][1]
    assert notes["2"] == ("applied", "")
