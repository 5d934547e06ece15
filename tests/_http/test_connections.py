"""Connections: how they fail, what is sent over them, and how a session closes them."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from support import (
    KEY,
    ONCE,
    ROOT,
    RawServer,
    assert_only_our_errors,
    failure_of,
    fast_limiter,
    http,
    idle,
    permit_at_connection,
    pooled,
    reset,
    reset_before_response,
    say_nothing,
    session_for,
    until,
)

from aiomutex import (
    APIError,
    ConnectionFailedError,
    MutexError,
    MutexSession,
    NewGroup,
    NewSlot,
    RetryPolicy,
)

if TYPE_CHECKING:
    from support import Visit

    from aiomutex.testing import MutexEmulator

PATH = f"{ROOT}/7"
NEW = NewGroup(project_id=1, name="Example", key="mutex-key", slots=[NewSlot(percentage=95), NewSlot(percentage=5)])
HTML = "<html><head><title>Sign in</title></head><body>please</body></html>"


async def test_a_closed_port_is_a_failed_connection_that_sent_nothing() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        async with session_for(f"http://127.0.0.1:{port}", retry=ONCE) as session:
            error = await failure_of(session)
    assert isinstance(error, ConnectionFailedError)
    assert f"cannot connect to 127.0.0.1:{port}" in str(error)
    assert not error.sent
    assert not error.maybe_applied


async def test_a_reset_before_the_request_is_a_failed_connection(raw: RawServer) -> None:
    def reset_at_once(writer: asyncio.StreamWriter) -> bool:
        reset(writer)
        return False

    raw.greet = reset_at_once
    async with session_for(raw.url, retry=ONCE) as session:
        assert isinstance(await failure_of(session), ConnectionFailedError)


async def test_an_unknown_host_is_a_failed_connection() -> None:
    async with session_for("https://no-such-host.invalid", retry=ONCE) as session:
        error = await failure_of(session)
    assert isinstance(error, ConnectionFailedError)
    assert "cannot connect to no-such-host.invalid:443" in str(error)


async def test_a_server_without_tls_is_a_failed_connection(raw: RawServer) -> None:
    def talk_http(writer: asyncio.StreamWriter) -> bool:
        writer.write(http(400))
        return False

    raw.greet = talk_http
    async with session_for(raw.url.replace("http:", "https:"), retry=ONCE) as session:
        error = await failure_of(session)
    assert isinstance(error, ConnectionFailedError)
    assert raw.requests == []


@permit_at_connection
async def test_connecting_times_out_and_nothing_is_sent() -> None:
    # The queue of this listener is full, so the kernel does not answer further handshakes.
    with socket.socket() as listener, socket.socket() as filler, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (filler, second):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with session_for(url, retry=ONCE, attempt_timeout=0.1) as session:
            error = await failure_of(session)
    assert isinstance(error, ConnectionFailedError)
    assert "connecting timed out" in str(error)
    assert not error.sent


async def test_an_idle_connection_is_used_again(raw: RawServer, raw_session: MutexSession) -> None:
    for _ in range(5):
        await raw_session.get_group("7")
    assert (pooled(raw_session), raw.connections) == (1, 1)


async def test_an_early_error_response_to_a_large_body_is_raised_and_frees_the_connection(raw: RawServer) -> None:
    async def send_error(visit: Visit) -> None:
        await visit.send(http(413, b"too much", content_type="text/plain"))
        await asyncio.Event().wait()

    raw.reads_bodies = False
    raw.answer(send_error)
    async with session_for(raw.url, retry=ONCE, attempt_timeout=2.0) as session:
        with pytest.raises(APIError) as caught:
            await session.edit_slot("7", 1, individuals=["user-" + "x" * 100] * 100_000)
        await until(lambda: idle(session))
        assert pooled(session) == 0
    assert caught.value.status == 413
    assert_only_our_errors(caught.value)


async def test_a_body_of_more_than_a_megabyte_arrives_complete_in_every_attempt(raw: RawServer) -> None:
    individuals = [f"user-{number:030}" for number in range(50_000)]
    raw.answer(reset_before_response, http(503), http())
    async with session_for(raw.url) as session:
        await session.edit_slot("1", 1, individuals=individuals)
    assert len(raw.requests) == 3
    for request in raw.requests:
        assert len(request.body) > 2**20
        assert request.headers["content-type"] == "application/json"
        assert msgspec.json.decode(request.body) == {"individuals": individuals}


async def test_a_thousand_individuals_on_a_slot_are_written_and_read(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    individuals = [f"user-{number}@example.com" for number in range(1000)]
    await session.edit_slot("1", 1, individuals=individuals)
    assert (await session.get_group("1")).slots[0].individuals == individuals


async def test_the_key_is_in_one_header_of_each_request_and_nowhere_else(raw: RawServer) -> None:
    raw.answer(http(200, b'{"mutexes":[]}'))
    async with session_for(raw.url) as session:
        await session.list_page()
        await session.edit_slot("7", 1, experiments=[1])
    for request in raw.requests:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert KEY.encode() not in request.body
        assert request.head.count(KEY.encode()) == 1


@pytest.mark.parametrize("borrowed", [False, True])
async def test_closing_a_session_ends_the_calls_that_wait_for_permits(raw: RawServer, borrowed: bool) -> None:
    limiter = fast_limiter()
    async with aiohttp.ClientSession() as mine:
        session = session_for(raw.url, rate_limiter=limiter, retry=RetryPolicy(), http=mine if borrowed else None)
        async with session:
            await session.get_group("7")
            limiter.throttled(await limiter.acquire(), 5.0)
            used = limiter.state().used_today
            tasks = [
                asyncio.ensure_future(call)
                for call in (session.edit_slot("7", 1, experiments=[1]), session.create_group(NEW))
            ]
            await until(lambda: limiter.state().waiting == 2)
            await session.aclose()
            done, _ = await asyncio.wait(tasks, timeout=0.1)
            assert len(done) == 2
            for task in tasks:
                error = task.exception()
                assert isinstance(error, MutexError)
                assert "closed" in str(error)
                assert not error.maybe_applied
        inside: Any = session
        assert inside._transport._timer._timer is None
        assert (limiter.state().used_today, limiter.state().waiting) == (used, 0)
        assert not mine.closed
    assert len(raw.requests) == 1


async def test_a_session_can_be_closed_after_its_event_loop_was_closed() -> None:
    async def leave() -> MutexSession:
        async with RawServer() as raw:
            raw.answer(say_nothing)
            session = session_for(raw.url)
            await session.__aenter__()
            calls.append(asyncio.ensure_future(session.get_group("7")))
            await until(lambda: raw.requests)
        return session

    calls: list[asyncio.Task[Any]] = []
    loop = asyncio.new_event_loop()
    try:
        session = await asyncio.to_thread(loop.run_until_complete, leave())
    finally:
        loop.close()
    await session.aclose()
    assert repr(session).count("closed") == 1
    calls[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


async def test_a_call_whose_coroutine_is_closed_from_outside_cleans_up(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url) as session:
        call = session.get_group("7")

        async def drive() -> object:
            return await call

        task = asyncio.ensure_future(drive())
        await until(lambda: raw.requests)
        call.close()
        assert idle(session)
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await task


def test_a_mock_that_is_active_before_the_first_session_sees_its_requests() -> None:
    code = """
import asyncio
from support import ROOT, US, Responses
from aiomutex import MutexSession

async def main():
    with Responses() as mock:
        mock.answer("PATCH", f"{US}{ROOT}/1/slots/1", b"OK")
        async with MutexSession("key") as session:
            await session.edit_slot(1, 1, experiments=[7])
        [sent] = mock.sent()
        print(sent[-1])

asyncio.run(main())
"""
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "b'{\"experiments\":[7]}'\n"), done.stderr
