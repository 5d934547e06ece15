"""Fixtures for the tests of the limiters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from limits_support import Make, StartRedis
    from redis_server import RedisServer


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.reset("project 1", "project 2", "fleet", "x")
    return redis_server


@pytest.fixture
def own_server(start_redis: StartRedis) -> RedisServer:
    return start_redis()


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Create limiters. They are closed at the end, and must then leave no task behind."""
    from aiomutex.limits.redis import RedisRateLimiter  # noqa: PLC0415 -- only tests marked redis need redis-py

    limiters: list[RedisRateLimiter] = []

    def make(server: RedisServer | str, **options: Any) -> RedisRateLimiter:
        url = server if isinstance(server, str) else server.url
        options.setdefault("name", "project 1")
        limiters.append(RedisRateLimiter(url, **options))
        return limiters[-1]

    yield make
    for limiter in limiters:
        await limiter.aclose()
    assert [task for task in asyncio.all_tasks() if task.get_name() == "aiomutex-limiter"] == []
