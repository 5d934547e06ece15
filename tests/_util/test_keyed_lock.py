"""Locks by key: one holder, in order, and nothing left behind by a cancelled waiter."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from aiomutex._util.keyed_lock import KeyedLock


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 6) | st.none()), max_size=30))
def test_a_key_has_one_holder_at_a_time_and_is_forgotten_when_nobody_wants_it(
    tasks: list[tuple[str, int, int | None]],
) -> None:
    locks = KeyedLock()
    held: set[str] = set()
    order: dict[str, list[int]] = {"a": [], "b": []}

    async def hold(number: int, key: str, iterations: int) -> None:
        await locks.acquire(key)
        try:
            assert key not in held
            held.add(key)
            order[key].append(number)
            for _ in range(iterations):
                await asyncio.sleep(0)
        finally:
            held.discard(key)
            locks.release(key)

    async def cancel_after(task: asyncio.Task[None], iterations: int) -> None:
        for _ in range(iterations):
            await asyncio.sleep(0)
        task.cancel()

    async def main() -> None:
        running: list[asyncio.Task[None]] = []
        for number, (key, iterations, cancelled_after) in enumerate(tasks):
            task = asyncio.ensure_future(hold(number, key, iterations))
            running.append(task)
            if cancelled_after is not None:
                running.append(asyncio.ensure_future(cancel_after(task, cancelled_after)))
        for task in running:
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 20)

    asyncio.run(main())
    assert not locks._waiters  # pyright: ignore[reportPrivateUsage]  # nothing is left
    assert all(numbers == sorted(numbers) for numbers in order.values())
