"""Retry decisions: whether to send again, and how long to wait."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomutex import (
    APIError,
    AttemptTimeoutError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    DeadlineExceededError,
    MutexError,
    NotFoundError,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    UnexpectedResponseError,
    retry,
)


def api_error(kind: type[Any], status: int, retry_after: float | None = None) -> Any:
    return kind("detail", status=status, method="GET", path="/p", retry_after=retry_after)


def transport_error(kind: type[Any] = ConnectionFailedError, *, sent: bool = True) -> Any:
    return kind("detail", method="GET", path="/p", sent=sent)


LATE = DeadlineExceededError("late", method="GET", path="/p", deadline=1.0)


@given(
    st.integers(1, 10_000),
    st.floats(0, 1e6, allow_subnormal=False),
    st.floats(0, 1e6),
    st.floats(0, 1, exclude_max=True),
)
def test_a_backoff_is_between_half_and_all_of_its_ceiling(attempt: int, base: float, cap: float, chance: float) -> None:
    ceiling = min(cap, base * 2.0 ** min(attempt - 1, 64))
    wait = retry.backoff(attempt, base=base, cap=cap, rng=lambda: chance)
    assert ceiling / 2 <= wait <= ceiling


def test_backoffs_double_until_the_cap() -> None:
    waits = [retry.backoff(attempt, base=0.25, cap=20.0, rng=lambda: 1.0) for attempt in range(1, 10)]
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 16, 20, 20]


def test_half_of_a_backoff_is_fixed() -> None:
    assert retry.backoff(3, base=1, cap=20, rng=lambda: 0.0) == 2


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (transport_error(), True),
        (transport_error(AttemptTimeoutError), True),
        (api_error(UnexpectedResponseError, 200), True),
        (api_error(RateLimitedError, 429), True),
        (api_error(ServerError, 500), True),
        (api_error(ServerError, 503), True),
        (api_error(APIError, 408), True),
        (api_error(APIError, 425), True),
        (api_error(BadRequestError, 400), False),
        (api_error(NotFoundError, 404), False),
        (api_error(ConflictError, 409), False),
        (api_error(APIError, 301), False),
        (api_error(APIError, 418), False),
        (LATE, False),
        (MutexError("other"), False),
    ],
)
def test_only_errors_that_may_be_temporary_are_retryable(error: MutexError, retryable: bool) -> None:
    assert retry.is_retryable(error) is retryable


@pytest.mark.parametrize(
    ("error", "maybe_applied"),
    [
        (transport_error(), True),
        (transport_error(sent=False), False),
        (transport_error(AttemptTimeoutError), True),
        (api_error(UnexpectedResponseError, 200), True),
        (api_error(ServerError, 500), True),
        (api_error(RateLimitedError, 429), False),
        (api_error(BadRequestError, 400), False),
        (api_error(APIError, 425), False),
        (api_error(APIError, 408), True),
    ],
)
def test_errors_after_which_a_write_may_have_been_applied(error: MutexError, maybe_applied: bool) -> None:
    assert retry.may_have_applied(error) is maybe_applied


def test_a_429_needs_no_wait_because_the_limiter_pauses() -> None:
    assert retry.wait_before_next(api_error(RateLimitedError, 429, 5.0), 1, RetryPolicy()) == 0


@pytest.mark.parametrize(("asked", "wait"), [(None, 0.25), (0.0, 0.25), (3.0, 3.0), (1e9, 60.0)])
def test_retry_after_is_respected_up_to_the_maximum(asked: float | None, wait: float) -> None:
    assert retry.wait_before_next(api_error(ServerError, 503, asked), 1, RetryPolicy(), rng=lambda: 1.0) == wait


def test_a_transport_error_waits_for_the_backoff() -> None:
    assert retry.wait_before_next(transport_error(), 2, RetryPolicy(base=1.0), rng=lambda: 1.0) == 2.0


@pytest.mark.parametrize("field", ["base", "cap", "max_retry_after"])
@pytest.mark.parametrize("value", [-1, math.inf, math.nan, 1e308, 10**400, True, "1", None])
def test_a_policy_rejects_invalid_seconds(field: str, value: Any) -> None:
    wrong: dict[str, Any] = {field: value}
    with pytest.raises(ConfigurationError, match=field):
        RetryPolicy(**wrong)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None])
def test_a_policy_rejects_an_invalid_number_of_attempts(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_attempts"):
        RetryPolicy(max_attempts=value)


def test_the_longest_allowed_waits_do_not_overflow() -> None:
    policy = RetryPolicy(base=1e7, cap=10**7, max_retry_after=1e7)
    assert retry.wait_before_next(transport_error(), 10_000, policy, rng=lambda: 1.0) == 1e7


def test_a_policy_that_never_waits_is_allowed() -> None:
    assert retry.wait_before_next(transport_error(), 1, RetryPolicy(base=0, cap=0)) == 0
