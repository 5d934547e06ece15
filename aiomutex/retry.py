"""When to send again, and how long to wait first: pure decisions, with no clock and no I/O."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final

import msgspec

from aiomutex.errors import (
    APIError,
    ConfigurationError,
    MutexError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnexpectedResponseError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RetryPolicy", "backoff", "is_retryable", "may_have_applied", "wait_before_next"]


_LONGEST: Final = 10**7
"""Seconds. Nobody would sit through more, and larger numbers cannot be reckoned with."""
_REQUEST_TIMEOUT: Final = 408
_TOO_EARLY: Final = 425


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often a call is tried, and how long it waits in between.

    The call's ``deadline`` ends it earlier: a wait that would not fit is not begun.

    Raises:
        ConfigurationError: A value is not a number in its range.

    Example:
        >>> RetryPolicy(max_attempts=1).max_attempts  # never send again
        1
    """

    max_attempts: int = 6
    """Requests started for one call at the most, the first included; 1 or more."""
    base: float = 0.25
    """Seconds; the first back-off is between half of it and all of it."""
    cap: float = 20.0
    """Seconds; no back-off is longer."""
    max_retry_after: float = 60.0
    """Seconds; a longer wait asked for by ``Retry-After`` is cut to this."""

    def __post_init__(self) -> None:
        attempts: object = self.max_attempts
        if type(attempts) is not int or attempts < 1:
            raise ConfigurationError(f"max_attempts is {attempts!r}; it must be a whole number from 1")
        for field in ("base", "cap", "max_retry_after"):
            value: object = getattr(self, field)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _LONGEST:
                raise ConfigurationError(f"{field} is {value!r}; it must be a number of seconds from 0 to {_LONGEST:,}")


def backoff(attempt: int, *, base: float = 0.25, cap: float = 20.0, rng: Callable[[], float] = random.random) -> float:
    """Seconds to wait after attempt ``attempt`` (from 1): equal jitter on ``min(cap, base * 2**(attempt - 1))``.

    Half of the wait is fixed, so that retries never pile up at once; half is random, so that they spread.
    """
    ceiling = min(cap, math.ldexp(base, min(attempt - 1, 64)))
    return ceiling / 2 + ceiling / 2 * rng()


def is_retryable(error: MutexError) -> bool:
    """Whether the same request may succeed a little later.

    True when no complete answer came, when it could not be read, and for 408, 425, 429 and 5xx. False for a body over
    the maximum: each further try would fetch as much again.
    """
    if isinstance(error, APIError):
        return isinstance(error, RateLimitedError | ServerError) or error.status in (_REQUEST_TIMEOUT, _TOO_EARLY)
    if isinstance(error, UnexpectedResponseError):
        return not error.too_large
    return isinstance(error, TransportError)


def may_have_applied(error: MutexError) -> bool:
    """Whether a write that failed like this may have been applied all the same.

    After 408 too: not only the service says so, before it has a whole request, but also gateways that gave up waiting
    for the service's answer. 425 and 429 refuse a request before any work.
    """
    if isinstance(error, TransportError):
        return error.sent
    if isinstance(error, APIError) and error.status == _REQUEST_TIMEOUT:
        return True
    return isinstance(error, ServerError | UnexpectedResponseError)


def wait_before_next(
    error: MutexError, attempt: int, policy: RetryPolicy, rng: Callable[[], float] = random.random
) -> float:
    """Seconds to wait after ``attempt`` failed with ``error``, before the next.

    A 429 waits nothing here: the limiter has heard of it, and holds everybody who shares it.
    """
    if isinstance(error, RateLimitedError):
        return 0.0
    pause = backoff(attempt, base=policy.base, cap=policy.cap, rng=rng)
    if isinstance(error, APIError) and error.retry_after is not None:
        return max(pause, min(error.retry_after, policy.max_retry_after))
    return pause
