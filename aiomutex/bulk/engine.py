"""Fan-out: edits are pulled from the input as there is room, written side by side, and each gets an outcome.

A feeder fills the queues; a fixed number of workers empties them. Nothing grows with the number of edits: what has
been pulled and has no outcome yet is bounded. Every await can be cancelled; what was in flight then is told apart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

import anyio
import msgspec

from aiomutex import protocol
from aiomutex.bulk.queues import Item, Queues
from aiomutex.bulk.report import SlotOutcome
from aiomutex.errors import (
    AuthenticationError,
    ConfigurationError,
    DailyBudgetExhaustedError,
    InvalidRequestError,
    JournalError,
    LimiterUnavailableError,
    MutexError,
    TooManyFailuresError,
)
from aiomutex.models import SlotEdit
from aiomutex.tasks import unwrapped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex.bulk.journal import Journal
    from aiomutex.bulk.queues import GroupQueue
    from aiomutex.bulk.writer import SlotWriter, Verdict
    from aiomutex.limits import RateLimiter
    from aiomutex.protocol import Request

__all__ = ["Edits", "Engine", "OnBudget", "Settings", "request_of"]

logger = logging.getLogger("aiomutex.bulk")

Edits = Iterable[SlotEdit] | AsyncIterable[SlotEdit]
OnBudget = Literal["stop", "wait"]

LOOK_AHEAD: Final = 1000
"""Edits pulled and without an outcome at the most. Groups whose edits stand within it go side by side."""
_NAP: Final = 30.0
"""Seconds; how often a wait for midnight looks at the clock, which may be set meanwhile."""
_SUSPICION: Final = timedelta(seconds=60)
"""How long a budget that only seems to be gone is left alone before the limiter is asked again."""

# These concern the whole run, not one edit: to go on would fail every edit there is.
_FATAL: Final = (AuthenticationError, ConfigurationError, DailyBudgetExhaustedError, LimiterUnavailableError)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a run goes about it."""

    concurrency: int
    stop_after: int | None = None
    on_budget: OnBudget = "stop"
    reserve: int = 0

    def __post_init__(self) -> None:
        for field, least in (("concurrency", 1), ("stop_after", 1), ("reserve", 0)):
            value: object = getattr(self, field)
            if type(value) is int and value >= least:
                continue
            if value is not None or field != "stop_after":
                raise InvalidRequestError(f"{field} is {value!r}; it must be a whole number from {least}")
        if self.on_budget not in ("stop", "wait"):
            raise InvalidRequestError(f"on_budget is {self.on_budget!r}; it must be 'stop' or 'wait'")


def request_of(edit: SlotEdit) -> Request[None]:
    """The request an edit stands for.

    Raises:
        InvalidRequestError: It is no ``SlotEdit``, or breaks a rule.
    """
    if not isinstance(edit, SlotEdit):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
        raise InvalidRequestError(f"an edit is of kind {type(edit).__name__}; it must be a SlotEdit")
    return protocol.edit_slot(edit.group_id, edit.slot_index, edit.experiments, edit.holdouts, edit.individuals)


