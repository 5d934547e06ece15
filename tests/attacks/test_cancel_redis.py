"""The Redis limiter and the caller of a fleet are interrupted wherever they wait."""

from __future__ import annotations

import asyncio
import gc
import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from bulk_support import edits_for
from cancelling import Loop, cancel, cancel_repeatedly, run_with_fake_clock, scope, timeout
from stopping import stop_everywhere
from support import until

from aiomutex.fleet import Fleet
from aiomutex.limits import leasing
from aiomutex.limits.redis import RedisRateLimiter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cancelling import Way
    from redis_server import RedisServer

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module", autouse=True)
def _collect_garbage() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    gc.collect()


@pytest.mark.parametrize("way", [cancel, cancel_repeatedly, scope, timeout])
def test_a_limiter_leaves_nothing_behind_wherever_it_is_interrupted(
    redis_server: RedisServer, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limiter creates its task without the loop's task factory, by which the attack watches tasks.
    def make_task(work: Any, *, loop: asyncio.AbstractEventLoop, name: str) -> asyncio.Task[Any]:
        return loop.create_task(work, name=name)

    monkeypatch.setattr(leasing, "asyncio", SimpleNamespace(**vars(asyncio) | {"Task": make_task}))
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

        return await stop_everywhere(loop, call, way, after)

    assert run_with_fake_clock(main) >= {"permit", "redis_budget.lease", "redis_budget.aclose", "end"}


@pytest.mark.parametrize("way", [cancel, cancel_repeatedly, scope, timeout])
def test_a_fleet_leaves_nothing_behind_wherever_it_is_interrupted(redis_server: RedisServer, way: Way) -> None:
    async def main(loop: Loop) -> set[str]:
        numbers = itertools.count()

        async def call() -> None:
            # Without workers, the jobs of an interrupted call would keep the next one waiting.
            async with Fleet(redis_server.url, name=f"attack {next(numbers)}") as fleet:
                stream = fleet.stream_slot_edits(edits_for(2))
                async with stream:
                    await until(lambda: not repr(stream).endswith(" 0 with workers>"))
                    await asyncio.sleep(0.1)  # until it waits for the result

        async def after() -> None:
            pass

        return await stop_everywhere(loop, call, way, after)

    assert run_with_fake_clock(main) >= {
        "tasks.run_in_task",
        "dispatcher.send",
        "dispatcher.lease",
        "end",
    }
