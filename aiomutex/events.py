"""What a session reports about its calls and attempts: to the functions and tracers in ``on_attempt``, and to the log.

The logger is ``aiomutex.http``: each attempt at DEBUG, and each retry at INFO with its reason and wait. The fields of a
record are also attributes of it, named ``aiomutex_…``, for formatters that write JSON.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast, runtime_checkable

import msgspec

from aiomutex._util.checks import describe
from aiomutex.errors import ConfigurationError, MutexError
from aiomutex.limits import Priority, RateLimiter

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Attempt", "Call", "Hook", "OpenAttempt", "Tracer"]

_ID: Final = re.compile(r"(?<=^/api/1/mutexes/)[^/]+")
_NUMBER: Final = re.compile(r"(?<!^/api)/\d+(?=/|$)")


class Call(msgspec.Struct, frozen=True):
    """A call, as it is passed to ``Tracer.call`` when it begins."""

    operation: str
    """The method of the session that builds the request, such as ``get_group``."""
    method: str
    route: str
    """The path with placeholders instead of IDs, for metrics: ``/api/1/mutexes/{id}/slots/{slotIndex}``."""
    path: str
    """Path and query."""
    url: str
    host: str
    port: int
    priority: Priority


class Attempt(Call, frozen=True):
    """One attempt of a call, as it is passed to ``on_attempt`` when it has ended. Durations are in seconds."""

    number: int
    """The number of the attempt within its call, from 1."""
    status: int | None
    """The status of the response; ``None`` if none was complete."""
    error: MutexError | None
    """Why the attempt failed; ``None`` for a success."""
    retry_in: float | None
    """The wait before the next attempt of the call; ``None`` if there will be none."""
    connection_wait: float
    """The wait for a ready connection. With a session passed as ``http`` it is part of ``duration`` instead."""
    permit_wait: float
    """The wait for the permit."""
    duration: float
    """From the permit to the end of the attempt; 0 without a permit."""
    request_id: str | None
    """The ID that the service gave the request, if it did."""


class OpenAttempt(msgspec.Struct):
    """An attempt that is about to be sent, as it is passed to ``Tracer.attempt``."""

    call: Call
    number: int
    rate_limiter: RateLimiter
    headers: dict[str, str] = {}
    """Headers to add to the request, such as ``traceparent``."""
    result: Attempt | None = None
    """How it ended, once it has; ``None`` if the call was cancelled."""


@runtime_checkable
class Tracer(Protocol):
    """An object for ``on_attempt`` whose context managers surround calls and attempts, as spans do.

    They are entered and left in the task of the call, and see the exception it raises. What they raise is logged and
    affects no call.
    """

    def call(self, call: Call, /) -> AbstractContextManager[object]:
        """Surround a call with all its attempts."""
        ...

    def attempt(self, attempt: OpenAttempt, /) -> AbstractContextManager[object]:
        """Surround an attempt from its permit to its end. What ended without a permit is entered and left at once."""
        ...


Hook: TypeAlias = Callable[[Attempt], object] | Tracer
Hooks: TypeAlias = tuple[tuple[Callable[[Attempt], object], ...], tuple[Tracer, ...]]


def route_of(path: str) -> str:
    """Replace the IDs in a path by placeholders, and drop the query."""
    path = _ID.sub("{id}", path.partition("?")[0])
    if path.startswith("/api/1/mutexes/{id}/slots/"):
        return "/api/1/mutexes/{id}/slots/{slotIndex}"
    return _NUMBER.sub("/{id}", path)


def checked_hooks(on_attempt: Any) -> Hooks | None:
    """The functions and tracers that ``on_attempt`` names: one or several; ``None`` for none."""
    hooks: tuple[Any, ...] = () if on_attempt is None else (on_attempt,)
    if isinstance(on_attempt, list | tuple):
        hooks = tuple(cast("list[Any]", on_attempt))
    for hook in hooks:
        if not callable(hook) and not isinstance(hook, Tracer):
            expected = "a function, a Tracer or a list of those"
            raise ConfigurationError(f"on_attempt must be {expected}, not {describe(hook)}")
    tracers = tuple(hook for hook in hooks if isinstance(hook, Tracer))
    return (tuple(filter(callable, hooks)), tracers) if hooks else None


def configure_logging() -> None:
    """Switch logging on if ``AIOMUTEX_LOG`` names a level, such as ``debug``."""
    level = os.environ.get("AIOMUTEX_LOG", "").upper()
    if level in logging.getLevelNamesMapping():
        logging.basicConfig()
        logging.getLogger("aiomutex").setLevel(level)
