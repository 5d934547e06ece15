"""The emulator: its start-up time in-process, and its requests per second in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from aiomutex.emulator import MutexEmulator, serve
from benchmarks.harness import Goal, Result, Row, Size, Table, check, in_flight, serving

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["emulating", "run"]

GROUPS = 100
WIDTH = 32


@contextlib.contextmanager
def emulating(**settings: Any) -> Generator[tuple[str, int]]:
    """Run an emulator in its own process, without limits by default. Yield its URL and process ID."""
    command = [sys.executable, "-m", "benchmarks.emulator", json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.kill()


def _ready() -> float:
    """Return the milliseconds from creating an emulator in a thread to its first response."""
    start = time.perf_counter()
    with MutexEmulator(groups=10, limits=False) as emulator:
        request = urllib.request.Request(f"{emulator.url}/api/1/mutexes/1", headers={"Authorization": "Bearer key"})
        with urllib.request.urlopen(request, timeout=10) as response:
            elapsed = (time.perf_counter() - start) * 1e3
            check("id of the first group", str(json.load(response)["id"]), "1")
    return elapsed


async def _request_rate(url: str, count: int) -> float:
    """Return requests per second, half of them edits."""
    connector = aiohttp.TCPConnector(limit=WIDTH)
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer key"}, connector=connector) as http:

        async def call(number: int) -> None:
            address = f"{url}/api/1/mutexes/{1 + number % GROUPS}"
            if number % 2:
                response = await http.patch(f"{address}/slots/1", json={"experiments": [number]})
            else:
                response = await http.get(address)
            async with response:
                await response.read()
                check("status", response.status, 200)

        wall, _ = await in_flight(call, count, WIDTH)
    return count / wall


def _spent(pid: int) -> float:
    """Return the processor seconds of a process, or 0.0 if the system does not report them."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(size: Size) -> Result:
    """Measure the start-up time, and the rate beside the bare server, in alternating rounds."""
    _ready()
    ready = Row("in-process, first response", [_ready() for _ in range(size.of(15, 3, 1))])
    rows = [Row("aiomutex emulator", []), Row("bare server", [])]
    cores = Row("aiomutex emulator, per second of processor time", [])
    count = size.of(6000, 1000, 100)
    with emulating() as (emulator, pid), serving() as bare:
        for _ in range(size.of(5, 2, 1)):
            for row, url in zip(rows, (emulator, bare.url), strict=True):
                before = _spent(pid)
                row.values.append(asyncio.run(_request_rate(url, count)))
                if url == emulator and (spent := _spent(pid) - before):
                    cores.values.append(count / spent)
    if cores.values:
        rows.append(cores)
    tables = [
        Table("Emulator, ready", "ms", [ready]),
        Table(
            "Emulator, half reads and half edits",
            "requests/s",
            rows,
            floor="the bare server: the most that the measuring client can send on the same cores",
        ),
    ]
    rate = rows[0].median
    reached = f"{ready.median:.0f} ms; {rate:,.0f} requests/s"
    if cores.values:
        reached += f" ({cores.median:,.0f} per second of its processor time)"
    met = ready.median <= 50 and rate >= 2000
    return Result(tables, [Goal("emulator", "ready in ≤ 50 ms; ≥ 2,000 requests/s", reached, met)])


def main() -> None:
    defaults: dict[str, Any] = {"groups": GROUPS, "limits": False, "keep_requests": 10}
    emulator = MutexEmulator(**defaults | json.loads(sys.argv[1]))
    asyncio.run(serve(emulator, on_ready=lambda emulator: print(emulator.url, flush=True)))


if __name__ == "__main__":
    main()
