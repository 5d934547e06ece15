"""The laws of the design, by number. Each test here fails when its law is broken."""

from __future__ import annotations

import ast
import asyncio
import copy
import functools
import io
import logging
import pickle
import re
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from support import (
    FAST,
    GROUP,
    KEY,
    ONCE,
    RawServer,
    connector_of,
    fast_limiter,
    http,
    idle,
    permit_at_connection,
    reset_before_response,
    say_nothing,
    session_for,
    until,
)

import aiomutex
import benchmarks
from aiomutex import (
    UNSET,
    AttemptTimeoutError,
    ConfigurationError,
    DeadlineExceededError,
    InvalidRequestError,
    LocalRateLimiter,
    MutexError,
    MutexSession,
    NewGroup,
    NewSlot,
    OutcomeUnknownError,
    Priority,
    RetryPolicy,
    SlotEdit,
)
from aiomutex._http.internals import MISSING
from aiomutex.testing import MutexEmulator
from benchmarks.subjects import available

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support import Visit

NEW = NewGroup(project_id=1, name="n", key="k", slots=[NewSlot(percentage=100)])
PACKAGE = Path(aiomutex.__file__).parent


# ------------------------------------------------------------------ 1. the key is a secret


def shown_by(error: BaseException) -> str:
    """Everything an error shows: its strings, its attributes, and a traceback that prints local variables."""
    shown = [str(error), repr(error), repr(vars(error)), repr(error.args)]
    with suppress(Exception):
        shown.append(repr(pickle.dumps(error)))
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown += list(trace.format())
    shown += [shown_by(earlier) for earlier in getattr(error, "earlier", ())]
    return "\n".join(shown)


ECHOES: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda key: b"you sent " + key,
    "object": lambda key: b'{"message": "bad key ' + key + b'"}',
    "html": lambda key: b"<html><title>" + key + b"</title>" + key * 10_000,
    "near the cut": lambda key: b"x" * (4096 - len(key) // 2) + key,
}


def echo(status: int, body: Callable[[bytes], bytes]) -> Callable[[Visit], Awaitable[None]]:
    """A server that repeats the key in the body and in each header that an error uses."""

    async def answer(visit: Visit) -> None:
        secret = visit.request.headers["authorization"].removeprefix("Bearer ")
        headers = {"X-Request-Id": secret, "Location": f"https://evil/?k={secret}", "X-Echo": f"Bearer {secret}"}
        headers["Retry-After"] = "0.001"
        await visit.send(http(status, body(secret.encode()), headers, content_type=f"text/{secret}"))

    return answer


RESPONSES: dict[str, Any] = {
    **{
        f"{status} {name}": echo(status, body)
        for status in (200, 301, 400, 401, 429, 500)
        for name, body in ECHOES.items()
    },
    "reset": reset_before_response,
    "silence": say_nothing,
    "no HTTP": b"NONSENSE\r\n\r\n",
    "cut short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{",
    "success": http(200, GROUP),
}


@pytest.mark.parametrize("name", ["200 text", "500 object", "reset", "success"])
async def test_the_log_of_an_event_loop_in_debug_mode_does_not_show_the_key(
    raw: RawServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    raw.answer(RESPONSES[name])
    async with session_for(raw.url, retry=ONCE) as session:
        with suppress(MutexError):
            await session.get_group("7")
    assert "took" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES.keys())
