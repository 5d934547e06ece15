"""The interface of every rate limiter, whether its budget belongs to one process or to many machines.

Limiters know nothing of mutex groups or HTTP, so they can serve any client.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from types import TracebackType


class Priority(enum.IntEnum):
    """Which requests go first when several wait for a permit.

    Example:
        >>> from aiomutex import Priority
        >>> bulk = session.with_options(priority=Priority.BULK)
        >>> (await bulk.get_group("1")).key
        'group-1'
    """

    INTERACTIVE = 0
    """A person is waiting for the response. Goes ahead of bulk work."""
    BULK = 1
    """Migrations and other long runs. The bulk functions use it by default."""


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a limiter, for progress bars, logs and tests.

    Example:
        >>> from aiomutex import LocalRateLimiter
        >>> state = LocalRateLimiter(used_today=12_000).state()
        >>> state.per_window, state.window, state.per_day - state.used_today
        (97, 1.02, 88000)
    """

    used: int
    """Permits granted in the current window."""
    per_window: int
    """The most permits granted in a window: the service's limit minus the margin."""
    window: float
    """Length of the window in seconds."""
    used_today: int
    """Permits granted on this UTC day, as far as this limiter knows."""
    per_day: int
    """The most permits granted on a UTC day."""
    resets_at: datetime
    """When the daily budget resets: the next midnight UTC."""
    waiting: int
    """Callers waiting for a permit."""
    paused_for: float
    """Seconds until the pause after a 429 ends; 0.0 without a pause."""
    granted_total: int = 0
    """Permits granted by this limiter since it was created."""
    waits_total: int = 0
    """Permits whose callers had to wait."""
    wait_seconds_total: float = 0.0
    """The seconds that these callers waited, added up."""
    throttled_total: int = 0
    """429s reported to this limiter."""
    pauses_total: int = 0
    """Pauses after a 429, including those that other users of a shared budget reported."""


@runtime_checkable
class RateLimiter(Protocol):
    """What a session expects of a limiter. One limiter may serve several sessions.

    ``async with limiter:`` takes one permit. Leaving the block returns nothing: a permit is spent once its request is
    sent.

    Example:
        >>> from aiomutex import LocalRateLimiter, RateLimiter
        >>> isinstance(LocalRateLimiter(), RateLimiter)
        True
    """

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait until one request may be sent.

        Args:
            priority: ``Priority.BULK`` waits behind interactive calls, but gets at least every eighth permit.

        Returns:
            The permit: when it was granted, in seconds of the event loop's clock. Pass it to ``throttled`` or
            ``answered`` when the response arrives.

        Raises:
            DailyBudgetExhaustedError: The daily budget is exhausted, or seems to be.
            LimiterUnavailableError: A shared budget cannot be reached, or does not respond in time.
            ConfigurationError: The budget cannot be used, or the limiter is closed, or used by another event loop or,
                without a shared budget, by another process.

        Example:
            >>> from aiomutex import LocalRateLimiter, Priority
            >>> limiter = LocalRateLimiter()
            >>> permit = await limiter.acquire(Priority.BULK)
            >>> limiter.answered(permit)
        """
        ...

    def throttled(self, permit: float, retry_after: float | None = None) -> None:
        """Report that a request got a 429.

        Args:
            permit: What ``acquire`` returned for the request.
            retry_after: Seconds the service asked to wait, if it did.
        """

    def answered(self, permit: float) -> None:
        """Report that a request got any response but a 429.

        Args:
            permit: What ``acquire`` returned for the request.
        """

    def state(self) -> LimiterState:
        """Return a snapshot of the limiter, without waiting."""
        ...

    async def __aenter__(self) -> None:
        """Take one permit."""
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Do nothing: a permit is spent once its request is sent."""
        return  # a body, which subclasses inherit
