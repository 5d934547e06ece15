"""A run as its caller sees it: a context manager that yields outcomes as they become known, and keeps none of them.

The run has a task of its own. The body of the ``async with`` is in no task group, so an exception in it is raised
unchanged, and leaving the body in any way ends the run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Iterable, Iterator
from typing import TYPE_CHECKING, Self

from aiomutex._util.checks import type_name
from aiomutex._util.tasks import wait_done
from aiomutex.bulk.options import check_all
from aiomutex.bulk.report import BulkReport, SlotOutcome
from aiomutex.bulk.run import ABANDONED, NOT_SENT
from aiomutex.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from aiomutex.bulk.engine import Engine
    from aiomutex.bulk.options import Edits
    from aiomutex.bulk.report import Status
    from aiomutex.errors import MutexError


class OutcomeStream:
    """A run of slot edits: ``async with`` it, then ``async for`` over it.

    Leaving the block early cancels what is in flight; on a fleet, its jobs are given up. These edits, and
    outcomes not iterated over, are in ``unfinished`` and are passed to ``on_outcome``. To end a run without unknown
    outcomes, call ``stop()`` and iterate to the end.

    ``MutexSession.stream_slot_edits`` and ``Fleet.stream_slot_edits`` return it and describe their arguments.
    """

    def __init__(self, run: Engine, edits: Edits, on_outcome: Callable[[SlotOutcome], object] | None) -> None:
        if not isinstance(edits, AsyncIterable | Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
            raise InvalidRequestError(f"edits must be an iterable of SlotEdit, not {type_name(edits)}")
        if on_outcome is not None and not callable(on_outcome):
            raise InvalidRequestError(f"on_outcome must be a function, not {type_name(on_outcome)}")
        if not isinstance(edits, AsyncIterable | Iterator):
            edits = check_all(edits)
        self._run = run
        self._edits = edits
        self._on_outcome = on_outcome
        self._task: asyncio.Task[None] | None = None
        self.counts: Counter[Status] = Counter()
        """How many outcomes of each status there have been."""
        self.unfinished: list[SlotOutcome] = []
        """After the block: outcomes not iterated over, and an ``unknown`` one for each edit in flight when it ended."""

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise ConfigurationError("a stream of outcomes is used once; make a new one")
        self._run.open(self._edits)
        self._task = asyncio.create_task(self._run.run(self._edits), name=self._run.task_name)
        # Without this, a caller waiting for an outcome would hang when the task fails or is cancelled.
        self._task.add_done_callback(lambda _: self._run.outcomes.put_nowait(None))
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        task = self._running
        task.cancel()
        try:
            await wait_done(task)
        finally:
            if not task.cancelled():
                task.exception()  # __anext__ has raised it, or the body has failed by itself
            self._run.close()
            failure = self._finish()
            if error is not None and self._run.has_abandoned_input:
                error.add_note(ABANDONED)
        if failure is not None:
            if error is None:
                raise failure
            error.add_note(f"on_outcome failed as well: {failure!r}")

    def __aiter__(self) -> AsyncIterator[SlotOutcome]:
        return self

    async def __anext__(self) -> SlotOutcome:
        task = self._running
        if (outcome := await self._run.next_outcome()) is None:
            await task  # raises what ended the run, if anything did
            raise StopAsyncIteration
        self._pass_on(outcome)
        return outcome

    def stop(self) -> None:
        """Send nothing more. Iterate to the end: requests in flight are awaited, the other edits are skipped."""
        _ = self._running
        self._run.stop()

    @property
    def pulled(self) -> int:
        """The number of edits taken from the input so far."""
        return self._run.pulled

    @property
    def in_flight(self) -> int:
        """The number of edits whose request may have been sent."""
        return len(self._run.in_flight)

    @property
    def stopped_by(self) -> MutexError | None:
        """What ended the run before its input did; ``None`` while nothing has."""
        return self._run.stopped_by

    @property
    def waiting_until(self) -> datetime | None:
        """When a run that waits for the next day's budget, or for the end of a pause after a 429, continues.

        ``None`` while it does not wait.
        """
        return self._run.waiting_until

    @property
    def _running(self) -> asyncio.Task[None]:
        if self._task is None:
            raise ConfigurationError("the stream of outcomes is not open; use it inside 'async with'")
        return self._task

    def __repr__(self) -> str:
        if self._task is None:
            return "<OutcomeStream · not open>"
        counts = "".join(f" · {count:,} {status}" for status, count in sorted(self.counts.items()))
        return f"<OutcomeStream {self.pulled:,} pulled · {self.in_flight} in flight{counts}>"

    def _finish(self) -> Exception | None:
        """Pass on what was not iterated over; return what ``on_outcome`` raised."""
        while not self._run.outcomes.empty():
            if (outcome := self._run.outcomes.get_nowait()) is not None:
                self.unfinished.append(outcome)
        for item in self._run.in_flight.values():
            note = "written, but not read back" if item.is_answered else "in flight"
            note += " when the run was left"
            self.unfinished.append(SlotOutcome(edit=item.edit, status="unknown", position=item.position, note=note))
        failure: Exception | None = None
        for outcome in self.unfinished:
            try:
                self._pass_on(outcome)
            except Exception as error:  # noqa: BLE001  # raised by the caller, unless it would hide another exception
                failure = error
        return failure

    def _pass_on(self, outcome: SlotOutcome) -> None:
        self.counts[outcome.status] += 1
        # A callback that has raised is not called again.
        on_outcome, self._on_outcome = self._on_outcome, None
        if on_outcome is not None:
            on_outcome(outcome)
            self._on_outcome = on_outcome


async def collect_report(stream: OutcomeStream) -> BulkReport:
    """Run a stream to its end and return every outcome. Each edit of a collection has one, even in a stopped run."""
    outcomes: list[SlotOutcome] = []
    async with stream:
        async for outcome in stream:
            outcomes.append(outcome)  # noqa: PERF401  # a comprehension would lose what came before an error
    edits = stream._edits  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # of this module
    if not isinstance(edits, AsyncIterable | Iterator):
        for position, edit in enumerate(edits):
            if position >= stream.pulled:
                outcomes.append(SlotOutcome(edit=edit, status="skipped", position=position, note=NOT_SENT))
    return BulkReport(outcomes=outcomes, stopped_by=stream.stopped_by)
