"""One call: attempts with waits between them, until one succeeds, retrying is pointless, or the deadline is near.

This is the only retry layer. Nothing is held while waiting: an attempt releases its connection before a back-off.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from aiomutex import errors, retry
from aiomutex._api import requests
from aiomutex._http.context import Patience
from aiomutex._http.observer import Observer, logger
from aiomutex._util.checks import check_seconds, describe
from aiomutex.errors import MutexError
from aiomutex.limits import Priority
from aiomutex.retry import RetryPolicy

if TYPE_CHECKING:
    from aiomutex._api.requests import Request
    from aiomutex._http.transport import Transport

T = TypeVar("T")

_BEFORE_SENDING = (errors.DailyBudgetExhaustedError, errors.LimiterUnavailableError, errors.ConfigurationError)


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a call, which ``MutexSession.with_options`` changes."""

    attempt_timeout: float = 30.0
    deadline: float = 120.0
    retry: RetryPolicy = RetryPolicy()
    priority: Priority = Priority.INTERACTIVE
    patience: Patience | None = None  # in a bulk run, where the deadline counts from the permit of each attempt

    def __post_init__(self) -> None:
        for field in ("attempt_timeout", "deadline"):
            check_seconds(field, getattr(self, field), least=sys.float_info.min)
        for field, kind in (("retry", RetryPolicy), ("priority", Priority)):
            if not isinstance(value := getattr(self, field), kind):
                raise errors.ConfigurationError(f"{field} must be a {kind.__name__}, not {describe(value)}")


class CallResult(NamedTuple, Generic[T]):
    """The value that a successful call returned, and its attempts."""

    value: T
    attempts: int
    earlier: tuple[MutexError, ...] = ()  # the errors of the attempts before the last one


async def send(
    transport: Transport, request: Request[T], options: CallOptions, ends_at: float | None = None
) -> CallResult[T]:
    """Send ``request`` until a response is final, and decode that response. Raise the error of the last attempt.

    The call must end at ``ends_at`` on the loop's clock, which is by default in ``options.deadline`` seconds.
    """
    loop = asyncio.get_running_loop()
    if ends_at is None:
        ends_at = loop.time() + options.deadline
    earlier: tuple[MutexError, ...] = ()
    transport.begin_call()
    observer: Observer | None = None
    try:
        if transport.hooks is not None or logger.isEnabledFor(logging.INFO):
            observer = Observer(transport, request, options)
        while True:
            if options.patience is not None:
                ends_at = options.patience.ends_at
            if observer is not None:
                observer.begin(loop.time())
            try:
                response = await transport.attempt(request, options, ends_at, observer)
                value = requests.decode_response(request, response)
            except MutexError as error:
                failure = error
            else:
                if observer is not None:
                    observer.end(response, None, None)
                return CallResult(value, len(earlier) + 1, earlier)
            delay = _delay(transport, request, failure, len(earlier) + 1, options, ends_at)
            if observer is not None:
                observer.end(None, failure, delay)
            if delay is None:
                raise _with_history(request, failure, earlier)
            earlier = (*earlier, failure)
            if delay:
                await asyncio.sleep(delay)
    finally:
        transport.end_call()
        if observer is not None:
            observer.close(sys.exception())


def _delay(
    transport: Transport, request: Request[Any], failure: MutexError, attempt: int, options: CallOptions, ends_at: float
) -> float | None:
    """Return the seconds from ``attempt`` until the next one, or ``None`` if there must be none."""
    if not retry.is_retryable(failure) or attempt >= options.retry.max_attempts:
        return None
    if request.effect is requests.Effect.NON_IDEMPOTENT and retry.may_have_applied(failure):
        return None
    if transport.state == "closed":
        return 0.0  # the next attempt raises the error that says so
    delay = retry.wait_before_next(failure, attempt, options.retry)
    wait = max(delay, transport.limiter.state().paused_for)
    if asyncio.get_running_loop().time() + wait >= ends_at:
        # Raising the real error now is better than a DeadlineExceededError after a silent wait.
        return None
    return delay


def _with_history(request: Request[Any], failure: MutexError, earlier: tuple[MutexError, ...]) -> MutexError:
    """Return the error with its attempts, and with whether any of them may have been applied."""
    maybe_applied = request.effect is not requests.Effect.SAFE and (
        failure.maybe_applied or any(map(retry.may_have_applied, (failure, *earlier)))
    )
    unsent = isinstance(failure, _BEFORE_SENDING) or (
        isinstance(failure, errors.DeadlineExceededError | errors.SessionClosedError) and not failure.maybe_applied
    )
    return failure.with_attempts(len(earlier) + (0 if unsent else 1), earlier, maybe_applied=maybe_applied)
