"""What a hostile server may say: answers that lie, flood, dawdle or never end, each with the error it should end in."""

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


def says(head: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {head}\r\n\r\n".encode() + body


def keeps_saying(piece: bytes, start: bytes = b"", pause: float | None = None) -> Callable[[Visit], Awaitable[None]]:
    async def act(visit: Visit) -> None:
        await visit.send(start)
        while True:
            await visit.send(piece)
            if pause is not None:
                await asyncio.sleep(pause)

    return act


def leaves(data: bytes) -> Callable[[Visit], Awaitable[None]]:
    async def act(visit: Visit) -> None:
        await visit.send(data)
        visit.writer.close()

    return act


def length(told: object) -> bytes:
    return says(f"200 OK\r\nContent-Length: {told}", GROUP)


def coded(coding: str, data: bytes) -> bytes:
    return http(200, data, {"Content-Encoding": coding})


def sized(data: bytes) -> bytes:
    return http(200, data)


BROKEN: Final = ConnectionFailedError
LATE: Final = AttemptTimeoutError
ODD: Final = UnexpectedResponseError
DIGITS: Final = b"9" * 5_000

HOSTILE: dict[str, tuple[type[MutexError], Any]] = {
    # lengths that lie
    "a length too long": (BROKEN, leaves(length(99_999))),
    "a length too long, held open": (LATE, length(99_999)),
    "a length too short": (BROKEN, length(10)),
    "a length of 10 GB": (BROKEN, leaves(length(10 * 2**30))),
    "a length of 10 GB, held open": (LATE, length(10 * 2**30)),
    "a length of 2**64": (BROKEN, length(2**64)),
    "a length of 5,000 digits": (BROKEN, length("9" * 5_000)),
    "a length below zero": (BROKEN, length(-1)),
    "a length with a plus": (BROKEN, length(f"+{len(GROUP)}")),
    "a length in hexadecimal": (BROKEN, length("0x10")),
    "a list of lengths": (BROKEN, length("5, 5")),
    "a length and chunks": (BROKEN, says(f"{CHUNKED}\r\nContent-Length: 5", b"2\r\n{}\r\n0\r\n\r\n")),
    # chunks
    "a chunk of 2**64 - 1": (LATE, says(CHUNKED, b"F" * 16 + b"\r\n{")),
    "a chunk of 2**68 - 1": (BROKEN, says(CHUNKED, b"F" * 17 + b"\r\n{")),
    "a chunk below zero": (BROKEN, says(CHUNKED, b"-5\r\n{")),
    "a size of endless digits": (LATE, keeps_saying(b"0" * 65_536, says(CHUNKED))),
    "an endless chunk extension": (LATE, keeps_saying(b"x" * 65_536, says(CHUNKED, b"5;"))),
    "endless trailers": (BROKEN, keeps_saying(b"X: y\r\n" * 5_000, says(CHUNKED, b"2\r\n{}\r\n0\r\n"))),
    "an endless trailer": (BROKEN, keeps_saying(b"x" * 65_536, says(CHUNKED, b"2\r\n{}\r\n0\r\nX: "))),
    # heads
    "endless early hints": (LATE, keeps_saying(says("103 Early Hints\r\nLink: </x>") * 50, pause=0.001)),
    "endless header lines": (BROKEN, keeps_saying(b"X: y\r\n" * 5_000, b"HTTP/1.1 200 OK\r\n")),
    "an endless header": (BROKEN, keeps_saying(b"x" * 65_536, b"HTTP/1.1 200 OK\r\nX: ")),
    "an endless header name": (BROKEN, keeps_saying(b"x" * 65_536, b"HTTP/1.1 200 OK\r\n")),
    "an endless folded header": (BROKEN, keeps_saying(b"\r\n x" * 9_999, b"HTTP/1.1 200 OK\r\nX: y")),
    "an endless reason": (BROKEN, keeps_saying(b"x" * 65_536, b"HTTP/1.1 200 ")),
    "endless empty lines": (LATE, keeps_saying(b"\r\n" * 30_000)),
    "endless noise": (BROKEN, keeps_saying(bytes(65_536))),
    "a head of a byte now and then": (LATE, keeps_saying(b"x", b"HTTP/1.1 200 OK\r\nX: ", pause=0.01)),
    "a status of 4 digits": (BROKEN, says("1000 OK\r\nContent-Length: 0")),
    "a status below zero": (BROKEN, says("-200 OK\r\nContent-Length: 0")),
    "a status of 0": (APIError, says("000 OK\r\nContent-Length: 0")),
    "no status line": (BROKEN, leaves(GROUP)),
    "HTTP/2 to whom it was not offered": (BROKEN, b"\x00\x00\x12\x04" + bytes(24)),
    "a switch of protocols": (APIError, keeps_saying(b"x", says("101 S\r\nUpgrade: x\r\nConnection: upgrade"), 0.01)),
    "another place of its own": (APIError, http(302, b"", {"Location": "/api/1/mutexes/8"})),
    # codings
    "br, which was not asked for": (BROKEN, coded("br", GROUP)),
    "zstd, which was not asked for": (BROKEN, coded("zstd", GROUP)),
    "gzip twice": (ODD, coded("gzip, gzip", gzip.compress(gzip.compress(GROUP)))),
    "gzip in gzip": (ODD, coded("gzip", gzip.compress(gzip.compress(GROUP)))),
    "gzip with a tail": (BROKEN, coded("gzip", gzip.compress(GROUP) + b"tail" * 99)),
    # JSON
    "lists in lists where slots belong": (ODD, sized(b'{"id":7,"slots":' + b"[" * 1_000_000)),
    "objects in objects where nothing belongs": (ODD, sized(b'{"id":7,"slots":[],"x":' + b'{"a":' * 1_000_000)),
    "a refusal of objects in objects": (APIError, http(400, b'{"message":' * 100_000)),
    "a number beyond all floats": (ODD, sized(b'{"id":7,"slots":[{"index":1,"percentage":1e400}]}')),
    "a number that is none": (ODD, sized(b'{"id":7,"slots":[{"index":1,"percentage":NaN}]}')),
    "a number of 5,000 digits": (ODD, sized(b'{"id":7,"slots":[{"percentage":1,"individuals":[%s]}]}' % DIGITS)),
    "a text that is no UTF-8": (ODD, sized(b'{"id":7,"slots":[],"name":"\xff\xfe"}')),
    "half of a surrogate pair": (ODD, sized(b'{"id":7,"slots":[],"name":"\\ud800"}')),
    "UTF-16": (ODD, sized(GROUP.decode().encode("utf-16"))),
    "a tail": (ODD, sized(GROUP + b"x")),
}  # fmt: skip