class Engine:
    """One run: make it, await ``run`` once, and let ``emit`` take the outcomes.

    Args:
        writer: Writes a slot and learns what became of it.
        limiter: Asked how much of the day is left, where a reserve is kept.
        settings: How to go about it.
        journal: Tells what an earlier run has done, if there is one.
        emit: Takes each outcome; while it waits, its worker waits too.
    """

    def __init__(
        self,
        writer: SlotWriter,
        limiter: RateLimiter,
        settings: Settings,
        journal: Journal | None,
        emit: Callable[[SlotOutcome], Awaitable[None]],
    ) -> None:
        self._writer = writer
        self._limiter = limiter
        self._settings = settings
        self._journal = journal
        self._emit = emit
        self._queues = Queues()
        self._ready: asyncio.Queue[GroupQueue | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(LOOK_AHEAD)
        self._pending = 0
        self._fed = False
        self._failures = 0
        self._feeding = anyio.CancelScope()
        self._stopped = asyncio.Event()
        self._source_error: BaseException | None = None
        self.in_flight: dict[int, Item] = {}
        """By position, the edits whose request may be on its way."""
        self.pulled = 0
        """Edits taken from the input."""
        self.stopped_by: MutexError | None = None
        """What ended the run before its input did."""
        self.waiting_until: datetime | None = None
        """When a run that waits for more budget goes on."""

    async def run(self, edits: Edits) -> None:
        """Work until the input is at its end, or the run is stopped, and all that was pulled has its outcome.

        Raises:
            JournalError: The journal belongs to another input, or the disk refuses.
            BaseException: What the input raised.
        """
        with unwrapped():
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
        try:
            if isinstance(edits, AsyncIterable):
                async for edit in edits:
                    await self._take_in(edit)
            else:
                for edit in edits:
                    await self._take_in(edit)
                    if self._stopped.is_set():
                        break
        except (asyncio.CancelledError, JournalError):
            raise
        except BaseException as error:  # noqa: BLE001  # whatever the input raises is the caller's, once all is told
            self._source_error = error
            self.stop()
        finally:
            # An input that is left early is closed, so that its own clean-up runs now and not some day.
            if (close := getattr(edits, "aclose", None)) is not None:
                with anyio.CancelScope(shield=True):
                    await close()

    async def _take_in(self, edit: SlotEdit) -> None:
        await self._room.acquire()
        position = self.pulled
        self.pulled += 1
        self._pending += 1
        # Once counted, an edit gets its outcome, even if the feeder is cancelled meanwhile.
        with anyio.CancelScope(shield=True):
            try:
                item = Item(position, edit, request_of(edit))
            except InvalidRequestError as error:
                if not isinstance(edit, SlotEdit):  # pyright: ignore[reportUnnecessaryIsInstance]  # as above
                    raise
                await self._tell(SlotOutcome(edit=edit, status="failed", position=position, error=error))
                return
            if self._journal is not None:
                progress = self._journal.progress_of(position, edit)
                if progress == "applied":
                    await self._skip(item, "done already, says the journal")
                    return
                item.settle = progress in ("sent", "unknown")
            if (group := self._queues.add(item)) is not None:
                self._ready.put_nowait(group)

    # ------------------------------------------------------------------ work

    async def _work(self) -> None:
        while (group := await self._ready.get()) is not None:
            while self._stopped.is_set() and group.items:
                await self._skip(group.items.popleft(), "not sent: the run was stopped before")
            if group.items:
                await self._serve(group)
            if group.written and (self._stopped.is_set() or not group.items):
                for verdict in await self._writer.read_back(group):
                    await self._conclude(verdict)
            if self._queues.done_with(group):
                self._ready.put_nowait(group)

    async def _serve(self, group: GroupQueue) -> None:
        batch = group.take()
        for item in batch:
            self.in_flight[item.position] = item
        try:
            self._keep_reserve()
            verdict = await self._writer.write(group, batch)
        except DailyBudgetExhaustedError as error:
            for item in batch:
                del self.in_flight[item.position]
            group.items.extendleft(reversed(batch))
            await self._out_of_budget(error)
        else:
            if verdict is not None:
                await self._conclude(verdict)

    def _keep_reserve(self) -> None:
        if not self._settings.reserve:
            return
        state = self._limiter.state()
        if state.per_day - state.used_today <= self._settings.reserve:
            raise DailyBudgetExhaustedError(
                f"{state.used_today:,} of {state.per_day:,} requests used today, and the last "
                f"{self._settings.reserve:,} are reserved for others; the budget resets at {state.resets_at:%FT%TZ}",
                resets_at=state.resets_at,
                used=state.used_today,
                limit=state.per_day,
            )

    async def _out_of_budget(self, error: DailyBudgetExhaustedError) -> None:
        if self._settings.on_budget == "stop":
            self.stop(error)
            return
        until = min(error.resets_at, datetime.now(UTC) + _SUSPICION) if error.suspected else error.resets_at
        if self.waiting_until is None:
            logger.warning("%s; the run waits", error)
        self.waiting_until = until
        while not self._stopped.is_set() and (left := (until - datetime.now(UTC)).total_seconds()) > 0:
            with anyio.move_on_after(min(left, _NAP)):
                await self._stopped.wait()
        self.waiting_until = None

    # ------------------------------------------------------------------ outcomes

    async def _conclude(self, verdict: Verdict) -> None:
        batch, status, error, attempts = verdict
        if error is not None:
            # A traceback would keep every frame of the run alive for as long as the outcome is.
            error.__traceback__ = None
            if isinstance(error, _FATAL):
                self.stop(error)
        for item in batch:
            self.in_flight.pop(item.position, None)
            await self._tell(
                SlotOutcome(edit=item.edit, status=status, position=item.position, error=error, attempts=attempts)
            )

    async def _skip(self, item: Item, note: str) -> None:
        await self._tell(SlotOutcome(edit=item.edit, status="skipped", position=item.position, note=note))

    async def _tell(self, outcome: SlotOutcome) -> None:
        if outcome.status in ("failed", "unknown"):
            self._failures += 1
            if self._failures == self._settings.stop_after:
                message = f"stopped after {self._failures:,} failed edits"
                self.stop(TooManyFailuresError(message, failures=self._failures))
        await self._emit(outcome)
        self._pending -= 1
        self._room.release()
        if self._fed and not self._pending:
            self._dismiss()

    def _dismiss(self) -> None:
        for _ in range(self._settings.concurrency):
            self._ready.put_nowait(None)
