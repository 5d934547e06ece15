"""The run on a fleet: like one of a session, but workers send its requests, and its groups are leased."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

import msgspec

from aiomutex._util.tasks import wait_done
from aiomutex.bulk.engine import Engine
from aiomutex.limits import LocalRateLimiter

if TYPE_CHECKING:
    import os

    from aiomutex.bulk.group_queues import GroupQueue
    from aiomutex.bulk.journal import Journal
    from aiomutex.bulk.options import Edits, Settings
    from aiomutex.fleet.dispatcher import Dispatcher
    from aiomutex.limits import LimiterState, RateLimiter

_RETRY: Final = 0.1  # seconds between two attempts to get a group that another run has


class FleetRun(Engine):
    """A run whose requests are sent by workers, through a dispatcher."""

    task_name = "aiomutex fleet run"

    def __init__(
        self, dispatcher: Dispatcher, settings: Settings, journal: str | os.PathLike[str] | Journal | None = None
    ) -> None:
        self._dispatcher = dispatcher
        dispatcher.on_failure = self.stop
        super().__init__(dispatcher.send, cast("RateLimiter", self), settings, lambda: None, journal=journal)
        self._leased: set[str] = set()

    def state(self) -> LimiterState:
        """What the workers' limiter knew last, with all requests counted that may have been sent since."""
        state = self._dispatcher.limiter_state
        if state is None or state.resets_at <= datetime.now(UTC):
            # Such a window makes the run look at its budget before every write, until it knows more.
            return msgspec.structs.replace(LocalRateLimiter().state(), per_window=10**9)
        known_for = asyncio.get_running_loop().time() - self._dispatcher.received_at
        used, paused_for = state.used_today + self._dispatcher.unanswered, max(0.0, state.paused_for - known_for)
        return msgspec.structs.replace(state, used_today=used, paused_for=paused_for)

    async def run(self, edits: Edits) -> None:
        """Work until the input ends or the run is stopped, and show the workers meanwhile that the run is alive."""
        dispatching = asyncio.create_task(self._dispatcher.run(), name=f"{self.task_name}, queue")
        try:
            await super().run(edits)
        finally:
            dispatching.cancel()
            await wait_done(dispatching)

    async def _serve(self, group: GroupQueue) -> None:
        if group.items and group.group_id not in self._leased:
            # It is read under its lease, too: nobody on the fleet writes to it between that and the last read-back.
            if not await self._dispatcher.lease(group.group_id):
                return
            self._leased.add(group.group_id)
        await super()._serve(group)

    def _release(self, group: GroupQueue) -> None:
        is_leased = group.group_id in self._leased
        if group.items and not is_leased:
            # A worker that waited for it would keep others from the groups that this run has: both runs might hang.
            group.is_parked = True
            asyncio.get_running_loop().call_later(_RETRY, self._retry, group)
            return
        super()._release(group)
        if is_leased and not (group.items or group.wants_read or group.written):
            self._leased.remove(group.group_id)
            self._dispatcher.free(group.group_id)

    def _retry(self, group: GroupQueue) -> None:
        if group.is_parked:
            group.is_parked = False
            self._ready.put_nowait(group)