@pytest.mark.parametrize("borrowed", [False, True])
async def test_no_error_log_or_traceback_shows_the_key(
    raw: RawServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], response: Any, borrowed: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    raw.answer(response)
    errors: list[BaseException] = []
    async with aiohttp.ClientSession() as mine:
        session = session_for(
            raw.url, http=mine if borrowed else None, attempt_timeout=0.1, retry=RetryPolicy(max_attempts=2, base=0)
        )
        async with session:
            for call in (session.get_group("7"), session.edit_slot("7", 1, experiments=[1]), session.create_group(NEW)):
                try:
                    await asyncio.wait_for(call, 20)
                except (MutexError, TimeoutError) as error:
                    errors.append(error)
            inside: Any = session
            insides: list[dict[str, Any]] = [vars(inside), vars(inside._transport)]
            shown = [repr(session), *map(repr, insides)]
    shown += [shown_by(error) for error in errors]
    shown += [caplog.text, repr(unhandled), *capsys.readouterr()]
    assert not [text for text in shown if KEY in text or KEY[:12] in text]
    assert raw.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_the_traceback_of_a_cancelled_call_does_not_show_the_key(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url) as session:
        call = asyncio.ensure_future(session.get_group("7"))
        await until(lambda: raw.requests)
        stack = io.StringIO()
        call.print_stack(file=stack)
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await call
    assert KEY not in shown_by(caught.value) + stack.getvalue() + repr(call)


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "mars"},
        {"base_url": "http://example.com"},
        {"max_connections": 0},
        {"attempt_timeout": -1},
        {"retry": "x"},
        {"api_key": f"{KEY}\n"},
        {"api_key": f" {KEY}"},
        {"api_key": f"{KEY}é"},
    ],
    ids=str,
)
def test_the_traceback_of_a_rejected_argument_does_not_show_the_key(wrong: dict[str, Any]) -> None:
    options: dict[str, Any] = {"api_key": KEY} | wrong
    with pytest.raises(ConfigurationError) as caught:
        MutexSession(**options)
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in trace.stack if Path(frame.filename).is_relative_to(PACKAGE)]
    assert ours
    assert not [frame for frame in ours if KEY in repr(frame.locals)]
    assert KEY not in str(caught.value)


async def test_the_key_cannot_be_pickled_or_copied(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url) as session:
        for make_copy in (pickle.dumps, copy.deepcopy):
            with pytest.raises((TypeError, AttributeError)):
                make_copy(session)
            inside: Any = session
            with pytest.raises(TypeError, match="an API key cannot be pickled"):
                make_copy(inside._transport._headers["Authorization"])


async def test_the_key_is_sent_over_plain_http_to_loopback_only() -> None:
    with pytest.raises(ConfigurationError, match="https"):
        MutexSession(KEY, base_url="http://192.0.2.1")


async def test_a_short_key_is_not_removed_from_messages(emulator: MutexEmulator) -> None:
    async with MutexSession("key", base_url=emulator.url) as session:
        emulator.add_group(key="taken")
        with pytest.raises(MutexError, match="key") as caught:
            await session.create_group(NewGroup(project_id=1, name="n", key="taken", slots=[NewSlot(percentage=100)]))
    assert "***" not in str(caught.value)


# ------------------------------------------------------------------ 2. tolerant reading, strict writing


READABLE: dict[str, bytes] = {
    "unknown fields": GROUP.replace(b'{"id":7', b'{"added":[{"later":1}],"id":7'),
    "an id as a string": GROUP.replace(b'"id":7', b'"id":"7"'),
    "no cohorts": GROUP.replace(b',"cohorts":[]', b""),
    "no names": GROUP.replace(b'"name":"mutex name",', b"").replace(b'"name":"SLOT 1",', b""),
    "an experiment as a string": GROUP.replace(b"[123]", b'["123"]'),
    "null lists": GROUP.replace(b'"individuals":[]', b'"individuals":null'),
}


@pytest.mark.parametrize("body", READABLE.values(), ids=READABLE.keys())
async def test_a_group_in_a_form_near_the_documented_one_is_read(raw: RawServer, body: bytes) -> None:
    assert body != GROUP
    raw.answer(http(200, body), http(200, b'{"mutexes":[%s]}' % body))
    async with session_for(raw.url, retry=ONCE) as session:
        group = await session.get_group("7")
        assert (await session.list_page()).groups == [group]
    assert (group.id, group.slots[0].experiments, group.slots[1].percentage) == ("7", [123], 5)


