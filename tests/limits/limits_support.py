"""Helpers for the tests of the limiters."""

from __future__ import annotations

import asyncio
import bisect
from typing import TYPE_CHECKING, Any, TypeAlias

from aiomutex.limits import Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redis_server import RedisServer

    from aiomutex.limits import RateLimiter
    from aiomutex.limits.redis import RedisRateLimiter

Make: TypeAlias = "Callable[..., RedisRateLimiter]"
StartRedis: TypeAlias = "Callable[..., RedisServer]"


async def take(limiter: RateLimiter, count: int, priority: Priority = Priority.INTERACTIVE) -> list[float]:
    """Take ``count`` permits concurrently."""
    return list(await asyncio.gather(*(limiter.acquire(priority) for _ in range(count))))


def wait_for_many(limiter: RateLimiter, count: int) -> list[asyncio.Task[float]]:
    """Start ``count`` tasks that each take one permit."""

    async def one() -> float:
        return await limiter.acquire()

    return [asyncio.ensure_future(one()) for _ in range(count)]


def exchanged(limiter: Any) -> bool:
    """Whether the shared budget has all feedback of the limiter."""
    return limiter._feedback is None and limiter._exchange_task is None


def most_in_a_second(times: Iterable[float], length: float = 1.0) -> int:
    """The largest number of times in any half-open interval of ``length`` seconds."""
    ordered = sorted(times)
    return max((bisect.bisect_left(ordered, t + length) - i for i, t in enumerate(ordered)), default=0)
