"""Async client for the mutex-group endpoints of Amplitude Experiment's Management API.

An independent project, not Amplitude's. Everything public is here, but for ``aiomutex.limits.redis``,
``aiomutex.plan``, ``aiomutex.traffic`` and ``aiomutex.testing``.
"""

from msgspec import UNSET, UnsetType

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
    LimiterUnavailableError,
    MutexError,
    NotFoundError,
    OutcomeUnknownError,
    PaginationError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnexpectedResponseError,
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
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "CreatedGroup",
    "DailyBudgetExhaustedError",
    "DeadlineExceededError",
    "GroupPage",
    "GroupPager",
    "InvalidRequestError",
    "LimiterState",
    "LimiterUnavailableError",
    "LocalRateLimiter",
    "MutexError",
    "MutexGroup",
    "MutexSession",
    "NewGroup",
    "NewSlot",
    "NotFoundError",
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
    "TransportError",
    "UnexpectedResponseError",
    "UnsetType",
]
