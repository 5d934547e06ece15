"""The run on this machine: writes the edits of each group one after another, and stops when the run must not go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from aiomutex.bulk.budget import DayBudget
from aiomutex.bulk.late_writes import LateWrites
from aiomutex.bulk.options import FATAL
from aiomutex.bulk.report import SlotOutcome
from aiomutex.bulk.run import Run
from aiomutex.bulk.writer import SlotWriter
from aiomutex.errors import DailyBudgetExhaustedError, InvalidRequestError

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable

    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallResult
    from aiomutex.bulk.group_queues import GroupQueue, Item
    from aiomutex.bulk.journal import Journal, Progress
    from aiomutex.bulk.options import Edits, Settings
    from aiomutex.bulk.writer import WriteResult
    from aiomutex.errors import MutexError
    from aiomutex.limits import RateLimiter

__all__ = ["Engine"]

_LOOK_AHEAD: Final = 1000
"""The maximum number of edits pulled and without an outcome. Only groups within it are edited concurrently."""


class Engine(Run):
    """A run that writes slots through a session.

    Args:
        send: Sends a request with the session's options.
        limiter: The session's limiter, which knows what is left of the daily budget and of a pause.
        on_stop: Called when the run is stopped.
        settings: The settings of the run.
        journal: The file that records progress, if any.
        verify: Whether to read writes back.
        attempt_timeout: Seconds that the service may take for a request.

    Raises:
        InvalidRequestError: The reserve is as large as the daily budget.
    """

    def __init__(
        self,
        send: Callable[[Request[Any]], Awaitable[CallResult[Any]]],
        limiter: RateLimiter,
        settings: Settings,
        on_stop: Callable[[], None],
        *,
        journal: str | os.PathLike[str] | None,
        verify: bool,
        attempt_timeout: float = 30.0,
    ) -> None:
        super().__init__(settings, _LOOK_AHEAD)
        if settings.reserve and settings.reserve >= (per_day := limiter.state().per_day):
            raise InvalidRequestError(
                f"reserve must be below the limiter's {per_day:,} requests a day, not {settings.reserve:,}"
            )
        self._limiter = limiter
        self._on_stop = on_stop
        self._journal_path = journal
        self._journal: Journal | None = None
        self._writer = SlotWriter(send, LateWrites(attempt_timeout) if verify else None)
        self._budget = DayBudget(limiter, settings.reserve, self.stopped)

    def open(self, edits: Edits) -> None:
        """Open the journal.

        Raises:
            JournalError: It belongs to a different input or another process, or is not a journal.
        """
        if self._journal_path is None:
            return
        from aiomutex.bulk.journal import Journal  # noqa: PLC0415  # only runs with a journal import SQLite

        self._journal = self._writer.journal = Journal(self._journal_path)
        try:
            self._journal.check_not_undone()
            if not isinstance(edits, AsyncIterable | Iterator):
                self._journal.check_input(edits)
        except BaseException:
            self._journal.close()
            raise

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    @property
    def waiting_until(self) -> datetime | None:
        """When a run that waits for the next day's budget, or for the end of a pause, continues."""
        paused_for = self._limiter.state().paused_for
        if self._budget.waiting_until is None and paused_for:
            return datetime.now(UTC) + timedelta(seconds=paused_for)
        return self._budget.waiting_until

    def stop(self, reason: MutexError | None = None) -> None:
        """Pull and send nothing more, and end waits for permits within the session's deadline."""
        if not self.stopped.is_set():
            self._on_stop()
        super().stop(reason)

    async def run(self, edits: Edits) -> None:
        """Work until the input ends or the run is stopped, and record the end of the input.

        Raises:
            JournalError: The journal belongs to a different input, or cannot be written.
            BaseException: What the input raised, after every request sent has its outcome.
        """
        await super().run(edits)
        if self._journal is not None and not self.stopped.is_set():
            self._journal.record_end(self.pulled)
            await self._journal.sync()

    def _progress_of(self, item: Item) -> Progress:
        return "new" if self._journal is None else self._journal.progress_of(item.position, item.edit)

    # ------------------------------------------------------------------ work

    async def _serve(self, group: GroupQueue) -> None:
        if self._writer.is_old(group):
            await self._read_back(group)
        if group.items:
            await self._write_next(group)
        if self.stopped.is_set() or not group.items:
            await self._read_back(group)

    def _release(self, group: GroupQueue) -> None:
        if group.items or not group.written:
            super()._release(group)
            return
        group.is_parked = True
        asyncio.get_running_loop().call_at(self._writer.readable_at(group), self._wake, group)

    def _wake(self, group: GroupQueue) -> None:
        if group.is_parked:
            group.is_parked = False
            self._ready.put_nowait(group)

    async def _write_next(self, group: GroupQueue) -> None:
        batch = group.take()
        self.in_flight.update((item.position, item) for item in batch)
        try:
            self._budget.check()
            result = await self._writer.write(group, batch)
        except DailyBudgetExhaustedError as error:
            if error.maybe_applied and self.settings.on_budget == "stop":
                await self._conclude(self._writer.unsent(group, batch, error))
                return
            if error.maybe_applied:
                self._writer.expect_again(group, batch)
            else:
                for item in batch:
                    del self.in_flight[item.position]
            group.items.extendleft(reversed(batch))
            await self._out_of_budget(error)
        else:
            if result is not None:
                await self._conclude(result)

    async def _read_back(self, group: GroupQueue) -> None:
        while self._writer.is_readable(group):
            try:
                results = await self._writer.read_back(group)
            except DailyBudgetExhaustedError as error:
                await self._out_of_budget(error)
                results = self._writer.unread(group, error) if self.stopped.is_set() else []
            await self._conclude(*results)

    async def _out_of_budget(self, error: DailyBudgetExhaustedError) -> None:
        if self.settings.on_budget == "stop":
            self.stop(error)
        else:
            await self._budget.wait_for_reset(error)

    async def _conclude(self, *results: WriteResult) -> None:
        if self._journal is not None:
            # Whatever was reported as applied, a resumed run must know.
            await self._journal.sync()
        for batch, status, error, attempts in results:
            if error is not None:
                # A traceback would keep every frame of the run alive for as long as the outcome is.
                for each in (error, *error.earlier):
                    each.__traceback__ = None
                if isinstance(error, FATAL):
                    self.stop(error)
            for item in batch:
                self._report(
                    SlotOutcome(edit=item.edit, status=status, position=item.position, error=error, attempts=attempts)
                )
