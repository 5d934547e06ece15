"""Timeouts for many calls at the price of one timer.

``asyncio.timeout`` sets and cancels a timer of the event loop for each use, which with thousands of short calls costs
more than the rest of the client. Here the loop has one timer, for the earliest alarm there is. Almost every call
ends before its alarm, so the timer is almost never moved.
"""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["Deadline", "DeadlineTimer"]

_NEVER: Final = float("inf")


class Deadline:
    """The moment at which one task is to be interrupted."""

    __slots__ = ("_cancelling", "_open", "at", "expired", "task")

    def __init__(self, at: float, task: asyncio.Task[object]) -> None:
        self.at = at
        self.task = task
        self.expired = False
        self._cancelling = task.cancelling()
        self._open = False

    def expire(self) -> None:
        """Interrupt the task. No second time while it has not felt the first."""
        if not self._open:
            self.expired = self._open = True
            self.task.cancel()

    def resolve(self) -> bool:
        """Take the interruption back, if there was one; whether a ``CancelledError`` was this alarm's alone.

        Whoever else cancels the task goes before.
        """
        if not self._open:
            return False
        self._open = False
        return self.task.uncancel() <= self._cancelling


class DeadlineTimer:
    """All alarms of one event loop's session."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._alarms: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next = _NEVER

    def __len__(self) -> int:
        return len(self._alarms)

    def set(self, at: float) -> Deadline:
        """Interrupt the current task at the moment ``at`` of the loop's clock, unless the alarm is unset by then."""
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101  # every coroutine of asyncio runs in one
        alarm = Deadline(at, task)
        self._alarms.add(alarm)
        if at < self._next:
            self._wake_at(at)
        return alarm

    def move(self, alarm: Deadline, at: float) -> None:
        """Let an alarm ring at another moment."""
        alarm.at = at
        if at < self._next:
            self._wake_at(at)

    def cancel(self, alarm: Deadline) -> None:
        """Forget an alarm, whether it expired or not. The timer stays; it finds out by itself."""
        self._alarms.discard(alarm)
        if alarm.expired:
            alarm.resolve()

    def close(self) -> None:
        """Ring all alarms now, and stop the timer."""
        alarms, self._alarms = self._alarms, set()
        if not self._loop.is_closed():
            for alarm in alarms:
                alarm.at = -_NEVER
                alarm.expire()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next = None, _NEVER

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next = self._loop.call_at(at, self._ring), at

    def _ring(self) -> None:
        now = self._loop.time()
        self._timer, self._next = None, _NEVER
        for alarm in [alarm for alarm in self._alarms if alarm.at <= now]:
            self._alarms.discard(alarm)
            alarm.expire()
        if self._alarms:
            self._wake_at(min(alarm.at for alarm in self._alarms))
