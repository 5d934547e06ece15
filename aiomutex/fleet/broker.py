"""The queue of a fleet: taskiq's broker on Redis streams, made fit for runs that outlast a worker or a connection.

Upstream's broker looks for what a dead worker left behind only after it was given something new, so the last jobs of a
run would wait for ever; it takes a job that runs long for one that was left behind; it never deletes what is done; it
queues a job twice that is sent twice; and it lets go of a job whose answer could not be stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

try:
    from redis.asyncio import Redis
    from redis.exceptions import RedisError, ResponseError
    from taskiq import AckableMessage, TaskiqEvents, TaskiqState
    from taskiq.exceptions import SendTaskError
    from taskiq.serializers import JSONSerializer
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker
except ImportError as missing:
    raise ImportError(
        f"aiomutex.fleet.fleet needs taskiq and taskiq-redis ({missing}): pip install 'aiomutex[fleet]'"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from taskiq import TaskiqResult
    from taskiq.message import BrokerMessage

__all__ = ["REDIS_ERRORS", "FleetBroker", "NotQueuedError", "SendTaskError", "TaskiqEvents", "TaskiqState"]

logger = logging.getLogger("aiomutex.bulk")

REDIS_ERRORS: Final = (RedisError, OSError)
"""What comes out when Redis does not do as it was asked."""
_BLOCK: Final = 1000
"""Milliseconds that Redis holds a question for new jobs."""
_DAY: Final = 86_400

# The jobs that wait or are under way stand in a hash beside the stream, by their ids. A job is in neither or in both.
_QUEUE: Final = """
if redis.call('EXISTS', KEYS[3]) == 0 and redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
    redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'data', ARGV[2])
    redis.call('HSET', KEYS[2], ARGV[1], '')
end
"""
# Only the worker that has the job may answer: after an answer the group's next edits go out.
_ANSWER: Final = """
if #redis.call('XPENDING', KEYS[1], ARGV[2], ARGV[4], ARGV[4], 1, ARGV[3]) == 1 then
    redis.call('SET', KEYS[3], ARGV[5], 'EX', ARGV[6])
    redis.call('XACK', KEYS[1], ARGV[2], ARGV[4])
    redis.call('XDEL', KEYS[1], ARGV[4])
    redis.call('HDEL', KEYS[2], ARGV[1])
