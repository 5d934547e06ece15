"""Latency of an interactive call while a bulk run uses the whole rate limit."""

from __future__ import annotations

import asyncio
import statistics
import time

from aiomutex import LocalRateLimiter, MutexSession, SlotEdit
from benchmarks.harness import Goal, Result, Row, Size, Table, check, serving
from benchmarks.server import KEY

__all__ = ["run"]

LATENCY = 20.0
EVERY = 0.1


async def _measure(url: str, seconds: float, *, bulk: bool) -> list[float]:
    """Make a call every 0.1 seconds. Return the latencies in milliseconds."""
    waits: list[float] = []
    async with MutexSession(KEY, base_url=url, rate_limiter=LocalRateLimiter()) as session:

        async def flood() -> None:
            edits = (SlotEdit(n, 1, experiments=[n]) for n in range(10**6))
            async with session.stream_slot_edits(edits, canary=False) as outcomes:
                async for outcome in outcomes:
                    check("edit of the bulk run", outcome.status, "applied")

        task = asyncio.create_task(flood()) if bulk else None
        await asyncio.sleep(min(1.5, seconds / 2))  # until the burst from idle is over
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            check("requested group", (await session.get_group(7)).id, "7")
            waits.append((time.perf_counter() - start) * 1e3)
            await asyncio.sleep(EVERY)
        if task:
            task.cancel()
            await asyncio.wait([task])
    return waits


def run(size: Size) -> Result:
    """Measure ten calls per second, with and without a bulk run."""
    with serving("--latency", str(LATENCY)) as server:
        seconds = size.of(30.0, 2.0, 0.5)
        busy = asyncio.run(_measure(server.url, seconds, bulk=True))
        edits = server.stats()["edits"]
        alone = asyncio.run(_measure(server.url, size.of(10.0, 1.0, 0.5), bulk=False))
    check("a bulk run was in progress", bool(edits), True)
    rows = [
        Row("during a bulk run", busy, f"p99 {_p99(busy):.1f} ms, {len(busy)} calls, {edits:,} edits meanwhile"),
        Row("alone", alone, f"p99 {_p99(alone):.1f} ms, {len(alone)} calls"),
    ]
    table = Table("An interactive call", "ms", rows, floor=f"{LATENCY:.0f} ms: the latency of the service")
    p99 = _p99(busy) - LATENCY
    what = "interactive call during a bulk run"
    return Result([table], [Goal(what, "p99 ≤ 60 ms + latency", f"{p99:.1f} ms + latency", p99 < 60)])


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]