INVALID: dict[str, tuple[Callable[[MutexSession], Awaitable[object]], str]] = {
    "percentages of 99": (
        lambda session: session.create_group(
            NewGroup(project_id=1, name="n", slots=[NewSlot(percentage=40), NewSlot(percentage=59)])
        ),
        "slots[].percentage",
    ),
    "a percentage of 0": (
        lambda session: session.create_group(
            NewGroup(project_id=1, name="n", slots=[NewSlot(percentage=0), NewSlot(percentage=100)])
        ),
        "slots[0].percentage",
    ),
    "21 slots": (
        lambda session: session.create_group(NewGroup(project_id=1, name="n", slots=[NewSlot(percentage=5)] * 21)),
        "slots",
    ),
    "a group key with a line break": (
        lambda session: session.create_group(
            NewGroup(project_id=1, name="n", key="a\nb", slots=[NewSlot(percentage=100)])
        ),
        "key",
    ),
    "slot 0": (lambda session: session.edit_slot("7", 0, experiments=[1]), "slot_index"),
    "an empty edit": (lambda session: session.edit_slot("7", 1), "experiments"),
    "an id that leaves its path": (lambda session: session.archive_group("../7"), "group_id"),
}


@pytest.mark.parametrize(("call", "field"), INVALID.values(), ids=INVALID.keys())
async def test_an_invalid_write_is_rejected_by_field_and_not_sent(
    emulator: MutexEmulator,
    session: MutexSession,
    call: Callable[[MutexSession], Awaitable[object]],
    field: str,
) -> None:
    with pytest.raises(InvalidRequestError, match=re.escape(field)):
        await call(session)
    assert not emulator.requests
    assert session.rate_limiter.state().used_today == 0


def test_a_key_that_cannot_be_a_header_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match="api_key"):
        MutexSession("key\nX-Other: 1")


# ------------------------------------------------------------------ 3. UNSET is not None is not empty


