"""Responses of hostile servers: wrong, endless, slow or enormous ones, each with the error the client must raise."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any, Final

from support import GROUP, http

from aiomutex import APIError, AttemptTimeoutError, ConnectionFailedError, MutexError, UnexpectedResponseError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support import Visit

CHUNKED: Final = "200 OK\r\nTransfer-Encoding: chunked"


def raw_response(head: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {head}\r\n\r\n".encode() + body


def repeat(piece: bytes, start: bytes = b"", pause: float | None = None) -> Callable[[Visit], Awaitable[None]]:
    async def act(visit: Visit) -> None:
        await visit.send(start)
        while True:
            await visit.send(piece)
            if pause is not None:
                await asyncio.sleep(pause)

    return act


def send_and_close(data: bytes) -> Callable[[Visit], Awaitable[None]]:
    async def act(visit: Visit) -> None:
        await visit.send(data)
        visit.writer.close()

    return act


def with_length(value: object) -> bytes:
    return raw_response(f"200 OK\r\nContent-Length: {value}", GROUP)


def encoded(coding: str, data: bytes) -> bytes:
    return http(200, data, {"Content-Encoding": coding})


def ok(data: bytes) -> bytes:
    return http(200, data)


BROKEN: Final = ConnectionFailedError
TIMED_OUT: Final = AttemptTimeoutError
UNEXPECTED: Final = UnexpectedResponseError
DIGITS: Final = b"9" * 5_000

HOSTILE: dict[str, tuple[type[MutexError], Any]] = {
    # wrong lengths
    "a length too long": (BROKEN, send_and_close(with_length(99_999))),
    "a length too long, held open": (TIMED_OUT, with_length(99_999)),
    "a length too short": (BROKEN, with_length(10)),
    "a length of 10 GB": (BROKEN, send_and_close(with_length(10 * 2**30))),
    "a length of 10 GB, held open": (TIMED_OUT, with_length(10 * 2**30)),
    "a length of 2**64": (BROKEN, with_length(2**64)),
    "a length of 5,000 digits": (BROKEN, with_length("9" * 5_000)),
    "a length below zero": (BROKEN, with_length(-1)),
    "a length with a plus sign": (BROKEN, with_length(f"+{len(GROUP)}")),
    "a length in hexadecimal": (BROKEN, with_length("0x10")),
    "a list of lengths": (BROKEN, with_length("5, 5")),
    "a length and chunks": (BROKEN, raw_response(f"{CHUNKED}\r\nContent-Length: 5", b"2\r\n{}\r\n0\r\n\r\n")),
    # chunks
    "a chunk of 2**64 - 1": (TIMED_OUT, raw_response(CHUNKED, b"F" * 16 + b"\r\n{")),
    "a chunk of 2**68 - 1": (BROKEN, raw_response(CHUNKED, b"F" * 17 + b"\r\n{")),
    "a chunk below zero": (BROKEN, raw_response(CHUNKED, b"-5\r\n{")),
    "a size of endless digits": (TIMED_OUT, repeat(b"0" * 65_536, raw_response(CHUNKED))),
    "an endless chunk extension": (TIMED_OUT, repeat(b"x" * 65_536, raw_response(CHUNKED, b"5;"))),
    "endless trailers": (BROKEN, repeat(b"X: y\r\n" * 5_000, raw_response(CHUNKED, b"2\r\n{}\r\n0\r\n"))),
    "an endless trailer": (BROKEN, repeat(b"x" * 65_536, raw_response(CHUNKED, b"2\r\n{}\r\n0\r\nX: "))),
    # heads
    "endless early hints": (TIMED_OUT, repeat(raw_response("103 Early Hints\r\nLink: </x>") * 50, pause=0.001)),
    "endless header lines": (BROKEN, repeat(b"X: y\r\n" * 5_000, b"HTTP/1.1 200 OK\r\n")),
    "an endless header": (BROKEN, repeat(b"x" * 65_536, b"HTTP/1.1 200 OK\r\nX: ")),
    "an endless header name": (BROKEN, repeat(b"x" * 65_536, b"HTTP/1.1 200 OK\r\n")),
    "an endless folded header": (BROKEN, repeat(b"\r\n x" * 9_999, b"HTTP/1.1 200 OK\r\nX: y")),
    "an endless reason": (BROKEN, repeat(b"x" * 65_536, b"HTTP/1.1 200 ")),
    "endless empty lines": (TIMED_OUT, repeat(b"\r\n" * 30_000)),
    "endless noise": (BROKEN, repeat(bytes(65_536))),
    "a header of a byte now and then": (TIMED_OUT, repeat(b"x", b"HTTP/1.1 200 OK\r\nX: ", pause=0.01)),
    "a status of 4 digits": (BROKEN, raw_response("1000 OK\r\nContent-Length: 0")),
    "a status below zero": (BROKEN, raw_response("-200 OK\r\nContent-Length: 0")),
    "a status of 0": (APIError, raw_response("000 OK\r\nContent-Length: 0")),
    "no status line": (BROKEN, send_and_close(GROUP)),
    "HTTP/2 that was not negotiated": (BROKEN, b"\x00\x00\x12\x04" + bytes(24)),
    "a switch of protocols": (APIError, repeat(b"x", raw_response("101 S\r\nUpgrade: x\r\nConnection: upgrade"), 0.01)),
    "a redirect": (APIError, http(302, b"", {"Location": "/api/1/mutexes/8"})),
    # codings
    "br, which was not requested": (BROKEN, encoded("br", GROUP)),
    "zstd, which was not requested": (BROKEN, encoded("zstd", GROUP)),
    "gzip twice": (UNEXPECTED, encoded("gzip, gzip", gzip.compress(gzip.compress(GROUP)))),
    "gzip in gzip": (UNEXPECTED, encoded("gzip", gzip.compress(gzip.compress(GROUP)))),
    "gzip with trailing bytes": (BROKEN, encoded("gzip", gzip.compress(GROUP) + b"tail" * 99)),
    # JSON
    "nested lists instead of slots": (UNEXPECTED, ok(b'{"id":7,"slots":' + b"[" * 1_000_000)),
    "nested objects in an unknown field": (UNEXPECTED, ok(b'{"id":7,"slots":[],"x":' + b'{"a":' * 1_000_000)),
    "an error of nested objects": (APIError, http(400, b'{"message":' * 100_000)),
    "a number too large for a float": (UNEXPECTED, ok(b'{"id":7,"slots":[{"index":1,"percentage":1e400}]}')),
    "NaN": (UNEXPECTED, ok(b'{"id":7,"slots":[{"index":1,"percentage":NaN}]}')),
    "a number of 5,000 digits": (UNEXPECTED, ok(b'{"id":7,"slots":[{"percentage":1,"individuals":[%s]}]}' % DIGITS)),
    "a string that is not UTF-8": (UNEXPECTED, ok(b'{"id":7,"slots":[],"name":"\xff\xfe"}')),
    "half of a surrogate pair": (UNEXPECTED, ok(b'{"id":7,"slots":[],"name":"\\ud800"}')),
    "UTF-16": (UNEXPECTED, ok(GROUP.decode().encode("utf-16"))),
    "trailing bytes": (UNEXPECTED, ok(GROUP + b"x")),
}  # fmt: skip
