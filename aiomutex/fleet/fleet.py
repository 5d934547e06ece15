"""Bulk edits on many machines: a caller queues jobs, taskiq workers write them, and the caller gets the outcomes.

Needs the extra ``fleet``. The caller holds no API key: each worker reads it from its own environment, and has one
session and the limiter that all workers share.
"""

from __future__ import annotations

import asyncio
import functools
import uuid
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from taskiq import TaskiqEvents, TaskiqState

from aiomutex._util.checks import check_integer, describe
from aiomutex._util.tasks import run_in_task, run_to_completion
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import OutcomeStream, collect_report
from aiomutex.errors import ConfigurationError, LimiterUnavailableError, OutcomeUnknownError
from aiomutex.fleet.broker import REDIS_ERRORS, FleetBroker, NotQueuedError
from aiomutex.fleet.lease import LeasedLimiter
from aiomutex.fleet.run import POLL, FleetRun
from aiomutex.fleet.wire import Job, encode_report
from aiomutex.limits.redis import RedisRateLimiter
from aiomutex.session import MutexSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiomutex.bulk.options import Edits, OnBudget
    from aiomutex.bulk.report import BulkReport, SlotOutcome

__all__ = ["Fleet"]

_TASK: Final = "aiomutex.edit_slots"


class Fleet:
    """Workers on many machines that share the work and the limits of one project.

    Callers and workers use the same object: start workers with ``taskiq worker module:broker``; a caller opens the
    fleet with ``async with`` and passes it edits.

    When a worker dies, another one does its jobs again, which is harmless for slot edits. When a caller dies, its jobs
    are given up. No two jobs write to one group at the same time: a run waits for the groups that another run's jobs
    have. So after a crash, the same edits can be run again at once.

    A caller that loses its connection to Redis reconnects. When Redis stays away for ``claim_timeout`` seconds, the run
    stops with ``LimiterUnavailableError``: edits that workers may have are ``unknown``, the others ``skipped``.

    Args:
        redis_url: The Redis (6.2 or later) that holds the queue and the limiter's ledger.
        name: The name of the queue and the budget, for example the project's ID.
        claim_timeout: Seconds without a sign of life after which a worker, a caller or Redis counts as dead.
        batch_size: Edits in a job, at most.
        max_jobs: Jobs queued or running, at most.
        session: Makes each worker's session. By default it takes key, region and address from the worker's
            environment, and a ``RedisRateLimiter`` of this name with its ``safe`` margin. A session of your own must
            share its limiter with the other workers.

    Raises:
        ConfigurationError: An argument is invalid.

    Example:
        >>> fleet = Fleet("redis://localhost", name="project-1")
        >>> broker = fleet.broker  # for: taskiq worker module:broker
        >>> async def main(edits) -> None:
        ...     async with fleet:
        ...         report = await fleet.edit_slots(edits)
    """

    def __init__(
        self,
        redis_url: str,
        *,
        name: str,
        claim_timeout: float = 30.0,
        batch_size: int = 50,
        max_jobs: int = 12,
        session: Callable[[], MutexSession] | None = None,
    ) -> None:
        if type(claim_timeout) not in (int, float) or not 0 < claim_timeout < 10**6:
            raise ConfigurationError(
                f"claim_timeout must be a number of seconds above 0, not {describe(claim_timeout)}"
            )
        if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
            raise ConfigurationError(f"name must be a non-empty string, not {describe(name)}")
        self._url = redis_url
        self._name = name
        self._batch_size = check_integer("batch_size", batch_size, least=1, error=ConfigurationError)
        self._max_jobs = check_integer("max_jobs", max_jobs, least=1, error=ConfigurationError)
        self._make_session = session
        self._is_open = False
        self._claim_timeout = claim_timeout
        self._broker = FleetBroker(redis_url, name, claim_timeout)
        self._broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, self._open_worker)
        self._broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, self._close_worker)

        async def edit_slots(job: str, text: str) -> None:
            await self._broker.work(job, self._edit(text))

        self._broker.register_task(edit_slots, task_name=_TASK)

    @property
    def broker(self) -> FleetBroker:
        """The taskiq broker, for ``taskiq worker module:broker``."""
        return self._broker

    def __repr__(self) -> str:
        return f"<Fleet {self._name!r} · {'open' if self._is_open else 'not open'}>"

    # The caller's side

    async def __aenter__(self) -> Self:
        try:
            await run_in_task(self._broker.startup())
        except BaseException:
            await run_to_completion(self._broker.shutdown())
            raise
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        await run_to_completion(self._broker.shutdown())

    async def edit_slots(
        self,
        edits: Edits,
        *,
        verify: bool = False,
        on_outcome: Callable[[SlotOutcome], object] | None = None,
        stop_after: int | None = None,
        on_budget: OnBudget = "stop",
        reserve: int = 0,
    ) -> BulkReport:
        """Let the workers write many slots, and report the outcome of each edit, as ``MutexSession.edit_slots`` does.

        Edits of a group stay in order, and only one worker has a group at a time. A run that is stopped waits for the
        jobs already queued; each of them also stops after ``stop_after`` failures of its own. Without workers the run
        waits for one. A job without a result stops the run, since its groups may still be written to: a worker could
        not run it, or Redis lost it or is gone.

        Raises:
            InvalidRequestError: An argument or an edit of a collection is invalid. Nothing was sent.
            ConfigurationError: The fleet is not open.
        """
        stream = self.stream_slot_edits(
            edits, verify=verify, on_outcome=on_outcome, stop_after=stop_after, on_budget=on_budget, reserve=reserve
        )
        return await collect_report(stream)

    def stream_slot_edits(
        self,
        edits: Edits,
        *,
        verify: bool = False,
        on_outcome: Callable[[SlotOutcome], object] | None = None,
        stop_after: int | None = None,
        on_budget: OnBudget = "stop",
        reserve: int = 0,
    ) -> OutcomeStream:
        """Like ``edit_slots``, but yield outcomes as jobs finish and keep none. Leaving early gives up its jobs."""
        if not self._is_open:
            raise ConfigurationError("the fleet is not open; use it inside 'async with fleet'")
        settings = Settings(concurrency=self._max_jobs, stop_after=stop_after, on_budget=on_budget, reserve=reserve)
        name = uuid.uuid4().hex
        send = functools.partial(self._run_job, name)
        heartbeat = functools.partial(self._broker.keep_run, name)
        run = FleetRun(send, heartbeat, settings, batch_size=self._batch_size, verify=verify)
        return OutcomeStream(run, edits, on_outcome)

    async def _run_job(self, run: str, job: Job) -> str | None:
        """Queue a job and wait for its result, also across short absences of Redis.

        Returns:
            The report; ``None`` if the job was not queued, because another run's job has some of its groups.

        Raises:
            LimiterUnavailableError: Redis was away, or got no sign of life, for ``claim_timeout`` seconds.
                ``maybe_applied`` says whether a worker may have begun the job.
            OutcomeUnknownError: The worker failed to run the job.
            Exception: Redis lost the job, or its result cannot be read.
        """
        now = asyncio.get_running_loop().time
        text = msgspec.json.encode(job).decode()
        groups = {edit.group_id for edit in job.edits}
        job_id = uuid.uuid4().hex
        state, maybe_queued = "", False
        report = away_since = None
        while report is None:
            try:
                if not state:
                    state = await self._broker.queue(job_id, run, groups, _TASK, text)
                    maybe_queued = state == "queued"
                if state == "taken":
                    return None
                report = "skipped" if state == "dead" else await self._broker.result_of(job_id)
                away_since = None
            except (NotQueuedError, *REDIS_ERRORS) as error:
                maybe_queued = maybe_queued or not isinstance(error, NotQueuedError)
                away_since = now() if away_since is None else away_since
                if now() - away_since >= self._claim_timeout:
                    message = f"the fleet's Redis has been unavailable for {self._claim_timeout:g} s: {error}"
                    raise LimiterUnavailableError(message).with_attempts(0, maybe_applied=maybe_queued) from None
            if report is None:
                await asyncio.sleep(POLL if away_since is None else 10 * POLL)
        await self._broker.forget(job_id)
        if report in ("skipped", "unknown"):
            message = f"the fleet heard nothing of this run for {self._claim_timeout:g} s and gave up its jobs"
            raise LimiterUnavailableError(message).with_attempts(0, maybe_applied=report == "unknown")
        if not report.startswith("{"):
            raise OutcomeUnknownError(f"a worker failed to run the job: {report}")
        return report

    # The worker's side

    async def _open_worker(self, state: TaskiqState) -> None:
        if self._make_session is not None:
            state.session = self._make_session()
        else:
            state.limiter = RedisRateLimiter(self._url, name=self._name, safe=True)
            state.session = MutexSession(rate_limiter=state.limiter)
        inside: Any = state.session
        limiter = LeasedLimiter(inside.rate_limiter, self._broker.time_left)
        inside._transport.limiter = limiter  # noqa: SLF001  # nothing public lies between the permit and the send
        await state.session.__aenter__()
        state.keeping = asyncio.create_task(self._broker.keep_jobs(), name="aiomutex fleet worker")

    async def _close_worker(self, state: TaskiqState) -> None:
        if (keeping := getattr(state, "keeping", None)) is not None:
            keeping.cancel()
            await asyncio.wait([keeping])
        if (session := getattr(state, "session", None)) is not None:
            await session.aclose()
        if (limiter := getattr(state, "limiter", None)) is not None:
            await limiter.aclose()

    async def _edit(self, text: str) -> str:
        job = msgspec.json.decode(text, type=Job)
        session: MutexSession = self._broker.state.session
        edits = [edit.to_edit() for edit in job.edits]
        report = await session.edit_slots(
            edits, verify=job.verify, stop_after=job.stop_after, on_budget=job.on_budget, reserve=job.reserve
        )
        return encode_report(report)
