"""What every run of edits does, on this machine or on a fleet: pull edits, serve groups concurrently, report outcomes.

A feeder fills a queue for each group, and a fixed number of workers serve the groups. How a group is served is up to a
subclass. Nothing grows with the number of edits: edits without an outcome and outcomes not consumed are both bounded.
"""

from __future__ import annotations

import abc
import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import anyio

from aiomutex._util.tasks import collapse_exception_group, run_to_completion
from aiomutex._util.wording import counted
from aiomutex.bulk.group_queues import Item, Queues
from aiomutex.bulk.options import AnyEdit, freeze, request_of
from aiomutex.bulk.report import SlotOutcome
from aiomutex.errors import InvalidRequestError, MutexError, TooManyFailuresError

if TYPE_CHECKING:
    from aiomutex.bulk.group_queues import GroupQueue
    from aiomutex.bulk.journal_rows import Progress
    from aiomutex.bulk.options import Edits, Settings

logger = logging.getLogger("aiomutex.bulk")

ABANDONED: Final = "the input of the run did not end when it was cancelled; it was abandoned, and nothing of it is sent"
"""The note of a run whose input swallows every cancellation."""

NOT_SENT: Final = "not sent: the run was stopped before"
"""The note of an edit that a stopped run skips."""
ALREADY_APPLIED: Final = "already applied, according to the journal"
"""The note of an edit that a resumed run skips."""
_MAX_UNCONSUMED: Final = 64  # outcomes waiting to be consumed, from which on nothing more is started
_CHUNK: Final = 500
_CANCELLATIONS: Final = 5
_PATIENCE: Final = 2.0  # seconds for the clean-up code of an input before it is cancelled again
_END: Final = object()


