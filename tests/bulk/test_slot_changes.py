from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from bulk_support import landed
from support import ROOT, until

from aiomutex import (
    BadRequestError,
    DeadlineExceededError,
    InvalidRequestError,
    MutexSession,
    NotFoundError,
    VerificationError,
)
from aiomutex.emulator import Dialect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex.testing import MutexEmulator


async def test_a_change_adds_and_removes_and_returns_the_slot(emulator: MutexEmulator, session: MutexSession) -> None:
    slot = emulator.groups["1"].slots[0]
    slot.experiments, slot.holdouts = [1, 2, 3], [7]
    changed = await session.change_slot(1, 1, add_experiments=[4, 1], remove_experiments=[2], add_individuals=["a"])
    assert changed.experiments == [1, 3, 4]
    assert slot.experiments == [1, 3, 4]
    assert slot.holdouts == [7]
    assert landed(emulator) == [("1", 1, {"experiments": [1, 3, 4], "individuals": ["a"]})]


async def test_a_change_without_effect_is_not_written(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.groups["1"].slots[0].experiments = [1, 2]
    slot = await session.change_slot(1, 1, add_experiments=[1], remove_experiments=[9], remove_holdouts=[3])
    assert slot.experiments == [1, 2]
    assert not landed(emulator)
    assert len(emulator.requests) == 1


async def test_concurrent_changes_of_one_group_lose_nothing(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.latency = "1ms±1ms"
    for slot in emulator.groups["1"].slots:
        slot.experiments = []
    views = [session, session.with_options(deadline=5.0)]
    calls = (views[n % 2].change_slot(1 if n % 3 else "1", 1 + n % 2, add_experiments=[n]) for n in range(30))
    await asyncio.gather(*calls)
    assert sorted(emulator.groups["1"].slots[0].experiments) == list(range(0, 30, 2))
    assert sorted(emulator.groups["1"].slots[1].experiments) == list(range(1, 30, 2))


async def test_changes_of_different_groups_are_concurrent(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.latency = 0.02
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, sum(request.status is None for request in emulator.requests))
            await asyncio.sleep(0.001)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(session.change_slot(n, 1, add_experiments=[5]) for n in range(1, 11)))
    watcher.cancel()
    assert most > 5


@pytest.mark.parametrize("what", ["experiments", "holdouts", "cohorts"])
async def test_a_change_by_someone_else_before_the_read_back_is_noticed(
    emulator: MutexEmulator, session: MutexSession, what: str
) -> None:
    emulator.latency = 0.05
    change = asyncio.create_task(session.change_slot(1, 1, add_experiments=[5]))
    while not emulator.writes["1", 1]:  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    setattr(emulator.groups["1"].slots[0], what, ["x"] if what == "cohorts" else [66])
    with pytest.raises(VerificationError) as caught:
        await change
    assert caught.value.actual[what] != caught.value.expected[what]
    assert caught.value.maybe_applied
    assert caught.value.attempts == 1


async def test_a_removal_that_a_merging_service_ignores_raises_a_verification_error(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.dialect = Dialect(slot_patch="merge")
    emulator.groups["1"].slots[0].experiments = [1, 2]
    with pytest.raises(VerificationError, match=r"experiments should be \[1\] but is \[1, 2\]"):
        await session.change_slot(1, 1, remove_experiments=[2])


async def test_a_cancelled_change_releases_its_lock(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.latency = 0.05
    first = asyncio.create_task(session.change_slot(1, 1, add_experiments=[5]))
    second = asyncio.create_task(session.change_slot(1, 1, add_experiments=[6]))
    await asyncio.sleep(0.02)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert 6 in (await second).experiments


def changed(session: MutexSession) -> Awaitable[object]:
    return session.change_slot(1, 1, add_experiments=[5])


def moved(session: MutexSession) -> Awaitable[object]:
    return session.move_experiment(1, 1, 1, 2)


@pytest.mark.parametrize("change", [changed, moved])
async def test_the_deadline_covers_a_change_as_a_whole(
    emulator: MutexEmulator, session: MutexSession, change: Callable[[MutexSession], Awaitable[object]]
) -> None:
    emulator.groups["1"].slots[0].experiments = [1]
    emulator.latency = 0.08
    calls = (change(session.with_options(deadline=0.1 + 0.01 * number)) for number in range(3))
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [DeadlineExceededError] * 3


async def test_a_change_that_exceeds_its_deadline_while_waiting_says_that_nothing_was_sent(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.latency = 0.05
    first = asyncio.ensure_future(session.change_slot(1, 1, add_experiments=[5]))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceededError, match="while waiting for other writes of the group") as caught:
        await session.with_options(deadline=0.02).change_slot(1, 1, add_experiments=[6])
    error = caught.value
    assert (error.path, error.deadline, error.attempts, error.maybe_applied) == (f"{ROOT}/1", 0.02, 0, False)
    assert 5 in (await first).experiments
    assert 6 not in emulator.groups["1"].slots[0].experiments


async def test_a_change_whose_read_back_fails_may_have_been_applied(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.fail_next(status=404, method="GET")
    with pytest.raises(NotFoundError) as caught:
        await session.change_slot(1, 1, add_experiments=[5])
    assert not caught.value.maybe_applied
    emulator.latency = 0.02
    change = asyncio.create_task(session.change_slot(1, 1, add_experiments=[5]))
    await until(lambda: emulator.writes["1", 1])
    emulator.fail_next(status=404, method="GET")
    with pytest.raises(NotFoundError) as caught:
        await change
    assert caught.value.maybe_applied
    assert 5 in emulator.groups["1"].slots[0].experiments


async def test_a_move_whose_second_write_fails_may_have_been_applied_in_part(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    slots = emulator.groups["1"].slots
    slots[0].experiments, slots[1].experiments = [1], []
    emulator.fail_next(status=400, method="PATCH", path="*/slots/1")
    with pytest.raises(BadRequestError) as caught:
        await session.move_experiment(1, 1, 1, 2)
    assert caught.value.maybe_applied
    assert [slot.experiments for slot in slots[:2]] == [[1], [1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            "^the change is empty; pass at least one of add_experiments, remove_experiments, add_holdouts, remove_hold",
        ),
        (
            {"add_experiments": [1, 2, 3], "remove_experiments": [3, 1]},
            r"^add_experiments and remove_.* both contain \[1, 3]$",
        ),
        (
            {"add_individuals": ["b"], "remove_individuals": ["b"]},
            r"^add_individuals and .* both contain \['b'\]$",
        ),
        ({"add_experiments": [-1]}, "add_experiments"),
        ({"add_individuals": [5]}, "add_individuals"),
    ],
)
async def test_an_invalid_change_is_rejected_before_anything_is_sent(
    emulator: MutexEmulator, session: MutexSession, changes: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        await session.change_slot(1, 1, **changes)  # type: ignore[arg-type]
    assert not emulator.requests


async def test_the_message_lists_the_slots_of_the_group_if_the_slot_is_missing(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    with pytest.raises(InvalidRequestError, match=r"^slot_index must be a slot of group 1 \(1, 2, 3\), not 9$"):
        await session.change_slot(1, 9, add_experiments=[1])


async def test_a_move_adds_to_the_new_slot_before_it_removes_from_the_old_one(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    slots = emulator.groups["1"].slots
    slots[0].experiments, slots[1].experiments = [1, 2], [3]
    group = await session.move_experiment(1, 2, 1, 2)
    assert [slot.experiments for slot in group.slots[:2]] == [[1], [3, 2]]
    assert [(slot, body["experiments"]) for _, slot, body in landed(emulator)] == [(2, [3, 2]), (1, [1])]


async def test_an_interrupted_move_is_completed_by_the_same_call(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    slots = emulator.groups["1"].slots
    slots[0].experiments, slots[1].experiments = [1, 2], [3, 2]
    await session.move_experiment(1, 2, 1, 2)
    assert [slot.experiments for slot in slots[:2]] == [[1], [3, 2]]
    emulator.clear_history()
    await session.move_experiment(1, 2, 1, 2)
    assert not landed(emulator)


async def test_an_experiment_in_neither_slot_is_not_moved(emulator: MutexEmulator, session: MutexSession) -> None:
    with pytest.raises(InvalidRequestError, match="must be in slot 1 or slot 2 of group 1, not 2"):
        await session.move_experiment(1, 2, 1, 2)
    with pytest.raises(InvalidRequestError, match="both are 1"):
        await session.move_experiment(1, 2, 1, 1)
    with pytest.raises(InvalidRequestError, match=r"^experiment\[0\] must be "):
        await session.move_experiment(1, -2, 1, 2)
    assert not landed(emulator)


async def test_moves_and_changes_of_one_group_wait_for_each_other(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.latency = "1ms±1ms"
    emulator.groups["1"].slots[0].experiments = list(range(10))
    emulator.groups["1"].slots[1].experiments = []
    await asyncio.gather(
        *(session.move_experiment(1, n, 1, 2) for n in range(10)),
        *(session.change_slot(1, 1, add_experiments=[100 + n]) for n in range(5)),
    )
    assert sorted(emulator.groups["1"].slots[0].experiments) == list(range(100, 105))
    assert sorted(emulator.groups["1"].slots[1].experiments) == list(range(10))
