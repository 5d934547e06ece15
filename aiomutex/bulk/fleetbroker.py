"""The queue of a fleet: taskiq's broker on Redis streams, with three things that a long run needs of it.

Upstream's broker looks for what a dead worker left behind only after it was given something new, so the last jobs of a
run would wait for ever; it takes a job that runs long for one that was left behind; and it never deletes what is done.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

try:
    from redis.asyncio import Redis
    from taskiq import AckableMessage, TaskiqEvents, TaskiqState
    from taskiq.serializers import JSONSerializer
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker
except ImportError as missing:
    raise ImportError(
        f"aiomutex.bulk.fleet needs taskiq and taskiq-redis ({missing}): pip install 'aiomutex[fleet]'"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

__all__ = ["FleetBroker", "TaskiqEvents", "TaskiqState", "broker_for"]

_BLOCK: Final = 1000
"""Milliseconds that Redis holds a question for new jobs."""
_DAY: Final = 86_400


class FleetBroker(RedisStreamBroker):
    """Gives each worker one job at a time, and the jobs of a worker that has died to the others."""

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Jobs as they come, and those whose worker has given no sign of life for ``idle_timeout`` milliseconds."""
        look_at = 0.0
        async with self._redis() as redis:
            while True:
                fresh: Any = await redis.xreadgroup(
                    self.consumer_group_name, self.consumer_name, {self.queue_name: ">"}, block=_BLOCK, count=1
                )
                for _, messages in fresh or ():
                    for message in self._ackable(messages):
                        yield message
                while time.monotonic() >= look_at:
                    left: Any = await redis.xautoclaim(
                        self.queue_name, self.consumer_group_name, self.consumer_name, self.idle_timeout, count=1
                    )
                    for message in self._ackable(left[1]):
                        yield message
                    if not left[1]:
                        look_at = time.monotonic() + self.idle_timeout / 4000

    def _ackable(self, messages: list[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[AckableMessage]:
        for name, fields in messages:
            yield AckableMessage(data=fields[b"data"], ack=partial(self._done, name))

    async def _done(self, name: bytes) -> None:
        async with self._redis() as redis, redis.pipeline(transaction=True) as pipe:
            pipe.xack(self.queue_name, self.consumer_group_name, name)
            pipe.xdel(self.queue_name, name)
            await pipe.execute()

    async def stay_alive(self) -> None:
        """Show again and again that this worker still has its jobs, until cancelled."""
        while True:
            await asyncio.sleep(self.idle_timeout / 4000)
            async with self._redis() as redis:
                held: Any = await redis.xpending_range(
                    self.queue_name, self.consumer_group_name, "-", "+", 1000, consumername=self.consumer_name
                )
                if held:
                    names = [entry["message_id"] for entry in held]
                    await redis.xclaim(
                        self.queue_name, self.consumer_group_name, self.consumer_name, 0, names, justid=True
                    )

    def _redis(self) -> Redis:
        return Redis(connection_pool=self.connection_pool)


def broker_for(url: str, name: str, take_over_after: float) -> FleetBroker:
    """The queue called ``name``; answers stay for a day at most."""
    broker = FleetBroker(
        url,
        queue_name=f"aiomutex:{name}:jobs",
        consumer_group_name="workers",
        consumer_id="0",
        idle_timeout=round(take_over_after * 1000),
    )
    answers: RedisAsyncResultBackend[str] = RedisAsyncResultBackend(
        url,
        keep_results=False,
        result_ex_time=_DAY,
        prefix_str=f"aiomutex:{name}:answers",
        serializer=JSONSerializer(),
    )
    broker.with_result_backend(answers)
    return broker
