"""What a run costs in requests: each variant beside the bare run and the least possible, one edit a group and many."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aiomutex import LocalRateLimiter, MutexSession, SlotEdit
from aiomutex.bulk import undo
from aiomutex.bulk.canary import FEW
from aiomutex.plan import Plan, apply, parse_desired
from aiomutex.plan import plan as make_plan
from aiomutex.testing import MutexEmulator
from benchmarks.harness import Goal, Result, Row, Size, Table, check
from benchmarks.server import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiomutex import BulkReport
    from aiomutex.plan import ApplyReport

__all__ = ["run"]

PAGE = 1000
MOST_PLANNED = 3_000
"""A desired state of more groups takes long to make."""
MAX_REQUESTS = {"journal": 1.02, "verify": 1.02, "journal and verify": 1.02, "undo": 1.02, "resume": 1.02}
"""Requests per edit, one edit a group in 10,000 groups."""


_OPTIONS: dict[str, dict[str, Any]] = {
    "bare": {},
    "journal": {"journal": True},
    "verify": {"verify": True},
    "unchanged": {"verify": True, "journal": True, "skip_unchanged": True},
}


class Cost(NamedTuple):
    """What one variant took."""

    requests: int
    wall: float
    cpu: float
    edits: int


class Bench:
    """One emulator, and the edits of each run."""

    def __init__(self, emulator: MutexEmulator, folder: Path, limiter: LocalRateLimiter | None = None) -> None:
        self._emulator = emulator
        self._folder = folder
        self._limiter = limiter
        self._runs = 0

    async def spend(self, variant: str, edits: Sequence[SlotEdit]) -> Cost:
        """Run one variant, and count what the service received."""
        self._runs += 1
        path = self._folder / f"run{self._runs}.db"
        limiter = self._limiter or LocalRateLimiter(UNLIMITED, 10**9)
        async with MutexSession("key", base_url=self._emulator.url, rate_limiter=limiter) as session:
            options: dict[str, Any] = dict(_OPTIONS.get(variant, {"journal": path, "verify": True}))
            if "journal" in options:
                options["journal"] = path
            count = len(edits)
            if variant == "resume":
                async with session.stream_slot_edits(edits, **options) as outcomes:
                    while sum(self._emulator.writes.values()) < count // 2:  # noqa: ASYNC110  # another process's work
                        await asyncio.sleep(0.001)
                count -= outcomes.counts["applied"]
            elif variant == "undo":
                (await session.edit_slots(edits, **options)).raise_for_failures()
            plan = await _plan(session, edits) if variant == "apply" else Plan(groups=[])
            self._emulator.clear_history()
            start, cpu = time.perf_counter(), time.process_time()
            report: BulkReport | ApplyReport
            if variant == "apply":
                report = await apply(session, plan, force=True, journal=path)
            else:
                report = await (undo(session, path) if variant == "undo" else session.edit_slots(edits, **options))
            spent = Cost(len(self._emulator.requests), time.perf_counter() - start, time.process_time() - cpu, count)
            report.raise_for_failures()
            return spent


async def _plan(session: MutexSession, edits: Sequence[SlotEdit]) -> Plan:
    """The plan that makes these edits."""
    wanted = {(str(edit.group_id), edit.slot_index): edit.experiments for edit in edits}
    live = await session.list_groups().collect()
    groups = [
        {
            "projectId": int(group.project_id or 0),
            "key": group.key,
            "slots": [
                {"percentage": slot.percentage, "experiments": wanted.get((group.id, slot.index), slot.experiments)}
                for slot in group.slots
            ],
        }
        for group in live
    ]
    return make_plan(parse_desired(json.dumps({"groups": groups})), live)


def _edits(groups: int, count: int, start: int) -> list[SlotEdit]:
    """Edits that take turns at the groups; each run writes other content than the one before."""
    step = max(1, groups // count)
    return [
        SlotEdit(1 + number * step % groups, 1 + number * step // groups % 2, experiments=[start + number])
        for number in range(count)
    ]


async def _table(groups: int, count: int, variants: Sequence[str], folder: Path) -> tuple[Table, dict[str, Cost]]:
    costs: dict[str, Cost] = {}
    async with MutexEmulator(groups=groups, limits=False, keep_requests=10_000_000) as emulator:
        bench = Bench(emulator, folder / f"{groups}-{count}")
        (folder / f"{groups}-{count}").mkdir()
        edits: list[SlotEdit] = []
        for number, variant in enumerate(variants):
            edits = edits if variant == "unchanged" else _edits(groups, count, 1 + number * count)
            costs[variant] = await bench.spend(variant, edits)
            if variant == "undo":
                edits = _edits(groups, count, 1 + number * count)
    pages = -(-groups // PAGE)
    least = min(pages, count)
    rows = [
        Row(name, [each.requests / each.edits], f"{each.requests:,} requests, {each.cpu / each.edits * 1e6:.0f} µs CPU")
        for name, each in costs.items()
    ]
    title = f"Requests per edit, {count:,} edits in {groups:,} groups"
    floor = f"1 an edit, and {least:,} for each time that all groups are read"
    return Table(title, "", rows, baseline="bare", floor=floor), costs


async def _wall(size: Size, folder: Path) -> Goal:
    """The wall time of a safe run beside a bare one, at the service's limit."""
    count = size.of(6000, 1500, 120)
    async with MutexEmulator(groups=count, limits=False) as emulator:
        walls: dict[str, float] = {}
        for number, variant in enumerate(("bare", "journal and verify")):
            limiter = None if size is Size.TINY else LocalRateLimiter()
            bench = Bench(emulator, folder, limiter)
            walls[variant] = (await bench.spend(variant, _edits(count, count, 1 + number * count))).wall
    ratio = walls["journal and verify"] / walls["bare"]
    return Goal("wall time with journal and verify beside bare, at the limit", "≤ 1.05", f"{ratio:.2f}", ratio <= 1.05)


async def _run(size: Size) -> Result:
    variants = ("bare", "journal", "verify", "journal and verify", "unchanged", "undo", "resume")
    result = Result([])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for groups, count in size.of(
            [(1_000, 10_000), (10_000, 10_000), (100_000, 10_000), (3_000, 300), (3_000, 20)],
            [(1_000, 1_000), (3_000, 20)],
            [(100, 100)],
        ):
            plans = ("apply",) if groups <= MOST_PLANNED else ()
            table, costs = await _table(groups, count, (*variants, *plans), folder)
            check("requests of a bare run", costs["bare"].requests, count + (2 if count > FEW else 0))
            result.tables.append(table)
            if (groups, count) == (10_000, 10_000):
                for variant, limit in MAX_REQUESTS.items():
                    reached = costs[variant].requests / costs[variant].edits
                    what = f"requests per edit, {variant}, 10,000 in 10,000"
                    result.goals.append(Goal(what, f"≤ {limit:.2f}", f"{reached:.3f}", reached <= limit))
        result.goals.append(await _wall(size, folder))
    return result


def run(size: Size) -> Result:
    """Count the requests of every variant."""
    return asyncio.run(_run(size))
