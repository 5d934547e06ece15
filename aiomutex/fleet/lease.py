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
    """A limiter whose permits are void once the job's lease has ended.

    The permit is the last thing a request waits for, possibly for seconds. A worker that was frozen meanwhile would
    otherwise send it before the cancellation of its job arrives.

    Args:
        limiter: The limiter of the worker's session.
        time_left: Returns for how many seconds the worker still has a job.
    """

    def __init__(self, limiter: RateLimiter, time_left: Callable[[str], float]) -> None:
        self._limiter = limiter
        self._time_left = time_left

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait for a permit.

        Raises:
            LimiterUnavailableError: The worker has lost the job meanwhile.
        """
        permit = await self._limiter.acquire(priority)
        if (job := current_job.get()) and self._time_left(job) <= 0:
            raise LimiterUnavailableError("the worker has lost the job")
        return permit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)
