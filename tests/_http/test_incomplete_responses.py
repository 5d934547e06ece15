"""Responses that are broken, slow, endless or too large: one typed error, in time and within bounds."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from support import (
    GROUP,
    ONCE,
    ROOT,
    RawServer,
    close_before_response,
    failure_of,
    http,
    reset_before_response,
    say_nothing,
    session_for,
)

from aiomutex import (
    AttemptTimeoutError,
    ConnectionFailedError,
    DeadlineExceededError,
    ServerError,
    TransportError,
    UnexpectedResponseError,
)

if TYPE_CHECKING:
    from support import Visit


PATH = f"{ROOT}/7"
HTML = "<html><head><title>Sign in</title></head><body>please</body></html>"


async def part_then_reset(visit: Visit) -> None:
    await visit.send(http(200, GROUP)[:150])
    visit.reset()


async def part_then_close(visit: Visit) -> None:
    await visit.send(http(200, GROUP)[:150])
    visit.writer.close()


async def head_then_close(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: app")
    visit.writer.close()


async def broken_chunks(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\nhello\r\n")
    visit.writer.close()


async def huge_headers(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n")


async def many_headers(visit: Visit) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 80) for number in range(100_000 // 90))
    await visit.send(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\n{}")


BROKEN: dict[str, Any] = {
    "reset before the response": reset_before_response,
    "closed before the response": close_before_response,
    "reset within the response": part_then_reset,
    "closed within the response": part_then_close,
    "closed within the head": head_then_close,
    "broken chunks": broken_chunks,
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "bad status line": b"HTTP/1.1 abc OK\r\n\r\n",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "control characters": b"HTTP/1.1 200 OK\r\nX-\x00Bad: 1\r\n\r\n",
    "invalid gzip": http(200, GROUP, {"Content-Encoding": "gzip"}),
    "gzip cut short": http(200, gzip.compress(GROUP * 50)[:40], {"Content-Encoding": "gzip"}),
    "invalid deflate": http(200, GROUP, {"Content-Encoding": "deflate"}),
    "100,000 bytes in one header": huge_headers,
}


@pytest.mark.parametrize("response", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_response_is_a_typed_error(raw: RawServer, response: Any) -> None:
    raw.answer(response)
    async with session_for(raw.url, retry=ONCE, attempt_timeout=2.0) as session:
        error = await failure_of(session)
        assert isinstance(error, ConnectionFailedError | UnexpectedResponseError)
        assert (error.method, error.path, error.attempts) == ("GET", PATH, 1)
        if isinstance(error, TransportError):
            assert error.sent
        raw.answer(http(200, GROUP))
        assert (await session.get_group("7")).id == "7"


@pytest.mark.parametrize("response", BROKEN.values(), ids=BROKEN.keys())
async def test_a_read_is_sent_again_after_a_broken_response(raw: RawServer, response: Any) -> None:
    raw.answer(response, http(200, GROUP))
    async with session_for(raw.url, attempt_timeout=2.0) as session:
        assert (await session.get_group("7")).id == "7"
    assert len(raw.requests) == 2


async def test_100_000_bytes_of_headers_are_a_typed_error(raw: RawServer) -> None:
    raw.answer(many_headers)
    async with session_for(raw.url, retry=ONCE) as session:
        error = await failure_of(session)
    assert isinstance(error, ConnectionFailedError | UnexpectedResponseError)


async def test_a_silent_server_is_an_attempt_timeout(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, retry=ONCE, attempt_timeout=0.05) as session:
        error = await failure_of(session)
    assert isinstance(error, AttemptTimeoutError)
    assert "no complete response within 0.05 s" in str(error)
    assert error.sent
    assert (error.method, error.path) == ("GET", PATH)


async def test_a_request_to_a_silent_server_is_sent_again_as_the_policy_says(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, attempt_timeout=0.15, deadline=30.0) as session:
        error = await failure_of(session)
    assert isinstance(error, AttemptTimeoutError)
    assert error.attempts == 6


async def test_a_deadline_shorter_than_an_attempt_ends_it(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, attempt_timeout=5.0, deadline=0.05) as session:
        error = await failure_of(session)
    assert isinstance(error, DeadlineExceededError)
    assert isinstance(error, TimeoutError)
    assert "while waiting for the response" in str(error)
    assert (error.method, error.path, error.deadline, error.attempts) == ("GET", PATH, 0.05, 1)


async def drip(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        await visit.send(b"x")
        await asyncio.sleep(0.005)


async def endless(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    while True:
        await visit.send(piece)


async def continues(visit: Visit) -> None:
    while True:
        await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("act", [drip, continues])
async def test_a_slow_response_does_not_extend_an_attempt(raw: RawServer, act: Any) -> None:
    raw.answer(act)
    async with session_for(raw.url, retry=ONCE, attempt_timeout=0.1) as session:
        error = await failure_of(session)
    assert isinstance(error, AttemptTimeoutError)


async def test_reading_an_endless_body_stops_at_the_maximum(raw: RawServer) -> None:
    raw.answer(endless)
    async with session_for(raw.url, retry=ONCE) as session:
        inside: Any = session
        inside._transport._max_body = 2**20
        error = await failure_of(session)
    assert isinstance(error, UnexpectedResponseError)
    assert error.status == 200
    assert "more than 1,048,576 bytes" in str(error)


async def test_reading_a_gzip_bomb_stops_at_the_maximum_without_using_memory(raw: RawServer) -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(compressor.compress(bytes(2**20)) for _ in range(128)) + compressor.flush()
    raw.answer(http(200, bomb, {"Content-Encoding": "gzip"}))
    async with session_for(raw.url, retry=ONCE) as session:
        inside: Any = session
        inside._transport._max_body = 4 * 2**20
        tracemalloc.start()
        try:
            error = await failure_of(session)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert isinstance(error, UnexpectedResponseError | ConnectionFailedError)
    assert peak < 40 * 2**20


async def test_a_body_of_exactly_the_maximum_is_read(raw: RawServer) -> None:
    padded = GROUP + b" " * 1000
    raw.answer(http(200, padded))
    async with session_for(raw.url, retry=ONCE) as session:
        inside: Any = session
        inside._transport._max_body = len(padded)
        assert (await session.get_group("7")).id == "7"
        inside._transport._max_body = len(padded) - 1
        with pytest.raises(UnexpectedResponseError, match="a body of more than"):
            await session.get_group("7")


@pytest.mark.parametrize("first", [1, 1000])
async def test_a_body_of_one_byte_too_many_is_too_large_however_it_arrives(raw: RawServer, first: int) -> None:
    async def in_two_pieces(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b" " * first)
        await asyncio.sleep(0.05)
        await visit.send(b" " * (1001 - first))

    raw.answer(in_two_pieces)
    async with session_for(raw.url, retry=ONCE) as session:
        inside: Any = session
        inside._transport._max_body = 1000
        error = await failure_of(session)
    assert isinstance(error, UnexpectedResponseError)
    assert "a body of more than 1,000 bytes" in str(error)


async def test_only_the_beginning_of_a_large_error_body_is_read(raw: RawServer) -> None:
    sent = 0

    async def large_error(visit: Visit) -> None:
        nonlocal sent
        await visit.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(1000):
            await visit.send(b"x" * 100_000)
            sent += 100_000

    raw.answer(large_error)
    async with session_for(raw.url, retry=ONCE) as session:
        error = await failure_of(session)
    assert isinstance(error, ServerError)
    assert sent < 50_000_000
