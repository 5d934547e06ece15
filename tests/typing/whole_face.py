"""Uses the whole public API. Type checkers read this file; nothing runs it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, assert_type

from aiomutex import (
    UNSET,
    APIError,
    AttemptTimeoutError,
    AuthenticationError,
    BadRequestError,
    BulkReport,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    CreatedGroup,
    DailyBudgetExhaustedError,
    DeadlineExceededError,
    GroupPage,
    GroupPager,
    InvalidRequestError,
    JournalError,
    LimiterState,
    LimiterUnavailableError,
    LocalRateLimiter,
    MutexError,
    MutexGroup,
    MutexSession,
    NewGroup,
    NewSlot,
    NotFoundError,
    OutcomeStream,
    OutcomeUnknownError,
    PaginationError,
    PermissionDeniedError,
    Priority,
    RateLimitedError,
    RateLimiter,
    RetryPolicy,
    ServerError,
    Slot,
    SlotChange,
    SlotEdit,
    SlotOutcome,
    StaleSlotError,
    TooManyFailuresError,
    TransportError,
    UnexpectedResponseError,
    UnsetType,
    VerificationError,
)
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp


async def sessions(http: aiohttp.ClientSession) -> None:
    limiter: RateLimiter = LocalRateLimiter(per_second=100, per_day=100_000)
    async with MutexSession() as bare:
        assert_type(bare, MutexSession)
    async with MutexSession(
        "key",
        region="eu",
        base_url=None,
        rate_limiter=limiter,
        retry=RetryPolicy(max_attempts=3, base=0.1, cap=5.0, max_retry_after=30.0),
        attempt_timeout=10,
        deadline=60.0,
        max_connections=8,
        http=http,
    ) as session:
        assert_type(session.rate_limiter, RateLimiter)
        assert_type(session.max_connections, int)
        state = session.rate_limiter.state()
        assert_type(state, LimiterState)
        assert_type(state.resets_at, datetime)
        view = session.with_options(attempt_timeout=1, deadline=2.0, retry=RetryPolicy(), priority=Priority.BULK)
        assert_type(view, MutexSession)
        async with limiter:
            permit = await limiter.acquire(Priority.INTERACTIVE)
        limiter.throttled(permit, 1.0)
        limiter.answered(permit)
    await session.aclose()


async def reading(session: MutexSession) -> None:
    page = await session.list_page(limit=10, cursor=5)
    assert_type(page, GroupPage)
    assert_type(page.groups, list[MutexGroup])
    assert_type(page.next_cursor, str | None)
    assert_type(page.cursor, str | None)
    pager = session.list_groups(page_size=100, cursor="5")
    assert_type(pager, GroupPager)
    async for group in pager:
        assert_type(group, MutexGroup)
    async for one in pager.pages():
        assert_type(one, GroupPage)
    assert_type(await pager.collect(concurrency=8), list[MutexGroup])
    assert_type(await session.find_group("key"), MutexGroup | None)
    group = await session.get_group(7)
    group = await session.get_group("7")
    assert_type(group.id, str)
    assert_type(group.project_id, str)
    assert_type(group.description, str | None)
    assert_type(group.deleted, bool | None)
    assert_type(group.slots, list[Slot])
    slot = group.slots[0]
    assert_type(slot.index, int)
    assert_type(slot.percentage, int | float)
    assert_type(slot.experiments, list[int])
    assert_type(slot.individuals, list[str])
    assert_type((group.name, group.key, group.evaluation_mode), tuple[str, str, str])


async def writing(session: MutexSession, flag: bool) -> None:
    await session.edit_group("7", name="n", description=None)
    maybe: str | UnsetType = "n" if flag else UNSET
    await session.edit_group(7, name=maybe)
    await session.archive_group("7")
    await session.unarchive_group(7)
    await session.edit_slot("7", 1, experiments=[1], holdouts=(2,), individuals=["u"])
    await session.edit_slot("7", slot_index=1, experiments=range(3))
    expected = NewGroup(
        project_id="1",
        name="n",
        key="k",
        description=None,
        evaluation_mode="local",
        bucketing_key="device_id",
        bucketing_salt="s",
        slots=[NewSlot(percentage=40, experiments=[1], holdouts=[2], individuals=["u"]), NewSlot(percentage=60)],
    )
    created = await session.create_group(expected)
    assert_type(created, CreatedGroup)
    assert_type(created.url, str | None)
    assert_type((created.id, created.key), tuple[str, str])
    changed = await session.change_slot("7", 1, add_experiments=[1], remove_individuals=["u"])
    assert_type(changed, Slot)
    assert_type(await session.move_experiment("7", 5, 1, 2), MutexGroup)


async def stream(edits: list[SlotEdit]) -> AsyncIterator[SlotEdit]:
    for edit in edits:
        yield edit


async def bulk(session: MutexSession) -> None:
    edits = [SlotEdit("7", 1, experiments=[1]), SlotEdit(7, 2, holdouts=[2], individuals=("u",))]
    report = await session.edit_slots(
        edits,
        concurrency=4,
        journal="run.db",
        verify=True,
        on_outcome=print,
        stop_after=5,
        on_budget="wait",
        reserve=10,
    )
    assert_type(report, BulkReport)
    assert_type(report.applied, list[SlotOutcome])
    assert_type(report.failed, list[SlotOutcome])
    assert_type(report.skipped, list[SlotOutcome])
    assert_type(report.outcomes, list[SlotOutcome])
    try:
        report.raise_for_failures()
    except* MutexError as group:
        print(group.exceptions)
    outcome = report.outcomes[0]
    assert_type(outcome.edit, SlotEdit | SlotChange)
    assert_type(outcome.attempts, int)
    assert_type(outcome.error, MutexError | None)
    print(outcome.status, outcome.position, outcome.note)
    async with session.stream_slot_edits(stream(edits)) as outcomes:
        assert_type(outcomes, OutcomeStream)
        async for each in outcomes:
            assert_type(each, SlotOutcome)
    await session.edit_slots(edit for edit in edits)


async def failing(session: MutexSession) -> None:
    try:
        await session.get_group("7")
    except (BadRequestError, AuthenticationError, PermissionDeniedError, NotFoundError, ConflictError) as error:
        assert_type(error.status, int)
    except (RateLimitedError, ServerError, APIError) as error:
        assert_type((error.method, error.path, error.body, error.detail), tuple[str, str, str, str])
        assert_type(error.request_id, str | None)
        assert_type(error.retry_after, float | None)
    except UnexpectedResponseError as error:
        assert_type(error.status, int)
    except (ConnectionFailedError, AttemptTimeoutError, TransportError) as error:
        assert_type(error.sent, bool)
    except DeadlineExceededError as error:
        assert_type(error.deadline, float)
    except DailyBudgetExhaustedError as error:
        assert_type(error.resets_at, datetime)
    except OutcomeUnknownError as error:
        assert_type(error.key, str | None)
    except PaginationError as error:
        assert_type(error.cursor, str)
    except (VerificationError, StaleSlotError) as error:
        assert_type(error.slot_index, int)
    except TooManyFailuresError as error:
        assert_type(error.failures, int)
    except (LimiterUnavailableError, JournalError):
        raise
    except (ConfigurationError, InvalidRequestError, ValueError) as error:
        print(error)
    except MutexError as error:
        assert_type(error.attempts, int)
        assert_type(error.maybe_applied, bool)
        assert_type(error.earlier, tuple[MutexError, ...])


async def testing() -> None:
    async with MutexEmulator(groups=3) as emulator, MutexSession("key", base_url=emulator.url) as session:
        await session.get_group("1")


def test_a_users_test(mutex_emulator: MutexEmulator) -> None:
    assert mutex_emulator.url
