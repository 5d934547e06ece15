"""A session makes one write at a time to each group, whoever of its callers makes it, and never holds up others."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import edits_for, landed, session_for
from support import until

from aiomutex import DeadlineExceededError, MutexSession, RetryPolicy, SlotEdit
from aiomutex.bulk import undo
from aiomutex.emulator import Dialect
from aiomutex.limits import Priority

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from aiomutex.testing import MutexEmulator


def locks_of(session: MutexSession) -> int:
    inside: Any = session
    return len(inside._transport.group_locks._holders)


async def record_concurrency(emulator: MutexEmulator, most: Counter[str]) -> None:
    while True:
        now = Counter(
            request.path.split("/")[4]
            for request in emulator.requests
            if request.status is None and request.method != "GET"
        )
        for group, count in now.items():
            most[group] = max(most[group], count)
        await asyncio.sleep(0.0005)


async def run_edits(session: MutexSession, slot: int, **options: Any) -> None:
    edits = [SlotEdit(1 + n % 2, slot, experiments=[n]) for n in range(20)]
    (await session.edit_slots(edits, **options)).raise_for_failures()


async def gather(calls: Any) -> None:
    await asyncio.gather(*calls)


async def run_and_undo(session: MutexSession, path: Path) -> None:
    await session.edit_slots([SlotEdit(2, 3, holdouts=[n]) for n in range(5)], journal=path / "run.db")
    await undo(session, path / "run.db")


WRITERS: dict[str, Callable[[MutexSession, Path], Awaitable[object]]] = {
    "a run": lambda session, _: run_edits(session, 1),
    "a journaled run and its undo": run_and_undo,
    "changes": lambda session, _: gather(session.change_slot(1, 3, add_individuals=[f"u{n}"]) for n in range(10)),
    "moves": lambda session, _: gather(session.move_experiment(1, 900 + n, 2, 3) for n in range(5)),
    "edits": lambda session, _: gather(session.edit_slot(2, 2, experiments=[n]) for n in range(10)),
    "names": lambda session, _: gather(session.edit_group(1 + n % 2, name=f"n{n}") for n in range(10)),
    "archives": lambda session, _: gather(session.unarchive_group(1 + n % 2) for n in range(4)),
    "any request": lambda session, _: gather(
        session.request("PATCH", f"/api/1/mutexes/1/slots/2?n={n}", json={"holdouts": [n]}, idempotent=True)
        for n in range(10)
    ),
}


@pytest.mark.parametrize("faults", [0, 10])
async def test_all_writers_of_a_session_together_make_one_write_at_a_time_to_a_group(
    emulator: MutexEmulator, tmp_path: Path, faults: int
) -> None:
    emulator.dialect = Dialect(slot_writes="racy")
    emulator.latency = "2ms±2ms"
    for _ in range(faults):
        emulator.fail_next(status=503, method="PATCH")
        emulator.fail_next(status=502, after_commit=True, method="PATCH")
    emulator.groups["1"].slots[1].experiments = [900, 901, 902, 903, 904]
    most: Counter[str] = Counter()
    watch = asyncio.create_task(record_concurrency(emulator, most))
    # The lock may give every fault to one call.
    async with session_for(emulator.url, retry=RetryPolicy(max_attempts=30, base=0.001, cap=0.01)) as session:
        views = [session, session.with_options(priority=Priority.BULK), session.with_options(deadline=8.0)]
        await asyncio.gather(
            *(write(views[n % 3], tmp_path) for n, write in enumerate(WRITERS.values())), run_edits(session, 1)
        )
        watch.cancel()
        assert locks_of(session) == 0
    assert set(most.values()) == {1}
    slots = emulator.groups["1"].slots
    assert set(slots[2].individuals) == {f"u{n}" for n in range(10)}
    assert slots[1].holdouts
    assert (set(slots[1].experiments), set(slots[2].experiments) & set(range(900, 905))) == (
        set(),
        set(range(900, 905)),
    )
    assert slots[0].experiments in ([18], [16])
    slots = emulator.groups["2"].slots
    assert slots[0].experiments
    assert slots[1].experiments


async def test_writes_of_a_group_are_made_in_the_order_of_the_calls(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.latency = "1ms±1ms"
    await gather(session.edit_slot(1, 1, experiments=[n]) for n in range(40))
    assert [body["experiments"] for _, _, body in landed(emulator)] == [[n] for n in range(40)]


async def test_nothing_is_locked_during_a_back_off(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url, retry=RetryPolicy(base=60, cap=60)) as session:
        emulator.fail_next(status=503, path="/api/1/mutexes/1/*")
        waiting = asyncio.ensure_future(session.with_options(deadline=100.0).edit_slot(1, 1, experiments=[1]))
        await until(lambda: emulator.requests)
        async with asyncio.timeout(20):
            await session.edit_slot(1, 1, experiments=[2])
            await session.change_slot(1, 2, add_experiments=[3])
        waiting.cancel()


@pytest.mark.parametrize("verify", [False, True])
async def test_nothing_is_locked_while_a_consumer_is_slow(
    emulator: MutexEmulator, session: MutexSession, verify: bool
) -> None:
    async with session.stream_slot_edits(edits_for(3_000), verify=verify) as outcomes:
        await anext(outcomes)
        async with asyncio.timeout(10):
            await gather(session.change_slot(group, 3, add_individuals=["ada"]) for group in range(1, 21))


async def test_a_write_that_is_cancelled_while_it_waits_or_is_sent_lets_the_next_one_through(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.latency = 0.02
    calls = [asyncio.create_task(session.edit_slot(1, 1, experiments=[n])) for n in range(6)]
    await asyncio.sleep(0.01)
    for n in (0, 2, 3):
        calls[n].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [
        asyncio.CancelledError if n in (0, 2, 3) else type(None) for n in range(6)
    ]
    assert emulator.groups["1"].slots[0].experiments == [5]
    del calls, results  # the frames of their exceptions have references to the lock
    assert locks_of(session) == 0


async def test_the_deadline_covers_the_wait_for_other_writes_of_the_group(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.latency = 0.2
    first = asyncio.ensure_future(session.edit_slot(1, 1, experiments=[1]))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceededError, match="before the request was sent") as caught:
        await session.with_options(deadline=0.02).edit_slot(1, 1, experiments=[2])
    assert not caught.value.maybe_applied
    await first
