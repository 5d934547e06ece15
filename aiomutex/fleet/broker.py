"""The queue of a fleet: taskiq-redis's stream broker and result backend, changed so that a run survives its workers.

Knows nothing of edits: a job is a taskiq message. Each override says what would go wrong with upstream's method.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from taskiq.serializers import JSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from taskiq import AckableMessage, TaskiqResult
    from taskiq.message import BrokerMessage

__all__ = ["REDIS_ERRORS", "FleetBroker", "NotQueuedError"]

logger = logging.getLogger("aiomutex.bulk")

REDIS_ERRORS: Final = (RedisError, OSError)
"""What redis-py raises when Redis is unreachable or rejects a command."""

# Each script gets KEYS: the stream of jobs, the hash that maps each unfinished job to its entry in the stream; and
# ARGV: consumer group, consumer. A job is in both or in neither.
_QUEUE: Final = """
if redis.call('EXISTS', KEYS[3]) == 0 and redis.call('HEXISTS', KEYS[2], ARGV[3]) == 0 then
    redis.call('HSET', KEYS[2], ARGV[3], redis.call('XADD', KEYS[1], '*', 'id', ARGV[3], 'data', ARGV[4]))
end
"""
_FINISH: Final = """
local entry = redis.call('HGET', KEYS[2], ARGV[3])
if entry and #redis.call('XPENDING', KEYS[1], ARGV[1], entry, entry, 1, ARGV[2]) == 1 then
    redis.call('SET', KEYS[3], ARGV[4], 'EX', 86400)
    redis.call('XACK', KEYS[1], ARGV[1], entry)
    redis.call('XDEL', KEYS[1], entry)
    redis.call('HDEL', KEYS[2], ARGV[3])
end
"""
# XCLAIM resets an entry's idle time; without the check it would take back a job that another worker has claimed.
_KEEP: Final = """
for i = 4, #ARGV do
    local entry = redis.call('HGET', KEYS[2], ARGV[i])
    if entry and #redis.call('XPENDING', KEYS[1], ARGV[1], entry, entry, 1, ARGV[2]) == 1 then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry, 'JUSTID')
    end
end
for _, idle in ipairs(redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], '0')[2]) do
    if idle then
        redis.call('HSET', KEYS[2], idle[2][2], redis.call('XADD', KEYS[1], '*', unpack(idle[2])))
        redis.call('XACK', KEYS[1], ARGV[1], idle[1])
        redis.call('XDEL', KEYS[1], idle[1])
    end
end
"""


class NotQueuedError(Exception):
    """The job was certainly not queued: it was not sent, or Redis rejected it."""


class FleetBroker(RedisStreamBroker):
    """A taskiq broker that queues each job once, and requeues the jobs of workers that died.

    A job leaves the queue in the step that stores its result, so a caller that waits for it always gets one.

    Args:
        url: The address of Redis.
        name: Part of the names of all keys in Redis.
        claim_timeout: Seconds without a sign of life after which a worker's jobs are requeued.
    """

    def __init__(self, url: str, name: str, claim_timeout: float) -> None:
        super().__init__(
            url,
            queue_name=f"aiomutex:{name}:jobs",
            consumer_group_name="workers",
            consumer_id="0",  # jobs queued before the first worker started count too
            idle_timeout=round(claim_timeout * 1000),
            # A worker that fetched more than it can start would keep the rest from the others.
            xread_count=1,
            unacknowledged_batch_size=1,
        )
        self._redis = Redis(connection_pool=self.connection_pool)
        self._unfinished = f"aiomutex:{name}:unfinished"
        self._results = _ResultBackend(self, url, f"aiomutex:{name}:results")
        self._held: set[str] = set()
        """The jobs that this worker has fetched and not finished."""
        self.with_result_backend(self._results)

    # The caller's side

    async def kick(self, message: BrokerMessage) -> None:
        """Queue a job unless it was queued before, so that it may be sent again when the reply was lost.

        Upstream adds to the stream unconditionally: a job sent twice would run twice, perhaps at the same time.

        Raises:
            NotQueuedError: This call did not queue the job.
        """
        sent = False
        try:
            await self._redis.exists(self._unfinished)  # fails before the job is sent if Redis is unreachable
            sent = True
            await self._run(_QUEUE, message.task_id, message.message, job=message.task_id)
        except REDIS_ERRORS as error:
            if sent and not isinstance(error, ResponseError):
                raise
            raise NotQueuedError(f"{type(error).__name__}: {error}") from error

    async def result_of(self, job: str) -> TaskiqResult[Any] | None:
        """The result of a job, or ``None`` while it is unfinished.

        Raises:
            ResultIsMissingError: Redis has no such job.
        """
        is_unfinished: Any = self._redis.hexists(self._unfinished, job)
        return None if await is_unfinished else await self._results.get_result(job)

    async def forget(self, job: str) -> None:
        """Delete a result that the caller has received. One that cannot be deleted expires after a day."""
        with contextlib.suppress(*REDIS_ERRORS):
            await self._redis.delete(self._results.key(job))

    # The worker's side

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Jobs as they come, also after Redis was away.

        Upstream raises when Redis is away: taskiq would stop the worker and cancel its running jobs.
        """
        while True:
            try:
                async with contextlib.aclosing(super().listen()) as messages:
                    async for message in messages:
                        job = self.formatter.loads(message.data).task_id
                        # A job that this worker could not keep was requeued, and may come back to it while it runs.
                        if job not in self._held:
                            self._held.add(job)
                            yield message
            except REDIS_ERRORS as error:
                logger.warning("cannot fetch jobs from Redis: %s", error)
                await asyncio.sleep(1)
                with contextlib.suppress(*REDIS_ERRORS):
                    await self._declare_consumer_group()  # a restarted Redis may have lost it

    async def finish(self, job: str, result: bytes) -> None:
        """Store a job's result and remove the job from the queue, unless another worker has claimed it.

        If this fails, the job is requeued as if its worker had died.
        """
        self._held.discard(job)
        await self._run(_FINISH, job, result, job=job)

    async def keep_jobs(self) -> None:
        """Until cancelled, show that this worker is alive, and requeue the jobs of workers that are not.

        Upstream would claim a job that merely takes long, and it looks for jobs of dead workers only after it fetched a
        new one: the last jobs of a run would wait forever.
        """
        while True:
            await asyncio.sleep(self.idle_timeout / 4000)
            try:
                await self._run(_KEEP, self.idle_timeout, *self._held)
            except REDIS_ERRORS as error:
                logger.warning("cannot show Redis that this worker is alive: %s", error)

    async def _run(self, script: str, *arguments: Any, job: str = "") -> None:
        keys = (self.queue_name, self._unfinished, self._results.key(job))
        done: Any = self._redis.eval(script, 3, *keys, self.consumer_group_name, self.consumer_name, *arguments)
        await done


class _ResultBackend(RedisAsyncResultBackend[Any]):
    """Results as JSON: upstream's default, pickle, would run code of anyone who can write to Redis."""

    def __init__(self, broker: FleetBroker, url: str, prefix: str) -> None:
        # Results are kept when read, because the reply to the caller may get lost.
        super().__init__(url, prefix_str=prefix, serializer=JSONSerializer())
        self._broker = broker

    def key(self, job: str) -> str:
        """The key of a job's result."""
        return self._task_name(job)

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Store the result and finish the job in one step.

        Upstream stores the result and acknowledges the job afterwards, also when storing failed. A worker that died
        between the two would have its job done again after later edits of the same group, and a result that could not
        be stored would never come.
        """
        await self._broker.finish(task_id, self.serializer.dumpb(result.model_dump(mode="json")))
