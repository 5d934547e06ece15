"""Errors: their tree, their words, and that they travel between processes."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

import aiomutex
from aiomutex import (
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

ANSWERED: dict[str, Any] = {
    "status": 400,
    "method": "GET",
    "path": "/p",
    "request_id": "id",
    "body": "text",
    "retry_after": 1.5,
}
REFUSALS: list[type[APIError]] = [
    APIError,
    BadRequestError,
    AuthenticationError,
    PermissionDeniedError,
    NotFoundError,
    ConflictError,
    RateLimitedError,
    ServerError,
]
ERRORS: list[MutexError] = [
    *(kind("detail", **ANSWERED) for kind in REFUSALS),
    UnexpectedResponseError("detail", **ANSWERED),
    ConnectionFailedError("detail", method="GET", path="/p", sent=True),
    AttemptTimeoutError("detail", method="GET", path="/p", sent=True),
    DeadlineExceededError("detail", method="GET", path="/p", deadline=2.0),
    DailyBudgetExhaustedError("detail", resets_at=datetime(2026, 11, 24, tzinfo=UTC), used=5, limit=6, suspected=True),
    LimiterUnavailableError("detail"),
    OutcomeUnknownError("detail", key="k"),
    PaginationError("detail", cursor="c"),
    VerificationError(group_id="7", slot_index=1, expected={"experiments": [1]}, actual={"experiments": [2]}),
    TooManyFailuresError("detail", failures=3),
    JournalError("detail"),
    ConfigurationError("detail"),
    InvalidRequestError("detail"),
]


def pickled(error: MutexError) -> Any:
    return pickle.loads(pickle.dumps(error))


def test_every_error_of_the_face_is_here() -> None:
    faces = {value for value in vars(aiomutex).values() if isinstance(value, type) and issubclass(value, MutexError)}
    assert faces - {type(error) for error in ERRORS} == {MutexError, TransportError}


def test_the_tree_is_the_documented_one() -> None:
    assert all(isinstance(error, MutexError) for error in ERRORS)
    assert all(issubclass(kind, APIError) for kind in REFUSALS)
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(InvalidRequestError, ValueError)
    assert issubclass(ConnectionFailedError, TransportError)
    assert issubclass(AttemptTimeoutError, TransportError)
    assert issubclass(DeadlineExceededError, TimeoutError)
    assert not issubclass(UnexpectedResponseError, APIError)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("through", [pickled, copy.copy, copy.deepcopy])
def test_an_error_travels_whole(error: MutexError, through: Any) -> None:
    earlier = ConnectionFailedError("first", method="GET", path="/p", sent=False)
    before = copy.copy(error).with_attempts(2, (earlier,), maybe_applied=True)
    after = through(before)
    assert type(after) is type(error)
    assert str(after) == str(before)
    assert {**vars(after), "earlier": None} == {**vars(before), "earlier": None}
    assert [str(error) for error in after.earlier] == ["GET /p: first"]
    assert (after.attempts, after.maybe_applied) == (2, True)


def test_errors_say_what_where_and_how_often() -> None:
    assert (
        str(ServerError("bad", status=503, method="GET", path="/p").with_attempts(2))
        == "GET /p answered 503: bad (2 attempts)"
    )
    assert str(ServerError("bad", status=503, method="GET", path="/p")) == "GET /p answered 503: bad"
    assert str(UnexpectedResponseError("odd", status=200, method="GET", path="/p")) == (
        "GET /p answered unexpectedly with 200: odd"
    )
    assert (
        str(ConnectionFailedError("gone", method="GET", path="/p", sent=True).with_attempts(1))
        == "GET /p: gone (1 attempt)"
    )
    assert str(ConnectionFailedError("gone", method="GET", path="/p", sent=True)) == "GET /p: gone"
    assert (
        str(DeadlineExceededError("late", method="GET", path="/p", deadline=1).with_attempts(0))
        == "GET /p: late (0 attempts)"
    )


def test_a_read_back_that_differs_names_the_lists_that_do() -> None:
    error = VerificationError(
        group_id="7",
        slot_index=2,
        expected={"experiments": [1], "holdouts": [2]},
        actual={"experiments": list(range(1000)), "holdouts": [2]},
    )
    assert str(error).startswith("group 7, slot 2: experiments should be [1] and is [0, 1, 2,")
    assert "(1000 items)" in str(error)
    assert "holdouts" not in str(error)
    gone = VerificationError(group_id="7", slot_index=2, expected={}, actual={})
    assert str(gone) == "group 7, slot 2: the slot is gone"
