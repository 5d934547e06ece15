"""The queue of a fleet: taskiq-redis's stream broker and result backend, changed so that a run survives its workers.

Knows nothing of edits: a job is a taskiq message with the groups it writes. The rules are in ``queue.lua``. Each
override says what would go wrong with upstream's method.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from taskiq.exceptions import NoResultError
from taskiq.message import TaskiqMessage
from taskiq.serializers import JSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from aiomutex._util.tasks import run_in_task, wait_done
from aiomutex.errors import LimiterUnavailableError
from aiomutex.fleet.lease import current_job

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable

    from taskiq import TaskiqResult

__all__ = ["REDIS_ERRORS", "FleetBroker", "NotQueuedError"]

logger = logging.getLogger("aiomutex.bulk")

REDIS_ERRORS: Final = (RedisError, OSError)
"""What redis-py raises when Redis is unreachable or rejects a command."""
_SCRIPT: Final = resources.files("aiomutex.fleet").joinpath("queue.lua").read_text("utf-8")


class NotQueuedError(Exception):
    """The job was certainly not queued: it was not sent, or Redis rejected it."""


class FleetBroker(RedisStreamBroker):
    """A taskiq broker that queues each job once, and requeues the jobs of workers that died.

    A queued job has the leases of its groups, so no two jobs write to one group. A job leaves the queue and frees its
    groups in the step that stores its result, so a caller that waits for it always gets one.

    Args:
        url: The address of Redis.
        name: Part of the names of all keys in Redis.
        claim_timeout: Seconds without a sign of life after which a worker's jobs are requeued, and a run's jobs are
            given up.
    """

    def __init__(self, url: str, name: str, claim_timeout: float) -> None:
        super().__init__(
            url,
            queue_name=f"aiomutex:{name}:jobs",
            consumer_group_name="workers",
            consumer_id="0",  # jobs queued before the first worker started count too
            idle_timeout=round(claim_timeout * 1000),
        )
        self.claim_timeout = claim_timeout
        self._redis = Redis(connection_pool=self.connection_pool)
        self._keys = [
            self.queue_name,
            *(f"aiomutex:{name}:{key}" for key in ("unfinished", "leases", "runs", "results")),
        ]
        self._results = _ResultBackend(self, url, self._keys[-1])
        self._held: dict[str, float] = {}
        """The jobs that this worker has fetched and not finished; and when it loses each, on the loop's clock."""
        self.with_result_backend(self._results)

    # The caller's side

    async def queue(self, job: str, run: str, groups: Iterable[str], task: str, text: str) -> bool:
        """Queue a job unless it was queued before, so that it may be sent again when the reply was lost.

        Args:
            job: The job's id.
            run: The id of its run, which must be kept alive.
            groups: The groups it writes.
            task: The name of the taskiq task.
            text: The edits. The task gets the job's id and this.

        Returns:
            False if other jobs still have some of the groups. Then this one is not queued.

        Raises:
            NotQueuedError: This call did not queue the job.
            LimiterUnavailableError: The run counts as dead. The job is not queued.
        """
        message = TaskiqMessage(task_id=job, task_name=task, labels={}, args=[job, text], kwargs={})
        data = self.formatter.dumps(message).message
        sent = False
        try:
            await self._redis.exists(self.queue_name)  # fails before the job is sent if Redis is unreachable
            sent = True
            state = await self._run("queue", job, run, data, " ".join(groups))
        except REDIS_ERRORS as error:
            if sent and not isinstance(error, ResponseError):
                raise
            raise NotQueuedError(f"{type(error).__name__}: {error}") from error
        if state == b"dead":
            raise self.given_up("skipped")
        return bool(state == b"queued")

    async def result_of(self, job: str) -> TaskiqResult[Any] | None:
        """The result of a job, or ``None`` while it is unfinished.

        Raises:
            ResultIsMissingError: Redis has no such job.
        """
        is_unfinished: Any = self._redis.hexists(self._keys[1], job)
        return None if await is_unfinished else await self._results.get_result(job)

    async def forget(self, job: str) -> None:
        """Delete a result that the caller has received. One that cannot be deleted expires after a day."""
        with contextlib.suppress(*REDIS_ERRORS):
            await self._redis.delete(f"{self._keys[-1]}:{job}")

    def given_up(self, status: str) -> LimiterUnavailableError:
        """The error of a run whose jobs were given up."""
        error = LimiterUnavailableError(
            f"the fleet got no sign of life from this run for {self.claim_timeout:g} s and gave up its jobs"
        )
        return error if status == "skipped" else error.with_attempts(0, maybe_applied=True)

    async def keep_run(self, run: str) -> None:
        """Until cancelled, show that the caller of a run is alive. Afterwards, its jobs are given up."""
        try:
            while True:
                with contextlib.suppress(*REDIS_ERRORS):
                    await self._run("beat", run)
                await asyncio.sleep(self.claim_timeout / 4)
        finally:
            with contextlib.suppress(*REDIS_ERRORS):
                async with asyncio.timeout(1):
                    await self._run("leave", run)

    # The worker's side

    async def listen(self) -> AsyncGenerator[Any, None]:
        """Jobs as they come, also after Redis was away.

        Upstream raises when Redis is away or an entry is not its own: taskiq would stop the worker and cancel its
        running jobs. It also claims jobs that merely take long, without a look at their callers.
        """
        while True:
            try:
                # A worker that fetched more than it can start would keep the rest from the others.
                fetched: Any = await self._redis.xreadgroup(
                    self.consumer_group_name, self.consumer_name, {self.queue_name: ">"}, count=1, block=self.block
                )
                for entry, fields in [each for _, entries in fetched for each in entries]:
                    job = fields.get(b"id", b"").decode(errors="replace")
                    # A job that this worker could not keep was requeued, and may come back to it while it runs.
                    if job not in self._held and await self._accept(job, entry):
                        yield fields[b"data"]
            except REDIS_ERRORS as error:
                logger.warning("cannot fetch jobs from Redis: %s", error)
                await asyncio.sleep(1)
                with contextlib.suppress(*REDIS_ERRORS):
                    await self._declare_consumer_group()  # a restarted Redis may have lost it

    async def _accept(self, job: str, entry: bytes) -> bool:
        ends_at = self._lease_end()
        state = await self._run("accept", entry, job)
        if state == b"accepted":
            self._held[job] = ends_at
        elif state == b"foreign":
            logger.warning("deleted an entry that is no job from the stream %s: %s", self.queue_name, entry.decode())
        return bool(state == b"accepted")

    def time_left(self, job: str) -> float:
        """For how many seconds this worker still has a job; 0 or less if it has lost it."""
        return self._held.get(job, 0.0) - asyncio.get_running_loop().time()

    async def work(self, job: str, work: Coroutine[Any, Any, str]) -> str:
        """Do a job for as long as this worker has it.

        Raises:
            NoResultError: The worker has lost the job. It stays in the queue, so no result may be stored.
        """
        current_job.set(job)
        task = asyncio.create_task(work, name="aiomutex fleet job")
        try:
            while not task.done() and (left := self.time_left(job)) > 0:
                await asyncio.wait([task], timeout=left)
        finally:
            task.cancel()
            await wait_done(task)
            is_lost = self.time_left(job) <= 0
            if is_lost:
                self._held.pop(job, None)
        if is_lost:
            logger.warning("this worker has lost a job, because Redis heard nothing of it or of the job's caller")
            raise NoResultError
        return task.result()

    async def finish(self, job: str, result: bytes) -> None:
        """Store a job's result, remove the job from the queue and free its groups, unless another worker has it.

        If this fails, the job is requeued as if its worker had died.
        """
        self._held.pop(job, None)
        await self._run("finish", job, result)

    async def keep_jobs(self) -> None:
        """Until cancelled, show that this worker is alive, and deal with the jobs of dead workers and callers.

        Upstream looks for jobs of dead workers only after it fetched a new one: the last jobs of a run would wait
        forever.
        """
        while True:
            await asyncio.sleep(self.claim_timeout / 4)
            ends_at = self._lease_end()
            jobs = [job for job in self._held if self.time_left(job) > 0]
            try:
                kept = await self._run("keep", *jobs)
            except REDIS_ERRORS as error:
                logger.warning("cannot show Redis that this worker is alive: %s", error)
                continue
            for job, is_kept in zip(jobs, kept, strict=True):
                # A lease that has ended meanwhile stays ended, because its job is being cancelled.
                if self.time_left(job) > 0:
                    self._held[job] = ends_at if is_kept else 0.0

    def _lease_end(self) -> float:
        """When a lease ends that Redis confirms from now on: requests in flight then have time left to arrive."""
        return asyncio.get_running_loop().time() + self.claim_timeout * 3 / 4

    async def _run(self, command: str, *arguments: Any) -> Any:
        names = (command, self.consumer_group_name, self.consumer_name, self.idle_timeout)
        done: Any = self._redis.eval(_SCRIPT, len(self._keys), *self._keys, *names, *arguments)
        # redis-py may swallow a cancellation that arrives together with the reply; a heartbeat would then never end.
        return await run_in_task(done)


class _ResultBackend(RedisAsyncResultBackend[Any]):
    """Results as JSON: upstream's default, pickle, would run code of anyone who can write to Redis."""

    def __init__(self, broker: FleetBroker, url: str, prefix: str) -> None:
        # Results are kept when read, because the reply to the caller may get lost.
        super().__init__(url, prefix_str=prefix, serializer=JSONSerializer())
        self._broker = broker

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Store the result and finish the job in one step.

        Upstream stores the result and acknowledges the job afterwards, also when storing failed. A worker that died
        between the two would have its job done again after later edits of the same group, and a result that could not
        be stored would never come.
        """
        await self._broker.finish(task_id, self.serializer.dumpb(result.model_dump(mode="json")))
