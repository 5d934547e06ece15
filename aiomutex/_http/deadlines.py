"""Timeouts for many concurrent calls at the cost of one timer.

``asyncio.timeout`` creates and cancels a timer of the event loop for each use. With thousands of short calls that
costs more than the rest of the client. Here a session has one timer, for its earliest deadline. Almost every call ends
before its deadline, so the timer is almost never moved.
"""

from __future__ import annotations

import asyncio
from typing import Final

_NEVER: Final = float("inf")


class Deadline:
    """When one task is interrupted: ``at``, on the loop's clock. ``expired`` is true from then on until ``resolve``."""

    __slots__ = ("_cancelling", "at", "expired", "task")

    def __init__(self, at: float, task: asyncio.Task[object]) -> None:
        self.at = at
        self.task = task
        self.expired = False
        self._cancelling = task.cancelling()

    def expire(self) -> None:
        """Interrupt the task, unless an earlier interruption is unresolved: ``resolve`` makes only one ``uncancel``."""
        if not self.expired:
            self.expired = True
            self.task.cancel()

    def resolve(self) -> bool:
        """Undo our own cancellation of the task. False if it was not the only one, so that it must propagate."""
        if not self.expired:
            return False
        self.expired = False
        return self.task.uncancel() <= self._cancelling


class DeadlineTimer:
    """All deadlines of one session, in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._deadlines: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next = _NEVER

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, at: float) -> Deadline:
        """Interrupt the current task at the time ``at`` of the loop's clock, unless the deadline is cancelled first."""
        task = asyncio.current_task(self.loop)
        assert task is not None  # noqa: S101  # every coroutine of asyncio runs in one
        deadline = Deadline(at, task)
        self._deadlines.add(deadline)
        if at < self._next:
            self._wake_at(at)
        return deadline

    def move(self, deadline: Deadline, at: float) -> None:
        deadline.at = at
        if at < self._next:
            self._wake_at(at)

    def limit(self, seconds: float) -> None:
        """Move each deadline that is more than ``seconds`` ahead to then."""
        at = self.loop.time() + seconds
        for deadline in self._deadlines:
            self.move(deadline, min(deadline.at, at))

    def cancel(self, deadline: Deadline) -> None:
        """Forget a deadline, whether it expired or not. The timer stays as it is: at worst it wakes up for nothing."""
        self._deadlines.discard(deadline)
        if deadline.expired:
            # It may have expired in the last step of the call. Without this the cancellation would hit the caller.
            deadline.resolve()

    def close(self) -> None:
        """Expire all deadlines now, and stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.loop.is_closed():
            for deadline in self._deadlines:
                deadline.at = -_NEVER
            self._expire_due()

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next = self.loop.call_at(at, self._expire_due), at

    def _expire_due(self) -> None:
        now = self.loop.time()
        self._timer, self._next = None, _NEVER
        for deadline in [deadline for deadline in self._deadlines if deadline.at <= now]:
            self._deadlines.discard(deadline)
            deadline.expire()
        if self._deadlines:
            self._wake_at(min(deadline.at for deadline in self._deadlines))
