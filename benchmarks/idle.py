"""50 calls from idle: whether a limiter delays a client that is far below the limit."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import aiolimiter

from aiomutex import LocalRateLimiter, MutexSession
from benchmarks.harness import Goal, Result, Row, Size, Table, check, serving
from benchmarks.server import KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

import contextlib

__all__ = ["run"]

CALLS = 50


@contextlib.asynccontextmanager
async def _ours(url: str) -> AsyncGenerator[Callable[[int], Awaitable[object]]]:
    async with MutexSession(KEY, base_url=url, rate_limiter=LocalRateLimiter()) as session:
        yield session.get_group


@contextlib.asynccontextmanager
async def _plain(
    url: str, limiter: aiolimiter.AsyncLimiter | None = None
) -> AsyncGenerator[Callable[[int], Awaitable[object]]]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http:

        async def get(number: int) -> object:
            if limiter:
                await limiter.acquire()
            async with http.get(f"{url}/api/1/mutexes/{number}") as response:
                return await response.json()

        yield get


def run(size: Size) -> Result:
    """Make 50 calls at once over new connections, from an idle client."""
    subjects: dict[str, Callable[[str], AbstractAsyncContextManager[Callable[[int], Awaitable[object]]]]] = {
        "aiomutex": _ours,
        "plain aiohttp, no limiter": _plain,
        "aiohttp + aiolimiter(1, 0.01)": lambda url: _plain(url, aiolimiter.AsyncLimiter(1, 0.01)),
    }

    async def once(url: str, name: str) -> float:
        async with subjects[name](url) as call:
            start = time.perf_counter()
            await asyncio.gather(*(call(number) for number in range(CALLS)))
            return (time.perf_counter() - start) * 1e3

    rows = {name: Row(name, []) for name in subjects}
    with serving() as server:
        for _ in range(size.of(9, 3, 1)):
            for name, row in rows.items():
                row.values.append(asyncio.run(once(server.url, name)))
                check(f"requests of {name}", server.stats()["requests"], CALLS)
    ours, plain, paced = (row.median for row in rows.values())
    table = Table(
        f"{CALLS} calls from idle",
        "ms",
        list(rows.values()),
        baseline="plain aiohttp, no limiter",
        floor="the calls without any limiter",
    )
    reached = f"{ours:.0f} ms (no limiter {plain:.0f} ms, paced {paced:.0f} ms)"
    # No call waits for a permit, so only the work of 50 calls remains. A paced limiter spreads them over 490 ms.
    return Result([table], [Goal(f"{CALLS} calls from idle", "no wait", reached, ours < 2 * plain + 20)])
