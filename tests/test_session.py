"""The life cycle of a session: opening, views, closing, and its repr."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from support import KEY, ONCE, RawServer, connector_of, http, say_nothing, session_for

from aiomutex import (
    AttemptTimeoutError,
    ConfigurationError,
    DeadlineExceededError,
    InvalidRequestError,
    LocalRateLimiter,
    MutexSession,
    NewGroup,
    NewSlot,
    Priority,
    RetryPolicy,
    ServerError,
    SessionClosedError,
    SlotEdit,
)
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Call = Callable[[MutexSession], Awaitable[object]]

NEW = NewGroup(project_id=1, name="n", slots=[NewSlot(percentage=100)])


async def edit_slots(session: MutexSession) -> object:
    report = await session.edit_slots([SlotEdit("1", 1, experiments=[1])])
    report.raise_for_failures()
    return report


CALLS: dict[str, Call] = {
    "list_page": lambda session: session.list_page(),
    "collect": lambda session: session.list_groups().collect(),
    "get_group": lambda session: session.get_group("1"),
    "find_group": lambda session: session.find_group("k"),
    "edit_group": lambda session: session.edit_group("1", name="n"),
    "archive_group": lambda session: session.archive_group("1"),
    "unarchive_group": lambda session: session.unarchive_group("1"),
    "edit_slot": lambda session: session.edit_slot("1", 1, experiments=[1]),
    "create_group": lambda session: session.create_group(NEW),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_session_that_is_not_open_raises_and_sends_nothing(emulator: MutexEmulator, call: Call) -> None:
    session = session_for(emulator.url)
    with pytest.raises(ConfigurationError, match="not open yet; use it inside 'async with") as caught:
        await call(session)
    assert caught.value.attempts == 0
    async with session:
        pass
    with pytest.raises(SessionClosedError, match="is closed"):
        await call(session)
    with pytest.raises(SessionClosedError, match="is closed"):
        await call(session.with_options(deadline=5))
    assert not emulator.requests


async def test_bulk_edits_with_a_closed_session_raise_and_send_nothing(emulator: MutexEmulator) -> None:
    session = session_for(emulator.url)
    async with session:
        pass
    with pytest.raises((SessionClosedError, ExceptionGroup)):
        await edit_slots(session)
    assert not emulator.requests


async def test_a_session_can_be_opened_only_once(emulator: MutexEmulator) -> None:
    session = session_for(emulator.url)
    async with session:
        with pytest.raises(ConfigurationError, match="the session is already open"):
            await session.__aenter__()
        await session.get_group("1")
    with pytest.raises(SessionClosedError, match="the session is closed"):
        await session.open()
    assert not issubclass(SessionClosedError, ValueError)


async def test_another_limiter_grants_the_requests_from_its_assignment_on(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url) as session:
        view = session.with_options(deadline=5)
        before = session.rate_limiter
        await session.get_group("1")
        session.rate_limiter = LocalRateLimiter()
        await session.get_group("1")
        await view.get_group("1")
        assert (before.state().used_today, view.rate_limiter.state().used_today) == (1, 2)
        with pytest.raises(ConfigurationError, match="rate_limiter must be a limiter"):
            session.rate_limiter = LocalRateLimiter  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
        assert session.rate_limiter is view.rate_limiter


async def test_closing_twice_does_nothing(emulator: MutexEmulator) -> None:
    session = session_for(emulator.url)
    await session.aclose()
    async with session_for(emulator.url) as session:
        await session.aclose()
        await session.aclose()


async def test_closing_leaves_no_connection_task_or_timer(emulator: MutexEmulator) -> None:
    before = asyncio.all_tasks()
    async with session_for(emulator.url) as session:
        await asyncio.gather(*(session.get_group("1") for _ in range(5)))
        connector = connector_of(session)
        inside: Any = session
        timer = inside._transport._timer
    assert connector.closed
    assert timer._timer is None
    assert len(timer) == 0
    await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks() - before) == 0


def test_a_session_used_in_another_event_loop_raises() -> None:
    async def open_session(url: str) -> MutexSession:
        return await session_for(url).__aenter__()

    async def use(session: MutexSession) -> None:
        with pytest.raises(ConfigurationError, match="opened in another event loop"):
            await session.get_group("1")

    with MutexEmulator(groups=1) as emulator, asyncio.Runner() as first, asyncio.Runner() as second:
        session = first.run(open_session(emulator.url))
        second.run(use(session))
        first.run(session.aclose())
        assert not emulator.requests


def test_a_view_created_before_opening_opens_and_closes_with_its_session() -> None:
    async def run(url: str) -> None:
        session = session_for(url)
        view = session.with_options(deadline=9.0)
        async with session:
            assert (await view.get_group("1")).id == "1"
        with pytest.raises(SessionClosedError, match="is closed"):
            await view.get_group("1")

    with MutexEmulator(groups=1) as emulator:
        asyncio.run(run(emulator.url))


async def test_views_share_connections_and_limiter_and_do_not_change_the_session(
    emulator: MutexEmulator,
) -> None:
    async with session_for(emulator.url, retry=ONCE) as session:
        view = session.with_options(retry=RetryPolicy(max_attempts=3, base=0.001), priority=Priority.BULK)
        assert type(view) is MutexSession
        assert view.rate_limiter is session.rate_limiter
        emulator.fail_next(2, status=503)
        await view.get_group("1")
        emulator.fail_next(status=503)
        with pytest.raises(ServerError):
            await session.get_group("1")
        assert connector_of(view) is connector_of(session)
        assert session.rate_limiter.state().used_today == 4


async def test_views_have_their_own_timeouts(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, retry=ONCE) as session:
        with pytest.raises(AttemptTimeoutError, match=r"within 0\.02 s"):
            await session.with_options(attempt_timeout=0.02).get_group("7")
        with pytest.raises(DeadlineExceededError, match=r"deadline of 0\.02 s"):
            await session.with_options(deadline=0.02).get_group("7")
        nested = session.with_options(deadline=5.0).with_options(attempt_timeout=0.02)
        with pytest.raises(AttemptTimeoutError):
            await nested.get_group("7")


@pytest.mark.parametrize(
    "wrong",
    [{"attempt_timeout": 0}, {"deadline": float("nan")}, {"retry": None}, {"priority": 0}, {"priority": "BULK"}],
)
async def test_an_invalid_option_of_a_view_is_rejected_by_name(emulator: MutexEmulator, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        session_for(emulator.url).with_options(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"edits": None}, "edits must be an iterable of SlotEdit, not NoneType"),
        ({"edits": SlotEdit("1", 1, experiments=[1])}, "edits must be an iterable of SlotEdit, not SlotEdit"),
        (
            {"edits": [SlotEdit("1", 1, experiments=[1])], "on_outcome": 5},
            "on_outcome must be a function, not int",
        ),
    ],
)
async def test_invalid_arguments_of_bulk_edits_are_rejected_before_anything_is_sent(
    emulator: MutexEmulator, session: MutexSession, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await session.edit_slots(**wrong)
    assert str(caught.value) == message
    with pytest.raises(InvalidRequestError):
        session.stream_slot_edits(**wrong)
    assert not emulator.requests


async def test_a_priority_reaches_the_limiter(emulator: MutexEmulator) -> None:
    class Noting(LocalRateLimiter):
        seen: list[Priority]

        async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
            self.seen.append(priority)
            return await super().acquire(priority)

    limiter = Noting()
    limiter.seen = []
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        await session.get_group("1")
        await session.with_options(priority=Priority.BULK).get_group("1")
        await edit_slots(session)
    assert limiter.seen == [Priority.INTERACTIVE, Priority.BULK, Priority.BULK]


async def test_no_more_connections_are_made_than_max_connections(raw: RawServer) -> None:
    raw.answer(http(200, b'{"id":1,"slots":[]}'))
    async with session_for(raw.url, max_connections=3) as session:
        await asyncio.gather(*(session.get_group("1") for _ in range(30)))
        assert session.max_connections == 3
    assert raw.connections <= 3


async def test_the_repr_states_facts(emulator: MutexEmulator) -> None:
    session = MutexSession(KEY)
    assert repr(session) == "<MutexSession us · new · 0 in flight · 0 of 97 permits used · 0 today>"
    assert repr(MutexSession(KEY, region="eu")).startswith("<MutexSession eu · ")
    async with MutexSession(KEY, base_url=emulator.url) as session:
        await session.get_group("1")
        host = emulator.url.removeprefix("http://")
        assert repr(session) == f"<MutexSession {host} · open · 0 in flight · 1 of 97 permits used · 1 today>"
    assert " · closed · " in repr(session)
