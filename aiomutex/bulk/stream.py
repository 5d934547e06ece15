"""A run as its user sees it: a context manager that hands out outcomes as they come, and keeps none of them.

The engine runs in a task of its own, so the body of the ``async with`` is in no task group: an exception in it comes
out as it is, and leaving the body, by whatever way, ends the run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Self

from aiomutex._util.tasks import wait_done
from aiomutex.bulk.engine import Engine
from aiomutex.bulk.report import SlotOutcome
from aiomutex.bulk.writer import SlotWriter
from aiomutex.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime
    from types import TracebackType

    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallResult
    from aiomutex.bulk.journal import Journal
    from aiomutex.bulk.options import Edits, Settings
    from aiomutex.bulk.report import Status
    from aiomutex.errors import MutexError
    from aiomutex.limits import RateLimiter

__all__ = ["OutcomeStream"]

_BUFFER: Final = 64
"""Outcomes that wait to be looked at, before nothing more is begun."""


class OutcomeStream:
    """A run of slot edits: ``async with`` it, then ``async for`` over it.

    Leaving the block early cancels what is in flight. Those edits are told as ``unknown`` in ``unfinished``, and to
    ``on_outcome``; a journal settles them in the next run. Outcomes that nobody waited for are told there, too.
    ``stop()`` is the gentle way: it waits for what is in flight.

    ``MutexSession.stream_slot_edits`` makes it and describes its arguments.
    """

    def __init__(
        self,
        send: Callable[[Request[Any]], Awaitable[CallResult[Any]]],
        limiter: RateLimiter,
        edits: Edits,
        settings: Settings,
        *,
        journal: str | os.PathLike[str] | None,
        verify: bool,
        on_outcome: Callable[[SlotOutcome], object] | None,
    ) -> None:
        if settings.reserve and settings.reserve >= (per_day := limiter.state().per_day):
            raise InvalidRequestError(
                f"reserve is {settings.reserve}; it must be below the limiter's {per_day:,} requests of a day"
            )
        self._send = send
        self._limiter = limiter
        self._edits = edits
        self._settings = settings
        self._journal_path = journal
        self._verify = verify
        self._on_outcome = on_outcome
        self._outcomes: asyncio.Queue[SlotOutcome | None] = asyncio.Queue()
        self._caught_up = asyncio.Event()
        self._caught_up.set()
        self._run: tuple[Engine, asyncio.Task[None], Journal | None] | None = None
        self.counts: Counter[Status] = Counter()
        """How many outcomes of each status have been handed out."""
        self.unfinished: list[SlotOutcome] = []
        """After the block: the outcomes that iteration did not come to, and what was in flight when it was left."""

    async def __aenter__(self) -> Self:
        if self._run is not None:
            raise ConfigurationError("a stream of outcomes is used once; make a new one")
        journal = self._open_journal()
        writer = SlotWriter(self._send, journal, verify=self._verify)
        engine = Engine(writer, self._limiter, self._settings, journal, self._emit, self._caught_up.wait)
        task = asyncio.create_task(engine.run(self._edits), name="aiomutex bulk run")
        # However the run ends, whoever waits for an outcome hears of it.
        task.add_done_callback(lambda _: self._outcomes.put_nowait(None))
        self._run = engine, task, journal
        return self

    def _open_journal(self) -> Journal | None:
        if self._journal_path is None:
            return None
        from aiomutex.bulk.journal import Journal  # noqa: PLC0415  # SQLite is imported where it is used only

        journal = Journal(self._journal_path)
        try:
            journal.begin_run()
            if not isinstance(self._edits, AsyncIterable | Iterator):
                journal.check_input(self._edits)
        except BaseException:
            journal.close()
            raise
        return journal

    def _emit(self, outcome: SlotOutcome) -> None:
        self._outcomes.put_nowait(outcome)
        if self._outcomes.qsize() >= _BUFFER:
            self._caught_up.clear()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        engine, task, journal = self._running
        task.cancel()
        try:
            await wait_done(task)
        finally:
            if not task.cancelled():
                task.exception()  # it was raised by __anext__, or the body had a failure of its own
            if journal is not None:
                journal.close()
            while not self._outcomes.empty():
                if (outcome := self._outcomes.get_nowait()) is not None:
                    self.unfinished.append(outcome)
            note = "in flight when the run was left"
            for item in engine.in_flight.values():
                self.unfinished.append(SlotOutcome(edit=item.edit, status="unknown", position=item.position, note=note))
            failure = self._hand_out_the_rest()
        if failure is not None:
            # What ended the block goes before.
            if error is None:
                raise failure
            error.add_note(f"on_outcome failed as well: {failure!r}")

    def __aiter__(self) -> AsyncIterator[SlotOutcome]:
        return self

    async def __anext__(self) -> SlotOutcome:
        _, task, _ = self._running
        outcome = await self._outcomes.get()
        if outcome is None:
            self._outcomes.put_nowait(None)
            await task  # raises what ended the run, if anything did
            raise StopAsyncIteration
        if self._outcomes.qsize() < _BUFFER:
            self._caught_up.set()
        self._hand_out(outcome)
        return outcome

    def stop(self) -> None:
        """Send nothing more. Iteration goes on to its end: what is in flight finishes, what waits is skipped."""
        self._running[0].stop()

    @property
    def pulled(self) -> int:
        """Edits taken from the input so far."""
        return self._running[0].pulled

    @property
    def in_flight(self) -> int:
        """Edits whose request may be on its way."""
        return len(self._running[0].in_flight)

    @property
    def stopped_by(self) -> MutexError | None:
        """What ended the run before its input did; ``None`` while nothing has."""
        return self._running[0].stopped_by

    @property
    def waiting_until(self) -> datetime | None:
        """When a run that waits for more budget goes on; ``None`` while it does not wait."""
        return self._running[0].budget.waiting_until

    @property
    def _running(self) -> tuple[Engine, asyncio.Task[None], Journal | None]:
        if self._run is None:
            raise ConfigurationError("the stream of outcomes is not open; use it inside 'async with'")
        return self._run

    def __repr__(self) -> str:
        if self._run is None:
            return "<OutcomeStream · not open>"
        told = "".join(f" · {count:,} {status}" for status, count in sorted(self.counts.items()))
        return f"<OutcomeStream {self.pulled:,} pulled · {self.in_flight} in flight{told}>"

    def _hand_out_the_rest(self) -> Exception | None:
        failure: Exception | None = None
        for outcome in self.unfinished:
            try:
                self._hand_out(outcome)
            except Exception as error:  # noqa: BLE001  # it is raised where it hides nothing
                failure = error
        return failure

    def _hand_out(self, outcome: SlotOutcome) -> None:
        self.counts[outcome.status] += 1
        tell, self._on_outcome = self._on_outcome, None
        if tell is not None:
            tell(outcome)
            # One that has failed is not called again.
            self._on_outcome = tell
