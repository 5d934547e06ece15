"""The client's promises, one coroutine for each, which runs against its own emulator.

A scenario asserts a promise and returns a short result for the table. Where a dialect makes a promise impossible, the
scenario requires an error that says so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from aiomutex import (
    BadRequestError,
    ConflictError,
    DailyBudgetExhaustedError,
    InvalidRequestError,
    LocalRateLimiter,
    MutexSession,
    NewGroup,
    NewSlot,
    NotFoundError,
    RateLimitedError,
    RetryPolicy,
    SlotEdit,
    VerificationError,
)
from aiomutex.emulator import Dialect, MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

KEY = "mgmt-3f9a51c07be24d68"


class World(NamedTuple):
    dialect: Dialect
    emulator: MutexEmulator
    session: MutexSession


SCENARIOS: dict[str, Callable[[World], Awaitable[str]]] = {}


def scenario(function: Callable[[World], Awaitable[str]]) -> Callable[[World], Awaitable[str]]:
    SCENARIOS[function.__name__] = function
    return function


@asynccontextmanager
async def world(dialect: Dialect, **options: Any) -> AsyncGenerator[World]:
    """Seven groups, of which the second is archived; their first slot has members of each kind."""
    slot = {"percentage": 60, "experiments": [11, 12], "holdouts": [5], "individuals": ["ann"], "cohorts": ["c1"]}
    groups = [{"id": number, "slots": [slot, 40], "deleted": number == 2} for number in range(1, 8)]
    limiter = LocalRateLimiter(per_second=100_000, per_day=100_000_000)
    all_options: dict[str, Any] = {"limits": False} | options
    async with (
        MutexEmulator(groups=groups, dialect=dialect, **all_options) as emulator,
        MutexSession(
            KEY,
            base_url=emulator.url,
            rate_limiter=limiter,
            retry=RetryPolicy(base=0.001, cap=0.01),
            deadline=20.0,
        ) as session,
    ):
        yield World(dialect, emulator, session)


async def run_all(dialect: Dialect) -> dict[str, str | BaseException]:
    """Run all scenarios concurrently; return the result or the exception of each."""

    async def run(check: Callable[[World], Awaitable[str]]) -> str:
        async with world(dialect, **OPTIONS.get(check.__name__, {})) as prepared:
            return await check(prepared)

    results = await asyncio.gather(*(run(check) for check in SCENARIOS.values()), return_exceptions=True)
    return dict(zip(SCENARIOS, results, strict=True))


OPTIONS: dict[str, dict[str, Any]] = {
    "limit": {"limits": True, "per_second": 6},
    "budget": {"limits": True, "per_day": 9, "used_today": 9},
}


def visible(dialect: Dialect) -> list[str]:
    return [str(number) for number in range(1, 8) if number != 2 or dialect.archived != "hidden"]


def archived_flag(dialect: Dialect) -> bool | None:
    return True if dialect.archived == "flagged" else None


@scenario
async def listing(world: World) -> str:
    dialect, _, session = world
    for size in (3, 6, 7, 1000):
        groups = [group async for group in session.list_groups(page_size=size)]
        assert [group.id for group in groups] == visible(dialect)
    assert all(type(group.project_id) is str for group in groups)
    assert [group.deleted for group in groups if group.id == "2"] == [archived_flag(dialect)] * (
        "2" in visible(dialect)
    )
    return "ok"


@scenario
async def collecting(world: World) -> str:
    dialect, _, session = world
    for size in (2, 3):
        groups = await session.list_groups(page_size=size).collect(concurrency=4)
        assert [group.id for group in groups] == visible(dialect)
    return "ok"


@scenario
async def getting(world: World) -> str:
    dialect, _, session = world
    group = await session.get_group(1)
    assert (group.id, group.project_id, group.slots[0].experiments) == ("1", "1", [11, 12])
    assert group.slots[0].cohorts == (["c1"] if dialect.cohorts == "present" else [])
    with pytest.raises(NotFoundError) as caught:
        await session.get_group("nope")
    assert (caught.value.request_id is not None) is (dialect.request_ids == "present")
    assert ("does not exist" in str(caught.value)) is (dialect.error_body not in ("empty", "html"))
    return "ok"


@scenario
async def finding(world: World) -> str:
    group = await world.session.find_group("group-7")
    assert group is not None
    assert group.id == "7"
    assert await world.session.find_group("group-8") is None
    return "ok"


@scenario
async def editing(world: World) -> str:
    _, emulator, session = world
    await session.edit_group("3", name="new", description=None)
    assert (emulator.groups["3"].name, emulator.groups["3"].description) == ("new", None)
    sent = len(emulator.requests)
    with pytest.raises(InvalidRequestError):
        await session.edit_group("3")
    assert len(emulator.requests) == sent
    return "ok"


@scenario
async def archiving(world: World) -> str:
    dialect, emulator, session = world
    await session.archive_group("3")
    archived = emulator.groups["3"].deleted
    reported = (await session.get_group("3")).deleted
    await session.unarchive_group("3")
    assert (archived, reported, emulator.groups["3"].deleted) == (True, archived_flag(dialect), False)
    return "ok"


@scenario
async def edit_slot(world: World) -> str:
    """Without a verification, a service that counts slots from 0 in the path edits the wrong slot unnoticed."""
    dialect, emulator, session = world
    await session.edit_slot("3", 1, experiments=[12, 13])
    first, second = emulator.groups["3"].slots
    if dialect.slot_numbers == "from 0":
        assert (first.experiments, second.experiments) == ([11, 12], [12, 13])
        return "edits slot 2"
    assert first.experiments == ([12, 13] if dialect.slot_patch == "replace" else [11, 12, 13])
    assert (first.holdouts, first.individuals) == ([5], ["ann"])
    return "ok"


@scenario
async def adding(world: World) -> str:
    """Edit and verify every slot: all are applied, unless an edit visibly removed cohorts or changed another slot."""
    dialect, emulator, session = world
    edits = [SlotEdit(number, slot, experiments=[11, 12, 13]) for number in range(1, 8) for slot in (1, 2)]
    report = await session.edit_slots(edits, verify=True)
    if dialect.slot_numbers == "from 0":
        assert not report.applied
        assert any(isinstance(outcome.error, VerificationError) for outcome in report.failed)
        return "says not written"
    lost = dialect.cohorts_on_edit == "dropped" and dialect.cohorts == "present"
    assert {outcome.edit.slot_index for outcome in report.failed} == ({1} if lost else set())
    assert len(report.applied) == (7 if lost else 14)
    assert all(isinstance(outcome.error, VerificationError) for outcome in report.failed)
    assert all("cohorts" in str(outcome.error) for outcome in report.failed)
    # With racy writes, two concurrent edits of one group would overwrite each other.
    assert all(slot.experiments == [11, 12, 13] for group in emulator.groups.values() for slot in group.slots)
    return "says cohorts lost" if lost else "ok"


@scenario
async def removing(world: World) -> str:
    dialect, emulator, session = world
    emulator.groups["3"].slots[0].cohorts = []
    report = await session.edit_slots([SlotEdit("3", 1, experiments=[11])], verify=True)
    if dialect.slot_patch == "replace" and dialect.slot_numbers == "from 1":
        assert (len(report.applied), emulator.groups["3"].slots[0].experiments) == (1, [11])
        return "ok"
    assert not report.applied
    assert isinstance(report.failed[0].error, VerificationError)
    assert "12" in str(report.failed[0].error)
    return "says not removed"


@scenario
async def change_slot(world: World) -> str:
    dialect, emulator, session = world
    emulator.groups["3"].slots[0].cohorts = []
    if dialect.slot_patch == "replace" and dialect.slot_numbers == "from 1":
        slot = await session.change_slot("3", 1, add_experiments=[13], remove_experiments=[11])
        assert slot.experiments == emulator.groups["3"].slots[0].experiments == [12, 13]
        return "ok"
    with pytest.raises(VerificationError):
        await session.change_slot("3", 1, add_experiments=[13], remove_experiments=[11])
    return "says not removed"


NEW = NewGroup(
    project_id=1,
    name="New",
    slots=[NewSlot(percentage=40, experiments=[7], individuals=["x@example.com"]), NewSlot(percentage=60)],
)


@scenario
async def creating(world: World) -> str:
    _, emulator, session = world
    created = await session.create_group(NEW)
    assert emulator.groups[created.id].key == created.key
    assert [slot.percentage for slot in emulator.groups[created.id].slots] == [40, 60]
    return "ok"


@scenario
async def lost_create(world: World) -> str:
    """If the response is lost after the group was created, there is one group, and the caller gets its ID."""
    _, emulator, session = world
    emulator.fail_next(1, after_commit=True, method="POST")
    created = await session.create_group(NEW)
    assert emulator.groups[created.id].key == created.key
    assert Counter(commit.method for commit in emulator.commits) == {"POST": 1}
    return "ok"


@scenario
async def taken_key(world: World) -> str:
    dialect, emulator, session = world
    expected = ConflictError if dialect.taken_key == 409 else BadRequestError
    with pytest.raises(expected):
        await session.create_group(NewGroup(project_id=1, name="New", key="group-3", slots=[NewSlot(percentage=100)]))
    assert not emulator.commits
    return "ok"


@scenario
async def limit(world: World) -> str:
    """Calls above a limit that the client does not know are retried, and all succeed."""
    _, emulator, session = world
    emulator.clock.advance(1 - emulator.clock.now() % 1)  # fixed windows: the calls are to be in one of them
    groups = await asyncio.gather(*(session.get_group("1") for _ in range(9)))
    assert [group.id for group in groups] == ["1"] * 9
    assert emulator.limits.rejected
    return f"{emulator.limits.rejected} times 429"


@scenario
async def budget(world: World) -> str:
    """If the daily budget is used up, an error says so soon, whatever the service reports."""
    _, emulator, session = world
    with pytest.raises((RateLimitedError, DailyBudgetExhaustedError)):
        await session.with_options(retry=RetryPolicy(max_attempts=2)).get_group("1")
    assert emulator.limits.accepted == 0
    return "says so"
