"""The emulator: how soon it is ready in-process, and how many requests a second it answers in a process of its own."""

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
    """An emulator in a process of its own, without limits unless ``settings`` say so; its URL and process id."""
    command = [sys.executable, "-m", "benchmarks.emulator", json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.kill()


def _ready() -> float:
    """Milliseconds from nothing to the first answer of an emulator in a thread of this process."""
    start = time.perf_counter()
    with MutexEmulator(groups=10, limits=False) as emulator:
        request = urllib.request.Request(f"{emulator.url}/api/1/mutexes/1", headers={"Authorization": "Bearer key"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            took = (time.perf_counter() - start) * 1e3
            check("id of the first group", str(json.load(answer)["id"]), "1")
    return took


async def _answered(url: str, count: int) -> float:
    """Requests a second, half of them edits."""
    connector = aiohttp.TCPConnector(limit=WIDTH)
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer key"}, connector=connector) as http:

        async def call(number: int) -> None:
            address = f"{url}/api/1/mutexes/{1 + number % GROUPS}"
            if number % 2:
                answer = await http.patch(f"{address}/slots/1", json={"experiments": [number]})
            else:
                answer = await http.get(address)
            async with answer:
                await answer.read()
                check("status", answer.status, 200)

        wall, _ = await in_flight(call, count, WIDTH)
    return count / wall


def _spent(pid: int) -> float:
    """Processor seconds of a process so far; 0.0 where the system does not tell."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(size: Size) -> Result:
    """Start it again and again; then ask it, and the bare server beside it, in turns."""
    _ready()
    ready = Row("in-process, first answer", [_ready() for _ in range(size.of(15, 3, 1))])
    rows = [Row("aiomutex emulator", []), Row("bare server", [])]
    cores = Row("aiomutex emulator, per second of its processor time", [])
    count = size.of(6000, 1000, 100)
    with emulating() as (emulator, pid), serving() as bare:
        for _ in range(size.of(5, 2, 1)):
            for row, url in zip(rows, (emulator, bare.url), strict=True):
                before = _spent(pid)
                row.values.append(asyncio.run(_answered(url, count)))
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
            floor="the bare server: what the client that asks can send on the same cores",
        ),
    ]
    rate = rows[0].median
    reached = f"{ready.median:.0f} ms; {rate:,.0f} requests/s"
    if cores.values:
        reached += f" ({cores.median:,.0f} a second of its processor time)"
    met = ready.median <= 50 and rate >= 2000
    return Result(tables, [Goal("emulator", "ready in ≤ 50 ms; ≥ 2,000 requests/s", reached, met)])


def main() -> None:
    defaults: dict[str, Any] = {"groups": GROUPS, "limits": False, "keep_requests": 10}
    emulator = MutexEmulator(**defaults | json.loads(sys.argv[1]))
    asyncio.run(serve(emulator, on_ready=lambda emulator: print(emulator.url, flush=True)))


if __name__ == "__main__":
    main()
