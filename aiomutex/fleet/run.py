"""A fleet's run as its caller sees it: jobs go out, at most one a group, and the outcomes come back as a stream.

Knows no queue and no worker: whoever makes it tells it how to ask for a job to be done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any, Final, Self

import anyio

from aiomutex._util.tasks import collapse_exception_group, wait_done
from aiomutex.bulk.options import FATAL, request_of
from aiomutex.bulk.report import SlotOutcome
from aiomutex.errors import (
    ConfigurationError,
    InvalidRequestError,
    LimiterUnavailableError,
    OutcomeUnknownError,
    TooManyFailuresError,
)
from aiomutex.fleet.wire import Job, outcomes_of
from aiomutex.models import SlotEdit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from aiomutex.bulk.options import Edits, Settings
    from aiomutex.errors import MutexError

__all__ = ["FleetStream"]

_END: Final = object()

Place = tuple[int, SlotEdit]
"""An edit and its place in the input."""


class FleetStream:
    """A run of slot edits on a fleet: ``async with`` it, then ``async for`` over it.

    Leaving the block early hands out no further job. What workers have already goes on there; those edits are told as
    ``unknown`` in ``unfinished``. ``stop()`` is the gentle way: it waits for them. What ``on_outcome`` raises ends the
    run, and it is not called again.
    """

    def __init__(
        self,
        ask: Callable[[Job], Awaitable[str]],
        edits: Edits,
        settings: Settings,
        *,
        batch_size: int,
        verify: bool,
        on_outcome: Callable[[SlotOutcome], object] | None,
    ) -> None:
        self._ask = ask
        self._edits = edits
        self._settings = settings
        self._job_size = batch_size
        self._verify = verify
        self._on_outcome = on_outcome
        self._outcomes: asyncio.Queue[SlotOutcome | None] = asyncio.Queue()
        # Enough for every job that may be under way, and the next of each.
        self._room = asyncio.Semaphore(2 * settings.concurrency * batch_size)
        self._waiting: dict[str, deque[Place]] = {}
        self._busy: set[str] = set()
        self._news = asyncio.Event()
        self._feeding = anyio.CancelScope()
        self._fed = False
        self._stopped = False
        self._failures = 0
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._given: dict[int, SlotEdit] = {}
        self.pulled = 0
        """Edits taken from the input so far."""
        self.stopped_by: MutexError | None = None
        """What ended the run before its input did; ``None`` while nothing has."""
        self.unfinished: list[SlotOutcome] = []
        """After the block: the outcomes that iteration did not come to, and what workers had when it was left."""

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise ConfigurationError("a stream of outcomes is used once; make a new one")
        self._task = asyncio.create_task(self._drive(), name="aiomutex fleet run")
        self._task.add_done_callback(lambda _: self._outcomes.put_nowait(None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = self._running
        task.cancel()
        try:
            await wait_done(task)
        except asyncio.CancelledError as cancelled:
            error = error or cancelled
            raise
        finally:
            if not task.cancelled():
                task.exception()  # it was raised by __anext__, or the body had a failure of its own
            while not self._outcomes.empty():
                if (outcome := self._outcomes.get_nowait()) is not None:
                    self.unfinished.append(outcome)
            note = "with a worker when the run was left"
            for position, edit in self._given.items():
                self.unfinished.append(SlotOutcome(edit=edit, status="unknown", position=position, note=note))
            try:
                for outcome in self.unfinished:
                    self._hand_out(outcome)
            except Exception:
                if error is None:  # else that came first, and is what ended the run
                    raise

    def __aiter__(self) -> AsyncIterator[SlotOutcome]:
        return self

    async def __anext__(self) -> SlotOutcome:
        outcome = await self._outcomes.get()
        if outcome is None:
            self._outcomes.put_nowait(None)
            await self._running  # raises what ended the run, if anything did
            raise StopAsyncIteration
        self._room.release()
        self._hand_out(outcome)
        return outcome

    def stop(self, reason: MutexError | None = None) -> None:
        """Hand out no further job. Iteration goes on to its end: what workers have is waited for, the rest skipped."""
        if not self._stopped:
            self._stopped = True
            self.stopped_by = reason
            self._feeding.cancel()
            self._news.set()

    @property
    def _running(self) -> asyncio.Task[None]:
        if self._task is None:
            raise ConfigurationError("the stream of outcomes is not open; use it inside 'async with'")
        return self._task

    def __repr__(self) -> str:
        return f"<FleetStream {self.pulled:,} pulled · {len(self._given):,} with workers>"

    def _hand_out(self, outcome: SlotOutcome) -> None:
        # One that raises is not called again.
        on_outcome, self._on_outcome = self._on_outcome, None
        if on_outcome is not None:
            on_outcome(outcome)
            self._on_outcome = on_outcome

    # ------------------------------------------------------------------ the run

    async def _drive(self) -> None:
        with collapse_exception_group():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._feed)
                free = asyncio.Semaphore(self._settings.concurrency)
                while not (self._fed and not self._waiting):
                    await free.acquire()
                    while not (places := self._next_job()) and not (self._fed and not self._waiting):
                        self._news.clear()
                        await self._news.wait()
                    if places:
                        tasks.start_soon(self._have_done, places, free)
        if self._error is not None:
            raise self._error

    async def _feed(self) -> None:
        edits = self._edits
        try:
            with self._feeding:
                source = aiter(edits) if isinstance(edits, AsyncIterable) else iter(edits)
                while not self._stopped:
                    await self._room.acquire()
                    edit: Any = await anext(source, _END) if isinstance(source, AsyncIterator) else next(source, _END)
                    if edit is _END:
                        break
                    self._take_in(edit)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever the input raises is the caller's, once all is told
            self._error = error
            self.stop()
        finally:
            self._fed = True
            self._news.set()
            if (close := getattr(edits, "aclose", None)) is not None:
                with anyio.CancelScope(shield=True):
                    await close()

    def _take_in(self, edit: SlotEdit) -> None:
        try:
            request_of(edit)
        except InvalidRequestError as error:
            if not isinstance(edit, SlotEdit):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
                raise
            self._tell(SlotOutcome(edit=edit, status="failed", position=self.pulled, error=error))
        else:
            self._waiting.setdefault(str(edit.group_id), deque()).append((self.pulled, edit))
            self._news.set()
        self.pulled += 1

    def _next_job(self) -> list[Place]:
        """The edits of groups that no worker has, as many as a job may hold; when stopped, they are skipped instead."""
        if self._stopped:
            for places in self._waiting.values():
                for position, edit in places:
                    self._tell(_skipped(edit, position))
            self._waiting.clear()
            return []
        free = [group for group in self._waiting if group not in self._busy]
        # A group's edits go one after the other, so it is the number of groups under way that makes the speed.
        groups = min(self._job_size, -(-(len(free) + len(self._busy)) // self._settings.concurrency))
        job: list[Place] = []
        for group in free[:groups]:
            places = self._waiting[group]
            job.extend(places.popleft() for _ in range(min(len(places), self._job_size // groups)))
            self._busy.add(group)
            if not places:
                del self._waiting[group]
        return job

    async def _have_done(self, places: list[Place], free: asyncio.Semaphore) -> None:
        self._given.update(places)
        settings = self._settings
        job = Job(
            edits=[edit for _, edit in places],
            verify=self._verify,
            stop_after=settings.stop_after,
            on_budget=settings.on_budget,
            reserve=settings.reserve,
        )
        try:
            outcomes, reason = outcomes_of(await self._ask(job), places)
        except Exception as error:  # noqa: BLE001  # whatever taskiq and Redis raise, the rest of the run has outcomes
            outcomes, reason = _unanswered(error, places)
            # Nobody knows whether a worker is at these groups still, so nothing may follow.
            self.stop(reason)
        if isinstance(reason, FATAL):
            self.stop(reason)
        for outcome in outcomes:
            self._given.pop(outcome.position, None)
            self._tell(outcome)
        self._busy.difference_update(str(edit.group_id) for _, edit in places)
        free.release()
        self._news.set()

    def _tell(self, outcome: SlotOutcome) -> None:
        self._outcomes.put_nowait(outcome)
        if outcome.status in ("failed", "unknown"):
            self._failures += 1
            if self._failures == self._settings.stop_after:
                message = f"stopped after {self._failures:,} failed edits"
                self.stop(TooManyFailuresError(message, failures=self._failures))


def _skipped(edit: SlotEdit, position: int) -> SlotOutcome:
    return SlotOutcome(edit=edit, status="skipped", position=position, note="not sent: the run was stopped before")


def _unanswered(error: Exception, places: list[Place]) -> tuple[list[SlotOutcome], MutexError]:
    """What became of the edits of a job that has no answer, and what that says of the run."""
    if isinstance(error, LimiterUnavailableError) and not error.maybe_applied:
        return [_skipped(edit, position) for position, edit in places], error
    if isinstance(error, LimiterUnavailableError | OutcomeUnknownError):
        reason: MutexError = error
    else:
        reason = OutcomeUnknownError(f"the fleet did not answer: {type(error).__name__}: {error}")
    outcomes = [SlotOutcome(edit=edit, status="unknown", position=position, error=reason) for position, edit in places]
    return outcomes, reason
