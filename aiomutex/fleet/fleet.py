"""Bulk edits on many machines: a caller queues jobs, taskiq workers write them, and the caller gets the outcomes.

Needs the extra ``fleet``. The caller holds no API key: each worker reads it from its own environment, and has one
session and the limiter that all workers share.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict, Unpack

import msgspec
from taskiq import TaskiqEvents, TaskiqState

from aiomutex._util.checks import check_integer, describe
from aiomutex._util.tasks import run_in_task, run_to_completion
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import OutcomeStream, collect_report
from aiomutex.errors import ConfigurationError
from aiomutex.fleet.broker import TASK, FleetBroker, LeasedLimiter
from aiomutex.fleet.dispatcher import Dispatcher
from aiomutex.fleet.run import FleetRun
from aiomutex.fleet.wire import Answer, JobRequest, Result
from aiomutex.limits.redis import RedisRateLimiter
from aiomutex.session import MutexSession

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from aiomutex.bulk.journal import Journal
    from aiomutex.bulk.options import Edits, OnBudget, Reads
    from aiomutex.bulk.report import BulkReport, SlotOutcome

_CONCURRENCY: Final = 96
"""The number of groups written concurrently: at 100 requests a second, each may take most of a second."""


class RunOptions(TypedDict, total=False):
    """The options of a run."""

    concurrency: int | None
    journal: str | os.PathLike[str] | Journal | None
    verify: bool
    skip_unchanged: bool
    canary: bool
    reads: Reads
    on_outcome: Callable[[SlotOutcome], object] | None
    stop_after: int | None
    on_budget: OnBudget
    reserve: int


class Fleet:
    """Workers on many machines that share the work and the limits of one project.

    Callers and workers use the same object: start workers with ``taskiq worker module:broker``; a caller opens the
    fleet with ``async with`` and passes it edits.

    When a worker dies, another one does its jobs again, which is harmless for slot edits. When a caller dies, its jobs
    are given up. No two jobs write to one group at the same time: a run waits for the groups that another run's jobs
    have. So after a crash, the same edits can be run again at once.

    Args:
        redis_url: The Redis (6.2 or later) that holds the queue and the limiter's ledger.
        name: The name of the queue and the budget, for example the project's ID.
        claim_timeout: Seconds without a sign of life after which a worker, a caller or Redis counts as dead.
        batch_size: Edits in a job, at most.
        max_jobs: Jobs queued or running, at most.
        session: Makes each worker's session. By default it takes key, region and address from the worker's
            environment, and a ``RedisRateLimiter`` of this name with its ``safe`` margin. A session of your own must
            share its limiter's budget with the other workers. The worker closes the session and its limiter.

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
        self._name = name
        self._batch_size = check_integer("batch_size", batch_size, least=1, error=ConfigurationError)
        self._max_jobs = check_integer("max_jobs", max_jobs, least=1, error=ConfigurationError)
        self._make_session = session or (
            lambda: MutexSession(rate_limiter=RedisRateLimiter(redis_url, name=name, safe=True))
        )
        self._is_open = False
        self.broker = FleetBroker(redis_url, name, claim_timeout)
        """The taskiq broker, for ``taskiq worker module:broker``."""
        self.broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, self._open_worker)
        self.broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, self._close_worker)

        async def do(job: str, text: str) -> None:
            await self.broker.work(job, self._do(text))

        self.broker.register_task(do, task_name=TASK)

    def __repr__(self) -> str:
        return f"<Fleet {self._name!r} · {'open' if self._is_open else 'not open'}>"

    # The caller's side

    async def __aenter__(self) -> Self:
        try:
            await run_in_task(self.broker.startup())
        except BaseException:
            await run_to_completion(self.broker.shutdown())
            raise
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        await run_to_completion(self.broker.shutdown())

    async def edit_slots(self, edits: Edits, **options: Unpack[RunOptions]) -> BulkReport:
        """Let the workers write many slots, and report the outcome of each edit, as ``MutexSession.edit_slots`` does.

        The options are those of ``MutexSession.edit_slots``; by default, up to 96 groups are written concurrently. A
        journal is a file of the caller, and the same as that of a session: either can resume and undo its run.

        A run has a group, and other runs wait for it, until no edit of it is left and what was written is read back.
        Without workers the run waits for one. A job without a result stops the run, since its groups may still be
        written to: a worker could not run it, or Redis lost it or is gone.

        Raises:
            InvalidRequestError: An argument or an edit of a collection is invalid. Nothing was sent.
            JournalError: The journal belongs to a different input or another process, or cannot be written.
            ConfigurationError: The fleet is not open.
        """
        return await collect_report(self.stream_slot_edits(edits, **options))

    def stream_slot_edits(self, edits: Edits, **options: Unpack[RunOptions]) -> OutcomeStream:
        """Like ``edit_slots``, but yield outcomes as they become known, and keep none. Leaving gives up its jobs."""
        if not self._is_open:
            raise ConfigurationError("the fleet is not open; use it inside 'async with fleet'")
        given: dict[str, Any] = {**options}
        journal, on_outcome = given.pop("journal", None), given.pop("on_outcome", None)
        if given.get("concurrency") is None:
            given["concurrency"] = min(_CONCURRENCY, self._max_jobs * self._batch_size)
        dispatcher = Dispatcher(self.broker, self._batch_size, self._max_jobs)
        return OutcomeStream(FleetRun(dispatcher, Settings(**given), journal), edits, on_outcome)

    # The worker's side

    async def _open_worker(self, state: TaskiqState) -> None:
        inside: Any = self._make_session()
        state.session, state.limiter = inside, inside.rate_limiter
        inside.rate_limiter = LeasedLimiter(state.limiter, self.broker.time_left)
        await inside.__aenter__()
        state.send, _ = inside._bulk_calls()  # noqa: SLF001  # nothing public sends requests as a run does
        state.keeping = asyncio.create_task(self.broker.keep_jobs(), name="aiomutex fleet worker")

    async def _close_worker(self, state: TaskiqState) -> None:
        if (keeping := getattr(state, "keeping", None)) is not None:
            keeping.cancel()
            await asyncio.wait([keeping])
        for name in ("session", "limiter"):
            if (close := getattr(getattr(state, name, None), "aclose", None)) is not None:
                await close()

    async def _do(self, text: str) -> str:
        state = self.broker.state
        to_send = [each.to_request() for each in msgspec.json.decode(text, type=list[JobRequest])]
        answers = await asyncio.gather(*(Answer.to(request, state.send) for request in to_send))
        return msgspec.json.encode(Result(answers, state.session.rate_limiter.state())).decode()
