"""What talks to Redis is stopped wherever it waits: the limiter of a fleet, and a fleet's own caller."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest
from bulk_support import edits_for
from cancelling import Loop, cancel, on_leaping_clock, scope, storm, timeout
from stopping import stopped_everywhere
from support import until

from aiomutex.fleet import Fleet
from aiomutex.limits.redis import RedisRateLimiter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cancelling import Way
    from redis_server import RedisServer

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module", autouse=True)
def _what_is_left_behind_complains() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    gc.collect()


@pytest.mark.parametrize("way", [cancel, storm, scope, timeout])
def test_a_permit_and_the_limiters_end_leave_nothing_wherever_they_stop(redis_server: RedisServer, way: Way) -> None:
    redis_server.reset("attack")

    async def main(loop: Loop) -> set[str]:
        limiters: list[RedisRateLimiter] = []
        closed: list[RedisRateLimiter] = []

        async def call() -> None:
            limiters.append(RedisRateLimiter(redis_server.url, name="attack"))
            await limiters[-1].acquire()
            closed.append(limiters[-1])
            await limiters[-1].aclose()

        async def after() -> None:
            assert limiters[-1].state().waiting == 0
            if limiters[-1] not in closed:
                await limiters[-1].acquire()
                await limiters[-1].aclose()

        return await stopped_everywhere(loop, call, way, after)

    assert on_leaping_clock(main) >= {"permit", "shared_budget.lease", "shared_budget.aclose", "end"}


@pytest.mark.parametrize("way", [cancel, storm, scope, timeout])
def test_a_fleet_that_is_left_leaves_nothing_wherever_it_stops(redis_server: RedisServer, way: Way) -> None:
    async def main(loop: Loop) -> set[str]:
        async def call() -> None:
            async with Fleet(redis_server.url, name="attack") as fleet:
                stream = fleet.stream_slot_edits(edits_for(2))
                async with stream:
                    await until(lambda: not repr(stream).endswith(" 0 with workers>"))
                    await asyncio.sleep(0.1)  # until its answer is waited for

        async def after() -> None:
            pass

        return await stopped_everywhere(loop, call, way, after)

    assert on_leaping_clock(main) >= {"tasks.run_in_task", "broker.kick", "broker._run", "fleet._run_job", "end"}
