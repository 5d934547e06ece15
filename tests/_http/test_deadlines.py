"""One timer for all timeouts: each alarm interrupts its own task, at its time, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from aiomutex._http.deadlines import DeadlineTimer


async def sleeper(clock: DeadlineTimer, seconds: float, rest: float = 5.0) -> str:
    alarm = clock.set(asyncio.get_running_loop().time() + seconds)
    try:
        await asyncio.sleep(rest)
    except asyncio.CancelledError:
        if alarm.resolve():
            return "expired"
        raise
    finally:
        clock.cancel(alarm)
    return "slept"


async def test_each_task_is_interrupted_by_its_own_alarm_alone() -> None:
    clock = DeadlineTimer(asyncio.get_running_loop())
    calls = [sleeper(clock, 0.02), sleeper(clock, 5.0, rest=0.05), sleeper(clock, 0.01), sleeper(clock, 0.03)]
    assert await asyncio.gather(*calls) == ["expired", "slept", "expired", "expired"]
    assert len(clock) == 0
    clock.close()


async def test_an_alarm_can_be_moved_nearer() -> None:
    clock = DeadlineTimer(asyncio.get_running_loop())
    alarm = clock.set(asyncio.get_running_loop().time() + 60)
    clock.move(alarm, asyncio.get_running_loop().time() + 0.01)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(5)
    assert alarm.resolve()
    assert not alarm.resolve()
    clock.cancel(alarm)
    clock.close()


async def test_an_alarm_that_was_unset_never_rings() -> None:
    clock = DeadlineTimer(asyncio.get_running_loop())
    clock.cancel(clock.set(asyncio.get_running_loop().time() + 0.01))
    await asyncio.sleep(0.03)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_alarm_in_the_past_rings_at_once() -> None:
    clock = DeadlineTimer(asyncio.get_running_loop())
    assert await sleeper(clock, -1) == "expired"
    clock.close()


async def test_whoever_else_cancels_the_task_goes_before() -> None:
    clock = DeadlineTimer(asyncio.get_running_loop())
    task = asyncio.ensure_future(sleeper(clock, 0.0))
    asyncio.get_running_loop().call_later(0.0, task.cancel)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    started = asyncio.ensure_future(sleeper(clock, 0.01))
    await asyncio.sleep(0)
    for alarm in list(clock._alarms):  # pyright: ignore[reportPrivateUsage]
        alarm.expire()
    started.cancel()
    with pytest.raises(asyncio.CancelledError):
        await started
    assert len(clock) == 0
    clock.close()


async def test_one_timer_serves_many_alarms() -> None:
    loop = asyncio.get_running_loop()
    clock = DeadlineTimer(loop)
    now = loop.time()
    alarms = [clock.set(now + 60 + number) for number in range(100)]
    timer = clock._timer  # pyright: ignore[reportPrivateUsage]
    assert timer is not None
    assert timer.when() == pytest.approx(now + 60, abs=0.01)  # uvloop counts in milliseconds
    for alarm in alarms:
        clock.cancel(alarm)
    clock.close()
    assert timer.cancelled()


async def test_a_clock_that_closes_rings_all_alarms_and_each_once() -> None:
    clock = DeadlineTimer(asyncio.get_running_loop())
    calls = [asyncio.ensure_future(sleeper(clock, 60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    for alarm in list(clock._alarms):  # pyright: ignore[reportPrivateUsage]
        alarm.expire()
    clock.close()
    assert await asyncio.gather(*calls) == ["expired"] * 3
    assert [call.cancelling() for call in calls] == [0] * 3
    assert len(clock) == 0
