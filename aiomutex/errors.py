"""What can go wrong, one type for each thing a caller may want to do about it.

Errors hold facts (method, path, status, attempts), never the API key or request headers. They know
nothing of sockets; the transport and the protocol make them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = [
    "APIError",
    "AttemptTimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "DailyBudgetExhaustedError",
    "DeadlineExceededError",
    "InvalidRequestError",
    "JournalError",
    "LimiterUnavailableError",
    "MutexError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PaginationError",
    "PermissionDeniedError",
    "RateLimitedError",
    "ServerError",
    "TooManyFailuresError",
    "TransportError",
    "UnexpectedResponseError",
    "VerificationError",
]


def _restore(cls: type[MutexError], args: tuple[Any, ...], state: dict[str, Any]) -> MutexError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class MutexError(Exception):
    """Root of every error this library raises on purpose.

    Attributes:
        attempts: How many requests were started for the call that failed; 0 when nothing was sent.
        maybe_applied: True when a write may have reached the service although the call failed: an attempt was sent
            and its answer was lost, came too late, or was a 408 or 5xx.
        earlier: What the attempts before the last one failed with, oldest first.
    """

    attempts: int = 0
    maybe_applied: bool = False
    earlier: tuple[MutexError, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with its message alone, which the keyword-only arguments below do not admit.
        return _restore, (type(self), self.args, self.__dict__.copy())

    def with_attempts(
        self, attempts: int, earlier: tuple[MutexError, ...] = (), *, maybe_applied: bool = False
    ) -> Self:
        """Note how often the call was tried and what came before; return the error itself, to be raised."""
        self.attempts, self.earlier, self.maybe_applied = attempts, earlier, maybe_applied
        return self


class ConfigurationError(MutexError, ValueError):
    """The session cannot be used as it is set up: no key, an unknown region, an insecure URL, a closed session."""


class InvalidRequestError(MutexError, ValueError):
    """An argument breaks a rule of the service; nothing was sent. The message names the field and what is right."""


def _tries(attempts: int) -> str:
    return f"{attempts} attempt{'s' if attempts != 1 else ''}"


class _AnswerError(MutexError):
    """An answer came, and it is no good."""

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
        self.detail = detail
        self.status = status
        self.method = method
        self.path = path
        self.request_id = request_id
        self.body = body
        self.retry_after = retry_after
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        facts = [f"request id {self.request_id}"] if self.request_id else []
        if self.attempts:
            facts.append(_tries(self.attempts))
        tail = f" ({', '.join(facts)})" if facts else ""
        return f"{self.method} {self.path} {self.verb} {self.status}: {self.detail}{tail}"


class APIError(_AnswerError):
    """The service refused a request.

    Attributes:
        status: HTTP status code.
        method: HTTP method of the request.
        path: Path and query of the request, without the host.
        request_id: The service's name for the request, if a header told one.
        body: The answer's body as text, cut at 4,096 characters.
        retry_after: Seconds the service asked to wait, if it did.
        headers: The headers of the response, by lower-case name, without the API key.
        detail: What the body says for people.
    """


class BadRequestError(APIError):
    """400: an argument is missing or invalid."""


class AuthenticationError(APIError):
    """401: the management API key is invalid or revoked."""


class PermissionDeniedError(APIError):
    """403: the key has no access to this project or call."""


class NotFoundError(APIError):
    """404: no such group or slot."""


class ConflictError(APIError):
    """409: the request contradicts what the service holds, for example a key that is taken."""


class RateLimitedError(APIError):
    """429: too many requests in this second or on this day. ``retry_after`` has the wait the service asked for."""


class ServerError(APIError):
    """5xx: the service failed. A write may have been applied all the same (``maybe_applied``)."""


class UnexpectedResponseError(_AnswerError):
    """A success that does not read as documented: HTML, truncated JSON, a group without an id, 204 on a read.

    Attributes are those of :class:`APIError`, and:
        too_large: True when the body was over the maximum; such an answer is not asked for again.
    """

    verb = "answered unexpectedly with"
    too_large: bool = False


class TransportError(MutexError):
    """No complete answer came.

    Attributes:
        method: HTTP method of the request.
        path: Path and query of the request, without the host.
        sent: Whether any byte of the request may have left the machine.
    """

    def __init__(self, detail: str, *, method: str, path: str, sent: bool) -> None:
        super().__init__(detail)
        self.detail = detail
        self.method = method
        self.path = path
        self.sent = sent

    def __str__(self) -> str:
        tail = f" ({_tries(self.attempts)})" if self.attempts else ""
        return f"{self.method} {self.path}: {self.detail}{tail}"


class ConnectionFailedError(TransportError):
    """The connection could not be made, or broke before the whole answer was read."""


class AttemptTimeoutError(TransportError):
    """One attempt took longer than ``attempt_timeout``, counted from the moment it held a permit and a connection."""


class DeadlineExceededError(MutexError, TimeoutError):
    """The call as a whole, with its waits and further attempts, took longer than ``deadline`` seconds.

    Attributes:
        method: HTTP method of the request.
        path: Path and query of the request, without the host.
        deadline: The deadline in seconds.
    """

    def __init__(self, detail: str, *, method: str, path: str, deadline: float) -> None:
        super().__init__(detail)
        self.detail = detail
        self.method = method
        self.path = path
        self.deadline = deadline

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.detail} ({_tries(self.attempts)})"


class DailyBudgetExhaustedError(MutexError):
    """The day's requests are used up; nothing was sent.

    Attributes:
        resets_at: When the budget is whole again: the next midnight UTC, as an aware ``datetime``.
        used: Requests counted today.
        limit: Requests allowed in a day.
        suspected: True when only the service's endless 429s suggest it, not our own count.
    """

    def __init__(self, detail: str, *, resets_at: datetime, used: int, limit: int, suspected: bool = False) -> None:
        super().__init__(detail)
        self.resets_at = resets_at
        self.used = used
        self.limit = limit
        self.suspected = suspected


class LimiterUnavailableError(MutexError):
    """The shared count cannot be reached, or its file not be read or written, so nothing may be sent."""


class OutcomeUnknownError(MutexError):
    """A write whose fate could not be learned: it may or may not have been applied.

    Attributes:
        key: The key of the group that may exist now, for a create; look it up before trying again.
    """

    def __init__(self, detail: str, *, key: str | None = None) -> None:
        super().__init__(detail)
        self.key = key


class PaginationError(MutexError):
    """A listing does not end as it should: the service repeated a cursor, or it cannot be followed.

    Attributes:
        cursor: The cursor at fault.
    """

    def __init__(self, detail: str, *, cursor: str) -> None:
        super().__init__(detail)
        self.cursor = cursor


class VerificationError(MutexError):
    """A read-back shows another content than was written, although the service answered with success.

    Somebody else may have written meanwhile, or the service merges lists where it was taken to replace them.

    Attributes:
        group_id: The group that was read back.
        slot_index: The slot that differs.
        expected: What each list of the slot should hold, by field.
        actual: What it holds, by field.
    """

    def __init__(
        self, *, group_id: str, slot_index: int, expected: dict[str, list[Any]], actual: dict[str, list[Any]]
    ) -> None:
        parts = [
            f"{field} should be {_short(expected[field])} and is {_short(actual.get(field, []))}"
            for field in expected
            if expected[field] != actual.get(field)
        ]
        super().__init__(f"group {group_id}, slot {slot_index}: {'; '.join(parts) or 'the slot is gone'}")
        self.group_id = group_id
        self.slot_index = slot_index
        self.expected = expected
        self.actual = actual


def _short(items: list[Any]) -> str:
    text = repr(items)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(items)} items)"  # noqa: PLR2004  # readable in a line


class TooManyFailuresError(MutexError):
    """A bulk run was stopped by its ``stop_after``.

    Attributes:
        failures: How many edits had failed by then.
    """

    def __init__(self, detail: str, *, failures: int) -> None:
        super().__init__(detail)
        self.failures = failures


class JournalError(MutexError, ValueError):
    """A journal cannot be used: no journal, in use, of another input, undone already, or the disk refuses."""