async def test_unset_is_not_sent_none_is_null_and_empty_is_empty(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.add_group("g", slots=[{"percentage": 100, "experiments": [1], "holdouts": [2], "individuals": ["u"]}])
    await session.edit_slot("g", 1, holdouts=[])
    await session.edit_group("g", name="n")
    await session.edit_group("g", description=None)
    await session.edit_group("g", name=UNSET, description="")
    await session.edit_slot("g", 1, experiments=UNSET, holdouts=UNSET, individuals=[])
    bodies = [request.body for request in emulator.requests]
    assert bodies == [
        b'{"holdouts":[]}',
        b'{"name":"n"}',
        b'{"description":null}',
        b'{"description":""}',
        b'{"individuals":[]}',
    ]
    slot = emulator.groups["g"].slots[0]
    assert (slot.experiments, slot.holdouts, slot.individuals) == ([1], [], [])


# ------------------------------------------------------------------ 4. the budget


@permit_at_connection
async def test_a_permit_is_taken_once_the_connection_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = fast_limiter()
    async with (
        MutexEmulator(groups=1, limits=False, handshake_delay=0.15) as emulator,
        session_for(emulator.url, rate_limiter=limiter) as session,
    ):
        permits: list[float] = []
        acquire = limiter.acquire

        async def recorded(priority: Priority = Priority.INTERACTIVE) -> float:
            # The connection is ready before the permit is requested.
            assert len(connector_of(session)._acquired) == 1
            permits.append(await acquire(priority))
            return permits[-1]

        monkeypatch.setattr(limiter, "acquire", recorded)
        await session.get_group("1")
    assert len(permits) == 1


async def test_the_timeout_of_an_attempt_starts_with_its_permit(emulator: MutexEmulator) -> None:
    async with session_for(
        emulator.url, rate_limiter=LocalRateLimiter(per_second=1), attempt_timeout=0.5, retry=ONCE
    ) as session:
        # The second permit comes a second after the first.
        await session.get_group("1")
        assert (await session.get_group("2")).id == "2"


async def test_the_wait_for_a_connection_does_not_count_as_part_of_an_attempt(raw: RawServer) -> None:
    async def slowly(visit: Visit) -> None:
        await asyncio.sleep(0.1)
        await visit.send(http(200, GROUP))

    raw.answer(slowly)
    async with session_for(raw.url, max_connections=1, attempt_timeout=0.35, retry=ONCE) as session:
        await asyncio.gather(*(session.get_group("7") for _ in range(6)))
    assert raw.connections == 1


async def test_interactive_calls_go_ahead_of_bulk_calls(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter(per_second=20)
    async with session_for(emulator.url, rate_limiter=limiter, retry=ONCE) as session:
        bulk = session.with_options(priority=Priority.BULK)
        await asyncio.gather(*(session.get_group("1") for _ in range(19)))
        slow = [asyncio.ensure_future(bulk.get_group("2")) for _ in range(8)]
        await until(lambda: limiter.state().waiting >= 8)
        await session.get_group("3")
        assert sum(call.done() for call in slow) <= 1
        for call in slow:
            call.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_two_sessions_with_one_limiter_share_its_budget(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter(per_day=5)
    async with (
        session_for(emulator.url, rate_limiter=limiter) as one,
        session_for(emulator.url, rate_limiter=limiter) as other,
    ):
        assert one.rate_limiter is other.rate_limiter is limiter
        results = await asyncio.gather(
            *(session.get_group("1") for session in (one, other) for _ in range(5)), return_exceptions=True
        )
    assert sum(isinstance(result, MutexError) for result in results) == 5
    assert len(emulator.requests) == 5


async def test_every_request_has_a_permit_and_no_second_has_more_than_100(
    emulator: MutexEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Measured when permits are granted: when requests arrive depends on how busy this machine is.
    limiter = LocalRateLimiter()
    permits: list[float] = []
    acquire = limiter.acquire

    async def recorded(priority: Priority = Priority.INTERACTIVE) -> float:
        permits.append(await acquire(priority))
        return permits[-1]

    monkeypatch.setattr(limiter, "acquire", recorded)
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        await asyncio.gather(*(session.get_group("1") for _ in range(150)))
    assert len(permits) == len(emulator.requests) == 150
    assert all(later - earlier >= 1 for earlier, later in zip(permits, permits[100:], strict=False))


# ------------------------------------------------------------------ 5. nothing is lost and nothing is done twice


FAULTS: dict[str, dict[str, Any]] = {
    "503": {"status": 503},
    "503 after the write": {"status": 503, "after_commit": True},
    "a reset": {"kind": "reset-before"},
    "a reset after the write": {"kind": "reset-after"},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_reads_and_edits_are_sent_again_until_they_succeed(
    emulator: MutexEmulator, session: MutexSession, fault: dict[str, Any]
) -> None:
    emulator.fail_next(2, **fault)
    assert (await session.get_group("1")).id == "1"
    emulator.fail_next(2, **fault)
    await session.edit_slot("1", 1, experiments=[9])
    assert emulator.groups["1"].slots[0].experiments == [9]
    assert len(emulator.requests) == 6


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("failures", [1, 2])
async def test_a_create_happens_once_whatever_is_lost(
    emulator: MutexEmulator, session: MutexSession, fault: dict[str, Any], failures: int
) -> None:
    before = set(emulator.groups)
    emulator.fail_next(1, method="POST", **fault)
    if failures > 1:
        emulator.fail_next(1, method="GET", status=503)
    created = await session.create_group(NEW)
    assert set(emulator.groups) - before == {created.id}
    posts = [request for request in emulator.requests if request.method == "POST"]
    # The second POST is sent only because the key was looked up and is absent.
    assert len(posts) == (1 if fault.get("after_commit") or fault.get("kind") == "reset-after" else 2)
    assert any(request.method == "GET" for request in emulator.requests)


async def test_a_create_that_cannot_be_looked_up_is_not_sent_again(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    before = set(emulator.groups)
    emulator.fail_next(1, method="POST", kind="reset-after")
    emulator.fail_next(100, method="GET", status=503)
    with pytest.raises(OutcomeUnknownError) as caught:
        await session.create_group(NEW)
    assert caught.value.maybe_applied
    assert len(set(emulator.groups) - before) == 1
    assert [request.method for request in emulator.requests].count("POST") == 1


# ------------------------------------------------------------------ 6. cancellation is clean


def in_flight(session: MutexSession) -> int:
    inside: Any = session
    return inside._transport.in_flight  # type: ignore[no-any-return]


async def assert_clean(session: MutexSession, before: set[asyncio.Task[Any]]) -> None:
    await asyncio.sleep(0)
    assert idle(session)
    assert asyncio.all_tasks() == before
    assert session.rate_limiter.state().waiting == 0


async def cancelled(call: asyncio.Task[Any]) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()


async def test_cancelled_while_it_waits_for_a_permit(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter(per_second=1)
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        await session.get_group("1")
        before = asyncio.all_tasks()
        call = asyncio.ensure_future(session.get_group("1"))
        await until(lambda: limiter.state().waiting)
        await cancelled(call)
        await assert_clean(session, before)
        assert limiter.state().used_today == 1
        await session.get_group("1")
    assert len(emulator.requests) == 2


async def test_cancelled_while_it_waits_for_a_connection(raw: RawServer) -> None:
    limiter = fast_limiter()
    raw.answer(say_nothing)
    async with session_for(raw.url, rate_limiter=limiter, max_connections=1) as session:
        before = asyncio.all_tasks()
        holder = asyncio.ensure_future(session.get_group("7"))
        await until(lambda: raw.requests)
        call = asyncio.ensure_future(session.get_group("7"))
        await asyncio.sleep(0.01)
        inside: Any = session
        assert inside._transport._slots._waiters
        await cancelled(call)
        await cancelled(holder)
        await asyncio.sleep(0.01)
        assert idle(session)
        assert len(asyncio.all_tasks() - before) <= 1  # the server's end of the connection
        assert limiter.state().used_today == 1


async def test_cancelled_while_it_connects(raw: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = fast_limiter()
    async with session_for(raw.url, rate_limiter=limiter) as session:
        before = asyncio.all_tasks()
        reached = asyncio.Event()

        async def stuck(*args: object, **more: object) -> None:
            reached.set()
            await asyncio.Event().wait()

        connector = connector_of(session)
        monkeypatch.setattr(connector, "_create_connection", stuck)
        call = asyncio.ensure_future(session.get_group("7"))
        await reached.wait()
        await cancelled(call)
        await assert_clean(session, before)
        assert limiter.state().used_today == (1 if MISSING else 0)  # without the internals, a permit is taken first
        monkeypatch.undo()
        assert (await session.get_group("7")).id == "7"


async def test_cancelled_while_it_waits_for_the_response(emulator: MutexEmulator) -> None:
    emulator.fail_next(kind="stall")
    async with session_for(emulator.url, max_connections=1) as session:
        call = asyncio.ensure_future(session.edit_slot("1", 1, experiments=[9]))
        await until(lambda: emulator.requests)
        await cancelled(call)
        assert idle(session)
        assert (await session.get_group("1")).id == "1"


async def test_cancelled_within_the_body(raw: RawServer) -> None:
    reached = asyncio.Event()

    async def half(visit: Visit) -> None:
        await visit.send(http(200, GROUP)[:-10])
        reached.set()
        await visit.reader.read()

    raw.answer(half, http(200, GROUP))
    async with session_for(raw.url, max_connections=1) as session:
        call = asyncio.ensure_future(session.get_group("7"))
        await reached.wait()
        await asyncio.sleep(0.01)
        await cancelled(call)
        assert idle(session)
        assert (await session.get_group("7")).id == "7"
    assert raw.connections == 2


async def test_cancelled_during_a_back_off(emulator: MutexEmulator) -> None:
    emulator.fail_next(status=503)
    async with session_for(emulator.url, retry=RetryPolicy(base=5.0, cap=5.0)) as session:
        call = asyncio.ensure_future(session.get_group("1"))
        await until(lambda: emulator.requests and idle(session))
        await cancelled(call)
        assert idle(session)
        assert (await session.get_group("1")).id == "1"
    assert len(emulator.requests) == 2


async def test_cancelled_at_any_iteration_of_the_event_loop_leaks_nothing(emulator: MutexEmulator) -> None:
    limiter = fast_limiter()
    async with session_for(emulator.url, rate_limiter=limiter, max_connections=1, retry=ONCE) as session:
        for iterations in range(60):
            call = asyncio.ensure_future(session.edit_slot("1", 1, experiments=[iterations]))
            for _ in range(iterations):
                await asyncio.sleep(0)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            assert in_flight(session) == 0
        await session.get_group("1")
        assert idle(session)
        assert limiter.state().waiting == 0


async def test_a_timeout_of_the_user_is_raised_as_a_timeout_error(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, max_connections=1) as session:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await session.get_group("7")
        assert not isinstance(caught.value, MutexError)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert idle(session)


async def test_a_timeout_of_the_session_does_not_cancel_the_users_task(raw: RawServer) -> None:
    raw.answer(say_nothing)
    task = asyncio.current_task()
    assert task is not None
    async with session_for(raw.url, attempt_timeout=0.02, retry=ONCE) as session, asyncio.timeout(20):
        for _ in range(3):
            with pytest.raises(AttemptTimeoutError):
                await session.get_group("7")
            assert task.cancelling() == 0
            await asyncio.sleep(0)


async def test_a_task_cancelled_at_the_moment_of_its_timeout_ends_cancelled_or_timed_out(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, attempt_timeout=5.0, deadline=0.03, retry=ONCE) as session:
        loop = asyncio.get_running_loop()
        outcomes: set[type[BaseException]] = set()
        for step in range(-3, 4):
            call = asyncio.ensure_future(session.get_group("7"))
            loop.call_later(0.03 + step * 0.0004, call.cancel)
            try:
                await call
            except (asyncio.CancelledError, DeadlineExceededError) as error:
                outcomes.add(type(error))
            assert in_flight(session) == 0
        assert outcomes <= {asyncio.CancelledError, DeadlineExceededError}
        assert asyncio.current_task() in asyncio.all_tasks()


async def test_a_call_made_while_its_task_is_being_cancelled_works_and_times_out(raw: RawServer) -> None:
    raw.answer(say_nothing, http(200, GROUP))

    async def clean_up_when_cancelled() -> tuple[str, str]:
        try:
            await asyncio.Event().wait()
        finally:
            with pytest.raises(AttemptTimeoutError):
                await session.get_group("7")
            assert (await session.get_group("7")).id == "7"
            done.append("cleaned up")
        raise AssertionError

    done: list[str] = []
    async with session_for(raw.url, attempt_timeout=0.05, retry=ONCE) as session:
        task = asyncio.ensure_future(clean_up_when_cancelled())
        await asyncio.sleep(0)
        await cancelled(task)
    assert done == ["cleaned up"]


async def test_closing_a_session_fails_its_calls_and_does_not_cancel_their_tasks(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, max_connections=1, retry=ONCE) as session:
        calls = [asyncio.ensure_future(session.get_group("7")) for _ in range(3)]
        await until(lambda: raw.requests)
        await session.aclose()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, MutexError) for outcome in outcomes), outcomes


# ------------------------------------------------------------------ 7, 8, 9: structure


@functools.cache
def modules() -> dict[str, ast.Module]:
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }


def imports(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("aiomutex.")}


def test_nothing_yields_inside_a_task_group() -> None:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncWith) and "create_task_group" in ast.unparse(node.items[0]):
                assert not any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node)), name


def test_no_class_has_a_del_method() -> None:
    for name, tree in modules().items():
        assert not any(isinstance(node, ast.FunctionDef) and node.name == "__del__" for node in ast.walk(tree)), name


# Each package may import from the packages on lines above its own, and from itself.
LAYERS = (
    {"errors"},
    {"_util"},
    {"models", "limits"},
    {"retry", "events", "_api"},
    {"_http"},
    {"paging"},
    {"bulk"},
    {"session"},
    {"fleet", "otel", "probe", "traffic"},
    {"plan"},
    {"cli"},
    {"__main__"},
)


def package_of(module: str) -> str:
    """``aiomutex.bulk.journal`` is in the package ``bulk``."""
    return module.removeprefix("aiomutex.").partition(".")[0]


def test_every_import_points_downwards() -> None:
    rank = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
    packages = {package_of(name.removesuffix(".py").replace("/", ".")) for name in modules()}
    assert packages == {*rank, "__init__", "emulator", "testing"}
    wrong: list[str] = []
    for name, tree in modules().items():
        package = package_of(name.removesuffix(".py").replace("/", "."))
        if package in ("__init__", "emulator", "testing"):
            continue
        for module in imports(tree):
            target = package_of(module)
            if target == "emulator" and package == "cli":
                continue
            if target != package and rank.get(target, len(LAYERS)) >= rank[package] and target in {*rank, "emulator"}:
                wrong.append(f"{name} imports {module}")
    assert not wrong


def test_emulator_and_client_import_nothing_of_each_other() -> None:
    for name, tree in modules().items():
        if name.startswith("emulator/"):
            assert all(module.startswith("aiomutex.emulator") for module in imports(tree)), name


def test_the_pure_modules_import_no_network_code() -> None:
    pure = [name for name in modules() if name.startswith("_api/")] + ["errors.py", "models.py", "retry.py"]
    for name in pure:
        for node in ast.walk(modules()[name]):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {module.partition(".")[0] for module in names} & {"aiohttp", "asyncio", "anyio", "socket"}, name


def test_only_the_http_package_and_the_session_import_aiohttp() -> None:
    for name, tree in modules().items():
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        if any(module and module.partition(".")[0] == "aiohttp" for module in imported):
            assert name.startswith(("_http/", "emulator/", "session.py")), name


async def test_a_response_of_ordinary_size_keeps_its_connection(raw: RawServer) -> None:
    raw.answer(http(200, GROUP + b" " * 1_000_000), http(200, GROUP))
    async with session_for(raw.url, retry=FAST) as session:
        await session.get_group("7")
        await session.get_group("7")
    assert raw.connections == 1


async def test_a_connection_lost_while_its_request_waits_for_a_permit_is_replaced_without_an_attempt(
    raw: RawServer,
) -> None:
    limiter = LocalRateLimiter(per_second=1)
    gone = asyncio.Event()

    async def answer_and_leave(visit: Visit) -> None:
        await visit.send(http(200, GROUP))
        await until(lambda: limiter.state().waiting)
        visit.writer.close()
        gone.set()

    raw.answer(answer_and_leave, http(200, GROUP))
    async with session_for(raw.url, rate_limiter=limiter, retry=ONCE) as session:
        await session.get_group("7")
        await session.get_group("7")
    assert gone.is_set()
    assert (raw.connections, len(raw.requests), limiter.state().used_today) == (2, 2, 2)


# ------------------------------------------------------------------ 10. what it costs is known


def test_every_hot_path_has_a_benchmark_beside_what_a_user_would_write() -> None:
    # Calls, decoding, listing, journal, bulk stream, and permits of one process and of many.
    assert {"edits", "gets", "decode", "listing", "journal", "streams", "limiters", "shared"} <= set(benchmarks.NAMES)
    subjects, _ = available("http://127.0.0.1:1")
    assert {"aiomutex", "plain aiohttp", "tuned aiohttp + msgspec"} <= {subject.name for subject in subjects}


async def test_a_call_makes_one_request_and_a_listing_one_for_each_page(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    costs: list[tuple[str, int]] = []
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get_group": lambda: session.get_group("1"),
        "edit_group": lambda: session.edit_group("1", name="n"),
        "edit_slot": lambda: session.edit_slot("1", 1, experiments=[1]),
        "create_group": lambda: session.create_group(NEW),
        "list_groups, 11 groups of 4 a page": lambda: session.list_groups(page_size=4).collect(concurrency=1),
        "edit_slots, 5 edits": lambda: session.edit_slots([SlotEdit(n, 1, experiments=[1]) for n in range(1, 6)]),
    }
    for name, call in calls.items():
        before = len(emulator.requests)
        await call()
        costs.append((name, len(emulator.requests) - before))
    assert [cost for _, cost in costs] == [1, 1, 1, 1, 3, 5], costs
