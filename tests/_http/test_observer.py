"""Tracers: the context managers that surround calls and attempts, and the headers they add."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from support import GROUP, KEY, ONCE, ROOT, connector_of, http, permit_at_connection, say_nothing, session_for, until

from aiomutex import (
    ConnectionFailedError,
    LocalRateLimiter,
    NewGroup,
    NewSlot,
    NotFoundError,
    Priority,
    ServerError,
)
from aiomutex._http import pool

if TYPE_CHECKING:
    from collections.abc import Generator

    from support import RawServer

    from aiomutex.events import Attempt, Call, OpenAttempt
    from aiomutex.testing import MutexEmulator


class Recorder:
    """Notes what it is passed, in order, and sends a header that names the attempt."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.calls: list[Call] = []
        self.attempts: list[OpenAttempt] = []
        self.reported: list[Attempt] = []

    @contextlib.contextmanager
    def call(self, call: Call, /) -> Generator[None]:
        self.calls.append(call)
        yield from self._noted(call.operation)

    @contextlib.contextmanager
    def attempt(self, attempt: OpenAttempt, /) -> Generator[None]:
        self.attempts.append(attempt)
        attempt.headers["X-Attempt"] = str(attempt.number)
        yield from self._noted(attempt.number)

    def _noted(self, name: object) -> Generator[None]:
        self.log.append(name)
        try:
            yield
        except BaseException as error:
            self.log.append((name, type(error)))
            raise
        self.log.append((name, None))


class CallableRecorder(Recorder):
    def __call__(self, attempt: Attempt) -> None:
        self.reported.append(attempt)


async def test_a_tracer_surrounds_the_call_and_each_attempt(emulator: MutexEmulator) -> None:
    tracer = CallableRecorder()
    emulator.fail_next(1, status=503)
    async with session_for(emulator.url, on_attempt=tracer) as session:
        await session.with_options(priority=Priority.BULK).edit_slot("1", 2, experiments=[5])
    assert tracer.log == ["edit_slot", 1, (1, ServerError), 2, (2, None), ("edit_slot", None)]
    [call] = tracer.calls
    assert (call.method, call.route) == ("PATCH", f"{ROOT}/{{id}}/slots/{{slotIndex}}")
    assert (call.path, call.priority) == (f"{ROOT}/1/slots/2", Priority.BULK)
    assert (call.url, call.host) == (f"{emulator.url}{call.path}", "127.0.0.1")
    assert f"http://{call.host}:{call.port}" == emulator.url
    assert [each.result for each in tracer.attempts] == tracer.reported
    assert [each.headers.get("x-attempt") for each in emulator.requests] == ["1", "2"]


async def test_every_method_has_its_operation(emulator: MutexEmulator) -> None:
    tracer = Recorder()
    async with session_for(emulator.url, on_attempt=[tracer]) as session:
        await session.list_page(limit=1)
        await session.get_group("1")
        await session.edit_group("1", name="n")
        await session.archive_group("1")
        await session.unarchive_group("1")
        await session.edit_slot("1", 1, experiments=[5])
        await session.create_group(NewGroup(project_id=1, name="n", slots=[NewSlot(percentage=100)]))
        await session.request("GET", ROOT)
    names = "list_page get_group edit_group archive_group unarchive_group edit_slot create_group request"
    assert [call.operation for call in tracer.calls] == names.split()


async def test_the_attempt_opens_once_it_has_its_permit(emulator: MutexEmulator) -> None:
    tracer = Recorder()
    async with session_for(emulator.url, rate_limiter=LocalRateLimiter(1), on_attempt=tracer) as session:
        await session.get_group("1")
        second = asyncio.create_task(session.get_group("2"))
        await until(lambda: session.rate_limiter.state().waiting)
        assert len(tracer.calls) == 2
        assert len(tracer.attempts) == 1
        await second
    assert [each.result is not None and each.result.permit_wait > 0.9 for each in tracer.attempts] == [False, True]


async def test_a_cancelled_call_leaves_its_contexts(raw: RawServer) -> None:
    tracer = Recorder()
    raw.answer(say_nothing)
    async with session_for(raw.url, on_attempt=tracer) as session:
        call = asyncio.create_task(session.get_group("1"))
        await until(lambda: raw.requests)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    cancelled = asyncio.CancelledError
    assert tracer.log == ["get_group", 1, (1, cancelled), ("get_group", cancelled)]
    assert tracer.attempts[0].result is None


