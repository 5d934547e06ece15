"""200,000 calls of all kinds and fates through one session, and what the process holds meanwhile.

Leaks sit where things go wrong, so a part of the calls is refused, answered by errors, broken off, timed out or
cancelled, and groups nobody heard of before are asked for. The emulator runs in a process of its own.
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

__all__ = ["LEAST", "Sample", "leaks", "run", "slope", "soaked", "warm"]

Kind = Literal["blocks", "objects", "heap"]
GROUPS = 100
TASKS = 64
"""As many as a session has connections."""
SAMPLES = 20
WARM = 6_000
"""Requests until pools and caches are full; or a fifth of the run, if that is more."""
FAULTS = ["500:1%", "429:0.01%", "reset-before:0.5%", "reset-after:0.5%", "truncate:0.5%", "garbage:0.5%", "stall:0.1%"]
LEAST: Final[dict[Kind, float]] = {"blocks": 0.06, "objects": 0.06, "heap": 5.0}
"""What a leak leaves of a request at the least. An error or a response that is kept has more than ten blocks and a body
a thousand bytes, so that of one in 200 would show."""


class Sample(msgspec.Struct, frozen=True):
    """The process between two requests."""

    requests: int
    vitals: Vitals
    fates: dict[str, int]
    """How the calls ended so far."""


class _Caller:
    """Makes calls of all kinds, and expects each to end in one of its ways."""

    def __init__(self, session: MutexSession) -> None:
        self.session = session
        self.hasty = session.with_options(deadline=0.004)
        self.once = session.with_options(retry=RetryPolicy(max_attempts=1))
        self.order = random.Random(1)
        self.fates: Counter[str] = Counter()
        self.unheard_of = itertools.count(10**6)

    async def call(self) -> None:
        chance = self.order.random()
        try:
            if chance < 0.03:
                await self._cancelled()
            else:
                await self._made(chance)
        except MutexError as error:
            self.fates[type(error).__name__] += 1
        else:
            self.fates["good" if chance >= 0.03 else "cancelled"] += 1

    async def _made(self, chance: float) -> None:
        session, group, number = self.session, 1 + self.order.randrange(GROUPS), self.order.randrange(10**6)
        if chance < 0.06:
            await session.get_group(next(self.unheard_of))
        elif chance < 0.10:
            await session.change_slot(next(self.unheard_of), 1, add_experiments=[number])
        elif chance < 0.12:
            await session.change_slot(group, 1, add_experiments=[number], remove_experiments=[number + 1])
        elif chance < 0.16:
            await self.hasty.get_group(group)
        elif chance < 0.18:
            await session.list_page(limit=10, cursor=self.order.randrange(GROUPS))
        elif chance < 0.19:
            await session.edit_slot(group, 0, experiments=[number])
        elif chance < 0.191:
            await session.edit_slots([SlotEdit(1 + n % GROUPS, 2, experiments=[n]) for n in range(50)])
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
    connector: aiohttp.BaseConnector = inside._transport._http.connector  # noqa: SLF001  # nobody else needs it
    return connector


async def _soak(url: str, calls: int) -> list[Sample]:
    limiter = LocalRateLimiter(2_000, 10**9)  # some wait here, and its log of a second is small
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
            # The same number of connections each time: one holds 80 blocks of memory.
            await asyncio.gather(*(session.get_group(1) for _ in range(TASKS)), return_exceptions=True)
            requests = limiter.state().used_today
            samples.append(Sample(requests, vitals(_connector(session)), dict(caller.fates)))
    return samples


def soaked(calls: int) -> list[Sample]:
    """Make so many calls in a process of its own; what it held at twenty moments."""
    with emulating(groups=GROUPS, faults=FAULTS) as (url, _):
        return msgspec.convert(module_output("soak", url, calls), list[Sample])


def warm(samples: list[Sample]) -> list[Sample]:
    """Those in which nothing should grow any more."""
    least = max(WARM, samples[-1].requests // 5)
    return [sample for sample in samples if sample.requests >= least - least // 20]


def slope(samples: list[Sample], kind: Kind) -> float:
    """How much of it a request leaves behind, by least squares."""
    held = [float(getattr(sample.vitals, kind)) for sample in samples]
    return statistics.linear_regression([float(sample.requests) for sample in samples], held).slope


def leaks(samples: list[Sample]) -> list[str]:
    """What was left behind, in words."""
    settled = warm(samples)
    slopes = ((kind, slope(settled, kind), least) for kind, least in LEAST.items())
    left = [f"{more:.3f} {kind} a request" for kind, more, least in slopes if more > least]
    files = samples[0].vitals.files - samples[0].vitals.pooled
    for sample in samples:
        now = sample.vitals
        held = {"connections in use": now.in_use, "tasks": now.tasks - 1, "files": now.files - now.pooled - files}
        left += [f"{count} {what} after {sample.requests:,} requests" for what, count in held.items() if count > 0]
    return left


def run(size: Size) -> Result:
    """Once: memory hardly varies. Wrong if something was left behind; a short run cannot tell."""
    samples = soaked(size.of(200_000, 4_000, 1_000))
    if size is Size.FULL and (left := leaks(samples)):
        raise WrongResultError(f"a session leaves behind {'; '.join(left)}")
    rows = [
        Row(
            f"after {sample.requests:,} requests",
            [sample.vitals.memory],
            f"{sample.vitals.blocks:,} blocks, {sample.vitals.heap / 2**20:.2f} MiB heap, {sample.vitals.tasks} task, "
            f"{sample.vitals.in_use} connections in use, {sample.vitals.pooled} pooled, {sample.vitals.files} files",
        )
        for sample in samples[:: size.of(1, 5, 5)]
    ]
    fates = ", ".join(f"{count:,} {fate}" for fate, count in Counter(samples[-1].fates).most_common())
    result = Result([Table("One session", "MiB", rows, floor=f"calls that ended as: {fates}")])
    if len(settled := warm(samples)) > 1:
        early, late = settled[0], settled[-1]
        more = late.vitals.memory - early.vitals.memory
        blocks, heap = slope(settled, "blocks"), slope(settled, "heap")
        reached = f"{more:+.1f} MiB from {early.requests:,} on; {blocks:+.3f} objects and {heap:+.1f} bytes a request"
        what = f"{late.requests:,} requests of all fates through one session"
        result.goals.append(Goal(what, "flat, ≤ 2 MiB", reached, more <= 2 and not leaks(samples)))
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("calls", type=int)
    arguments = parser.parse_args()
    logging.getLogger("aiomutex").setLevel(logging.ERROR)  # it tells of each 429
    samples = asyncio.run(_soak(arguments.url, arguments.calls))
    print(json.dumps(msgspec.to_builtins(samples)))


if __name__ == "__main__":
    main()
