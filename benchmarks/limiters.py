"""Rate limiters by themselves: permits in a sliding second, rate, order and cost.

All subjects run in the same event loop, so that their ratios are comparable.
"""

from __future__ import annotations

import asyncio
import bisect
import statistics
import time
from typing import TYPE_CHECKING, TypedDict

import aiolimiter
import pyrate_limiter

from aiomutex.limits import LocalRateLimiter
from benchmarks.harness import Goal, Result, Row, Size, Table, WrongResultError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Acquire = Callable[[], Awaitable[object]]

__all__ = ["Figures", "compare", "run"]


class Figures(TypedDict):
    """The figures of one limiter."""

    limiter: str
    rate: float
    """Permits per second, from the first to the last."""
    most: int
    """Permits in the fullest sliding second."""
    cpu: float
    """Microseconds of processor time per permit, with a backlog."""
    alone: float
    """Microseconds of an acquire that does not wait."""
    idle: float
    """Milliseconds until 50 callers have a permit, from idle."""
    displaced: int
    """The largest distance between the order of calls and the order of permits."""


def aiolimiter_burst(rate: int) -> Acquire:
    return aiolimiter.AsyncLimiter(rate, 1).acquire


def aiolimiter_paced(rate: int) -> Acquire:
    return aiolimiter.AsyncLimiter(1, 1 / rate).acquire


def pyrate(rate: int) -> Acquire:
    return pyrate_limiter.Limiter(pyrate_limiter.Rate(rate, pyrate_limiter.Duration.SECOND)).try_acquire_async


def ours(rate: int) -> Acquire:
    return LocalRateLimiter(rate, per_day=10**9).acquire


def ours_safe(rate: int) -> Acquire:
    return LocalRateLimiter(rate, per_day=10**9, safe=True).acquire


OURS = "LocalRateLimiter()"
SUBJECTS: dict[str, Callable[[int], Acquire]] = {
    "aiolimiter(100, 1)": aiolimiter_burst,
    "aiolimiter(1, 0.01)": aiolimiter_paced,
    "pyrate-limiter 100/s": pyrate,
    OURS: ours,
    "LocalRateLimiter(safe=True)": ours_safe,
}


async def _backlog(acquire: Acquire, permits: int, tasks: int) -> tuple[list[float], list[int], float]:
    """Return the times and the callers in the order of permits, and the processor time in seconds."""
    times: list[float] = []
    served: list[int] = []
    tickets = iter(range(permits))

    async def one() -> None:
        for ticket in tickets:
            await acquire()
            times.append(time.perf_counter())
            served.append(ticket)

    cpu = time.process_time()
    await asyncio.gather(*(one() for _ in range(tasks)))
    return times, served, time.process_time() - cpu


async def _alone(subjects: dict[str, Acquire], rounds: int, calls: int) -> dict[str, float]:
    """Return the median processor time of each subject over alternating rounds."""
    costs: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, acquire in subjects.items():
            start = time.process_time()
            for _ in range(calls):
                await acquire()
            costs[name].append((time.process_time() - start) / calls)
    return {name: statistics.median(values) for name, values in costs.items()}


async def _from_idle(acquire: Acquire) -> float:
    start = time.perf_counter()
    await asyncio.gather(*(acquire() for _ in range(50)))
    return time.perf_counter() - start


async def compare(permits: int = 3000, tasks: int = 200, rounds: int = 15) -> list[Figures]:
    """Measure every subject at 100 permits a second.

    Args:
        permits: Permits to take with a backlog.
        tasks: Tasks that take them.
        rounds: Rounds of 1,000 acquires each that do not wait.
    """
    alone = await _alone({name: make(100_000) for name, make in SUBJECTS.items()}, rounds, 1000)
    rows: list[Figures] = []
    for name, make in SUBJECTS.items():
        idle = await _from_idle(make(100))
        times, served, cpu = await _backlog(make(100), permits, tasks)
        row = Figures(
            limiter=name,
            rate=(permits - 1) / (times[-1] - times[0]),
            most=max(bisect.bisect_left(times, t + 1.0) - i for i, t in enumerate(times)),
            cpu=cpu / permits * 1e6,
            alone=alone[name] * 1e6,
            idle=idle * 1e3,
            displaced=max(abs(place - ticket) for place, ticket in enumerate(served)),
        )
        rows.append(row)
    return rows


def run(size: Size) -> Result:
    """Take permits with a backlog, without waiting, and from idle."""
    permits, tasks = size.of((3000, 200), (130, 30), (110, 20))
    figures = asyncio.run(compare(permits, tasks, rounds=size.of(15, 2, 2)))
    mine = next(each for each in figures if each["limiter"] == OURS)
    if mine["most"] > 97 or mine["displaced"]:
        raise WrongResultError(f"{mine['most']} permits in a second, {mine['displaced']} places out of order")
    limit = "limit 100/s; 97 in 1.02 s is 95.1/s"
    backlog = f"{permits:,} permits by {tasks} tasks"
    columns: list[tuple[str, str, Callable[[Figures], float], str]] = [
        (f"Most permits in a sliding second, {backlog}", "permits", lambda each: each["most"], limit),
        (f"Rate, {backlog}", "permits/s", lambda each: each["rate"], limit),
        (f"CPU per permit, {backlog}", "µs", lambda each: each["cpu"], ""),
        ("An acquire that does not wait", "µs", lambda each: each["alone"], "a coroutine that returns the time"),
        ("50 permits from idle", "ms", lambda each: each["idle"], "0: no wait"),
    ]
    tables = [
        Table(title, unit, [Row(each["limiter"], [value(each)]) for each in figures], floor=floor)
        for title, unit, value, floor in columns
    ]
    tables[3].rows.append(Row("(floor)", [asyncio.run(_floor())]))
    share = mine["rate"] / (97 / 1.02)
    return Result(
        tables,
        [
            Goal("uncontended permit", "≤ 1.0 µs", f"{mine['alone']:.2f} µs", mine["alone"] <= 1.0),
            Goal(
                f"permits in any sliding second, {backlog}",
                "≤ 97, at ≥ 99 % of 97/1.02 s",
                f"{mine['most']}, at {share:.1%}",
                mine["most"] <= 97 and share >= 0.99,
            ),
        ],
    )


async def _floor(calls: int = 20_000) -> float:
    """Return the microseconds of the smallest possible acquire."""
    loop = asyncio.get_running_loop()

    async def nothing() -> float:
        return loop.time()

    start = time.process_time()
    for _ in range(calls):
        await nothing()
    return (time.process_time() - start) / calls * 1e6
