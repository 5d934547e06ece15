"""Async client for the mutex-group endpoints of Amplitude Experiment's Management API.

An independent project, not Amplitude's. Everything public is here, but for ``aiomutex.limits.redis``,
``aiomutex.plan``, ``aiomutex.traffic`` and ``aiomutex.testing``.
"""

from msgspec import UNSET, UnsetType

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
from aiomutex.models import CreatedGroup, GroupPage, MutexGroup, NewGroup, NewSlot, Slot, SlotEdit
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
