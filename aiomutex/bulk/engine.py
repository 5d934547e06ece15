"""The run on this machine: writes the edits of each group one after another, and stops when the run must not go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import anyio

from aiomutex._api import requests
from aiomutex._util.tasks import run_workers
from aiomutex.bulk.allowance import Allowance
from aiomutex.bulk.canary import FEW, Canary
from aiomutex.bulk.late_writes import LateWrites
from aiomutex.bulk.options import FATAL
from aiomutex.bulk.reads import MAX_SINGLE, GroupReader, Reading
from aiomutex.bulk.report import SlotOutcome
from aiomutex.bulk.run import Run
from aiomutex.bulk.stretches import Stretch
from aiomutex.bulk.writer import SlotWriter
from aiomutex.errors import (
    DailyBudgetExhaustedError,
    DeadlineExceededError,
    InvalidRequestError,
    MutexError,
    VerificationError,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable

    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallResult
    from aiomutex.bulk.group_queues import GroupQueue, Item
    from aiomutex.bulk.journal import Journal
    from aiomutex.bulk.journal_rows import Progress
    from aiomutex.bulk.options import Edits, Settings
    from aiomutex.bulk.writer import WriteResult
    from aiomutex.limits import RateLimiter
    from aiomutex.models import GroupPage, MutexGroup

_LOOK_AHEAD: Final = 1000
"""The maximum number of edits pulled and without an outcome. Only groups within it are edited concurrently."""
_LONG_LOOK_AHEAD: Final = 12_000
"""The same for a run that reads: two stretches, so that one pass over the pages reads what was written in one and what
is to be written in the next, and some more to write during the pass."""
_PATIENCE: Final = 1.0
"""Seconds for which a run with nothing else to do waits for requests in flight before it reads without them."""
_LONGEST_PAUSE: Final = 4.0  # seconds between two reads of a canary that does not show yet
_CHUNK: Final = 100


class Engine(Run):
    """A run that writes slots through a session: ``open`` it, await ``run``, then ``close`` it.

    ``send`` sends a request with the session's options, for which the service may take ``attempt_timeout`` seconds.
    The ``limiter`` knows what is left of the day and of a pause. ``on_stop`` is called when the run is stopped.
    ``canary`` is what earlier runs have shown. ``InvalidRequestError`` if the reserve is as large as the daily budget.
    """

    def __init__(
        self,
        send: Callable[[Request[Any]], Awaitable[CallResult[Any]]],
        limiter: RateLimiter,
        settings: Settings,
        on_stop: Callable[[], None],
        *,
        canary: Canary | None = None,
        journal: str | os.PathLike[str] | Journal | None,
        attempt_timeout: float = 30.0,
    ) -> None:
        reads = settings.verify or settings.skip_unchanged or journal is not None
        super().__init__(settings, _LONG_LOOK_AHEAD if reads and settings.reads == "auto" else _LOOK_AHEAD)
        if settings.reserve and settings.reserve >= (per_day := limiter.state().per_day):
            raise InvalidRequestError(
                f"reserve must be below the limiter's {per_day:,} requests a day, not {settings.reserve:,}"
            )
        self._limiter = limiter
        self._on_stop = on_stop
        self._canary = canary or Canary()
        self._journal_given = journal
        self._journal: Journal | None = None
        self._writer = SlotWriter(
            send, LateWrites(attempt_timeout) if settings.verify else None, skip_unchanged=settings.skip_unchanged
        )

        async def get_group(group_id: str) -> MutexGroup:
            group: MutexGroup = (await send(requests.get_group(group_id))).value
            return group

        async def list_page(limit: int, cursor: str | None) -> GroupPage:
            page: GroupPage = (await send(requests.list_page(limit, cursor))).value
            return page

        self._reader = GroupReader(get_group, list_page, settings.concurrency)
        self._waiting: dict[str, GroupQueue] = {}  # the groups that wait to be read together with others
        self._unread: dict[str, None] = {}  # the groups with something written and not read back
        self._read_now = asyncio.Event()
        self._put_off: dict[str, GroupQueue] = {}  # the groups whose next request waits for the next day
        self._busy = 0  # the number of groups that workers serve now
        self._stretch = Stretch()
        self._moved_at = 0.0  # when a worker last finished with a group, on the event loop's clock
        self._allowance = Allowance(limiter, settings.reserve, self.stopped)

    def open(self, edits: Edits) -> None:
        """Open the journal; a ``JournalError`` says that it is of a different input, in use, or not a journal."""
        self._stretch.begin(asyncio.get_running_loop().time())
        if self._journal_given is None:
            return
        from aiomutex.bulk.journal import Journal  # noqa: PLC0415  # only runs with a journal import SQLite

        if isinstance(self._journal_given, Journal):
            self._journal = self._writer.journal = self._journal_given
            self._canary.shown |= self._journal.shown
            self._writer.expect_lag(self._journal.age)
            return
        self._journal = self._writer.journal = Journal(self._journal_given)
        self._canary.shown |= self._journal.shown
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
        if self._allowance.waiting_until is None and paused_for:
            return datetime.now(UTC) + timedelta(seconds=paused_for)
        return self._allowance.waiting_until

    def stop(self, reason: MutexError | None = None) -> None:
        """Pull and send nothing more, and end waits for permits within the session's deadline."""
        if not self.stopped.is_set():
            self._on_stop()
        super().stop(reason)
        for group in [each for each in self._waiting.values() if each.items and each.is_parked]:
            group.is_parked = False
            self._ready.put_nowait(group)  # the workers skip its edits
        self._read_now.set()

    def _dismiss_workers_if_done(self) -> None:
        super()._dismiss_workers_if_done()
        self._read_now.set()

    async def run(self, edits: Edits) -> None:
        """Work until the input ends or the run is stopped, and record the end of the input."""
        await super().run(edits)
        if self._journal is not None and not self.stopped.is_set():
            self._journal.record_end(self.pulled)
            await self._journal.sync()

    def _progress_of(self, item: Item) -> Progress:
        return "new" if self._journal is None else self._journal.progress_of(item.position, item.edit)

    # ------------------------------------------------------------------ writes

    async def _serve(self, group: GroupQueue) -> None:
        self._waiting.pop(group.group_id, None)
        self._busy += 1
        try:
            if group.wants_read and (group.read_again or self.settings.reads == "groups"):
                await self._read_singly(group)
                if self.stopped.is_set():
                    return
            # At once: after a turn of all other groups, what was read might be too old.
            if group.items and not group.wants_read:
                # A new stretch begins with a read of what was written in the one before, once that is of use.
                is_past = group.stretch < self._stretch.number
                is_due = bool(group.written) and is_past and self._writer.readable_in(group) <= 0
                group.needs_before = await self._writer.needs_reading(group)
                group.wants_read = is_due or group.needs_before
                if not group.wants_read and self._wants_canary(group):
                    await self._write_canary(group)
                elif not group.wants_read:
                    await self._write_next(group)
                if group.read_again and self._writer.readable_in(group) <= 0:
                    await self._read_singly(group)
        finally:
            self._busy -= 1

    def _release(self, group: GroupQueue) -> None:
        if self.stopped.is_set() and not group.written:
            group.wants_read = False  # its edits are skipped
            group.read_again.clear()
        if group.group_id in self._put_off:
            group.is_parked = True
        elif group.items and not group.wants_read:
            self._ready.put_nowait(group)
        elif group.wants_read or group.written:
            if (delay := self._writer.readable_in(group)) > 0:
                group.is_parked = True
                # Timers may fire slightly early, which must not be a busy loop.
                asyncio.get_running_loop().call_later(max(delay, 0.001), self._wake, group)
            elif group.read_again or self.settings.reads == "groups":
                group.wants_read = True
                self._ready.put_nowait(group)
            else:
                group.is_parked = True
                self._waiting[group.group_id] = group
        else:
            super()._release(group)
        self._read_now.set()
        self._moved_at = asyncio.get_running_loop().time()

    def _wake(self, group: GroupQueue) -> None:
        if group.is_parked and group.group_id not in self._waiting:
            group.is_parked = False
            self._release(group)

    def _wants_canary(self, group: GroupQueue) -> bool:
        """Whether the next edit of the group would show how the service reads it."""
        item = group.items[0]
        is_few = self._is_fed and self.pulled <= FEW
        is_doubtful = bool(group.doubtful or group.late) or any(group.unconfirmed.values())
        if not self.settings.canary or is_few or item.is_repeat or is_doubtful:
            return False
        slot = group.slot_before(item.edit.slot_index)
        return self._canary.is_wanted(item, slot, skips=self.settings.skip_unchanged)

    async def _write_canary(self, group: GroupQueue) -> None:
        """Write the next edit of the group alone, and read the group back on its own. Other canaries wait meanwhile."""
        async with self._canary.lock:
            if self.stopped.is_set() or not self._wants_canary(group):
                return
            if group.before is None or group.is_from_page or group.written:
                group.needs_before = True
                await self._read_singly(group)
            if group.before is None or group.wants_read or not group.items or not self._wants_canary(group):
                return
            item = group.items[0]
            self._canary.begin(item, group.slot_before(item.edit.slot_index))
            if self._journal is not None:
                self._journal.record_group(group.before)
            await self._write_next(group)
            pause = _PATIENCE / 2
            # If it is unknown whether it was written, or something else may still arrive, the next edit serves.
            while item.is_canary and group.written and group.written[-1].error is None and not group.late:
                group.read_again.clear()  # others wait, so it is read as soon as it may show the write
                await self._read_singly(group)
                if group.written:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
            item.is_canary = False

    async def _write_next(self, group: GroupQueue) -> None:
        batch = group.take()
        new = [item for item in batch if item.position not in self.in_flight]  # the others may have been sent
        self.in_flight.update((item.position, item) for item in new)
        try:
            self._allowance.check(self._reads_owed())
            results = await self._writer.write(group, batch)
        except DailyBudgetExhaustedError as error:
            # A stopped run skips edits that were never written, but not one that it must write again.
            is_last = self.settings.on_budget == "stop" or self.stopped.is_set()
            if is_last and (error.maybe_applied or batch[0].is_repeat):
                await self._conclude(self._writer.unsent(group, batch, error))
                return
            if error.maybe_applied:
                self._writer.expect_again(group, batch)
            else:
                for item in new:
                    del self.in_flight[item.position]
            group.items.extendleft(reversed(batch))
            if is_last or not group.written:
                self._out_of_budget(error, group)
            else:  # it is read back today, for which requests were reserved
                if self._writer.readable_in(group) > 0:
                    group.read_again = dict.fromkeys((each.slot_index for each in group.written), 0.0)
                group.wants_read = True
        else:
            self._stretch.writes += 1
            if group.written:
                self._unread.setdefault(group.group_id)
                if len(group.written) == 1:
                    group.stretch = self._stretch.number
            await self._conclude(*results)

    def _reads_owed(self) -> int:
        """The number of requests that reading back what was written, and this write, may take."""
        if not self.settings.verify:
            return 0
        # On its own, a group may be about to be written, and is read back with one request more.
        busy = self._busy * (2 if self.settings.reads == "groups" else 1)
        groups = len(self._unread) + busy
        return groups if groups <= MAX_SINGLE else min(groups, 2 * (self._reader.pages or groups) + busy)

    # ------------------------------------------------------------------ reads

    async def _read_groups(self) -> None:
        while not self._has_ended:
            with anyio.move_on_after(_PATIENCE if self._waiting else None):
                await self._read_now.wait()
            self._read_now.clear()
            while self._waiting and self._is_time_to_read():
                await self._read_waiting()

    def _is_time_to_read(self) -> bool:
        """Whether to read now all groups that wait: nothing else can be done, or enough was written."""
        now = asyncio.get_running_loop().time()
        is_patient = self._busy and now < self._moved_at + _PATIENCE
        is_idle = self._ready.empty() and not self._is_pulling and not is_patient
        return is_idle or self.stopped.is_set() or self._stretch.is_over(now)

    def _input_waits(self) -> None:
        self._read_now.set()

    async def _read_waiting(self) -> None:
        """Read the groups that wait, and begin a new stretch. Others are written meanwhile."""
        groups = [group for group in self._waiting.values() if group.is_parked]
        self._waiting.clear()
        for group in groups:
            group.is_parked = False
        self._stretch.begin(asyncio.get_running_loop().time())
        ids = [group.group_id for group in groups]
        try:
            readings = await self._reader.read(ids)
        except MutexError as error:
            failed = self._failed_reading(error, *groups)
            readings = dict.fromkeys(ids, failed) if failed else {}
        self._stretch.resize(self._reader.pages or 1)
        results: list[WriteResult] = []
        for number, group in enumerate(groups):
            if group.group_id in readings:
                results += self._judge(group, readings[group.group_id])
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
        await self._conclude(*results)
        # Before more is written: what these show may end the run.
        again = [group for group in groups if group.read_again and self._writer.readable_in(group) <= 0]
        await run_workers(self._read_singly, again, self.settings.concurrency)
        for group in groups:
            self._release(group)

    async def _read_singly(self, group: GroupQueue) -> None:
        try:
            if not (group.written or group.read_again):
                self._allowance.check(self._reads_owed())  # without a write to follow, it would be in vain
            reading: Reading | None = await self._reader.read_one(group.group_id)
        except MutexError as error:
            reading = self._failed_reading(error, group)
        if reading is not None:
            await self._conclude(*self._judge(group, reading))

    def _failed_reading(self, error: MutexError, *groups: GroupQueue) -> Reading | None:
        """What a read comes to that failed as any further one would; ``None`` if it is to be tried on the next day."""
        if isinstance(error, DailyBudgetExhaustedError):
            self._out_of_budget(error, *groups)
            if not self.stopped.is_set():
                return None
        return Reading(error, from_page=False)

    def _judge(self, group: GroupQueue, reading: Reading) -> list[WriteResult]:
        results = self._writer.judge(group, reading.group, from_page=reading.from_page)
        if not group.written:
            self._unread.pop(group.group_id, None)
        return results

    def _out_of_budget(self, error: DailyBudgetExhaustedError, *groups: GroupQueue) -> None:
        """Stop the run, or put groups off until the next day. Others may be read back meanwhile."""
        if self.settings.on_budget == "stop":
            self.stop(error)
        elif not self.stopped.is_set():
            if not self._put_off:
                self._tasks.start_soon(self._wait_for_reset, error)
            self._put_off.update((group.group_id, group) for group in groups)

    async def _wait_for_reset(self, error: DailyBudgetExhaustedError) -> None:
        await self._allowance.wait_for_reset(error)
        groups = [*self._put_off.values()]
        self._put_off.clear()
        for group in groups:
            self._wake(group)

    async def _conclude(self, *results: WriteResult) -> None:
        if self._journal is not None and results:
            # Whatever was reported as applied, a resumed run must know.
            await self._journal.sync()
        for batch, status, error, attempts, note in results:
            if batch[0].is_canary and status == "applied":
                self._canary.shown |= batch[0].shows
                if self._journal is not None:
                    self._journal.record_canary(self._canary.shown)
            is_unsent = status == "failed" and isinstance(error, (DeadlineExceededError, *FATAL)) and not attempts
            if is_unsent and self.stopped.is_set():
                for item in batch:
                    self.in_flight.pop(item.position, None)
                    self._skip(item)  # it waited to be sent when the run was stopped
                continue
            if error is not None:
                # A traceback would keep every frame of the run alive for as long as the outcome is.
                for each in (error, *error.earlier):
                    each.__traceback__ = None
                if isinstance(error, FATAL) or (isinstance(error, VerificationError) and error.reading):
                    self.stop(error)
            for item in batch:
                self._report(
                    SlotOutcome(
                        edit=item.edit,
                        status=status,
                        position=item.position,
                        error=error,
                        attempts=item.attempts + attempts,
                        note=note,
                    )
                )
