"""Async client for the mutex-group endpoints of Amplitude Experiment's Management API.

An independent project, not Amplitude's. Everything public is here, but for ``aiomutex.limits.redis``,
``aiomutex.bulk`` (undo, fleet), ``aiomutex.plan``, ``aiomutex.traffic`` and ``aiomutex.testing``.

Names are imported when they are first asked for: the command line's ``--help`` and the pytest plugin, which every test
run with this package installed loads, need no HTTP client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiomutex.bulk.report import BulkReport, SlotOutcome
    from aiomutex.bulk.stream import OutcomeStream
    from aiomutex.errors import (
        APIError,
        AttemptTimeoutError,
        AuthenticationError,
        BadRequestError,
        ConfigurationError,
        ConflictError,
        ConnectionFailedError,
        DailyBudgetExhaustedError,
        DeadlineExceededError,
        InvalidRequestError,
        JournalError,
        LimiterUnavailableError,
        MutexError,
        NotFoundError,
        OutcomeUnknownError,
        PaginationError,
        PermissionDeniedError,
        RateLimitedError,
        ServerError,
        TooManyFailuresError,
        TransportError,
        UnexpectedResponseError,
        VerificationError,
    )
    from aiomutex.limits import LimiterState, LocalRateLimiter, Priority, RateLimiter
    from aiomutex.models import (
        UNSET,
        CreatedGroup,
        GroupPage,
        MutexGroup,
        NewGroup,
        NewSlot,
        Slot,
        SlotEdit,
        UnsetType,
    )
    from aiomutex.paging import GroupPager
    from aiomutex.retry import RetryPolicy
    from aiomutex.session import MutexSession

__all__ = [
    "UNSET",
    "APIError",
    "AttemptTimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BulkReport",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "CreatedGroup",
    "DailyBudgetExhaustedError",
    "DeadlineExceededError",
    "GroupPage",
    "GroupPager",
    "InvalidRequestError",
    "JournalError",
    "LimiterState",
    "LimiterUnavailableError",
    "LocalRateLimiter",
    "MutexError",
    "MutexGroup",
    "MutexSession",
    "NewGroup",
    "NewSlot",
    "NotFoundError",
    "OutcomeStream",
    "OutcomeUnknownError",
    "PaginationError",
    "PermissionDeniedError",
    "Priority",
    "RateLimitedError",
    "RateLimiter",
    "RetryPolicy",
    "ServerError",
    "Slot",
    "SlotEdit",
    "SlotOutcome",
    "TooManyFailuresError",
    "TransportError",
    "UnexpectedResponseError",
    "UnsetType",
    "VerificationError",
]

_HOMES = {
    "aiomutex.bulk.report": ("BulkReport", "SlotOutcome"),
    "aiomutex.bulk.stream": ("OutcomeStream",),
    "aiomutex.errors": (
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
    ),
    "aiomutex.limits": ("LimiterState", "LocalRateLimiter", "Priority", "RateLimiter"),
    "aiomutex.models": (
        "UNSET",
        "CreatedGroup",
        "GroupPage",
        "MutexGroup",
        "NewGroup",
        "NewSlot",
        "Slot",
        "SlotEdit",
        "UnsetType",
    ),
    "aiomutex.paging": ("GroupPager",),
    "aiomutex.retry": ("RetryPolicy",),
    "aiomutex.session": ("MutexSession",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
