"""The cost of bulk edits beside a loop written by hand: ``python -m benchmarks.bulk``.

The emulator runs in its own process, without limits. Each subject runs in a new process, in alternating rounds, and the
figures are medians. The cost of the journal is measured at 400 edits per second, as the additional processor time of a
journaled run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from aiomutex import LocalRateLimiter, MutexSession, SlotEdit
from aiomutex.emulator import MutexEmulator, serve

GROUPS = 2_000
PACED = 1_600
Subject = Callable[[str, int], Awaitable[int]]


def edits(count: int) -> Iterator[SlotEdit]:
    """Yield edits group by group, three slots each, as in a typical file."""
    return (SlotEdit(1 + n // 3 % GROUPS, 1 + n % 3, experiments=[n, n + 1]) for n in range(count))


def session_for(url: str) -> MutexSession:
    return MutexSession("key", base_url=url, rate_limiter=LocalRateLimiter(100_000, 100_000_000))


async def by_hand(url: str, count: int) -> int:
    """Do what a user would write: a session, a semaphore, a gather."""
    semaphore = asyncio.Semaphore(48)
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as http:

        async def write(edit: SlotEdit) -> bool:
            address = f"{url}/api/1/mutexes/{edit.group_id}/slots/{edit.slot_index}"
            async with semaphore, http.patch(address, json={"experiments": edit.experiments}) as response:
                await response.read()
                response.raise_for_status()
                return True

        return sum(await asyncio.gather(*(write(edit) for edit in edits(count))))


async def streamed(url: str, count: int, **options: Any) -> int:
    async with session_for(url) as session, session.stream_slot_edits(edits(count), **options) as outcomes:
        return sum([outcome.status == "applied" async for outcome in outcomes])


async def journaled(url: str, count: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return await streamed(url, count, journal=Path(folder) / "run.db")


async def verified(url: str, count: int) -> int:
    return await streamed(url, count, verify=True)


async def paced(url: str, count: int, rate: float = 400.0, **options: Any) -> int:
    async def source() -> AsyncIterator[SlotEdit]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for n, edit in enumerate(edits(count)):
            if (wait := start + n / rate - loop.time()) > 0:
                await asyncio.sleep(wait)
            yield edit

    async with session_for(url) as session, session.stream_slot_edits(source(), **options) as outcomes:
        return sum([outcome.status == "applied" async for outcome in outcomes])


async def paced_and_journaled(url: str, count: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.db"
        return await paced(url, count, journal=path)


SUBJECTS: dict[str, Subject] = {
    "by hand": by_hand,
    "streamed": streamed,
    "verified": verified,
    "journaled": journaled,
    "paced": paced,
    "paced+journal": paced_and_journaled,
}


def measure(name: str, url: str, count: int) -> dict[str, float]:
    """Run one subject in a new process. Return wall time, processor time, and the growth of peak memory."""
    command = [sys.executable, "-m", "benchmarks.bulk", "--subject", name, "--url", url, "--edits", str(count)]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return figures


async def subject(name: str, url: str, count: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    done = await SUBJECTS[name](url, count)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert done == count, f"{done} of {count}"
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"wall": wall, "cpu": cpu, "memory": (after.ru_maxrss - before.ru_maxrss) / 1024}))


def compare(url: str, rounds: int, count: int) -> None:
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in SUBJECTS}
    for _ in range(rounds):
        for name in SUBJECTS:
            figures[name].append(measure(name, url, min(count, PACED) if name.startswith("paced") else count))
    print(f"{count:,} edits over {GROUPS:,} groups, {rounds} rounds, medians")
    print(f"{'subject':<15}{'edits/s':>9}{'µs CPU/edit':>13}{'MB above start':>16}{'CPU ratio':>11}")
    hand = [each["cpu"] for each in figures["by hand"]]
    for name, runs in figures.items():
        size = min(count, PACED) if name.startswith("paced") else count
        wall = statistics.median(run["wall"] for run in runs)
        cpu = statistics.median(run["cpu"] for run in runs)
        memory = statistics.median(run["memory"] for run in runs)
        ratio = statistics.median(run["cpu"] / size / (base / count) for run, base in zip(runs, hand, strict=True))
        print(f"{name:<15}{size / wall:>9,.0f}{cpu / size * 1e6:>13,.0f}{memory:>16.1f}{ratio:>11.2f}")
    pairs = list(zip(figures["paced+journal"], figures["paced"], strict=True))
    extra = statistics.median(journal["cpu"] - plain["cpu"] for journal, plain in pairs)
    slower = statistics.median(journal["wall"] / plain["wall"] - 1 for journal, plain in pairs)
    seconds = min(count, PACED) / 400
    print(f"journal at 400 edits/s: {extra / seconds:.1%} of a core, {slower:+.1%} time (goal: at most 15 %)")


def main() -> None:
    parser = argparse.ArgumentParser(description="bulk edits beside a hand-written loop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--edits", type=int, default=6_000)
    parser.add_argument("--subject", choices=SUBJECTS)
    parser.add_argument("--url")
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    if arguments.serve:
        emulator = MutexEmulator(groups=GROUPS, limits=False, keep_requests=10)
        asyncio.run(serve(emulator, on_ready=lambda emulator: print(emulator.url, flush=True)))
    elif arguments.subject:
        asyncio.run(subject(arguments.subject, arguments.url, arguments.edits))
    else:
        command = [sys.executable, "-m", "benchmarks.bulk", "--serve"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                compare(server.stdout.readline().strip(), arguments.rounds, arguments.edits)
            finally:
                server.kill()


if __name__ == "__main__":
    main()
