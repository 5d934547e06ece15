"""Memory as a run grows: streamed edits, and a listing read group by group. Each runs in a new process."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from aiomutex import LocalRateLimiter, MutexSession, SlotEdit
from benchmarks.harness import Goal, Result, Row, Size, Table, check, module_output, serving
from benchmarks.server import KEY, UNLIMITED, group_document

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["run"]

MEBIBYTE = 2**20
POINTS = 100
GROUPS = 5_000


def resident(process: int | str = "self") -> float:
    """Return the resident MiB of a process, or the peak of this process where the system has no /proc."""
    statm = Path(f"/proc/{process}/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / MEBIBYTE
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def edits(count: int) -> Iterator[SlotEdit]:
    return (SlotEdit(n % GROUPS, 1 + n // GROUPS % 2, experiments=[n, n + 1]) for n in range(count))


def session_for(url: str) -> MutexSession:
    return MutexSession(KEY, base_url=url, rate_limiter=LocalRateLimiter(UNLIMITED, 10**9))


async def streamed(url: str, count: int) -> list[float]:
    held: list[float] = []
    done = 0
    async with session_for(url) as session, session.stream_slot_edits(edits(count), canary=False) as outcomes:
        async for outcome in outcomes:
            done += outcome.status == "applied"
            if not done % max(1, count // POINTS):
                held.append(resident())
    check("edits applied", done, count)
    return held


async def gathered(url: str, count: int) -> list[float]:
    """Do what users write first: one task per edit, and a semaphore."""
    semaphore = asyncio.Semaphore(48)
    held: list[float] = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http:

        async def write(number: int, edit: SlotEdit) -> int:
            address = f"{url}/api/1/mutexes/{edit.group_id}/slots/{edit.slot_index}"
            async with semaphore, http.patch(address, json={"experiments": edit.experiments}) as response:
                response.raise_for_status()
                await response.read()
            if not number % max(1, count // POINTS):
                held.append(resident())
            return 1

        done = sum(await asyncio.gather(*(write(number, edit) for number, edit in enumerate(edits(count)))))
    check("edits applied", done, count)
    return held


async def listed(url: str, count: int) -> list[float]:
    held: list[float] = []
    listed_ = 0
    async with session_for(url) as session:
        async for _ in session.list_groups():
            listed_ += 1
            if not listed_ % max(1, count // POINTS):
                held.append(resident())
    check("groups listed", listed_, count)
    return held


async def collected(url: str, count: int) -> list[float]:
    held: list[float] = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http:
        groups: list[object] = []
        cursor: str | None = "0"
        while cursor is not None:
            async with http.get(f"{url}/api/1/mutexes?limit=1000&cursor={cursor}") as response:
                page = await response.json()
            groups += page["mutexes"]
            cursor = page["nextCursor"]
            held.append(resident())
    check("groups listed", len(groups), count)
    return held


WORK: dict[str, Callable[[str, int], Awaitable[list[float]]]] = {
    "streamed": streamed,
    "gathered": gathered,
    "listed": listed,
    "collected": collected,
}


def run(size: Size) -> Result:
    """Measure each subject once, in a new process, because memory hardly varies."""
    result = Result([])
    _edits(size, result)
    _listing(size, result)
    return result


def _edits(size: Size, result: Result) -> None:
    few, many = size.of((10_000, 1_000_000), (1_000, 3_000), (100, 300))
    some = size.of(100_000, 2_000, 200)
    amounts = [("streamed", few), ("streamed", many), ("gathered", few), ("gathered", some)]
    rows: list[Row] = []
    with serving() as server:
        for work, count in amounts:
            held = module_output("memory", work, server.url, count)
            check(f"edits that the server received from {work}", server.stats()["edits"], count)
            name = f"{'aiomutex, streamed' if work == 'streamed' else 'plain aiohttp, gathered'}: {count:,}"
            rows.append(Row(name, [max(held)], f"from {held[0]:.1f} to {held[-1]:.1f} MiB"))
            result.curves[f"{work} {count}"] = [(n / len(held), value) for n, value in enumerate(held, 1)]
    floor = "the process with its imports and connections"
    result.tables.append(Table("Peak memory of slot edits", "MiB", rows, floor=floor))
    difference = rows[1].median - rows[0].median
    what = f"memory: {many:,} streamed edits against {few:,}"
    result.goals.append(Goal(what, "≤ 10 MB more", f"{difference:.1f} MiB", difference <= 9.5))


def _listing(size: Size, result: Result) -> None:
    count = size.of(500_000, 3_000, 1_500)
    rows: list[Row] = []
    for work in ("listed", "collected"):
        with serving("--groups", str(count)) as server:
            held = module_output("memory", work, server.url, count)
            pages = -(-count // 1000)
            check(f"pages that the server sent to {work}", server.stats()["requests"], pages)
        name = "aiomutex, group by group" if work == "listed" else "plain aiohttp, a list of dicts"
        rows.append(Row(name, [max(held)], f"from {held[0]:.1f} to {held[-1]:.1f} MiB"))
        result.curves[work] = [(n / len(held), value) for n, value in enumerate(held, 1)]
    page = 1000 * len(group_document(100_000)) / MEBIBYTE
    floor = f"the process with its imports, and a page of {page:.2f} MiB with its 1,000 groups"
    result.tables.append(Table(f"Peak memory of listing {count:,} groups", "MiB", rows, floor=floor))
    first, _ = _thirds([value for _, value in result.curves["listed"]])
    grown = max(value for _, value in result.curves["listed"]) - first
    reached = f"{grown:+.1f} MiB after the first third"
    result.goals.append(Goal(f"memory: listing {count:,} groups", "flat, ≤ 2 pages", reached, grown <= 2 * page))


def _thirds(values: list[float]) -> tuple[float, float]:
    third = max(1, len(values) // 3)
    return max(values[:third]), max(values[-third:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=WORK)
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()

    async def work() -> list[float]:
        return await WORK[arguments.work](arguments.url, arguments.count)

    print(json.dumps(asyncio.run(work())))


if __name__ == "__main__":
    main()
