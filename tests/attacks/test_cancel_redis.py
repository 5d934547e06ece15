"""What talks to Redis is stopped wherever it waits: the limiter of a fleet, and a fleet's own caller."""

from __future__ import annotations

import gc
import os
from itertools import product
from typing import TYPE_CHECKING

import pytest
from bulk_support import edits_for
from cancelling import Loop, Point, Watch, cancel, on_leaping_clock, scope, storm, timeout, watched
from redis_worker import RedisServer
from support import until

from aiomutex.bulk.fleet import Fleet
from aiomutex.limits.redis import RedisRateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from cancelling import Way

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module", autouse=True)
def _what_is_left_behind_complains() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    gc.collect()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


async def attack(
    loop: Loop, call: Callable[[], Awaitable[object]], way: Way, after: Callable[[], Awaitable[object]]
) -> set[str]:
    """Stop a call at each point at which it waits; the stages it was stopped in."""
    stages: set[str] = set()

    async def run(point: Point | None) -> Watch:
        before = _open_files()
        watch = Watch(loop, point, leaps=False)
        stopped = await watched(way(call(), watch), watch)
        assert stopped or not watch.struck or watch.since < 2, f"it went on after {point}"
        await after()
        await until(lambda: all(task.done() for task in watch.tasks))
        await until(lambda: _open_files() == before)
        if watch.struck and point:
            stages.add(point.stage)
        return watch

    passed = (await run(None)).passed
    for stage, late in product(passed, (False, True)):
        for number in range(1, passed[stage] + 1):
            await run(Point(stage, number, late))
    return stages


def _open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208  # numbers, not paths


@pytest.mark.parametrize("way", [cancel, storm, scope, timeout])
def test_a_permit_and_the_limiters_end_leave_nothing_wherever_they_stop(server: RedisServer, way: Way) -> None:
    server.know("attack")

    async def main(loop: Loop) -> set[str]:
        limiters: list[RedisRateLimiter] = []
        closed: list[RedisRateLimiter] = []

        async def call() -> None:
            limiters.append(RedisRateLimiter(server.url, name="attack"))
            await limiters[-1].acquire()
            closed.append(limiters[-1])
            await limiters[-1].aclose()

        async def after() -> None:
            assert limiters[-1].state().waiting == 0
            if limiters[-1] not in closed:
                await limiters[-1].acquire()
                await limiters[-1].aclose()

        return await attack(loop, call, way, after)

    assert on_leaping_clock(main) >= {"permit", "ledger.ask", "ledger.aclose", "end"}


@pytest.mark.parametrize("way", [cancel, storm, scope, timeout])
def test_a_fleet_that_is_left_leaves_nothing_wherever_it_stops(server: RedisServer, way: Way) -> None:
    async def main(loop: Loop) -> set[str]:
        async def call() -> None:
            async with Fleet(server.url, name="attack") as fleet:
                stream = fleet.stream_slot_edits(edits_for(2))
                async with stream:
                    await until(lambda: not repr(stream).endswith(" 0 with workers>"))

        async def after() -> None:
            pass

        return await attack(loop, call, way, after)

    assert on_leaping_clock(main) >= {"tasks.apart", "fleet._ask", "end"}
