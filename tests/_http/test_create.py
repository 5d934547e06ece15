"""A group is created exactly once, whatever is lost on the way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from support import (
    GROUP,
    ONCE,
    ROOT,
    fast_limiter,
    http,
    reset_before_response,
    session_for,
    until,
)

from aiomutex import (
    APIError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    DeadlineExceededError,
    LocalRateLimiter,
    MutexSession,
    NewGroup,
    NewSlot,
    OutcomeUnknownError,
    RetryPolicy,
    ServerError,
)
from aiomutex.emulator import Dialect

if TYPE_CHECKING:
    from support import RawServer

    from aiomutex.testing import MutexEmulator

NEW = NewGroup(
    project_id=1,
    name="mutex name",
    key="mutex-key",
    slots=[NewSlot(percentage=95, experiments=[123], holdouts=[456]), NewSlot(percentage=5)],
)
NO_GROUPS = http(200, b'{"mutexes":[],"nextCursor":null}')
LISTED = http(200, b'{"mutexes":[%s]}' % GROUP)
CREATED = http(200, b'{"id":"7","url":"https://app/7"}')


def methods(server: MutexEmulator | RawServer) -> list[str]:
    requests: Any = server.requests
    return [getattr(request, "method", None) or request.line.split()[0] for request in requests]


def created_by(emulator: MutexEmulator) -> int:
    return sum(commit.method == "POST" for commit in emulator.commits)


async def test_a_group_is_created_with_one_request(emulator: MutexEmulator, session: MutexSession) -> None:
    created = await session.create_group(NEW)
    assert created.key == emulator.groups[created.id].key == "mutex-key"
    assert created.url
    assert methods(emulator) == ["POST"]


async def test_a_group_without_a_key_gets_a_random_one(emulator: MutexEmulator, session: MutexSession) -> None:
    bare = NewGroup(project_id=1, name="n", slots=[NewSlot(percentage=100)])
    first, second = await session.create_group(bare), await session.create_group(bare)
    assert first.key != second.key
    assert emulator.groups[first.id].key == first.key == emulator.requests[0].json["key"]


@pytest.mark.parametrize(
    "fault",
    [
        {"after_commit": True},
        {"kind": "reset-after"},
        {"after_commit": True, "status": 500},
        {"after_commit": True, "status": 503},
        {"after_commit": True, "status": 408},
        {"kind": "truncate"},
        {"kind": "garbage"},
    ],
    ids=str,
)
async def test_a_create_whose_response_was_lost_is_found_by_its_key_and_not_sent_again(
    emulator: MutexEmulator, session: MutexSession, fault: dict[str, Any]
) -> None:
    emulator.fail_next(**fault)
    created = await session.create_group(NEW)
    assert (created.key, created.url) == ("mutex-key", None)
    assert emulator.groups[created.id].name == "mutex name"
    assert methods(emulator) == ["POST", "GET"]
    assert created_by(emulator) == 1


async def test_a_create_whose_response_timed_out_is_found_by_its_key(emulator: MutexEmulator) -> None:
    emulator.fail_next(kind="stall")
    async with session_for(emulator.url, attempt_timeout=0.1) as session:
        await session.create_group(NEW)
    assert created_by(emulator) == 1


@pytest.mark.parametrize("fault", [{"kind": "reset-before"}, {"status": 500}, {"status": 408}], ids=str)
async def test_a_create_that_was_not_applied_is_sent_again_after_a_lookup(
    emulator: MutexEmulator, session: MutexSession, fault: dict[str, Any]
) -> None:
    emulator.fail_next(2, method="POST", **fault)
    created = await session.create_group(NEW)
    assert created.url
    assert methods(emulator) == ["POST", "GET", "POST", "GET", "POST"]
    assert {request.json["key"] for request in emulator.requests if request.json} == {"mutex-key"}
    assert created_by(emulator) == 1


async def test_a_random_key_is_the_same_in_every_attempt(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.fail_next(2, kind="reset-before", method="POST")
    bare = NewGroup(project_id=1, name="n", slots=[NewSlot(percentage=100)])
    created = await session.create_group(bare)
    assert {request.json["key"] for request in emulator.requests if request.json} == {created.key}


async def test_a_lookup_reads_every_page(emulator: MutexEmulator, session: MutexSession) -> None:
    for _ in range(2500):
        emulator.add_group()
    emulator.fail_next(after_commit=True)
    await session.create_group(NEW)
    assert methods(emulator) == ["POST", "GET", "GET", "GET"]
    assert created_by(emulator) == 1


async def test_a_create_that_got_a_429_is_sent_again_without_a_lookup(raw: RawServer) -> None:
    raw.answer(http(429, b"", {"Retry-After": "0.001"}), http(429, b"", {"Retry-After": "0.001"}), CREATED)
    async with session_for(raw.url) as session:
        assert (await session.create_group(NEW)).id == "7"
    assert methods(raw) == ["POST"] * 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413])
async def test_a_rejected_create_is_an_error_at_once(
    emulator: MutexEmulator, session: MutexSession, status: int
) -> None:
    emulator.fail_next(status=status)
    with pytest.raises(APIError) as caught:
        await session.create_group(NEW)
    assert (caught.value.status, caught.value.maybe_applied) == (status, False)
    assert methods(emulator) == ["POST"]


@pytest.mark.parametrize("status", [400, 409])
async def test_a_key_that_is_taken_is_an_error_at_once(
    emulator: MutexEmulator, session: MutexSession, status: Any
) -> None:
    emulator.dialect = Dialect(taken_key=status)
    emulator.add_group(key="mutex-key")
    with pytest.raises(BadRequestError if status == 400 else ConflictError):
        await session.create_group(NEW)
    assert methods(emulator) == ["POST"]


async def test_a_failed_lookup_leaves_the_outcome_unknown(emulator: MutexEmulator) -> None:
    emulator.fail_next(after_commit=True)
    emulator.fail_next(100, status=503, method="GET")
    async with session_for(emulator.url) as session:
        with pytest.raises(OutcomeUnknownError, match="looking up the key failed") as caught:
            await session.create_group(NEW)
    assert caught.value.key == "mutex-key"
    assert caught.value.maybe_applied
    assert caught.value.earlier
    assert "mutex-key" in str(caught.value)
    assert methods(emulator).count("POST") == created_by(emulator) == 1


@pytest.mark.parametrize("status", [400, 409])
async def test_a_conflict_after_a_lost_response_means_that_the_first_create_was_applied(
    raw: RawServer, status: int
) -> None:
    # The first create is still on its way while the key is looked up.
    raw.answer(reset_before_response, NO_GROUPS, http(status, b'{"message":"key is taken"}'), LISTED)
    async with session_for(raw.url) as session:
        created = await session.create_group(NEW)
    assert (created.id, created.url) == ("7", None)
    assert methods(raw) == ["POST", "GET", "POST", "GET"]


@pytest.mark.parametrize("status", [400, 409])
async def test_a_rejection_after_a_lost_response_proves_nothing_while_the_listing_may_lag(
    raw: RawServer, status: int
) -> None:
    raw.answer(reset_before_response, NO_GROUPS, http(status, b'{"message":"the key is taken"}'), NO_GROUPS)
    async with session_for(raw.url) as session:
        with pytest.raises(OutcomeUnknownError, match="the key is taken") as caught:
            await session.create_group(NEW)
    assert caught.value.attempts == len(raw.requests) == 4
    assert [type(error) for error in caught.value.earlier[1:]] == [BadRequestError if status == 400 else ConflictError]


async def test_attempts_and_earlier_cover_every_request_of_a_create(emulator: MutexEmulator) -> None:
    emulator.fail_next(100, status=500, method="POST")
    emulator.fail_next(1, status=503, method="GET")
    async with session_for(emulator.url, retry=RetryPolicy(max_attempts=2, base=0.001)) as session:
        with pytest.raises(ServerError) as caught:
            await session.create_group(NEW)
    assert methods(emulator) == ["POST", "GET", "GET", "POST", "GET"]
    assert caught.value.attempts == 5
    assert [error.attempts for error in caught.value.earlier] == [1]
    assert caught.value.maybe_applied


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"project_id": 2},
        {"slots": [NewSlot(percentage=100)]},
        {"slots": [NewSlot(percentage=5), NewSlot(percentage=95)]},
        {"bucketing_salt": "other"},
        {"bucketing_key": "user_id"},
        {"evaluation_mode": "remote"},
        {"description": "another"},
        {"slots": [NewSlot(percentage=95, experiments=[124], holdouts=[456]), NewSlot(percentage=5)]},
        {"slots": [NewSlot(percentage=95, experiments=[123], holdouts=[]), NewSlot(percentage=5)]},
        {"slots": [NewSlot(percentage=95, experiments=[123]), NewSlot(percentage=5)]},
        {"slots": [NEW.slots[0], NewSlot(percentage=5, individuals=["u"])]},
    ],
    ids=str,
)
async def test_a_different_group_with_the_key_leaves_the_outcome_unknown(
    raw: RawServer, change: dict[str, Any]
) -> None:
    raw.answer(reset_before_response, LISTED)
    async with session_for(raw.url) as session:
        with pytest.raises(OutcomeUnknownError, match="it differs from the one to create") as caught:
            await session.create_group(msgspec.structs.replace(NEW, **change))
    assert caught.value.key == "mutex-key"
    assert methods(raw) == ["POST", "GET"]


async def test_a_group_without_a_project_can_be_the_one_created(raw: RawServer) -> None:
    raw.answer(reset_before_response, http(200, b'{"mutexes":[%s]}' % GROUP.replace(b'"projectId":1,', b"")))
    group = msgspec.structs.replace(NEW, bucketing_salt="abcd")
    async with session_for(raw.url) as session:
        assert (await session.create_group(group)).id == "7"


async def test_an_archived_group_under_the_key_is_not_the_one_just_created(raw: RawServer) -> None:
    raw.answer(http(500), http(200, b'{"mutexes":[%s]}' % GROUP.replace(b'{"id":7,', b'{"id":7,"deleted":true,')))
    async with session_for(raw.url) as session:
        with pytest.raises(OutcomeUnknownError, match="it differs from the one to create"):
            await session.create_group(NEW)
    assert methods(raw) == ["POST", "GET"]


async def test_the_outcome_is_unknown_after_the_last_create_without_a_response(emulator: MutexEmulator) -> None:
    emulator.fail_next(100, kind="reset-before", method="POST")
    async with session_for(emulator.url, retry=RetryPolicy(max_attempts=3, base=0.001)) as session:
        with pytest.raises(OutcomeUnknownError, match="no group has this key so far"):
            await session.create_group(NEW)
    assert methods(emulator) == ["POST", "GET"] * 3
    assert created_by(emulator) == 0


async def test_a_service_that_always_fails_and_lists_no_group_is_a_server_error(emulator: MutexEmulator) -> None:
    emulator.fail_next(100, status=500, method="POST")
    async with session_for(emulator.url, retry=RetryPolicy(max_attempts=2, base=0.001)) as session:
        with pytest.raises(ServerError):
            await session.create_group(NEW)
    assert methods(emulator) == ["POST", "GET"] * 2


async def test_a_single_attempt_is_looked_up_too(emulator: MutexEmulator) -> None:
    emulator.fail_next(after_commit=True)
    async with session_for(emulator.url, retry=ONCE) as session:
        assert (await session.create_group(NEW)).id in emulator.groups
    assert methods(emulator) == ["POST", "GET"]


async def test_an_api_key_revoked_after_a_lost_response_leaves_the_outcome_unknown(raw: RawServer) -> None:
    raw.answer(reset_before_response, NO_GROUPS, http(401))
    async with session_for(raw.url) as session:
        with pytest.raises(OutcomeUnknownError) as caught:
            await session.create_group(NEW)
    assert isinstance(caught.value.earlier[-1], AuthenticationError)


async def test_a_deadline_after_sending_leaves_the_outcome_unknown(emulator: MutexEmulator) -> None:
    emulator.fail_next(kind="stall")
    async with session_for(emulator.url, deadline=0.1) as session:
        with pytest.raises(OutcomeUnknownError) as caught:
            await session.create_group(NEW)
    assert caught.value.maybe_applied
    assert methods(emulator) == ["POST"]


async def test_a_deadline_before_sending_is_a_deadline_error(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter(per_second=1)
    async with session_for(emulator.url, rate_limiter=limiter, deadline=0.05) as session:
        await session.get_group("1")
        with pytest.raises(DeadlineExceededError) as caught:
            await session.create_group(NEW)
    assert (caught.value.maybe_applied, caught.value.attempts) == (False, 0)
    assert methods(emulator) == ["GET"]


async def test_a_deadline_without_time_for_a_lookup_leaves_the_outcome_unknown(emulator: MutexEmulator) -> None:
    emulator.fail_next(after_commit=True)
    patient = RetryPolicy(base=5.0, cap=5.0)
    async with session_for(emulator.url, deadline=2.0, retry=patient) as session, asyncio.timeout(1.5):
        with pytest.raises(OutcomeUnknownError):
            await session.create_group(NEW)
    assert methods(emulator) == ["POST"]


async def test_a_cancelled_create_sends_nothing_more(emulator: MutexEmulator) -> None:
    emulator.fail_next(kind="stall")
    async with session_for(emulator.url) as session:
        call = asyncio.ensure_future(session.create_group(NEW))
        await until(lambda: emulator.requests)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert methods(emulator) == ["POST"]


async def test_many_concurrent_creates_over_a_bad_network_create_each_group_once(emulator: MutexEmulator) -> None:
    emulator.fail_next(10, kind="reset-after", path=ROOT)
    emulator.fail_next(10, kind="reset-before", path=ROOT)
    emulator.fail_next(5, status=503, path=ROOT)
    async with session_for(emulator.url, rate_limiter=fast_limiter()) as session:
        groups = [msgspec.structs.replace(NEW, key=f"key-{number}") for number in range(30)]
        results = await asyncio.gather(*map(session.create_group, groups), return_exceptions=True)
    keys = [group.key for group in emulator.groups.values()]
    assert len(keys) == len(set(keys))
    for group, result in zip(groups, results, strict=True):
        if isinstance(result, BaseException):
            assert isinstance(result, OutcomeUnknownError)
        else:
            assert emulator.groups[result.id].key == group.key
