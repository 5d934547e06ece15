"""The cost of a call in each client, with several numbers in flight. Shared by ``edits`` and ``gets``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import ssl
import time

import msgspec

from benchmarks.harness import (
    Goal,
    Result,
    Row,
    Size,
    Table,
    check,
    median_ratio,
    module_output,
    serving,
    stats_of,
)
from benchmarks.subjects import EXPERIMENTS, INDIVIDUALS, Call, Ours, Plain, Subject, available

__all__ = ["compare", "goals"]

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


async def _measure(call: Call, size: Size, url: str) -> list[Table]:
    rounds = size.of(5, 1, 1)
    # Fast clients alternate in short slices, so that a slow moment of the machine affects all of them.
    amount, slices = size.of((512, 6), (128, 2), (64, 1))
    tables: list[Table] = []
    scheme = url.partition(":")[0]
    async with contextlib.AsyncExitStack() as opened:
        subjects, missing = available(url)
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
                        stats_of(url)
                        wall, cpu = await subject.spend(call, count, width)
                        await _verified(subject, call, count, stats_of(url))
                        spent[subject.name] += cpu
                        walls[subject.name] += wall
                        calls[subject.name] += count
                if turn >= 0:  # the first turn is the warm-up
                    for name, row in rows.items():
                        row.values.append(spent[name] / calls[name] * 1e6)
                        row.note = f"{calls[name] / walls[name]:,.0f} calls/s"
                if turn >= 0:
                    bare.values.append(await _bare(url, call, amount, width) / amount * 1e6)
            floor = "the bare protocol: prepared bytes over a socket, responses split by Content-Length, nothing else"
            title = f"CPU per {call} over {scheme}, {width} in flight" + (f" ({missing})" if missing else "")
            table = Table(title, "µs", [*rows.values(), bare], baseline=Plain.name, floor=floor)
            tables.append(table)
    return tables


class _Bare(asyncio.Protocol):
    """Sends prepared requests one after the other over one connection."""

    def __init__(self, requests: list[bytes], done: asyncio.Future[None]) -> None:
        self.requests = requests
        self.done = done
        self.unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def next(self) -> None:
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
            self.next()


async def _bare(url: str, call: Call, count: int, width: int) -> float:
    """Return the processor time of the same calls over a bare protocol, the lower bound of any asyncio client."""
    loop = asyncio.get_running_loop()
    scheme, _, address = url.partition("://")
    host, port = address.split(":")
    context = ssl.create_default_context() if scheme == "https" else None
    body = json.dumps({"experiments": EXPERIMENTS, "individuals": INDIVIDUALS}).encode()
    template = (
        f"PATCH /api/1/mutexes/%d/slots/1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
        if call == "edit"
        else f"GET /api/1/mutexes/%d HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    )
    shares = [[template % n for n in range(start, count, width)] for start in range(width)]
    ends: list[asyncio.Future[None]] = []
    connections: list[_Bare] = []
    for share in shares:
        done: asyncio.Future[None] = loop.create_future()
        ends.append(done)

        def made(share: list[bytes] = share, done: asyncio.Future[None] = done) -> _Bare:
            return _Bare(share, done)

        connections.append((await loop.create_connection(made, host, int(port), ssl=context))[1])
    cpu = time.process_time()
    for connection in connections:
        connection.next()
    await asyncio.gather(*ends)
    return time.process_time() - cpu


def compare(call: Call, size: Size) -> Result:
    """Measure each client with each number in flight, in alternating rounds."""
    result = Result([])
    for tls in (False, True):
        # In a new process, because aiohttp reads at its import which authorities to trust.
        with serving(tls=tls) as server:
            tables = module_output("calls", call, size.value, server.url, environment=server.environment)
        result.tables += msgspec.convert(tables, list[Table])
    return result


def goals(result: Result, what: str, goal: float, width: int) -> list[Goal]:
    """Compare this library with the plain client over http and https, for one number in flight."""
    found: list[Goal] = []
    for scheme in ("http", "https"):
        ratio = median_ratio(*_rows(result, f"over {scheme}, {width} in flight"))
        found.append(Goal(f"{what} over {scheme}, {width} in flight", f"≤ {goal:.2f}", f"{ratio:.2f}", ratio <= goal))
    return found


def _rows(result: Result, title: str) -> tuple[Row, Row]:
    table = next(table for table in result.tables if title in table.title)
    rows = {row.name: row for row in table.rows}
    return rows[Ours.name], rows[Plain.name]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("call", choices=("edit", "get"))
    parser.add_argument("size", type=Size)
    parser.add_argument("url")
    arguments = parser.parse_args()
    tables = asyncio.run(_measure(arguments.call, arguments.size, arguments.url))
    print(msgspec.json.encode(tables).decode())


if __name__ == "__main__":
    main()
