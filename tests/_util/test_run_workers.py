from __future__ import annotations

import asyncio
import itertools

import anyio
import pytest

from aiomutex._util.tasks import results_of, run_workers


async def test_each_item_is_worked_on_once_and_in_order_by_at_most_so_many_workers() -> None:
    started: list[int] = []
    running = most = 0

    async def work(item: int) -> None:
        nonlocal running, most
        started.append(item)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (item % 3))
        running -= 1

    await run_workers(work, range(20), 4)
    assert started == list(range(20))
    assert most == 4


async def test_no_more_workers_are_started_than_there_are_items() -> None:
    tasks: set[object] = set()

    async def work(_: int) -> None:
        tasks.update(asyncio.all_tasks())

    await run_workers(work, [1, 2], 1_000_000)
    assert len(tasks) <= 3


async def test_the_first_exception_comes_out_as_itself_and_ends_the_other_workers() -> None:
    cancelled: list[int] = []

    async def work(item: int) -> None:
        if item == 2:
            raise KeyError(item)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    with pytest.raises(KeyError, match="2"):
        await run_workers(work, itertools.count(), 3)
    assert sorted(cancelled) == [0, 1]


@pytest.mark.parametrize("iterations", range(6))
async def test_a_cancellation_that_comes_together_with_an_exception_is_not_swallowed(iterations: int) -> None:
    released = asyncio.Event()

    async def work(_: int) -> None:
        await released.wait()
        raise KeyError

    call = asyncio.ensure_future(run_workers(work, [1, 2], 2))
    await asyncio.sleep(0.001)
    released.set()
    for _ in range(iterations):
        await asyncio.sleep(0)
    too_late = call.done()
    call.cancel()
    results = await asyncio.gather(call, return_exceptions=True)
    assert isinstance(results[0], KeyError if too_late else asyncio.CancelledError)


async def test_an_exception_inside_a_scope_that_is_not_cancelled_is_raised() -> None:
    async def work(_: int) -> None:
        raise KeyError

    with anyio.CancelScope() as scope:
        with pytest.raises(KeyError):
            await run_workers(work, [1], 1)
        await asyncio.sleep(0)
    assert not scope.cancelled_caught
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_results_come_in_the_order_of_the_items_whichever_ends_first() -> None:
    last_has_ended = asyncio.Event()

    async def work(item: int) -> int:
        if item == 3:
            last_has_ended.set()
        await last_has_ended.wait()
        if item == 1:
            await asyncio.sleep(0)
        return 10 * item

    assert list((await results_of(work, [1, 2, 3], 3)).items()) == [(1, 10), (2, 20), (3, 30)]
