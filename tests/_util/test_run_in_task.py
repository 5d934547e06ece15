from __future__ import annotations

import asyncio

import pytest

from aiomutex._util.tasks import run_in_task


@pytest.mark.parametrize("swallows", [False, True])
async def test_work_is_cancelled_with_its_caller_who_is_cancelled_even_if_it_swallows_that(swallows: bool) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            if not swallows:
                raise

    call = asyncio.create_task(run_in_task(work()))
    await started.wait()
    call.cancel()
    async with asyncio.timeout(10):
        await cancelled.wait()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert asyncio.all_tasks() == {asyncio.current_task()}
