"""The run on a fleet: gives jobs of several groups' edits to the workers. Knows neither the queue nor the workers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiomutex._util.tasks import wait_done
from aiomutex.bulk.options import FATAL
from aiomutex.bulk.report import SlotOutcome
from aiomutex.bulk.run import NOT_SENT, Run
from aiomutex.errors import LimiterUnavailableError, OutcomeUnknownError
from aiomutex.fleet.wire import Job, JobEdit, decode_outcomes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from aiomutex.bulk.group_queues import GroupQueue, Item
    from aiomutex.bulk.options import Edits, Settings
    from aiomutex.errors import MutexError
    from aiomutex.fleet.wire import Place

__all__ = ["POLL", "FleetRun"]

POLL: Final = 0.1
"""Seconds between two looks for a result, or for the end of another run's job."""


class FleetRun(Run):
    """A run whose edits are made by workers. Each group is in at most one job at a time.

    Args:
        send: Queues a job and waits for the worker's response; ``None`` if another run has some of the job's groups.
        heartbeat: Until cancelled, shows the workers that this run is alive.
        settings: The settings of the run; ``concurrency`` is the maximum number of jobs waiting or being done.
        batch_size: The maximum number of edits of a job.
        verify: Whether workers read writes back.
    """

    task_name = "aiomutex fleet run"

    def __init__(
        self,
        send: Callable[[Job], Awaitable[str | None]],
        heartbeat: Callable[[], Coroutine[Any, Any, object]],
        settings: Settings,
        *,
        batch_size: int,
        verify: bool,
    ) -> None:
        # Enough for every job being done and the next one of each worker.
        super().__init__(settings, 2 * settings.concurrency * batch_size)
        self._send = send
        self._heartbeat = heartbeat
        self._batch_size = batch_size
        self._verify = verify
        self._busy_groups = 0

    async def run(self, edits: Edits) -> None:
        """Work until the input ends or the run is stopped, and show the workers meanwhile that the run is alive."""
        heartbeat = asyncio.create_task(self._heartbeat(), name=f"{self.task_name}'s heartbeat")
        try:
            await super().run(edits)
        finally:
            heartbeat.cancel()
            await wait_done(heartbeat)

    async def _serve(self, group: GroupQueue) -> None:
        if not group.items:
            return
        groups = [group, *self._more_groups()]
        items: list[Item] = []
        for each in groups:
            for _ in range(min(len(each.items), self._batch_size // len(groups))):
                item = each.items.popleft()
                self.in_flight[item.position] = item
                items.append(item)
        self._busy_groups += len(groups)
        await self._run_job(items)
        self._busy_groups -= len(groups)
        for each in groups[1:]:
            self._release(each)

    def _more_groups(self) -> list[GroupQueue]:
        """Claim the other groups of a job: as many as give each job an equal share of the groups."""
        ready = self._ready.qsize()
        # The edits of a group are made one after another, so the number of groups in work limits the speed.
        share = -(-(1 + ready + self._busy_groups) // self.settings.concurrency)
        count = min(share - 1, self._batch_size - 1, ready)
        return [group for _ in range(count) if (group := self._ready.get_nowait()) is not None]

    async def _run_job(self, items: list[Item]) -> None:
        settings = self.settings
        places = [(item.position, item.edit) for item in items]
        job = Job(
            edits=[JobEdit.of_item(item) for item in items],
            verify=self._verify,
            stop_after=settings.stop_after,
            on_budget=settings.on_budget,
            reserve=settings.reserve,
        )
        try:
            while (text := await self._send(job)) is None and not self.stopped.is_set():  # noqa: ASYNC110  # in Redis
                await asyncio.sleep(POLL)
            if text is None:
                for item in items:
                    del self.in_flight[item.position]
                    self._skip(item)
                return
            outcomes, reason = decode_outcomes(text, places)
        except Exception as error:  # noqa: BLE001  # whatever taskiq and Redis raise, each edit gets an outcome
            outcomes, reason = _without_response(error, places)
            # A worker may still be editing these groups, so no further edit of them may be sent.
            self.stop(reason)
        if isinstance(reason, FATAL):
            self.stop(reason)
        for outcome in outcomes:
            self._report(outcome)


def _without_response(error: Exception, places: list[Place]) -> tuple[list[SlotOutcome], MutexError]:
    """The outcomes of a job without a response, and the reason to stop the run."""
    details: dict[str, Any]
    if isinstance(error, LimiterUnavailableError) and not error.maybe_applied:
        reason: MutexError = error
        details = {"status": "skipped", "note": NOT_SENT}
    else:
        if isinstance(error, LimiterUnavailableError | OutcomeUnknownError):
            reason = error
        else:
            reason = OutcomeUnknownError(f"the fleet did not respond: {type(error).__name__}: {error}")
        details = {"status": "unknown", "error": reason}
    return [SlotOutcome(edit=edit, position=position, **details) for position, edit in places], reason