class Run(abc.ABC):
    """One run, used once, with at most ``look_ahead`` edits pulled and without an outcome."""

    task_name = "aiomutex bulk run"

    def __init__(self, settings: Settings, look_ahead: int) -> None:
        self.settings = settings
        self.outcomes: asyncio.Queue[SlotOutcome | None] = asyncio.Queue()
        """Outcomes as they become known, then ``None``."""
        self.in_flight: dict[int, Item] = {}  # by position, the edits whose request may have been sent
        self.pulled = 0  # the number of edits taken from the input
        self.stopped = asyncio.Event()
        self.stopped_by: MutexError | None = None  # what ended the run before its input did
        self._queues = Queues()
        self._ready: asyncio.Queue[GroupQueue | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(look_ahead)
        self._consumed = asyncio.Event()
        self._consumed.set()
        self._pending = 0
        self._failures = 0
        self._feeder: asyncio.Task[None] | None = None
        self._is_closing = self._is_fed = self._is_pulling = False
        self._has_ended = False
        self.has_abandoned_input = False  # whether the input went on after it was cancelled several times
        self._source_error: BaseException | None = None

    async def run(self, edits: Edits) -> None:
        """Work until the input ends or the run is stopped and each edit has an outcome; raise what the input raised."""
        # A task of its own, because the code of an input may swallow its cancellation.
        self._feeder = asyncio.create_task(self._feed(edits), name=f"{self.task_name}, input")
        try:
            with collapse_exception_group():
                async with anyio.create_task_group() as self._tasks:
                    self._tasks.start_soon(self._read_groups)
                    for _ in range(self.settings.concurrency):
                        self._tasks.start_soon(self._work)
        finally:
            self._has_ended = True
            if not self._feeder.done():
                self.stop()
                await run_to_completion(self._end_input(self._feeder))
        if self._source_error is not None:
            raise self._source_error

    def stop(self, reason: MutexError | None = None) -> None:
        """Pull and send nothing more. Requests in flight are awaited; edits in queues are skipped."""
        if not self.stopped.is_set():
            self.stopped.set()
            self.stopped_by = reason
            # Cancelled while it closes the input, or just before, the feeder would cut the input's clean-up code short.
            if self._feeder is not None and not self._is_closing and self._feeder is not asyncio.current_task():
                self._feeder.cancel()
            self._dismiss_workers_if_done()

    async def next_outcome(self) -> SlotOutcome | None:
        """Wait for the next outcome; ``None`` at the end, however often it is called."""
        outcome = await self.outcomes.get()
        if outcome is None:
            self.outcomes.put_nowait(None)
        if self.outcomes.qsize() < _MAX_UNCONSUMED:
            self._consumed.set()
        return outcome

    # ------------------------------------------------------------------ input

    async def _feed(self, edits: Edits) -> None:
        source: AsyncIterator[AnyEdit] | Iterator[AnyEdit] | None = None
        try:
            source = aiter(edits) if isinstance(edits, AsyncIterable) else iter(edits)
            while not self.stopped.is_set():
                # Room first: an edit that was pulled must get an outcome, so no await may follow the pull.
                await self._room.acquire()
                edit: Any = await anext(source, _END) if isinstance(source, AsyncIterator) else next(source, _END)
                if edit is _END or self._has_ended:
                    break
                self._take_in(edit)
                await self._consumed.wait()
                if self.pulled % _CHUNK == 0:
                    # A fast input would keep the event loop from everything else.
                    self._is_pulling = True
                    await asyncio.sleep(0)
                    self._is_pulling = False
                    self._input_waits()
        except BaseException as error:  # noqa: BLE001  # run raises it once every edit has its outcome
            if not (isinstance(error, asyncio.CancelledError) and self.stopped.is_set()):
                self._source_error = error
                self.stop()
        finally:
            self._is_closing = True
            # Without this, the clean-up code of a generator left early would run at some later garbage collection.
            try:
                if isinstance(source, Generator):
                    source.close()
                elif (close := getattr(source, "aclose", None)) is not None:
                    await close()
            except Exception as error:  # noqa: BLE001  # as above
                self._source_error = self._source_error or error
            finally:
                self._is_fed = True
                self._dismiss_workers_if_done()
                self._input_waits()

    async def _end_input(self, feeder: asyncio.Task[None]) -> None:
        """Cancel the input until it ends. One that never does is abandoned, because leaving a run must not hang."""
        for _ in range(_CANCELLATIONS):
            await asyncio.wait([feeder], timeout=_PATIENCE)
            if feeder.done():
                return
            feeder.cancel()
        self.has_abandoned_input = True
        logger.warning(ABANDONED)

    def _take_in(self, edit: AnyEdit) -> None:
        try:
            edit = freeze(edit)
            item = Item(self.pulled, edit, request_of(edit))
        except InvalidRequestError as error:
            if not isinstance(edit, AnyEdit):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
                raise
            self._count()
            self._report(SlotOutcome(edit=edit, status="failed", position=self.pulled - 1, error=error))
            return
        progress = self._progress_of(item)
        self._count()
        if progress == "applied":
            self._skip(item, ALREADY_APPLIED)
            return
        item.is_answered = progress == "written"
        item.was_sent = progress in ("sent", "written", "unknown")
        if (group := self._queues.add(item)) is not None:
            self._ready.put_nowait(group)

    def _count(self) -> None:
        self.pulled += 1
        self._pending += 1

    def _input_waits(self) -> None:  # noqa: B027  # optional for subclasses
        """Called when the input has offered all that it can for now."""

    async def _read_groups(self) -> None:  # noqa: B027  # as above
        """Read groups for the workers until the run ends."""

    def _progress_of(self, item: Item) -> Progress:  # noqa: ARG002  # for subclasses with a journal
        """How far an earlier run got with this edit."""
        return "new"

    # ------------------------------------------------------------------ work

    async def _work(self) -> None:
        while (group := await self._ready.get()) is not None:
            while self.stopped.is_set() and group.items and not group.items[0].is_repeat:
                self._skip(group.items.popleft())
            await self._serve(group)
            self._release(group)
            await self._consumed.wait()

    @abc.abstractmethod
    async def _serve(self, group: GroupQueue) -> None:
        """Make some or all of the group's edits and report their outcomes. No other worker has the group meanwhile."""

    def _release(self, group: GroupQueue) -> None:
        """Let other workers serve the group if edits are left."""
        if self._queues.release(group):
            self._ready.put_nowait(group)

    def _dismiss_workers_if_done(self) -> None:
        """Let the workers end when every edit has its outcome and no more will come."""
        if not self._pending and (self._is_fed or self.stopped.is_set()) and not self._has_ended:
            self._has_ended = True
            for _ in range(self.settings.concurrency):
                self._ready.put_nowait(None)

    # ------------------------------------------------------------------ outcomes

    def _skip(self, item: Item, note: str = NOT_SENT) -> None:
        status: Any = "skipped"
        if item.position in self.in_flight:
            status, note = "unknown", "sent before the run was stopped; its outcome is unknown"
        self._report(SlotOutcome(edit=item.edit, status=status, position=item.position, note=note))

    def _report(self, outcome: SlotOutcome) -> None:
        self.in_flight.pop(outcome.position, None)
        if outcome.status in ("failed", "unknown"):
            self._failures += 1
            if self._failures == self.settings.stop_after:
                message = f"stopped after {counted(self._failures, 'failed edit')}"
                self.stop(TooManyFailuresError(message, failures=self._failures))
        self.outcomes.put_nowait(outcome)
        if self.outcomes.qsize() >= _MAX_UNCONSUMED:
            self._consumed.clear()
        self._pending -= 1
        self._room.release()
        self._dismiss_workers_if_done()
