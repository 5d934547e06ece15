"""Whether to send a request again, and how long to wait first: pure decisions without a clock or I/O.

The pause after a 429, which everyone who shares a limiter observes, is in ``limits/pause.py``.
"""

from __future__ import annotations

import math
import random
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from aiomutex import errors
from aiomutex._util.checks import check_integer, check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How many attempts a call makes, and how long it waits between them.

    The call's ``deadline`` may end it earlier: a wait that would exceed it is not started.

    Raises:
        ConfigurationError: A value is not a number in its range.

    Example:
        >>> RetryPolicy(max_attempts=1).max_attempts  # never send again
        1
    """

    max_attempts: int = 6
    """Maximum number of attempts of one call, including the first; 1 or more."""
    base: float = 0.25
    """Seconds; the first back-off is between half of it and all of it."""
    cap: float = 20.0
    """Seconds; no back-off is longer."""
    max_retry_after: float = 60.0
    """Seconds; a longer ``Retry-After`` is shortened to this."""

    def __post_init__(self) -> None:
        check_integer("max_attempts", self.max_attempts, least=1, error=errors.ConfigurationError)
        for field in ("base", "cap", "max_retry_after"):
            check_seconds(field, getattr(self, field))


def backoff(attempt: int, *, base: float = 0.25, cap: float = 20.0, rng: Callable[[], float] = random.random) -> float:
    """Seconds to wait after attempt ``attempt`` (from 1): equal jitter on ``min(cap, base * 2**(attempt - 1))``.

    Half of the wait is fixed, so that retries are never immediate; half is random, so that they spread out.
    """
    ceiling = min(cap, math.ldexp(base, min(attempt - 1, 64)))
    return ceiling / 2 + ceiling / 2 * rng()


def is_retryable(error: errors.MutexError) -> bool:
    """Whether to send again: no complete or readable response arrived, or one with status 408, 425, 429 or 5xx.

    Not a body above the maximum size, which every further attempt would download again.
    """
    if isinstance(error, errors.APIError):
        again = isinstance(error, errors.RateLimitedError | errors.ServerError)
        return again or error.status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY)
    if isinstance(error, errors.UnexpectedResponseError):
        return not error.too_large
    return isinstance(error, errors.TransportError)


def may_have_applied(error: errors.MutexError) -> bool:
    """Whether a write may have been applied although it failed with ``error``. 425 and 429 reject it before that."""
    if isinstance(error, errors.TransportError):
        return error.sent
    # Gateways send 408 as well, when they give up waiting for the service's response.
    timed_out = isinstance(error, errors.APIError) and error.status == HTTPStatus.REQUEST_TIMEOUT
    return timed_out or isinstance(error, errors.ServerError | errors.UnexpectedResponseError)


def wait_before_next(
    error: errors.MutexError, attempt: int, policy: RetryPolicy, rng: Callable[[], float] = random.random
) -> float:
    """Seconds to wait between attempt ``attempt``, which failed with ``error``, and the next."""
    if isinstance(error, errors.RateLimitedError):
        return 0.0  # the limiter, which was informed, pauses everyone who shares it
    pause = backoff(attempt, base=policy.base, cap=policy.cap, rng=rng)
    if isinstance(error, errors.APIError) and error.retry_after is not None:
        return max(pause, min(error.retry_after, policy.max_retry_after))
    return pause
