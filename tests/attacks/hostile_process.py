"""Makes one call to a server that never stops sending; prints the outcome and how much the memory grew."""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import GROUP, RawServer, http, session_for

from aiomutex import MutexError

if TYPE_CHECKING:
    from support import Visit

MANY: Final = 10 * 2**30
CHUNK: Final = b"10000\r\n" + bytes(65_536) + b"\r\n"


def bomb(status: bytes) -> tuple[bytes, bytes]:
    """An endless gzip stream of zeros, a thousandth of their size: its start, and the piece to repeat."""
    press = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = press.compress(bytes(2**20)) + press.flush(zlib.Z_FULL_FLUSH)
    piece = press.compress(bytes(2**20)) + press.flush(zlib.Z_FULL_FLUSH)
    coded = b"HTTP/1.1 %s\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (status, MANY)
    return coded + head, piece * 32


ATTACKS: Final[dict[str, tuple[bytes, bytes]]] = {
    "10 GB": (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MANY, bytes(65_536)),
    "10 GB of chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNK),
    "10 GB of an error response": (b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n" % MANY, bytes(65_536)),
    "10 GB of gzip": bomb(b"200 OK"),
    "10 GB of gzip of an error response": bomb(b"400 No"),
    "10 GB of small chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
    "10 GB of early hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2_000),
    "10 GB of header lines": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000),
    "10 GB after the response": (http(200, GROUP), b"HTTP/1.1 204 No Content\r\n\r\n" * 2_000),
}


def peak() -> int:
    """The peak memory of this process in KiB. ``getrusage`` would include the parent process."""
    (line,) = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM")]
    return int(line.split()[1])


async def main(attack: str) -> None:
    start, piece = ATTACKS[attack]

    async def act(visit: Visit) -> None:
        await visit.send(start)
        await asyncio.sleep(0.05)
        while True:
            await visit.send(piece)
            await asyncio.sleep(0)

    async with RawServer() as warm, session_for(warm.url) as session:
        await session.get_group("7")
    async with RawServer() as raw, session_for(raw.url, attempt_timeout=3.0, deadline=3.5) as session:
        raw.answer(act)
        before = peak()
        try:
            outcome = (await session.get_group("7")).id
            await asyncio.sleep(2)
        except MutexError as error:
            outcome = f"{type(error).__name__} after {error.attempts}"
        print(json.dumps({"outcome": outcome, "megabytes": (peak() - before) // 1024}))


asyncio.run(main(sys.argv[1]))