end
"""


class NotQueuedError(Exception):
    """A job is certain not to be in the queue: it was not sent, or Redis refused it."""


class FleetBroker(RedisStreamBroker):
    """Gives each worker one job at a time, and the jobs of a worker that has died to the others.

    A job is in the queue once, however often it is sent. It leaves the queue in the step that stores its answer, so
    whoever waits for it never waits in vain.
    """

    def __init__(self, url: str, name: str, claim_timeout: float) -> None:
        super().__init__(
            url,
            queue_name=f"aiomutex:{name}:jobs",
            consumer_group_name="workers",
            consumer_id="0",
            idle_timeout=round(claim_timeout * 1000),
        )
        self._open = f"aiomutex:{name}:open"
        self._answers = f"aiomutex:{name}:answers"
        self._held: dict[str, bytes] = {}
        """What this worker is at: the jobs' places in the stream, by their ids."""
        self._look_at = 0.0
        self.with_result_backend(_Answers(self, url, self._answers))

    # The caller's side

    async def kick(self, message: BrokerMessage) -> None:
        """Queue a job, unless it was queued before: to be sent again when nobody knows whether it arrived.

        Raises:
            NotQueuedError: It is not in the queue by this call.
        """
        sent = False
        try:
            async with self._redis() as redis:
                await redis.exists(self._open)
            sent = True
            await self._run(_QUEUE, message.task_id, message.message)
        except REDIS_ERRORS as error:
            if sent and not isinstance(error, ResponseError):
                raise
            raise NotQueuedError(f"{type(error).__name__}: {error}") from error

    async def answer_of(self, job: str) -> TaskiqResult[Any] | None:
        """The answer to a job; ``None`` while it waits or is under way.

        Raises:
            ResultIsMissingError: There is no such job.
        """
        async with self._redis() as redis:
            waits: Any = redis.hexists(self._open, job)
            if await waits:
                return None
            return await self.result_backend.get_result(job)

    async def forget(self, job: str) -> None:
        """Delete an answer that has come through; what cannot be deleted expires."""
        with contextlib.suppress(*REDIS_ERRORS):
            async with self._redis() as redis:
                await redis.delete(f"{self._answers}:{job}")

    # The worker's side

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Jobs as they come, and those whose worker has given no sign of life for ``idle_timeout`` milliseconds."""
        while True:
            try:
                found = await self._look()
            except REDIS_ERRORS as error:
                # To go down with it would break off the jobs that are under way.
                logger.warning("no jobs to be had from Redis: %s", error)
                await asyncio.sleep(_BLOCK / 1000)
                with contextlib.suppress(*REDIS_ERRORS):
                    await self._declare_consumer_group()  # a Redis that was started anew may not know it
                continue
            for place, fields in found:
                job = fields[b"id"].decode()
                if job not in self._held:  # as one is that this worker could not show to be alive, and now got again
                    self._held[job] = place
                    yield AckableMessage(data=fields[b"data"], ack=_by_its_answer)

    async def _look(self) -> list[Any]:
        async with self._redis() as redis:
            if time.monotonic() >= self._look_at:
                left: Any = await redis.xautoclaim(
                    self.queue_name, self.consumer_group_name, self.consumer_name, self.idle_timeout, count=1
                )
                if left[1]:
                    return list(left[1])
                self._look_at = time.monotonic() + self.idle_timeout / 4000
            fresh: Any = await redis.xreadgroup(
                self.consumer_group_name, self.consumer_name, {self.queue_name: ">"}, block=_BLOCK, count=1
            )
            return [each for _, messages in fresh or () for each in messages]

    async def answer(self, job: str, text: bytes) -> None:
        """Store the answer to a job and take the job from the queue, unless another worker has it by now.

        If that fails the job is left behind, as by a worker that died: another one will do and answer it.
        """
        place = self._held.pop(job)
        await self._run(_ANSWER, job, self.consumer_group_name, self.consumer_name, place, text, _DAY)

    async def stay_alive(self) -> None:
        """Show again and again that this worker still has its jobs, until cancelled."""
        while True:
            await asyncio.sleep(self.idle_timeout / 4000)
            try:
                await self._show_held()
            except REDIS_ERRORS as error:
                logger.warning("the jobs under way could not be shown to be alive: %s", error)

    async def _show_held(self) -> None:
        async with self._redis() as redis:
            pending: Any = await redis.xpending_range(
                self.queue_name, self.consumer_group_name, "-", "+", 1000, consumername=self.consumer_name
            )
            # What Redis gave and never arrived here is for another to take.
            held = set(self._held.values()).intersection(entry["message_id"] for entry in pending)
            if held:
                await redis.xclaim(
                    self.queue_name, self.consumer_group_name, self.consumer_name, 0, list(held), justid=True
                )

    async def _run(self, script: str, job: str, *arguments: Any) -> None:
        async with self._redis() as redis:
            keys = (self.queue_name, self._open, f"{self._answers}:{job}")
            done: Any = redis.eval(script, len(keys), *keys, job, *arguments)
            await done

    def _redis(self) -> Redis:
        return Redis(connection_pool=self.connection_pool)


def _by_its_answer() -> None:
    """Taskiq acknowledges a job whether or not its answer could be stored; here the answer itself does it."""


class _Answers(RedisAsyncResultBackend[Any]):
    """Where taskiq puts answers. They stay for a day at most."""

    def __init__(self, queue: FleetBroker, url: str, prefix: str) -> None:
        super().__init__(url, prefix_str=prefix, serializer=JSONSerializer())
        self._queue = queue

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        await self._queue.answer(task_id, self.serializer.dumpb(result.model_dump(mode="json")))
