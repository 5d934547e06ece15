"""Errors: their class hierarchy, their messages, and that they survive copying and pickling."""

from __future__ import annotations

import copy
import json
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
    SessionClosedError,
    StaleSlotError,
    TooManyFailuresError,
    TransportError,
    UnexpectedResponseError,
    VerificationError,
)

RESPONSE_FACTS: dict[str, Any] = {
    "status": 400,
    "method": "GET",
    "path": "/p",
    "request_id": "id",
    "body": "text",
    "retry_after": 1.5,
}
API_ERRORS: list[type[APIError]] = [
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
    *(cls("detail", **RESPONSE_FACTS) for cls in API_ERRORS),
    UnexpectedResponseError("detail", **RESPONSE_FACTS),
    ConnectionFailedError("detail", method="GET", path="/p", sent=True),
    AttemptTimeoutError("detail", method="GET", path="/p", sent=True),
    DeadlineExceededError("detail", method="GET", path="/p", deadline=2.0),
    DailyBudgetExhaustedError("detail", resets_at=datetime(2026, 11, 24, tzinfo=UTC), used=5, limit=6, suspected=True),
    LimiterUnavailableError("detail"),
    OutcomeUnknownError("detail", key="k"),
    PaginationError("detail", cursor="c"),
    VerificationError(group_id="7", slot_index=1, expected={"experiments": [1]}, actual={"experiments": [2]}),
    StaleSlotError(group_id="7", slot_index=1, expected={"experiments": [1]}, actual={"experiments": [2]}),
    TooManyFailuresError("detail", failures=3),
    JournalError("detail"),
    SessionClosedError("detail"),
    ConfigurationError("detail"),
    InvalidRequestError("detail"),
]


def pickled(error: MutexError) -> Any:
    return pickle.loads(pickle.dumps(error))


def test_every_public_error_is_tested_here() -> None:
    public = {value for value in vars(aiomutex).values() if isinstance(value, type) and issubclass(value, MutexError)}
    assert public - {type(error) for error in ERRORS} == {MutexError, TransportError}


def test_the_class_hierarchy_is_the_documented_one() -> None:
    assert all(isinstance(error, MutexError) for error in ERRORS)
    assert all(issubclass(cls, APIError) for cls in API_ERRORS)
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(InvalidRequestError, ValueError)
    assert issubclass(ConnectionFailedError, TransportError)
    assert issubclass(AttemptTimeoutError, TransportError)
    assert issubclass(DeadlineExceededError, TimeoutError)
    assert not issubclass(UnexpectedResponseError, APIError)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("duplicate", [pickled, copy.copy, copy.deepcopy])
def test_a_copied_or_pickled_error_keeps_everything(error: MutexError, duplicate: Any) -> None:
    earlier = ConnectionFailedError("first", method="GET", path="/p", sent=False)
    before = copy.copy(error).with_attempts(2, (earlier,), maybe_applied=True)
    after = duplicate(before)
    assert type(after) is type(error)
    assert str(after) == str(before)
    assert {**vars(after), "earlier": None} == {**vars(before), "earlier": None}
    assert [str(error) for error in after.earlier] == ["GET /p: first"]
    assert (after.attempts, after.maybe_applied) == (2, True)


def test_a_message_says_what_failed_where_and_after_how_many_attempts() -> None:
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


def verification_error(expected: dict[str, list[Any]], actual: dict[str, list[Any]]) -> VerificationError:
    return VerificationError(group_id="7", slot_index=2, expected=expected, actual=actual)


def test_a_verification_error_names_only_the_lists_that_differ() -> None:
    error = verification_error({"experiments": [1], "holdouts": [2]}, {"experiments": [1, 5], "holdouts": [2]})
    assert str(error) == "group 7, slot 2: experiments should be [1] but is [1, 5]"
    both = verification_error({"experiments": [1], "holdouts": [2]}, {"experiments": []})
    assert str(both) == "group 7, slot 2: experiments should be [1] but is []; holdouts should be [2] but is []"
    stale = StaleSlotError(group_id="7", slot_index=2, expected={"holdouts": [1]}, actual={})
    assert str(stale) == (
        "group 7, slot 2: changed since it was read, so it was not written: holdouts should be [1] but is []"
    )
    gone = verification_error({}, {})
    assert str(gone) == "group 7, slot 2: the slot no longer exists"


@pytest.mark.parametrize(("length", "is_cut"), [(199, False), (200, False), (201, True), (5_000, True)])
def test_a_verification_error_shows_at_most_200_characters_of_a_list(length: int, is_cut: bool) -> None:
    items = ["x" * (length - 4)]
    text = repr(items)
    assert len(text) == length
    shown = f"{text[:200]}… (1 item)" if is_cut else text
    error = verification_error({"individuals": items}, {"individuals": items * 2000})
    assert str(error).startswith(f"group 7, slot 2: individuals should be {shown} but is ['x")
    assert str(error).endswith("… (2,000 items)")


def test_an_error_can_be_encoded_with_its_facts() -> None:
    first = ServerError("down", status=503, method="GET", path="/x", headers={"a": "b"})
    error = NotFoundError("no", status=404, method="GET", path="/x", request_id="7f3a").with_attempts(2, (first,))
    error.add_note("of an edit")
    plain = error.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    expected = {"error": "NotFoundError", "message": str(error), "status": 404, "request_id": "7f3a", "attempts": 2}
    assert plain | expected == plain
    assert plain["earlier"][0]["error"] == "ServerError"
    assert "__notes__" not in plain
    at = datetime(2026, 11, 24, tzinfo=UTC)
    spent = DailyBudgetExhaustedError("none left", resets_at=at, used=5, limit=5).to_dict()
    assert spent["resets_at"] == "2026-11-24T00:00:00+00:00"
    assert (spent["maybe_applied"], spent["suspected"]) == (False, False)


def test_a_star_import_of_the_errors_brings_errors_only() -> None:
    names: dict[str, object] = {}
    exec("from aiomutex.errors import *", names)  # the only way inside a function
    del names["__builtins__"]
    found: dict[str, Any] = dict(vars(aiomutex.errors))
    classes = {name for name, value in found.items() if isinstance(value, type) and issubclass(value, MutexError)}
    assert names.keys() == {name for name in classes if name[0] != "_"}
    assert names.keys() <= {*aiomutex.__all__}
