"""The retry loop: what is sent again, how often and after which wait, and what the error says about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from support import (
    FAST,
    GROUP,
    ONCE,
    close_before_response,
    fast_limiter,
    http,
    idle,
    reset_before_response,
    session_for,
    until,
)

from aiomutex import (
    APIError,
    ConnectionFailedError,
    DailyBudgetExhaustedError,
    DeadlineExceededError,
    LimiterUnavailableError,
    LocalRateLimiter,
    MutexError,
    MutexSession,
    NotFoundError,
    Priority,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    SessionClosedError,
    UnexpectedResponseError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support import RawServer, Visit

    from aiomutex.testing import MutexEmulator

CALLS: dict[str, Callable[[MutexSession], Awaitable[object]]] = {
    "read": lambda session: session.get_group("1"),
    "list": lambda session: session.list_page(),
    "slot edit": lambda session: session.edit_slot("1", 1, experiments=[5]),
    "group edit": lambda session: session.edit_group("1", name="n"),
    "archive": lambda session: session.archive_group("1"),
}
FAULTS: list[dict[str, Any]] = [
    {"status": 500},
    {"status": 503, "retry_after": 0.001},
    {"status": 408},
    {"kind": "reset-before"},
    {"kind": "reset-after"},
]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_reads_and_edits_are_sent_again_until_they_succeed(
    emulator: MutexEmulator, session: MutexSession, call: Any, fault: dict[str, Any]
) -> None:
    emulator.fail_next(3, **fault)
    await call(session)
    assert len(emulator.requests) == 4
    assert emulator.requests[-1].status == 200


@pytest.mark.parametrize("kind", ["truncate", "garbage"])
async def test_a_read_with_a_broken_response_is_sent_again(
    emulator: MutexEmulator, session: MutexSession, kind: Any
) -> None:
    emulator.fail_next(2, kind=kind)
    assert (await session.get_group("1")).id == "1"
    assert len(emulator.requests) == 3


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 418])
async def test_a_rejected_request_is_not_sent_again(
    emulator: MutexEmulator, session: MutexSession, call: Any, status: int
) -> None:
    emulator.fail_next(status=status)
    with pytest.raises(APIError) as caught:
        await call(session)
    assert (caught.value.status, caught.value.attempts, caught.value.maybe_applied) == (status, 1, False)
    assert len(emulator.requests) == 1


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_the_policy_limits_the_attempts(emulator: MutexEmulator, attempts: int) -> None:
    emulator.fail_next(100, status=502)
    policy = RetryPolicy(max_attempts=attempts, base=0.001)
    async with session_for(emulator.url, retry=policy) as session:
        with pytest.raises(ServerError) as caught:
            await session.get_group("1")
    assert len(emulator.requests) == caught.value.attempts == attempts
    assert [type(error) for error in caught.value.earlier] == [ServerError] * (attempts - 1)


async def test_the_error_keeps_the_history_of_the_attempts(raw: RawServer, raw_session: MutexSession) -> None:
    raw.answer(http(503), reset_before_response, http(200, b"<"), http(404))
    with pytest.raises(NotFoundError) as caught:
        await raw_session.get_group("7")
    kinds = [type(error) for error in caught.value.earlier]
    assert kinds == [ServerError, ConnectionFailedError, UnexpectedResponseError]
    assert caught.value.attempts == 4
    assert "4 attempts" in str(caught.value)


async def test_a_rejected_write_that_may_have_been_applied_before_says_so(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.fail_next(after_commit=True)
    emulator.fail_next(status=404)
    with pytest.raises(NotFoundError) as caught:
        await session.edit_slot("1", 1, experiments=[5])
    assert caught.value.maybe_applied
    assert emulator.groups["1"].slots[0].experiments == [5]


@pytest.mark.parametrize(
    ("fault", "maybe"), [({"status": 500}, True), ({"kind": "reset-after"}, True), ({"status": 429}, False)], ids=str
)
async def test_only_a_write_without_a_known_outcome_is_maybe_applied(
    emulator: MutexEmulator, fault: dict[str, Any], maybe: bool
) -> None:
    async with session_for(emulator.url, retry=ONCE) as session:
        emulator.fail_next(**fault)
        with pytest.raises(MutexError) as caught:
            await session.edit_slot("1", 1, experiments=[5])
        assert caught.value.maybe_applied is maybe
        emulator.fail_next(**fault)
        with pytest.raises(MutexError) as caught:
            await session.with_options(retry=ONCE).list_page()
        assert not caught.value.maybe_applied


async def test_retry_after_is_respected_up_to_a_maximum(emulator: MutexEmulator) -> None:
    emulator.fail_next(status=503, retry_after=3600)
    policy = RetryPolicy(base=0.001, max_retry_after=0.02)
    async with session_for(emulator.url, retry=policy) as session:
        await session.get_group("1")
    first, second = emulator.requests
    assert second.at - first.at >= 0.02


async def test_instead_of_a_wait_beyond_the_deadline_the_real_error_is_raised(emulator: MutexEmulator) -> None:
    emulator.fail_next(status=503, retry_after=30)
    async with session_for(emulator.url, deadline=5.0) as session, asyncio.timeout(4):
        with pytest.raises(ServerError) as caught:
            await session.get_group("1")
    assert caught.value.attempts == 1


async def test_a_429_pauses_all_sessions_that_share_the_limiter(raw: RawServer) -> None:
    limiter = fast_limiter()
    raw.answer(http(429, b"", {"Retry-After": "0.2"}), http(200, GROUP))
    async with (
        session_for(raw.url, rate_limiter=limiter) as one,
        session_for(raw.url, rate_limiter=limiter) as other,
    ):
        first = asyncio.ensure_future(one.get_group("7"))
        await until(lambda: limiter.state().paused_for)
        started = asyncio.get_running_loop().time()
        await other.get_group("7")
        assert asyncio.get_running_loop().time() - started > 0.1
        await first
    assert limiter.state().used_today == 3


async def test_a_429_whose_pause_outlasts_the_deadline_is_raised_at_once(emulator: MutexEmulator) -> None:
    emulator.fail_next(status=429, retry_after=60)
    async with session_for(emulator.url, deadline=5.0) as session, asyncio.timeout(4):
        with pytest.raises(RateLimitedError) as caught:
            await session.get_group("1")
    assert caught.value.retry_after == 60


async def test_a_failure_right_after_a_pause_does_not_block_other_calls(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.fail_next(status=429, retry_after=0.01)
    emulator.fail_next(status=503)
    await asyncio.gather(*(session.get_group(str(number)) for number in range(1, 11)))
    assert len(emulator.requests) == 12


async def test_a_dead_keep_alive_connection_costs_one_attempt_and_one_permit(
    raw: RawServer,
) -> None:
    limiter = fast_limiter()
    group = http(200, GROUP)
    raw.answer(group, close_before_response, group)
    async with session_for(raw.url, rate_limiter=limiter, retry=RetryPolicy(max_attempts=2, base=0)) as session:
        await session.get_group("7")
        await session.get_group("7")
    assert len(raw.requests) == limiter.state().used_today == 3
    raw.answer(group, close_before_response, group)
    raw.requests.clear()
    async with session_for(raw.url, rate_limiter=limiter, retry=ONCE) as session:
        await session.get_group("7")
        with pytest.raises(ConnectionFailedError, match="closed the connection before it answered") as caught:
            await session.get_group("7")
    assert caught.value.attempts == 1
    assert len(raw.requests) == 2


async def test_no_connection_is_held_during_a_back_off(emulator: MutexEmulator) -> None:
    emulator.fail_next(status=503, path="/api/1/mutexes/1")
    async with session_for(emulator.url, max_connections=1, retry=RetryPolicy(base=0.3, cap=0.3)) as session:
        waiting = asyncio.ensure_future(session.get_group("1"))
        await until(lambda: emulator.requests and idle(session))
        assert (await session.get_group("2")).id == "2"
        assert not waiting.done()
        assert (await waiting).id == "1"
    assert [request.path[-1] for request in emulator.requests] == ["1", "2", "1"]


async def test_an_unread_error_body_holds_no_connection_during_a_back_off(raw: RawServer) -> None:
    async def send_error(visit: Visit) -> None:
        await visit.send(http(503, b"x" * 10_000_000))

    raw.answer(send_error, http(200, GROUP))
    async with session_for(raw.url, max_connections=1) as session:
        assert (await session.get_group("7")).id == "7"
    assert raw.connections == 2


async def test_a_deadline_that_ends_the_wait_for_a_permit_says_that_nothing_was_sent(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter(per_second=1)
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        await session.get_group("1")
        impatient = session.with_options(deadline=0.05)
        with pytest.raises(DeadlineExceededError, match="before the request was sent") as caught:
            await impatient.edit_slot("1", 1, experiments=[5])
        assert (caught.value.maybe_applied, caught.value.attempts, caught.value.deadline) == (False, 0, 0.05)
        assert idle(session)
        assert limiter.state().waiting == 0
    assert len(emulator.requests) == 1


async def test_without_daily_budget_nothing_is_sent_and_the_error_says_when_it_resets(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url, rate_limiter=LocalRateLimiter(per_day=1)) as session:
        await session.get_group("1")
        with pytest.raises(DailyBudgetExhaustedError) as caught:
            await session.get_group("1")
        assert idle(session)
    assert (caught.value.attempts, caught.value.maybe_applied) == (0, False)
    assert caught.value.resets_at > emulator.clock.utc()
    assert len(emulator.requests) == 1


async def test_a_write_is_maybe_applied_if_the_daily_budget_ends_after_its_first_attempt(
    emulator: MutexEmulator,
) -> None:
    emulator.fail_next(after_commit=True)
    async with session_for(emulator.url, rate_limiter=LocalRateLimiter(per_day=1)) as session:
        with pytest.raises(DailyBudgetExhaustedError) as caught:
            await session.edit_slot("1", 1, experiments=[5])
    assert (caught.value.attempts, caught.value.maybe_applied) == (1, True)
    assert len(caught.value.earlier) == 1


class Unreachable(LocalRateLimiter):
    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        raise LimiterUnavailableError("the shared limiter is unavailable")


async def test_an_unreachable_limiter_sends_nothing(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url, rate_limiter=Unreachable()) as session:
        with pytest.raises(LimiterUnavailableError) as caught:
            await session.get_group("1")
        assert idle(session)
    assert caught.value.attempts == 0
    assert not emulator.requests


async def test_each_attempt_takes_a_permit(emulator: MutexEmulator) -> None:
    limiter = fast_limiter()
    emulator.fail_next(2, status=503)
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        await session.get_group("1")
    assert limiter.state().used_today == len(emulator.requests) == 3


async def test_a_closed_session_stops_between_attempts(emulator: MutexEmulator) -> None:
    emulator.fail_next(100, status=503)
    async with session_for(emulator.url, retry=RetryPolicy(base=0.05, cap=0.05)) as session:
        call = asyncio.ensure_future(session.edit_slot("1", 1, experiments=[1]))
        await until(lambda: emulator.requests)
    with pytest.raises(SessionClosedError, match=r"the session (is|was) closed") as caught:
        await call
    assert caught.value.attempts >= 1
    assert caught.value.maybe_applied


def test_the_policy_of_these_tests_makes_as_many_attempts_as_the_default() -> None:
    assert FAST.max_attempts == RetryPolicy().max_attempts