@permit_at_connection
async def test_an_attempt_without_a_permit_is_entered_and_left_when_it_ends() -> None:
    tracer = Recorder()
    async with session_for("http://127.0.0.1:1", on_attempt=tracer, retry=ONCE) as session:
        with pytest.raises(ConnectionFailedError):
            await session.get_group("1")
    failed = ConnectionFailedError
    assert tracer.log == ["get_group", 1, (1, failed), ("get_group", failed)]
    result = tracer.attempts[0].result
    assert result is not None
    assert (result.duration, result.permit_wait) == (0, 0)


class Failing:
    """Raises wherever it can."""

    def __init__(self, where: str) -> None:
        self.where = where

    @contextlib.contextmanager
    def _failing(self, name: str) -> Generator[None]:
        if self.where == f"enter {name}":
            raise ZeroDivisionError
        try:
            yield
        except NotFoundError:
            if self.where != f"swallow {name}":
                raise
        if self.where == f"leave {name}":
            raise ZeroDivisionError

    def call(self, call: Call, /) -> contextlib.AbstractContextManager[None]:
        return self._failing("call")

    def attempt(self, attempt: OpenAttempt, /) -> contextlib.AbstractContextManager[None]:
        attempt.headers.update(
            {"X-Line": "a\r\nb", "X:Y": "1", "Ä": "1"} if self.where == "headers" else {"X-Line": "1"}
        )
        return self._failing("attempt")


@pytest.mark.parametrize("where", ["enter call", "enter attempt", "leave call", "leave attempt", "headers"])
async def test_a_tracer_that_raises_affects_no_call_and_no_other_tracer(
    emulator: MutexEmulator, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    other = Recorder()
    async with session_for(emulator.url, on_attempt=[other, Failing(where)]) as session:
        assert (await session.get_group("1")).id == "1"
    assert other.log == ["get_group", 1, (1, None), ("get_group", None)]
    assert "on_attempt failed" in caplog.text or caplog.text.count("a header that cannot be sent") == 3
    assert "x:y" not in emulator.requests[0].headers
    assert emulator.requests[0].headers.get("x-line") == (None if where == "headers" else "1")


@pytest.mark.parametrize("where", ["swallow call", "swallow attempt"])
async def test_a_tracer_that_swallows_an_error_does_not_hide_it(emulator: MutexEmulator, where: str) -> None:
    async with session_for(emulator.url, on_attempt=Failing(where)) as session:
        with pytest.raises(NotFoundError):
            await session.get_group("99")


async def test_a_borrowed_session_sends_the_headers_of_a_tracer_too(emulator: MutexEmulator) -> None:
    async with (
        aiohttp.ClientSession() as mine,
        session_for(emulator.url, http=mine, on_attempt=Recorder()) as session,
    ):
        await session.get_group("1")
        await session.edit_slot("1", 1, experiments=[5])
    assert [each.headers.get("x-attempt") for each in emulator.requests] == ["1", "1"]


async def test_without_the_internals_a_tracer_adds_headers_too(
    emulator: MutexEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MISSING", ("something",))
    async with session_for(emulator.url, on_attempt=Recorder()) as session:
        await session.get_group("1")
    assert emulator.requests[0].headers["x-attempt"] == "1"


async def test_the_headers_of_one_attempt_are_not_those_of_the_next_call(emulator: MutexEmulator) -> None:
    tracer = Recorder()
    async with session_for(emulator.url, on_attempt=tracer) as session:
        await session.get_group("1")
        assert tracer.attempts[0].headers == {"X-Attempt": "1"}
        inside: Any = session
        assert "X-Attempt" not in inside._transport._http.headers
    assert KEY not in repr(tracer.attempts + tracer.calls)


@permit_at_connection
async def test_requests_go_through_a_session_that_aiohttp_traces(
    raw: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generic instrumentation of aiohttp adds a trace to every new ``ClientSession``."""
    events: list[str] = []
    config = aiohttp.TraceConfig()
    for name in ("on_request_start", "on_request_headers_sent", "on_request_chunk_sent", "on_request_end"):

        async def note(session: aiohttp.ClientSession, context: object, params: Any, name: str = name) -> None:
            events.append(name)

        getattr(config, name).append(note)
    init = aiohttp.ClientSession.__init__

    def traced(self: aiohttp.ClientSession, **options: Any) -> None:
        init(self, **options, trace_configs=[config])

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", traced)
    raw.answer(http(200, b""), http(200, GROUP))
    async with session_for(raw.url) as session:
        await session.edit_slot("7", 1, experiments=[5])
        assert type(connector_of(session)).__name__ == "PermitConnector"
        await session.get_group("7")
    write = ["on_request_start", "on_request_headers_sent", "on_request_chunk_sent", "on_request_end"]
    assert events == write + [name for name in write if "chunk" not in name]
    assert raw.requests[0].body == b'{"experiments":[5]}'
