"""200,000 calls of all kinds and outcomes through one session, and what the process holds meanwhile.

Leaks are most likely where calls fail. So some calls are rejected, get errors, lose their connection, time out or are
cancelled, and some ask for new groups that do not exist. The emulator runs in its own process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import random
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from aiomutex import LocalRateLimiter, MutexError, MutexSession, RetryPolicy, SlotEdit
from benchmarks.emulator import emulating
from benchmarks.harness import Goal, Result, Row, Size, Table, WrongResultError, check, module_output
from benchmarks.server import KEY
from benchmarks.vitals import Vitals, vitals

if TYPE_CHECKING:
    from collections.abc import Iterator

    import aiohttp

__all__ = ["LEAK_THRESHOLDS", "Sample", "leaks", "run", "slope", "soaked", "warm"]

Kind = Literal["blocks", "objects", "heap"]
GROUPS = 100
TASKS = 64
"""As many as the connections of a session."""
SAMPLES = 20
WARM = 6_000
"""Requests until pools and caches are full, or a fifth of the run if that is more."""
FAULTS = ["500:1%", "429:0.01%", "reset-before:0.5%", "reset-after:0.5%", "truncate:0.5%", "garbage:0.5%", "stall:0.1%"]
LEAK_THRESHOLDS: Final[dict[Kind, float]] = {"blocks": 0.06, "objects": 0.06, "heap": 5.0}
"""The smallest growth per request that counts as a leak. A leaked error or response has more than ten blocks, and a
body a thousand bytes, so that a leak of one request in 200 is detected."""


class Sample(msgspec.Struct, frozen=True):
    """The process at one moment between requests."""

    requests: int
    vitals: Vitals
    outcomes: dict[str, int]
    """The outcomes of the calls so far."""


class _Caller:
    """Makes calls of all kinds and counts their outcomes."""

    def __init__(self, session: MutexSession) -> None:
        self.session = session
        self.hasty = session.with_options(deadline=0.004)
        self.once = session.with_options(retry=RetryPolicy(max_attempts=1))
        self.order = random.Random(1)
        self.outcomes: Counter[str] = Counter()
        self.unknown_groups = itertools.count(10**6)

    async def call(self) -> None:
        chance = self.order.random()
        try:
            if chance < 0.03:
                await self._cancelled()
            else:
                await self._made(chance)
        except MutexError as error:
            self.outcomes[type(error).__name__] += 1
        else:
            self.outcomes["good" if chance >= 0.03 else "cancelled"] += 1

    async def _made(self, chance: float) -> None:
        session, group, number = self.session, 1 + self.order.randrange(GROUPS), self.order.randrange(10**6)
        if chance < 0.06:
            await session.get_group(next(self.unknown_groups))
        elif chance < 0.10:
            await session.change_slot(next(self.unknown_groups), 1, add_experiments=[number])
        elif chance < 0.12:
            await session.change_slot(group, 1, add_experiments=[number], remove_experiments=[number + 1])
        elif chance < 0.16:
            await self.hasty.get_group(group)
        elif chance < 0.18:
            await session.list_page(limit=10, cursor=self.order.randrange(GROUPS))
        elif chance < 0.19:
            await session.edit_slot(group, 0, experiments=[number])
        elif chance < 0.191:
            await session.edit_slots([SlotEdit(1 + n % GROUPS, 2, experiments=[n]) for n in range(50)], canary=False)
        elif chance < 0.25:
            await self.once.edit_group(group, name=f"group {number}")
        elif chance < 0.6:
            await session.edit_slot(group, 1, experiments=[number])
        else:
            check("group", (await session.get_group(group)).id, str(group))

    async def _cancelled(self) -> None:
        task = asyncio.create_task(self._made(0.2 + 0.8 * self.order.random()))
        await asyncio.sleep(self.order.random() * 0.005)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            raise error


def _connector(session: MutexSession) -> aiohttp.BaseConnector:
    inside: Any = session
    connector: aiohttp.BaseConnector = inside._transport._http.connector  # noqa: SLF001  # no public attribute
    return connector


async def _soak(url: str, calls: int) -> list[Sample]:
    limiter = LocalRateLimiter(2_000, 10**9)  # low enough that some calls wait, and that its log stays small
    retry = RetryPolicy(max_attempts=4, base=0.001, cap=0.01)
    samples: list[Sample] = []
    async with MutexSession(
        KEY, base_url=url, rate_limiter=limiter, retry=retry, attempt_timeout=0.3, deadline=10.0
    ) as session:
        caller = _Caller(session)
        for _ in range(SAMPLES):
            left = iter(range(calls // SAMPLES))

            async def work(left: Iterator[int] = left) -> None:
                for _ in left:
                    await caller.call()

            await asyncio.gather(*(work() for _ in range(TASKS)))
            # Open all connections before each sample, because one connection holds 80 blocks of memory.
            await asyncio.gather(*(session.get_group(1) for _ in range(TASKS)), return_exceptions=True)
            requests = limiter.state().used_today
            samples.append(Sample(requests, vitals(_connector(session)), dict(caller.outcomes)))
    return samples


def soaked(calls: int) -> list[Sample]:
    """Make ``calls`` calls in a new process, and return samples of it."""
    with emulating(groups=GROUPS, faults=FAULTS) as (url, _):
        return msgspec.convert(module_output("soak", url, calls), list[Sample])


def warm(samples: list[Sample]) -> list[Sample]:
    """Return the samples after the warm-up, in which nothing should grow."""
    least = max(WARM, samples[-1].requests // 5)
    return [sample for sample in samples if sample.requests >= least - least // 20]


def slope(samples: list[Sample], kind: Kind) -> float:
    """Return the growth per request, by least squares."""
    held = [float(getattr(sample.vitals, kind)) for sample in samples]
    return statistics.linear_regression([float(sample.requests) for sample in samples], held).slope


def leaks(samples: list[Sample]) -> list[str]:
    """Describe the leaks."""
    settled = warm(samples)
    slopes = ((kind, slope(settled, kind), least) for kind, least in LEAK_THRESHOLDS.items())
    left = [f"{more:.3f} {kind} per request" for kind, more, least in slopes if more > least]
    files = samples[0].vitals.files - samples[0].vitals.pooled
    for sample in samples:
        now = sample.vitals
        held = {"connections in use": now.in_use, "tasks": now.tasks - 1, "files": now.files - now.pooled - files}
        left += [f"{count} {what} after {sample.requests:,} requests" for what, count in held.items() if count > 0]
    return left


def run(size: Size) -> Result:
    """Run once, because memory hardly varies. A full run raises if something leaked."""
    samples = soaked(size.of(200_000, 4_000, 1_000))
    if size is Size.FULL and (left := leaks(samples)):
        raise WrongResultError(f"a session leaks {'; '.join(left)}")
    rows = [
        Row(
            f"after {sample.requests:,} requests",
            [sample.vitals.memory],
            f"{sample.vitals.blocks:,} blocks, {sample.vitals.heap / 2**20:.2f} MiB heap, {sample.vitals.tasks} task, "
            f"{sample.vitals.in_use} connections in use, {sample.vitals.pooled} pooled, {sample.vitals.files} files",
        )
        for sample in samples[:: size.of(1, 5, 5)]
    ]
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in Counter(samples[-1].outcomes).most_common())
    result = Result([Table("One session", "MiB", rows, floor=f"outcomes of the calls: {outcomes}")])
    if len(settled := warm(samples)) > 1:
        early, late = settled[0], settled[-1]
        more = late.vitals.memory - early.vitals.memory
        blocks, heap = slope(settled, "blocks"), slope(settled, "heap")
        reached = f"{more:+.1f} MiB from {early.requests:,} on; {blocks:+.3f} objects and {heap:+.1f} bytes per request"
        what = f"{late.requests:,} requests with all outcomes through one session"
        result.goals.append(Goal(what, "flat, ≤ 2 MiB", reached, more <= 2 and not leaks(samples)))
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("calls", type=int)
    arguments = parser.parse_args()
    logging.getLogger("aiomutex").setLevel(logging.ERROR)  # it logs each 429
    samples = asyncio.run(_soak(arguments.url, arguments.calls))
    print(json.dumps(msgspec.to_builtins(samples)))


if __name__ == "__main__":
    main()
