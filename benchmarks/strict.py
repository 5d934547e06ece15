"""429 responses of a server that rejects more than 100 requests in any second, with jitter and slow connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import aiolimiter

from aiomutex import LocalRateLimiter, MutexSession, RateLimitedError, RetryPolicy
from benchmarks.harness import Goal, Result, Row, Size, Table, check, serving
from benchmarks.server import KEY

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

__all__ = ["run"]

TASKS = 200
CONNECTIONS = 64
NETWORK = ("--strict", "--jitter", "20")


class SlowToConnect(asyncio.SelectorEventLoop):
    """An event loop in which a new connection takes as long as one with TLS to another continent."""

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        await asyncio.sleep(random.uniform(0.06, 0.18))
        await super().sock_connect(sock, address)


async def _all(call: Callable[[int], Coroutine[Any, Any, object]], count: int) -> None:
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await call(number)

    await asyncio.gather(*(work() for _ in range(TASKS)))


async def _ours(url: str, count: int, *, borrowed: bool) -> None:
    limiter = LocalRateLimiter(safe=borrowed)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as http:
        session = MutexSession(
            KEY,
            base_url=url,
            rate_limiter=limiter,
            retry=RetryPolicy(max_attempts=1),
            max_connections=CONNECTIONS,
            http=http if borrowed else None,
        )

        async def call(number: int) -> None:
            with contextlib.suppress(RateLimitedError):  # the server counts them
                await session.get_group(number)

        async with session:
            await _all(call, count)


async def _plain(url: str, count: int, limiter: aiolimiter.AsyncLimiter) -> None:
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {KEY}"}) as http:

        async def call(number: int) -> None:
            async with limiter, http.get(f"{url}/api/1/mutexes/{number}") as response:
                await response.read()

        await _all(call, count)


SUBJECTS: dict[str, Callable[[str, int], Coroutine[Any, Any, None]]] = {
    "aiomutex": lambda url, count: _ours(url, count, borrowed=False),
    "aiomutex, borrowed session, safe": lambda url, count: _ours(url, count, borrowed=True),
    "aiohttp + aiolimiter(100, 1)": lambda url, count: _plain(url, count, aiolimiter.AsyncLimiter(100, 1)),
    "aiohttp + aiolimiter(1, 0.01)": lambda url, count: _plain(url, count, aiolimiter.AsyncLimiter(1, 0.01)),
}


def run(size: Size) -> Result:
    """Send as fast as each limiter allows, once each, and count the 429 responses."""
    count = size.of(3000, 150, 60)
    subjects = SUBJECTS if size is Size.FULL else dict(list(SUBJECTS.items())[:: size.of(1, 2, 3)])
    rows: list[Row] = []
    with serving(*NETWORK) as server:
        for name, work in subjects.items():
            start = time.perf_counter()
            with asyncio.Runner(loop_factory=SlowToConnect) as runner:
                runner.run(work(server.url, count))
            seconds = time.perf_counter() - start
            stats = server.stats()
            check(f"requests of {name}", stats["requests"], count)
            note = f"{stats['busiest']} in the fullest second, {count / seconds:.1f}/s"
            rows.append(Row(name, [stats["rejected"]], note))
            time.sleep(1.1)  # until the window of the server is empty again
    title = f"429s in {count:,} requests, jitter 0 to 20 ms, new connections take 60 to 180 ms"
    floor = "0 rejected; with 20 ms of jitter, a strict limit of 100 allows at most 98.0/s without a 429"
    ours = rows[0]
    if ours.median and size is not Size.FULL:
        ours.note += " (a busy machine adds jitter)"
    what = f"429s in {count:,} requests to a strict sliding server"
    goal = Goal(what, "0", f"{ours.median:.0f}", not ours.median)
    return Result([Table(title, "rejected", rows, floor=floor)], [goal])
