"""Bucketing of users, beside the pure-Python engine of ``amplitude-experiment`` from PyPI."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiomutex import MutexGroup, Slot
from aiomutex._util.wording import counted
from aiomutex.traffic import Bucketing, simulate
from benchmarks.harness import Goal, Result, Row, Size, Table, alternate, check, median_ratio
from benchmarks.oracle import Oracle

if TYPE_CHECKING:
    from collections.abc import Callable

SPLITS = {
    "50/50": [50, 50],
    "95/5": [95, 5],
    "40/35/25": [40, 35, 25],
    "33/33/33, rest": [33, 33, 33],
    "20 times 5": [5] * 20,
}


def group_of(name: str, split: list[int]) -> MutexGroup:
    slots = [Slot(index=n, percentage=p, experiments=[n], variant_key=f"slot-{n}") for n, p in enumerate(split, 1)]
    return MutexGroup(id="1", key=name, bucketing_key="device_id", bucketing_salt=f"salt {name}", slots=slots)


def seconds(work: Callable[..., object], *arguments: object) -> float:
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def run(size: Size) -> Result:
    """Bucket the same IDs with both, in alternating rounds. They must agree on every ID."""
    count = size.of(1_000_000, 20_000, 2_000)
    users = [f"user-{n}@example.com" for n in range(count)]
    sample = users[: size.of(20_000, 5_000, 500)]
    tables: list[Table] = []
    ratios: list[float] = []
    for name, split in SPLITS.items():
        group = group_of(name, split)
        rule, oracle = Bucketing(group), Oracle(group)

        def ours(rule: Bucketing = rule) -> float:
            return seconds(rule.positions, sample) * 1e6 / len(sample)

        def theirs(oracle: Oracle = oracle) -> float:
            return seconds(list, map(oracle.slot, sample)) * 1e6 / len(sample)

        values = alternate({"aiomutex": ours, "pure-Python engine": theirs}, size.of(5, 1, 1))
        names = [slot.index for slot in rule.slots] + [None]
        placed = [names[position] for position in rule.positions(sample)]
        check(f"slots of {name}", placed, [oracle.slot(user) for user in sample])
        rows = [Row(label, times) for label, times in values.items()]
        note = f"{len(sample):,} IDs"
        tables.append(Table(f"Bucketing IDs, {name}, {note}", "µs per ID", rows, baseline="pure-Python engine"))
        ratios.append(1 / median_ratio(rows[0], rows[1]))
    groups = [group_of(name, split) for name, split in SPLITS.items()]
    spent = [
        Row(f"through {counted(amount, 'group')}", [seconds(simulate, groups[:amount], users)])
        for amount in (1, len(groups))
    ]
    tables.append(Table(f"Simulating {count:,} IDs, with overlaps", "s", spent))
    reached = f"{min(ratios):.0f} to {max(ratios):.0f} times, every ID the same"
    return Result(tables, [Goal("traffic simulation", "≥ 10 times faster, same results", reached, min(ratios) >= 10)])
