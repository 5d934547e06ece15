"""One timer for all timeouts: each deadline interrupts its own task, at its time, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from aiomutex._http.deadlines import DeadlineTimer


async def sleeper(timer: DeadlineTimer, seconds: float, sleep: float = 5.0) -> str:
    """Sleep with a deadline; returns what happened first."""
    deadline = timer.set(asyncio.get_running_loop().time() + seconds)
    try:
        await asyncio.sleep(sleep)
    except asyncio.CancelledError:
        if deadline.resolve():
            return "expired"
        raise
    finally:
        timer.cancel(deadline)
    return "slept"


def expire_all(timer: DeadlineTimer) -> None:
    for deadline in list(timer._deadlines):  # pyright: ignore[reportPrivateUsage]
        deadline.expire()


async def test_each_task_is_interrupted_by_its_own_deadline_only() -> None:
    timer = DeadlineTimer(asyncio.get_running_loop())
    calls = [sleeper(timer, 0.02), sleeper(timer, 5.0, sleep=0.05), sleeper(timer, 0.01), sleeper(timer, 0.03)]
    assert await asyncio.gather(*calls) == ["expired", "slept", "expired", "expired"]
    assert len(timer) == 0
    timer.close()


async def test_a_deadline_can_be_moved_forward() -> None:
    timer = DeadlineTimer(asyncio.get_running_loop())
    deadline = timer.set(asyncio.get_running_loop().time() + 60)
    timer.move(deadline, asyncio.get_running_loop().time() + 0.01)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(5)
    assert deadline.resolve()
    assert not deadline.resolve()
    timer.cancel(deadline)
    timer.close()


async def test_a_cancelled_deadline_never_expires() -> None:
    timer = DeadlineTimer(asyncio.get_running_loop())
    timer.cancel(timer.set(asyncio.get_running_loop().time() + 0.01))
    await asyncio.sleep(0.03)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_deadline_in_the_past_expires_at_once() -> None:
    timer = DeadlineTimer(asyncio.get_running_loop())
    assert await sleeper(timer, -1) == "expired"
    timer.close()


async def test_a_deadline_interrupts_once() -> None:
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    deadline = timer.set(loop.time())
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(5)
    assert deadline.resolve()
    later = timer.set(loop.time() + 60)  # so the timer goes on
    await asyncio.sleep(0.01)
    timer.cancel(later)
    timer.close()


async def test_any_other_cancellation_of_the_task_takes_precedence() -> None:
    timer = DeadlineTimer(asyncio.get_running_loop())
    task = asyncio.ensure_future(sleeper(timer, 0.0))
    asyncio.get_running_loop().call_later(0.0, task.cancel)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    started = asyncio.ensure_future(sleeper(timer, 0.01))
    await asyncio.sleep(0)
    expire_all(timer)
    started.cancel()
    with pytest.raises(asyncio.CancelledError):
        await started
    assert len(timer) == 0
    timer.close()


async def test_one_timer_of_the_loop_serves_many_deadlines() -> None:
    loop = asyncio.get_running_loop()
    timer = DeadlineTimer(loop)
    now = loop.time()
    deadlines = [timer.set(now + 60 + number) for number in range(100)]
    handle = timer._timer  # pyright: ignore[reportPrivateUsage]
    assert handle is not None
    assert handle.when() == pytest.approx(now + 60, abs=0.01)  # uvloop counts in milliseconds
    for deadline in deadlines:
        timer.cancel(deadline)
    timer.close()
    assert handle.cancelled()


async def test_closing_expires_each_deadline_once() -> None:
    timer = DeadlineTimer(asyncio.get_running_loop())
    calls = [asyncio.ensure_future(sleeper(timer, 60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    next(iter(timer._deadlines)).expire()  # pyright: ignore[reportPrivateUsage]
    timer.close()
    assert await asyncio.gather(*calls) == ["expired"] * 3
    assert [call.cancelling() for call in calls] == [0] * 3
    assert len(timer) == 0
