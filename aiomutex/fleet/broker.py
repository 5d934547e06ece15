"""The queue of a fleet: taskiq-redis's stream broker, changed so that a run survives its workers.

Knows nothing of edits: a job is a taskiq message with the groups it writes. The rules are in ``queue.lua``. Each
override says what would go wrong with upstream's method.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextvars import ContextVar
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError
from taskiq.message import TaskiqMessage
from taskiq_redis import RedisStreamBroker

from aiomutex._util.tasks import run_in_task, wait_done
from aiomutex.errors import LimiterUnavailableError
from aiomutex.limits import Priority

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from aiomutex.limits import RateLimiter

logger = logging.getLogger("aiomutex.fleet")

REDIS_ERRORS: Final = (RedisError, OSError)
"""What redis-py raises when Redis is unreachable or rejects a command."""
TASK: Final = "aiomutex.edit_slots"
_SCRIPT: Final = resources.files("aiomutex.fleet").joinpath("queue.lua").read_text("utf-8")
_current_job: ContextVar[str] = ContextVar("current_job", default="")  # the job that the current task works on


class LeasedLimiter:
    """The limiter of a worker's session, whose permits are void once the worker has lost the job.

    A request waits for its permit last, possibly for seconds. A worker that was frozen meanwhile would otherwise send
    it before the cancellation of its job arrives.
    """

    def __init__(self, limiter: RateLimiter, time_left: Callable[[str], float]) -> None:
        self._limiter = limiter
        self._time_left = time_left

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait for a permit, or raise ``LimiterUnavailableError`` if the worker has lost the job meanwhile."""
        permit = await self._limiter.acquire(priority)
        if (job := _current_job.get()) and self._time_left(job) <= 0:
            raise LimiterUnavailableError("the worker has lost the job")
        return permit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)


class FleetBroker(RedisStreamBroker):
    """A taskiq broker that queues each job once, and requeues the jobs of workers that died.

    A run has the leases of the groups that it writes, and one job at a time for each of them, so no two jobs write to
    one group. A job leaves the queue in the step that stores its result, so a caller that waits for it always gets one.

    ``name`` is part of the names of all keys in Redis. After ``claim_timeout`` seconds without a sign of life, a
    worker's jobs are requeued, and a run's jobs are given up.
    """

    def __init__(self, url: str, name: str, claim_timeout: float) -> None:
        super().__init__(
            url,
            queue_name=f"aiomutex:{name}:jobs",
            consumer_group_name="workers",
            consumer_id="0",  # jobs queued before the first worker started count too
            idle_timeout=round(claim_timeout * 1000),
        )
        self._redis = Redis(connection_pool=self.connection_pool)
        self._keys = [f"aiomutex:{name}:{key}" for key in ("jobs", "unfinished", "leases", "runs", "results")]
        self.claim_timeout = claim_timeout
        self._jobs: set[asyncio.Task[Any]] = set()
        self._held: dict[str, float] = {}
        """The jobs that this worker has fetched and not finished; and when it loses each, on the loop's clock."""

    # The caller's side

    async def exchange(self, run: str, given: dict[str, list[str]], *job: Any) -> tuple[set[str], list[str], bool]:
        """Show that the caller of a run is alive, and exchange what is new. May be repeated if the reply is lost.

        Args:
            run: The run.
            given: The groups ``wanted`` and ``freed``, the jobs whose results were ``received``, and those ``waiting``
                for, with the one to queue.
            job: The ID, requests and groups of a job to queue, if any.

        Returns:
            The groups that other runs have; for each job its result: empty while it is unfinished, ``skipped`` or
            ``unknown`` if it was given up, with ``again`` before it if it was done again; and whether the run is alive.
        """
        arguments: list[Any] = []
        if job:
            message = TaskiqMessage(task_id=job[0], task_name=TASK, labels={}, args=[*job[:2]], kwargs={})
            arguments = [job[0], self.formatter.dumps(message).message, *job[2]]
        taken, states, is_alive = await self._run("exchange", run, msgspec.json.encode(given), *arguments)
        return {group.decode() for group in taken}, [state.decode() for state in states], bool(is_alive)

    async def leave(self, run: str) -> None:
        """Give up the jobs of a run, and free its groups. Without this, that happens once the run counts as dead."""
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
                fetching: Any = self._redis.xreadgroup(
                    self.consumer_group_name, self.consumer_name, {self.queue_name: ">"}, count=1, block=self.block
                )
                # redis-py may swallow a cancellation, and this would go on with a connection that nobody closes.
                fetched: Any = await run_in_task(fetching)
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

    async def work(self, job: str, work: Coroutine[Any, Any, str]) -> None:
        """Do a job for as long as this worker has it, then store its result and free its groups in one step.

        If the worker loses the job, or cannot store its result, the job is requeued as if the worker had died.
        Taskiq's result backends store the result and acknowledge the job afterwards, also when storing failed: the job
        of a worker that died between the two would be done again after later edits of the same group.
        """
        _current_job.set(job)
        if (doing := asyncio.current_task()) is not None:
            self._jobs.add(doing)
            doing.add_done_callback(self._jobs.discard)
        task = asyncio.create_task(work, name="aiomutex fleet job")
        try:
            while not task.done() and (left := self.time_left(job)) > 0:
                await asyncio.wait([task], timeout=left)
            is_lost = self.time_left(job) <= 0
        finally:
            task.cancel()
            await wait_done(task)
            self._held.pop(job, None)
        if is_lost:
            logger.warning("this worker has lost a job, because Redis heard nothing of it or of the job's caller")
            return
        error = task.exception()
        await self._run("finish", job, task.result() if error is None else f"{type(error).__name__}: {error}")

    async def shutdown(self) -> None:
        """End what is left of this worker. A cancelled receiver leaves its jobs running: they would reconnect."""
        if jobs := self._jobs - {asyncio.current_task()}:
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)
        await super().shutdown()

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
