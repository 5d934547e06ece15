"""The cost of a journal: the same edits at 400 per second, with and without one, each in a new process."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiomutex import LocalRateLimiter, MutexSession, SlotEdit
from benchmarks.harness import Goal, Result, Row, Size, Table, alternate, check, median_ratio, module_output, serving
from benchmarks.server import KEY, UNLIMITED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["run"]

RATE = 400.0
GROUPS = 100


async def _paced(count: int) -> AsyncIterator[SlotEdit]:
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(count):
        if (wait := start + number / RATE - loop.time()) > 0:
            await asyncio.sleep(wait)
        yield SlotEdit(number % GROUPS, 1 + number // GROUPS % 2, experiments=[number])


async def _spend(url: str, count: int, journal: Path | None) -> dict[str, Any]:
    """Return the processor and wall time of a run, in seconds, from its first edit to its last outcome."""
    limiter = LocalRateLimiter(UNLIMITED, 10**9)
    async with MutexSession(KEY, base_url=url, rate_limiter=limiter) as session:
        start, cpu = time.perf_counter(), time.process_time()
        applied = 0
        async with session.stream_slot_edits(_paced(count), journal=journal, canary=False) as outcomes:
            async for outcome in outcomes:
                applied += outcome.status == "applied"
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - start, "applied": applied}


def run(size: Size) -> Result:
    """Run with and without a journal, in alternating rounds."""
    count = size.of(4000, 600, 120)
    walls: dict[str, list[float]] = {"on": [], "off": []}
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        fresh = iter(range(1000))

        def measure(mode: str) -> Callable[[], float]:
            def once() -> float:
                path = Path(folder) / f"run{next(fresh)}.db" if mode == "on" else ""
                figures = module_output("journal", server.url, count, path)
                check(f"edits applied with the journal {mode}", figures["applied"], count)
                check(f"edits that the server received with the journal {mode}", server.stats()["edits"], count)
                walls[mode].append(figures["wall"])
                return float(figures["cpu"]) / count * 1e6

            return once

        values = alternate({mode: measure(mode) for mode in ("off", "on")}, size.of(3, 1, 1))
    rows = [Row(f"journal {mode}", costs, f"{count / walls[mode][-1]:.0f} edits/s") for mode, costs in values.items()]
    title = f"CPU per streamed edit at {RATE:.0f} edits/s, {count:,} edits of {GROUPS} groups"
    table = Table(title, "µs", rows, baseline="journal off", floor="the same run without a journal")
    pairs = zip(values["on"], values["off"], strict=True)
    extra = statistics.median((on - off) * RATE / 1e6 for on, off in pairs)
    slower = statistics.median(on / off - 1 for on, off in zip(walls["on"], walls["off"], strict=True))
    reached = f"{slower:+.1%} time, {extra:.1%} of a core, {median_ratio(rows[1], rows[0]):.2f} times the CPU"
    goal = Goal("journal cost at 400 edits/s", "≤ 15 %", reached, max(slower, extra) <= 0.15)
    return Result([table], [goal])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("journal")
    arguments = parser.parse_args()
    journal = Path(arguments.journal) if arguments.journal else None
    print(json.dumps(asyncio.run(_spend(arguments.url, arguments.count, journal))))


if __name__ == "__main__":
    main()
