"""When to send again, and how long to wait: the pure decisions."""

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


def answered(kind: type[Any], status: int, retry_after: float | None = None) -> Any:
    return kind("detail", status=status, method="GET", path="/p", retry_after=retry_after)


def broken(kind: type[Any] = ConnectionFailedError, *, sent: bool = True) -> Any:
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


def test_the_half_of_a_backoff_that_is_fixed_is_fixed() -> None:
    assert retry.backoff(3, base=1, cap=20, rng=lambda: 0.0) == 2


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (broken(), True),
        (broken(AttemptTimeoutError), True),
        (answered(UnexpectedResponseError, 200), True),
        (answered(RateLimitedError, 429), True),
        (answered(ServerError, 500), True),
        (answered(ServerError, 503), True),
        (answered(APIError, 408), True),
        (answered(APIError, 425), True),
        (answered(BadRequestError, 400), False),
        (answered(NotFoundError, 404), False),
        (answered(ConflictError, 409), False),
        (answered(APIError, 301), False),
        (answered(APIError, 418), False),
        (LATE, False),
        (MutexError("other"), False),
    ],
)
def test_only_what_may_pass_is_sent_again(error: MutexError, again: bool) -> None:
    assert retry.is_retryable(error) is again


@pytest.mark.parametrize(
    ("error", "is_open"),
    [
        (broken(), True),
        (broken(sent=False), False),
        (broken(AttemptTimeoutError), True),
        (answered(UnexpectedResponseError, 200), True),
        (answered(ServerError, 500), True),
        (answered(RateLimitedError, 429), False),
        (answered(BadRequestError, 400), False),
        (answered(APIError, 425), False),
        (answered(APIError, 408), True),
    ],
)
def test_what_leaves_a_write_open_is_known(error: MutexError, is_open: bool) -> None:
    assert retry.may_have_applied(error) is is_open


def test_a_429_waits_nothing_here_for_the_limiter_holds_everybody() -> None:
    assert retry.wait_before_next(answered(RateLimitedError, 429, 5.0), 1, RetryPolicy()) == 0


@pytest.mark.parametrize(("asked", "wait"), [(None, 0.25), (0.0, 0.25), (3.0, 3.0), (1e9, 60.0)])
def test_a_retry_after_of_an_error_is_kept_but_capped(asked: float | None, wait: float) -> None:
    assert retry.wait_before_next(answered(ServerError, 503, asked), 1, RetryPolicy(), rng=lambda: 1.0) == wait


def test_a_broken_connection_waits_the_backoff() -> None:
    assert retry.wait_before_next(broken(), 2, RetryPolicy(base=1.0), rng=lambda: 1.0) == 2.0


@pytest.mark.parametrize("field", ["base", "cap", "max_retry_after"])
@pytest.mark.parametrize("value", [-1, math.inf, math.nan, 1e308, 10**400, True, "1", None])
def test_a_policy_refuses_what_is_no_number_of_seconds(field: str, value: Any) -> None:
    wrong: dict[str, Any] = {field: value}
    with pytest.raises(ConfigurationError, match=field):
        RetryPolicy(**wrong)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None])
def test_a_policy_refuses_what_is_no_number_of_attempts(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_attempts"):
        RetryPolicy(max_attempts=value)


def test_the_longest_waits_that_a_policy_allows_can_be_reckoned_with() -> None:
    policy = RetryPolicy(base=1e7, cap=10**7, max_retry_after=1e7)
    assert retry.wait_before_next(broken(), 10_000, policy, rng=lambda: 1.0) == 1e7


def test_a_policy_that_never_waits_is_allowed() -> None:
    assert retry.wait_before_next(broken(), 1, RetryPolicy(base=0, cap=0)) == 0
