"""A worker's limiter: nothing is sent for a job that the worker has lost."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from aiomutex.errors import LimiterUnavailableError
from aiomutex.limits import Priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiomutex.limits import RateLimiter

__all__ = ["LeasedLimiter", "current_job"]

current_job: ContextVar[str] = ContextVar("current_job", default="")
"""The job that the current task works on; empty outside of jobs."""


class LeasedLimiter:
    """The limiter of a worker's session, whose permits are void once the worker has lost the job.

    A request waits for its permit last, possibly for seconds. A worker that was frozen meanwhile would otherwise send
    it before the cancellation of its job arrives.
    """

    def __init__(self, limiter: RateLimiter, time_left: Callable[[str], float]) -> None:
        self._limiter = limiter
        self._time_left = time_left

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait for a permit, or raise ``LimiterUnavailableError`` if the worker has lost the job meanwhile."""
        permit = await self._limiter.acquire(priority)
        if (job := current_job.get()) and self._time_left(job) <= 0:
            raise LimiterUnavailableError("the worker has lost the job")
        return permit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)
