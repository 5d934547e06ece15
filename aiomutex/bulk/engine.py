"""Fan-out: edits are pulled from the input as there is room, written side by side, and each gets an outcome.

A feeder fills the queues; a fixed number of workers empties them. Nothing grows with the number of edits: what has
been pulled and has no outcome yet is bounded. Every await can be cancelled; what was in flight then is told apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import anyio

from aiomutex._util.tasks import collapse_exception_group
from aiomutex.bulk.budget import DayBudget
from aiomutex.bulk.group_queues import Item, Queues
from aiomutex.bulk.options import FATAL, Edits, OnBudget, Settings, request_of
from aiomutex.bulk.report import SlotOutcome
from aiomutex.errors import (
    DailyBudgetExhaustedError,
    InvalidRequestError,
    MutexError,
    TooManyFailuresError,
)
from aiomutex.models import SlotEdit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex.bulk.group_queues import GroupQueue
    from aiomutex.bulk.journal import Journal
    from aiomutex.bulk.writer import SlotWriter, WriteResult
    from aiomutex.limits import RateLimiter

__all__ = ["Edits", "Engine", "OnBudget", "Settings", "request_of"]

LOOK_AHEAD: Final = 1000
"""Edits pulled and without an outcome at the most. Groups whose edits stand within it go side by side."""
_END: Final = object()
_NOT_SENT: Final = "not sent: the run was stopped before"


class Engine:
    """One run: make it, await ``run`` once, and let ``emit`` take the outcomes.

    Args:
        writer: Writes a slot and learns what became of it.
        limiter: Asked how much of the day is left, where a reserve is kept.
        settings: How to go about it.
        journal: Tells what an earlier run has done, if there is one.
        emit: Takes each outcome at once, so that none is lost on a cancellation.
        caught_up: Waits while too many outcomes have not been looked at; nothing more is begun meanwhile.
    """

    def __init__(
        self,
        writer: SlotWriter,
        limiter: RateLimiter,
        settings: Settings,
        journal: Journal | None,
        emit: Callable[[SlotOutcome], None],
        caught_up: Callable[[], Awaitable[object]],
    ) -> None:
        self._writer = writer
        self._settings = settings
        self._journal = journal
        self._emit = emit
        self._caught_up = caught_up
        self._queues = Queues()
        self._ready: asyncio.Queue[GroupQueue | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(LOOK_AHEAD)
        self._pending = 0
        self._fed = False
        self._failures = 0
        self._feeding = anyio.CancelScope()
        self._stopped = asyncio.Event()
        self._source_error: BaseException | None = None
        self.budget = DayBudget(limiter, settings.reserve, self._stopped)
        """What is left of the day."""
        self.in_flight: dict[int, Item] = {}
        """By position, the edits whose request may be on its way."""
        self.pulled = 0
        """Edits taken from the input."""
        self.stopped_by: MutexError | None = None
        """What ended the run before its input did."""

    async def run(self, edits: Edits) -> None:
        """Work until the input is at its end, or the run is stopped, and all that was pulled has its outcome.

        Raises:
            JournalError: The journal belongs to another input, or the disk refuses.
            BaseException: What the input raised, once all that was sent has its outcome.
        """
        with collapse_exception_group():
            async with anyio.create_task_group() as tasks:
                for _ in range(self._settings.concurrency):
                    tasks.start_soon(self._work)
                with self._feeding:
                    await self._feed(edits)
                self._fed = True
                if not self._pending:
                    self._dismiss()
        if self._source_error is not None:
            raise self._source_error
        if self._journal is not None and not self._stopped.is_set():
            self._journal.ended(self.pulled)

    def stop(self, reason: MutexError | None = None) -> None:
        """Pull and send nothing more; what is in flight is waited for, what waits is skipped."""
        if not self._stopped.is_set():
            self._stopped.set()
            self.stopped_by = reason
            self._feeding.cancel()

    # ------------------------------------------------------------------ input

    async def _feed(self, edits: Edits) -> None:
        source: AsyncIterator[SlotEdit] | Iterator[SlotEdit] | None = None
        try:
            source = aiter(edits) if isinstance(edits, AsyncIterable) else iter(edits)
            while not self._stopped.is_set():
                # Room first: an edit that has been pulled gets its outcome, whatever happens then.
                await self._room.acquire()
                edit: Any = await anext(source, _END) if isinstance(source, AsyncIterator) else next(source, _END)
                if edit is _END:
                    break
                self._take_in(edit)
                await self._caught_up()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever the input raises is the caller's, once all is told
            self._source_error = error
            self.stop()
        finally:
            # An input that is left early is closed, so that its own clean-up runs now and not some day.
            with anyio.CancelScope(shield=True):
                try:
                    if isinstance(source, Generator):
                        source.close()
                    elif (close := getattr(source, "aclose", None)) is not None:
                        await close()
                except Exception as error:  # noqa: BLE001  # as above
                    self._source_error = self._source_error or error

    def _take_in(self, edit: SlotEdit) -> None:
        position = self.pulled
        try:
            item = Item(position, edit, request_of(edit))
        except InvalidRequestError as error:
            if not isinstance(edit, SlotEdit):  # pyright: ignore[reportUnnecessaryIsInstance]  # as above
                raise
            self._count_in()
            self._tell(SlotOutcome(edit=edit, status="failed", position=position, error=error))
            return
        progress = "new" if self._journal is None else self._journal.progress_of(position, edit)
        self._count_in()
        if progress == "applied":
            self._skip(item, "done already, says the journal")
            return
        item.settle = progress in ("sent", "unknown")
        if (group := self._queues.add(item)) is not None:
            self._ready.put_nowait(group)

    def _count_in(self) -> None:
        self.pulled += 1
        self._pending += 1

    # ------------------------------------------------------------------ work

    async def _work(self) -> None:
        while (group := await self._ready.get()) is not None:
            while self._stopped.is_set() and group.items:
                self._skip(group.items.popleft(), _NOT_SENT)
            if group.written and self._writer.is_old(group):
                await self._read_back(group)
            if group.items:
                await self._serve(group)
            if group.written and (self._stopped.is_set() or not group.items):
                await self._read_back(group)
            if self._queues.done_with(group):
                self._ready.put_nowait(group)
            await self._caught_up()

    async def _serve(self, group: GroupQueue) -> None:
        batch = group.take()
        for item in batch:
            self.in_flight[item.position] = item
        try:
            self.budget.check()
            result = await self._writer.write(group, batch)
        except DailyBudgetExhaustedError as error:
            if error.maybe_applied and self._settings.on_budget == "stop":
                self._conclude(self._writer.unsent(group, batch, error))
                return
            if not error.maybe_applied:
                for item in batch:
                    del self.in_flight[item.position]
            group.items.extendleft(reversed(batch))
            await self._out_of_budget(error)
        else:
            if result is not None:
                self._conclude(result)

    async def _read_back(self, group: GroupQueue) -> None:
        while group.written:
            try:
                results = await self._writer.read_back(group)
            except DailyBudgetExhaustedError as error:
                await self._out_of_budget(error)
                results = self._writer.unread(group, error) if self._stopped.is_set() else []
            for result in results:
                self._conclude(result)

    async def _out_of_budget(self, error: DailyBudgetExhaustedError) -> None:
        if self._settings.on_budget == "stop":
            self.stop(error)
        else:
            await self.budget.renewed(error)

    # ------------------------------------------------------------------ outcomes

    def _conclude(self, result: WriteResult) -> None:
        batch, status, error, attempts = result
        if error is not None:
            # A traceback would keep every frame of the run alive for as long as the outcome is.
            for each in (error, *error.earlier):
                each.__traceback__ = None
            if isinstance(error, FATAL):
                self.stop(error)
        for item in batch:
            self.in_flight.pop(item.position, None)
            self._tell(
                SlotOutcome(edit=item.edit, status=status, position=item.position, error=error, attempts=attempts)
            )

    def _skip(self, item: Item, note: str) -> None:
        if self.in_flight.pop(item.position, None) is None:
            self._tell(SlotOutcome(edit=item.edit, status="skipped", position=item.position, note=note))
        else:
            note = "sent before the day's requests were used up, and not settled"
            self._tell(SlotOutcome(edit=item.edit, status="unknown", position=item.position, note=note))

    def _tell(self, outcome: SlotOutcome) -> None:
        if outcome.status in ("failed", "unknown"):
            self._failures += 1
            if self._failures == self._settings.stop_after:
                message = f"stopped after {self._failures:,} failed edits"
                self.stop(TooManyFailuresError(message, failures=self._failures))
        self._emit(outcome)
        self._pending -= 1
        self._room.release()
        if self._fed and not self._pending:
            self._dismiss()

    def _dismiss(self) -> None:
        for _ in range(self._settings.concurrency):
            self._ready.put_nowait(None)
