"""What a session reports about its attempts: to the functions passed as ``on_attempt``, and to the log.

The logger is ``aiomutex.http``: each attempt at DEBUG, and each retry at INFO with its reason and wait. The fields of a
record are also attributes of it, named ``aiomutex_…``, for formatters that write JSON.
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from aiomutex._util.checks import describe
from aiomutex.errors import ConfigurationError, MutexError
from aiomutex.limits import Priority

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Attempt", "checked_hooks", "configure_logging", "logger", "report", "route_of"]

logger = logging.getLogger("aiomutex.http")

_ID: Final = re.compile(r"(?<=^/api/1/mutexes/)[^/]+")
_NUMBER: Final = re.compile(r"(?<!^/api)/\d+(?=/|$)")


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a call, as it is passed to ``on_attempt`` when it has ended. Durations are in seconds."""

    method: str
    """The HTTP method."""
    route: str
    """The path with placeholders instead of IDs, for metrics: ``/api/1/mutexes/{id}/slots/{slotIndex}``."""
    path: str
    """Path and query."""
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
    priority: Priority
    """The priority of the call."""


def route_of(path: str) -> str:
    """Replace the IDs in a path by placeholders, and drop the query."""
    path = _ID.sub("{id}", path.partition("?")[0])
    if path.startswith("/api/1/mutexes/{id}/slots/"):
        return "/api/1/mutexes/{id}/slots/{slotIndex}"
    return _NUMBER.sub("/{id}", path)


def checked_hooks(on_attempt: Any) -> tuple[Callable[[Attempt], object], ...]:
    """The functions that ``on_attempt`` names: one or several."""
    hooks: tuple[Any, ...] = () if on_attempt is None else (on_attempt,)
    if isinstance(on_attempt, list | tuple):
        hooks = tuple(cast("list[Any]", on_attempt))
    for hook in hooks:
        if not callable(hook):
            raise ConfigurationError(f"on_attempt must be a function or a list of functions, not {describe(hook)}")
    return hooks


def report(attempt: Attempt, hooks: tuple[Callable[[Attempt], object], ...]) -> None:
    """Log an attempt and pass it to the hooks. What a hook raises is logged and affects no call."""
    level = logging.DEBUG if attempt.retry_in is None else logging.INFO
    if logger.isEnabledFor(level):
        outcome = attempt.error or attempt.status
        then = "" if attempt.retry_in is None else f"; attempt {attempt.number + 1} follows in {attempt.retry_in:.2f} s"
        fields = {f"aiomutex_{name}": value for name, value in msgspec.structs.asdict(attempt).items()}
        message = "%s %s, attempt %d: %s in %.3f s%s"
        facts = (attempt.method, attempt.path, attempt.number, outcome, attempt.duration, then)
        logger.log(level, message, *facts, extra=fields)
    for hook in hooks:
        try:
            hook(attempt)
        except Exception:
            logger.exception("on_attempt failed")


def configure_logging() -> None:
    """Switch logging on if ``AIOMUTEX_LOG`` names a level, such as ``debug``."""
    level = os.environ.get("AIOMUTEX_LOG", "").upper()
    if level in logging.getLevelNamesMapping():
        logging.basicConfig()
        logging.getLogger("aiomutex").setLevel(level)
