"""Listing 20,000 groups in pages of 500, in parallel and page by page, at several latencies."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp

from aiomutex import LocalRateLimiter, MutexSession
from benchmarks.harness import Goal, Result, Row, Size, Table, check, median_ratio, serving
from benchmarks.server import KEY, UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["run"]

PAGE = 500
PAGE_BY_PAGE = "plain aiohttp, page by page"


async def _plain(url: str) -> int:
    count = 0
    cursor: str | None = "0"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http:
        while cursor is not None:
            async with http.get(f"{url}/api/1/mutexes?limit={PAGE}&cursor={cursor}") as response:
                response.raise_for_status()
                page = await response.json()
            count += len(page["mutexes"])
            cursor = page["nextCursor"]
    return count


async def _ours(url: str, concurrency: int) -> int:
    limiter = LocalRateLimiter(UNLIMITED, 10**9)
    async with MutexSession(KEY, base_url=url, rate_limiter=limiter) as session:
        groups = await session.list_groups(page_size=PAGE).collect(concurrency=concurrency)
    check("order of the groups", [group.id for group in groups], [str(n) for n in range(len(groups))])
    return len(groups)


async def _measure(size: Size) -> Result:
    result = Result([])
    count = size.of(20_000, 5_000, 1_500)
    rows: dict[str, Row] = {}
    latency = 0
    for latency in size.of((0, 20, 100), (0, 20), (0, 20)):
        subjects: dict[str, Callable[[str], Awaitable[int]]] = {
            "aiomutex, 8 in parallel": lambda url: _ours(url, 8),
            "aiomutex, 16 in parallel": lambda url: _ours(url, 16),
            "aiomutex, page by page": lambda url: _ours(url, 1),
            PAGE_BY_PAGE: _plain,
        }
        rows = {name: Row(name, []) for name in subjects}
        with serving("--groups", str(count), "--latency", str(latency)) as server:
            for _ in range(size.of(3, 1, 1)):
                for name, work in subjects.items():
                    start = time.perf_counter()
                    listed = await work(server.url)
                    rows[name].values.append(time.perf_counter() - start)
                    check(f"groups listed by {name}", listed, count)
                    rows[name].note = f"{server.stats()['requests']} requests"
        title = f"Listing {count:,} groups in pages of {PAGE}, latency {latency} ms"
        floor = f"{2 * latency / 1000:.2f} s: the first page, then all others in parallel"
        result.tables.append(Table(title, "s", list(rows.values()), baseline=PAGE_BY_PAGE, floor=floor))
    base = rows[PAGE_BY_PAGE]
    ratio, wider = (1 / median_ratio(rows[f"aiomutex, {width} in parallel"], base) for width in (8, 16))
    what = f"listing {count:,} groups, pages of {PAGE}, latency {latency} ms, in parallel"
    reached = f"{ratio:.1f} times faster with 8 (the default), {wider:.1f} with 16"
    note = "8 in parallel need 6 round trips, and decoding takes its share of a core" if ratio < 6 else ""
    result.goals.append(Goal(what, "≥ 6 times faster", reached, ratio >= 6, note))
    return result


def run(size: Size) -> Result:
    """Measure in alternating rounds."""
    return asyncio.run(_measure(size))
