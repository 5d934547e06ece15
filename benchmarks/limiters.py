"""Rate limiters side by side in one run: what they let out in a sliding second, and what that costs.

Run ``python -m benchmarks.limiters`` (extra ``bench``: aiolimiter and pyrate-limiter). All subjects run in the same
event loop one after the other, so that ratios hold where absolute times do not.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import statistics
import time
from typing import TYPE_CHECKING, TypedDict

import aiolimiter
import pyrate_limiter

from aiomutex.limits import LocalRateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Acquire = Callable[[], Awaitable[object]]

__all__ = ["Row", "compare", "main"]

HEAD = f"{'limiter':<28}{'rate/s':>8}{'most/s':>8}{'CPU µs':>8}{'alone µs':>10}{'50 idle ms':>12}{'out of order':>14}"


class Row(TypedDict):
    """One limiter's figures."""

    limiter: str
    rate: float
    """Permits a second over the run, from the first to the last."""
    most: int
    """Permits in the fullest sliding second, exactly."""
    cpu: float
    """Microseconds of CPU per permit under backlog."""
    alone: float
    """Microseconds of an acquire that need not wait."""
    idle: float
    """Milliseconds until 50 callers have a permit after a rest."""
    displaced: int
    """By how many places callers were served out of order, at most."""


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


SUBJECTS: dict[str, Callable[[int], Acquire]] = {
    "aiolimiter(100, 1)": aiolimiter_burst,
    "aiolimiter(1, 0.01)": aiolimiter_paced,
    "pyrate-limiter 100/s": pyrate,
    "LocalRateLimiter()": ours,
    "LocalRateLimiter(safe=True)": ours_safe,
}


async def _backlog(acquire: Acquire, permits: int, tasks: int) -> tuple[list[float], list[int], float]:
    """Times and callers in the order of service, and the CPU seconds that it took."""
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
    """Medians over rounds in which every subject has its turn, so that a slow moment hits them all."""
    costs: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, acquire in subjects.items():
            start = time.perf_counter()
            for _ in range(calls):
                await acquire()
            costs[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(values) for name, values in costs.items()}


async def _from_idle(acquire: Acquire) -> float:
    start = time.perf_counter()
    await asyncio.gather(*(acquire() for _ in range(50)))
    return time.perf_counter() - start


async def compare(permits: int = 3000, tasks: int = 200, rounds: int = 15) -> list[Row]:
    """Measure every subject at 100 permits a second.

    Args:
        permits: Permits taken under backlog.
        tasks: Tasks that take them.
        rounds: Rounds of uncontended acquires, of 1,000 calls each.
    """
    alone = await _alone({name: make(10**6) for name, make in SUBJECTS.items()}, rounds, 1000)
    rows: list[Row] = []
    for name, make in SUBJECTS.items():
        idle = await _from_idle(make(100))
        times, served, cpu = await _backlog(make(100), permits, tasks)
        row = Row(
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limiters", description=__doc__)
    parser.add_argument("--permits", type=int, default=3000, help="permits under backlog (default 3000: half a minute)")
    parser.add_argument("--tasks", type=int, default=200)
    options = parser.parse_args()
    print(f"{options.permits} permits by {options.tasks} tasks; most/s: the fullest sliding second, exactly\n")
    print(HEAD)
    for row in asyncio.run(compare(options.permits, options.tasks)):
        print(
            f"{row['limiter']:<28}{row['rate']:>8.1f}{row['most']:>8}{row['cpu']:>8.0f}{row['alone']:>10.2f}"
            f"{row['idle']:>12.1f}{row['displaced']:>14}"
        )


if __name__ == "__main__":
    main()
