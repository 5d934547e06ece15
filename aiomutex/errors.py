"""The errors of aiomutex: one class for each way in which a caller may want to react.

Errors hold facts (method, path, status, attempts), never the API key or the headers of a request. This module imports
no other module of the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = [
    "APIError", "AttemptTimeoutError", "AuthenticationError", "BadRequestError", "ConfigurationError",
    "ConflictError", "ConnectionFailedError", "DailyBudgetExhaustedError", "DeadlineExceededError",
    "InvalidRequestError", "JournalError", "LimiterUnavailableError", "MutexError", "NotFoundError",
    "OutcomeUnknownError", "PaginationError", "PermissionDeniedError", "RateLimitedError", "ServerError",
    "SessionClosedError", "StaleSlotError", "TooManyFailuresError", "TransportError", "UnexpectedResponseError",
    "VerificationError",
]  # fmt: skip

_LIST_SHOWN: Final = 200  # characters of a list that a message shows, so that it stays readable


class MutexError(Exception):
    """Base class for all aiomutex errors.

    Attributes:
        attempts: The number of requests started for the call; 0 if nothing was sent.
        maybe_applied: True if a write may have been applied although the call failed: a request was sent, and its
            response was lost, was late, or was a 408 or 5xx.
        earlier: The errors of the attempts before the last one, oldest first.
    """

    attempts: int = 0
    maybe_applied: bool = False
    earlier: tuple[MutexError, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with its message alone, but the classes below have required keyword arguments.
        return type(self).__new__, (type(self), *self.args), vars(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the class as ``error``, the ``message`` and the attributes, as values that JSON can hold."""
        facts = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        if isinstance(self, DailyBudgetExhaustedError):
            facts["resets_at"] = self.resets_at.isoformat()
        outcome = {"attempts": self.attempts, "maybe_applied": self.maybe_applied}
        earlier = [error.to_dict() for error in self.earlier]
        return {"error": type(self).__name__, "message": str(self)} | outcome | facts | {"earlier": earlier}

    def with_attempts(
        self, attempts: int, earlier: tuple[MutexError, ...] = (), *, maybe_applied: bool = False
    ) -> Self:
        """Record the attempts of the call, and return this error so that it can be raised."""
        self.attempts, self.earlier, self.maybe_applied = attempts, earlier, maybe_applied
        return self


class ConfigurationError(MutexError, ValueError):
    """An option of a session or limiter is invalid, for example a missing key, an unknown region or an insecure URL."""


class SessionClosedError(MutexError):
    """The session was closed before or during the call. See ``maybe_applied`` for what that means for a write."""


class InvalidRequestError(MutexError, ValueError):
    """An argument breaks a rule of the service, and nothing was sent. The message names the field and says the rule."""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class _ResponseError(MutexError):
    """A complete response arrived, but it is not a usable success."""

    verb = "answered"

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        method: str,
        path: str,
        request_id: str | None = None,
        body: str = "",
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail, self.status, self.method, self.path = detail, status, method, path
        self.request_id, self.body, self.retry_after = request_id, body, retry_after
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        facts = [f"request id {self.request_id}"] if self.request_id else []
        facts += [_count(self.attempts, "attempt")] if self.attempts else []
        tail = f" ({', '.join(facts)})" if facts else ""
        return f"{self.method} {self.path} {self.verb} {self.status}: {self.detail}{tail}"


class APIError(_ResponseError):
    """The service answered with an error status.

    Attributes:
        status: HTTP status code.
        method: HTTP method of the request.
        path: Path and query of the request, without the host.
        request_id: The service's ID of the request; ``None`` if no header has one.
        body: The body of the response as text, cut after 4,096 characters.
        retry_after: Seconds to wait, from the ``Retry-After`` header; ``None`` without one.
        headers: The headers of the response, by lower-case name, without the API key.
        detail: The error message in the body.
    """


class BadRequestError(APIError):
    """400: an argument is missing or invalid."""


class AuthenticationError(APIError):
    """401: the management API key is invalid or revoked."""


class PermissionDeniedError(APIError):
    """403: the key has no access to this project or call."""


class NotFoundError(APIError):
    """404: the group or slot does not exist."""


class ConflictError(APIError):
    """409: the request conflicts with the service's state, for example a key that is taken."""


class RateLimitedError(APIError):
    """429: too many requests in this second or on this day."""


class ServerError(APIError):
    """5xx: the service failed. A write may have been applied nevertheless (``maybe_applied``)."""


class UnexpectedResponseError(_ResponseError):
    """A success that is not as documented: HTML, truncated JSON, a group without an ID, a 204 to a read.

    It has the attributes of ``APIError``, and one more.

    Attributes:
        too_large: True if the body is larger than the maximum. Such a request is not sent again.
    """

    verb = "answered unexpectedly with"
    too_large: bool = False


