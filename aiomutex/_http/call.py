"""One call: attempts, with waits between them, until it succeeds, cannot, or its deadline is near.

The only retry layer. Nothing is held while waiting: each attempt ends, connection and all, before a back-off begins.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from aiomutex import retry
from aiomutex._api import requests
from aiomutex.errors import (
    ConfigurationError,
    DailyBudgetExhaustedError,
    DeadlineExceededError,
    LimiterUnavailableError,
    MutexError,
)
from aiomutex.limits import Priority
from aiomutex.retry import RetryPolicy

if TYPE_CHECKING:
    from aiomutex._api.requests import Request
    from aiomutex._http.transport import Transport

__all__ = ["CallResult", "Options", "send"]

T = TypeVar("T")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a call is made: what ``MutexSession.with_options`` changes."""

    attempt_timeout: float = 30.0
    deadline: float = 120.0
    retry: RetryPolicy = RetryPolicy()
    priority: Priority = Priority.INTERACTIVE

    def __post_init__(self) -> None:
        for field in ("attempt_timeout", "deadline"):
            value: object = getattr(self, field)
            # The bound keeps out infinity and NaN, and any wait nobody would sit through.
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 10**7:
                raise ConfigurationError(f"{field} is {value!r}; it must be a number of seconds above 0")
        if not isinstance(self.retry, RetryPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
            raise ConfigurationError(f"retry is {self.retry!r}; it must be a RetryPolicy")
        if not isinstance(self.priority, Priority):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
            raise ConfigurationError(f"priority is {self.priority!r}; it must be a Priority")


class CallResult(NamedTuple, Generic[T]):
    """A call that succeeded."""

    value: T
    attempts: int


async def send(
    transport: Transport, request: Request[T], options: Options, ends_at: float | None = None
) -> CallResult[T]:
    """Send ``request`` until it is answered for good, and read the answer.

    Args:
        transport: Where attempts are made.
        request: What to send; a create is sent once only, unless it cannot have arrived.
        options: Timeouts, policy and priority.
        ends_at: When to be done, on the loop's clock; from ``options.deadline`` if not given.

    Raises:
        MutexError: What the last attempt failed with; ``attempts``, ``earlier`` and ``maybe_applied`` tell the rest.
    """
    if ends_at is None:
        ends_at = asyncio.get_running_loop().time() + options.deadline
    earlier: tuple[MutexError, ...] = ()
    while True:
        try:
            answer = await transport.attempt(
                request,
                priority=options.priority,
                attempt_timeout=options.attempt_timeout,
                ends_at=ends_at,
                deadline=options.deadline,
            )
            return CallResult(requests.decode_response(request, answer), len(earlier) + 1)
        except MutexError as error:
            failure = error
        delay = _delay(transport, request, failure, earlier, options, ends_at)
        if delay is None:
            raise _told(request, failure, earlier)
        earlier = (*earlier, failure)
        if delay:
            await asyncio.sleep(delay)


def _delay(
    transport: Transport,
    request: Request[Any],
    failure: MutexError,
    earlier: tuple[MutexError, ...],
    options: Options,
    ends_at: float,
) -> float | None:
    """Seconds until the next attempt, or ``None`` when there shall be none."""
    attempt = len(earlier) + 1
    if not retry.is_retryable(failure) or attempt >= options.retry.max_attempts:
        return None
    if request.effect is requests.Effect.NON_IDEMPOTENT and retry.may_have_applied(failure):
        return None
    if transport.state == "closed":
        return 0.0  # the next attempt says so
    delay = retry.wait_before_next(failure, attempt, options.retry)
    held = max(delay, transport.limiter.state().paused_for)
    if asyncio.get_running_loop().time() + held >= ends_at:
        # Better the true reason now than a "deadline exceeded" after a silent wait.
        return None
    return delay


def _told(request: Request[Any], failure: MutexError, earlier: tuple[MutexError, ...]) -> MutexError:
    """The error as the caller gets it, with what the earlier attempts leave open."""
    maybe_applied = request.effect is not requests.Effect.SAFE and (
        failure.maybe_applied
        or retry.may_have_applied(failure)
        or any(retry.may_have_applied(error) for error in earlier)
    )
    unsent = isinstance(failure, DailyBudgetExhaustedError | LimiterUnavailableError | ConfigurationError) or (
        isinstance(failure, DeadlineExceededError) and not failure.maybe_applied
    )
    attempts = len(earlier) + (0 if unsent else 1)
    return failure.with_attempts(attempts, earlier, maybe_applied=maybe_applied)
