"""The cost of a call in each client, with several numbers in flight. Shared by ``edits`` and ``gets``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time

from benchmarks.harness import Result, Row, Size, Table, check, serving
from benchmarks.subjects import EXPERIMENTS, INDIVIDUALS, Call, Ours, Plain, Subject, available

__all__ = ["compare", "row_of"]

WIDTHS = (1, 16, 64, 256)
# Slow clients make fewer calls. Their cost per call is far beyond the noise.
_SLOW = {"httpx + pydantic", "openapi-python-client", "requests, threads"}


async def _verified(subject: Subject, call: Call, count: int, server_stats: dict[str, object]) -> None:
    """Check what the server received from a subject in ``count`` calls, and the result of one more call."""
    check(f"requests of {subject.name}", server_stats["requests"], count)
    if call == "edit":
        check(f"edits of {subject.name}", server_stats["edits"], count)
        check(f"groups that {subject.name} edited", server_stats["ids"], count * (count - 1) // 2)
        lists = {"experiments": EXPERIMENTS, "individuals": INDIVIDUALS}
        check(f"lists of {subject.name}", json.loads(str(server_stats["last"])), lists)
    else:
        check(f"group that {subject.name} got", await subject.get(1), "mutex-key")


async def _measure(call: Call, size: Size) -> Result:
    rounds = size.of(5, 1, 1)
    # Fast clients alternate in short slices, so that a slow moment of the machine affects all of them.
    amount, slices = size.of((512, 6), (128, 2), (64, 1))
    result = Result([])
    async with contextlib.AsyncExitStack() as opened:
        server = opened.enter_context(serving())
        subjects, missing = available(server.url)
        for subject in subjects:
            await subject.open()
            opened.push_async_callback(subject.close)
        # The garbage collector must not scan the memory of the other clients during a measurement.
        gc.collect()
        gc.freeze()
        opened.callback(gc.unfreeze)
        for width in size.of(WIDTHS, (64,), (4,)):
            rows = {subject.name: Row(subject.name, []) for subject in subjects}
            bare = Row("bare protocol", [])
            for turn in range(-1, rounds):
                spent = dict.fromkeys(rows, 0.0)
                walls = dict.fromkeys(rows, 0.0)
                calls = dict.fromkeys(rows, 0)
                for slice_ in range(slices):
                    for subject in subjects:
                        slow = subject.name in _SLOW
                        if slow and slice_:
                            continue
                        count = max(width, amount // (4 if slow else 1))
                        server.stats()
                        wall, cpu = await subject.spend(call, count, width)
                        await _verified(subject, call, count, server.stats())
                        spent[subject.name] += cpu
                        walls[subject.name] += wall
                        calls[subject.name] += count
                if turn >= 0:  # the first turn is the warm-up
                    for name, row in rows.items():
                        row.values.append(spent[name] / calls[name] * 1e6)
                        row.note = f"{calls[name] / walls[name]:,.0f} calls/s"
                if turn >= 0:
                    bare.values.append(await _bare(server.url, call, amount, width) / amount * 1e6)
            floor = "the bare protocol: prepared bytes over a socket, responses split by Content-Length, nothing else"
            title = f"CPU per {call}, {width} in flight" + (f" ({missing})" if missing else "")
            table = Table(title, "µs", [*rows.values(), bare], baseline=Plain.name, floor=floor)
            result.tables.append(table)
    return result


class _Bare(asyncio.Protocol):
    """Sends prepared requests one after the other over one connection."""

    def __init__(self, requests: list[bytes], done: asyncio.Future[None]) -> None:
        self.requests = requests
        self.done = done
        self.unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._next()

    def _next(self) -> None:
        if self.requests:
            self.transport.write(self.requests.pop())
        else:
            self.transport.close()
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        head, end, body = self.unread.partition(b"\r\n\r\n")
        at = head.find(b"Content-Length: ")
        if end and len(body) >= int(head[at + 16 :].split(b"\r\n", 1)[0]):
            self.unread = b""
            self._next()


async def _bare(url: str, call: Call, count: int, width: int) -> float:
    """Return the processor time of the same calls over a bare protocol, the lower bound of any asyncio client."""
    loop = asyncio.get_running_loop()
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"experiments": EXPERIMENTS, "individuals": INDIVIDUALS}).encode()
    template = (
        f"PATCH /api/1/mutexes/%d/slots/1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
        if call == "edit"
        else f"GET /api/1/mutexes/%d HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    )
    shares = [[template % n for n in range(start, count, width)] for start in range(width)]
    cpu = time.process_time()
    ends: list[asyncio.Future[None]] = []
    for share in shares:
        done: asyncio.Future[None] = loop.create_future()
        ends.append(done)

        def made(share: list[bytes] = share, done: asyncio.Future[None] = done) -> _Bare:
            return _Bare(share, done)

        await loop.create_connection(made, host, int(port))
    await asyncio.gather(*ends)
    return time.process_time() - cpu


def compare(call: Call, size: Size) -> Result:
    """Measure each client with each number in flight, in alternating rounds."""
    return asyncio.run(_measure(call, size))


def row_of(result: Result, width: int, subject: type[Subject] = Ours) -> tuple[Row, Row]:
    """Return the rows of a subject and of the plain client, for one number in flight."""
    table = next(table for table in result.tables if f"{width} in flight" in table.title)
    rows = {row.name: row for row in table.rows}
    return rows[subject.name], rows[Plain.name]
