"""Bulk edits over several machines: taskiq hands out the groups, its workers write, one caller gets the outcomes.

Needs the extra ``fleet``, and nothing else imports it. The caller holds no API key; each worker has it from its own
environment, with one session and the limiter that all workers share.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from aiomutex._util.tasks import run_in_task, run_to_completion
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import OutcomeStream, collect_report
from aiomutex.errors import ConfigurationError, LimiterUnavailableError, OutcomeUnknownError
from aiomutex.fleet.broker import (
    REDIS_ERRORS,
    FleetBroker,
    NotQueuedError,
    SendTaskError,
    TaskiqEvents,
    TaskiqState,
)
from aiomutex.fleet.run import FleetRun
from aiomutex.fleet.wire import Job, answer_of
from aiomutex.limits.redis import RedisRateLimiter
from aiomutex.session import MutexSession

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from aiomutex.bulk.options import Edits, OnBudget
    from aiomutex.bulk.report import BulkReport, SlotOutcome

__all__ = ["Fleet"]

_TASK: Final = "aiomutex.edit_slots"
_LOOK: Final = 0.1
"""Seconds between two looks for an answer; ten times that while Redis is away."""


class Fleet:
    """Workers on many machines that share the work and the limits of one project.

    The same object stands on both sides. Workers are started with ``taskiq worker module:broker``; the caller opens
    the fleet with ``async with`` and hands it edits.

    A worker that dies in the middle of a job loses nothing: another one takes the job over and does it again, which is
    harmless for slot edits. A worker that is frozen for longer than ``claim_timeout`` and then goes on may write an
    edit again that another has followed with a later one; the job it belongs to is then done twice.

    A caller whose connection to Redis breaks goes on when it is there again. When Redis stays away for
    ``claim_timeout`` seconds, the run stops with ``LimiterUnavailableError``: what workers may have is ``unknown``,
    the rest ``skipped``.

    Args:
        redis_url: The Redis (6.2 or later) that holds the queue and the limiter's count.
        name: The name of the budget and the queue, for example the project's id.
        claim_timeout: Seconds without a sign of life after which a worker counts as dead, and Redis as gone.
        batch_size: Edits that a worker is given at once, at the most.
        max_jobs: Jobs under way or waiting at the most.
        session: Makes each worker's session, if the default (key, region and address from the worker's environment,
            and a ``RedisRateLimiter`` of that name with its ``safe`` margin) does not fit. It must share a limiter with
            the others.

    Raises:
        ConfigurationError: A setting is wrong.

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
        whole = "a whole number from 1"
        for field, value, kind, right in (
            ("claim_timeout", claim_timeout, (int, float), "a number above 0"),
            ("batch_size", batch_size, int, whole),
            ("max_jobs", max_jobs, int, whole),
        ):
            if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < 10**6:  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
                raise ConfigurationError(f"{field} is {value!r}; it must be {right}")
        if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
            raise ConfigurationError(f"name is {name!r}; it must be a text that names the project's budget")
        self._url = redis_url
        self._name = name
        self._job_size = batch_size
        self._abreast = max_jobs
        self._make_session = session
        self._is_open = False
        self._take_over_after = claim_timeout
        self._broker = FleetBroker(redis_url, name, claim_timeout)
        self._broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, self._open_worker)
        self._broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, self._close_worker)

        async def edit_slots(job: str) -> str:
            return await self._edit(job)

        self._task: Any = self._broker.register_task(edit_slots, task_name=_TASK)

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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        """Have the workers write many slots, and report what became of each edit, as ``MutexSession.edit_slots`` does.

        Edits of a group stay in order, and only one worker has a group at a time. A run that is stopped waits for the
        jobs that were handed out; each of them stops after ``stop_after`` failures of its own. While there are no
        workers, it waits for some. A job without an answer stops the run, since nothing may follow it: a worker could
        not run it, or Redis lost it or is gone.

        Raises:
            InvalidRequestError: An argument or an edit of a collection breaks a rule. Nothing was sent.
            ConfigurationError: The fleet is not open.
        """
        stream = self.stream_slot_edits(
            edits, verify=verify, on_outcome=on_outcome, stop_after=stop_after, on_budget=on_budget, reserve=reserve
        )
        return await collect_report(stream, edits)

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
        """The same, keeping nothing: outcomes come as jobs are done. Leaving early does not call workers back."""
        if not self._is_open:
            raise ConfigurationError("the fleet is not open; use it inside 'async with fleet'")
        settings = Settings(concurrency=self._abreast, stop_after=stop_after, on_budget=on_budget, reserve=reserve)
        run = FleetRun(self._ask, settings, batch_size=self._job_size, verify=verify)
        return OutcomeStream(run, edits, on_outcome)

    async def _ask(self, job: Job) -> str:
        """Queue a job and wait for its answer, however often Redis is away for a moment meanwhile.

        Raises:
            LimiterUnavailableError: Redis was away for ``claim_timeout`` seconds. ``maybe_applied`` says whether the
                job may be in the queue.
            OutcomeUnknownError: The worker could not do the job.
            Exception: Nobody has the job any more, or its answer cannot be read.
        """
        now = asyncio.get_running_loop().time
        text = msgspec.json.encode(job).decode()
        job_id = uuid.uuid4().hex
        queued = maybe_queued = False
        result = away_since = None
        while result is None:
            try:
                if not queued:
                    await self._task.kicker().with_task_id(job_id).kiq(text)
                    queued = maybe_queued = True
                result = await self._broker.answer_of(job_id)
                away_since = None
            except (SendTaskError, *REDIS_ERRORS) as error:
                cause = error.__cause__ if isinstance(error, SendTaskError) else error
                maybe_queued = maybe_queued or not isinstance(cause, NotQueuedError)
                away_since = now() if away_since is None else away_since
                if now() - away_since >= self._take_over_after:
                    problem = f"the fleet's Redis has been away for {self._take_over_after:g} s: {cause}"
                    raise LimiterUnavailableError(problem).with_attempts(0, maybe_applied=maybe_queued) from None
            if result is None:
                await asyncio.sleep(_LOOK if away_since is None else 10 * _LOOK)
        await self._broker.forget(job_id)
        if result.is_err:
            raise OutcomeUnknownError(f"a worker could not do it: {type(result.error).__name__}: {result.error}")
        answer: str = result.return_value
        return answer

    # The worker's side

    async def _open_worker(self, state: TaskiqState) -> None:
        if self._make_session is not None:
            state.session = self._make_session()
        else:
            state.limiter = RedisRateLimiter(self._url, name=self._name, safe=True)
            state.session = MutexSession(rate_limiter=state.limiter)
        await state.session.__aenter__()
        state.alive = asyncio.create_task(self._broker.stay_alive(), name="aiomutex fleet worker")

    async def _close_worker(self, state: TaskiqState) -> None:
        if (alive := getattr(state, "alive", None)) is not None:
            alive.cancel()
            await asyncio.wait([alive])
        if (session := getattr(state, "session", None)) is not None:
            await session.aclose()
        if (limiter := getattr(state, "limiter", None)) is not None:
            await limiter.aclose()

    async def _edit(self, text: str) -> str:
        job = msgspec.json.decode(text, type=Job)
        session: MutexSession = self._broker.state.session
        report = await session.edit_slots(
            job.edits, verify=job.verify, stop_after=job.stop_after, on_budget=job.on_budget, reserve=job.reserve
        )
        return answer_of(report)
