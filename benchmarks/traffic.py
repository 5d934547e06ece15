"""Who lands where, beside the pure-Python engine of PyPI's ``amplitude-experiment``.

Run with ``python -m benchmarks.traffic [IDS]``. Ratios are medians of pairs measured in one run.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING

from aiomutex import MutexGroup, Slot
from aiomutex.traffic import Bucketing, simulate
from tests.traffic.oracle import Oracle

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
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


def main(count: int) -> None:
    users = [f"user-{n}@example.com" for n in range(count)]
    sample = users[: min(count, 20_000)]
    print(f"{'split':<16}{'ours':>12}{'engine':>12}{'times':>8}{'differ':>8}   ({len(sample):,} ids, µs an id)")
    for name, split in SPLITS.items():
        group = group_of(name, split)
        rule, oracle = Bucketing(group), Oracle(group)
        pairs: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            ours = seconds(rule.positions, sample)
            theirs = seconds(list, map(oracle.slot, sample))
            pairs.append((ours, theirs))
        names = [slot.index for slot in rule.slots] + [None]
        differ = sum(
            names[position] != oracle.slot(user) for position, user in zip(rule.positions(sample), sample, strict=True)
        )
        ours, theirs = (statistics.median(column) * 1e6 / len(sample) for column in zip(*pairs, strict=True))
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        print(f"{name:<16}{ours:>12.3f}{theirs:>12.3f}{ratio:>8.1f}{differ:>8}")
    groups = [group_of(name, split) for name, split in SPLITS.items()]
    for amount in (1, len(groups)):
        spent = seconds(simulate, groups[:amount], users)
        print(f"simulate: {count:,} ids through {amount} group(s), overlaps counted: {spent:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