class TransportError(MutexError):
    """No complete response arrived. ``method`` and ``path`` are those of ``APIError``.

    Attributes:
        sent: Whether any byte of the request may have left this machine.
        detail: What failed.
    """

    def __init__(self, detail: str, *, method: str, path: str, sent: bool) -> None:
        super().__init__(detail)
        self.detail, self.method, self.path, self.sent = detail, method, path, sent

    def __str__(self) -> str:
        tail = f" ({_count(self.attempts, 'attempt')})" if self.attempts else ""
        return f"{self.method} {self.path}: {self.detail}{tail}"


class ConnectionFailedError(TransportError):
    """The connection could not be made, or broke before the whole response was read."""


class AttemptTimeoutError(TransportError):
    """One attempt took longer than ``attempt_timeout``, counted from the moment it had a permit and a connection."""


class DeadlineExceededError(MutexError, TimeoutError):
    """A call with all of its attempts and waits took longer than ``deadline`` seconds.

    ``method`` and ``path`` are those of ``APIError``, and ``detail`` says what the call was doing.
    """

    def __init__(self, detail: str, *, method: str, path: str, deadline: float) -> None:
        super().__init__(detail)
        self.detail, self.method, self.path, self.deadline = detail, method, path, deadline

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.detail} ({_count(self.attempts, 'attempt')})"


class DailyBudgetExhaustedError(MutexError):
    """The daily budget is exhausted, and nothing was sent.

    Attributes:
        resets_at: When the budget resets: the next midnight UTC, as an aware ``datetime``.
        used: Requests counted today.
        limit: Requests allowed per day.
        suspected: True if the limiter's own count is below the limit, and only a long series of 429 responses
            suggests that the budget is exhausted.
    """

    def __init__(self, detail: str, *, resets_at: datetime, used: int, limit: int, suspected: bool = False) -> None:
        super().__init__(detail)
        self.resets_at, self.used, self.limit, self.suspected = resets_at, used, limit, suspected


class LimiterUnavailableError(MutexError):
    """The shared count of requests is unavailable (its server or its file), so nothing may be sent."""


class OutcomeUnknownError(MutexError):
    """Whether a write was applied is unknown.

    For a create, ``key`` is that of the group that may exist now. Look it up before you try again.
    """

    def __init__(self, detail: str, *, key: str | None = None) -> None:
        super().__init__(detail)
        self.key = key


class PaginationError(MutexError):
    """A listing cannot be read to its end: the service repeated ``cursor``, or sent one that must not be followed."""

    def __init__(self, detail: str, *, cursor: str) -> None:
        super().__init__(detail)
        self.cursor = cursor


class _SlotDifferenceError(MutexError):
    """A slot that was read does not hold what it should."""

    _prefix = ""

    def __init__(
        self, *, group_id: str, slot_index: int, expected: dict[str, list[Any]], actual: dict[str, list[Any]]
    ) -> None:
        parts = [
            f"{field} should be {_shown(expected[field])} but is {_shown(actual.get(field, []))}"
            for field in expected
            if expected[field] != actual.get(field)
        ]
        difference = "; ".join(parts) or "the slot no longer exists"
        super().__init__(f"group {group_id}, slot {slot_index}: {self._prefix}{difference}")
        self.group_id, self.slot_index, self.expected, self.actual = group_id, slot_index, expected, actual


def _shown(items: list[Any]) -> str:
    text = repr(items)
    return text if len(text) <= _LIST_SHOWN else f"{text[:_LIST_SHOWN]}… ({_count(len(items), 'item')})"


class VerificationError(_SlotDifferenceError):
    """A slot differs from what was written to it, although the service answered with success.

    Another writer may have changed the slot since, or the service merges lists instead of replacing them.
    ``expected`` and ``actual`` are the contents that the lists of slot ``slot_index`` should have and have, by field.
    For the canary of a bulk run, ``reading`` says how the service seems to read a slot edit, and ``group`` is the whole
    group as it was before the edit, as values that JSON can hold.
    """

    reading = ""
    group: dict[str, Any] | None = None

    def explain(self, reading: str, group: dict[str, Any]) -> Self:
        """Add how the service seems to read a slot edit, and return this error."""
        self.args = (f"{self.args[0]}; {reading}",)
        self.reading, self.group = reading, group
        return self


class StaleSlotError(_SlotDifferenceError):
    """A slot was not written, because just before the write it no longer held what the write was based on.

    Its attributes are those of ``VerificationError``. ``expected`` is what each list to be written held when the write
    was planned, and ``actual`` is empty if the slot no longer exists.
    """

    _prefix = "changed since it was read, so it was not written: "


class TooManyFailuresError(MutexError):
    """A bulk run ended early because ``stop_after`` edits had failed; ``failures`` is their number."""

    def __init__(self, detail: str, *, failures: int) -> None:
        super().__init__(detail)
        self.failures = failures


class JournalError(MutexError, ValueError):
    """A journal is in use, damaged, undone already or that of a different input, or cannot be read or written."""
