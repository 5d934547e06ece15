"""What a rate limiter promises, whoever keeps the count: one process, the processes of a machine, or a fleet.

Limiters know nothing of mutex groups or HTTP: permits are taken, and 429s are told. They serve any client.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["LimiterState", "Priority", "RateLimiter"]


class Priority(enum.IntEnum):
    """Who goes first when requests wait for permits."""

    INTERACTIVE = 0
    """Somebody waits for the answer: ahead of all bulk work."""
    BULK = 1
    """Migrations and other long runs; the bulk helpers use it by themselves."""


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """A limiter's count at one moment, for progress bars, logs and tests."""

    used: int
    """Permits given in the current window."""
    per_window: int
    """Permits a window may hold: the service's limit less the margin."""
    window: float
    """Length of the window in seconds."""
    used_today: int
    """Permits given on this UTC day, as far as this limiter knows."""
    per_day: int
    """Permits a UTC day may hold."""
    resets_at: datetime
    """The next midnight UTC."""
    waiting: int
    """Callers that wait for a permit now."""
    paused_for: float
    """Seconds until the pause after a 429 ends; 0.0 when there is none."""


@runtime_checkable
class RateLimiter(Protocol):
    """The limiter a session asks before each request.

    One object may serve several sessions. ``async with limiter:`` takes one permit and gives nothing back at the end:
    a permit is spent once the request is on its way.
    """

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait for the right to send one request now.

        Returns:
            The permit: the moment it was granted, in seconds of the event loop's clock. Hand it to ``throttled`` or
            ``answered`` once the service's answer is known.

        Raises:
            DailyBudgetExhaustedError: The day's requests are used up.
            LimiterUnavailableError: The shared count cannot be reached.
        """
        ...

    def throttled(self, permit: float, retry_after: float | None = None) -> None:
        """Tell that the request of ``permit`` was answered 429, with the wait in seconds that the service asked for."""
        ...

    def answered(self, permit: float) -> None:
        """Tell that the request of ``permit`` was answered with anything but 429."""
        ...

    def state(self) -> LimiterState:
        """The count as this limiter knows it now. Never waits."""
        ...

    async def __aenter__(self) -> None:
        """Take one permit."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Do nothing: a permit is spent when the request is sent."""
        ...
