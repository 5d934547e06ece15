"""Processes that take permits from one shared budget."""

# Counts the exchanges with Redis through a private attribute.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import multiprocessing
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiomutex.errors import LimiterUnavailableError
from aiomutex.limits.redis import RedisRateLimiter

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

spawn = multiprocessing.get_context("spawn")


@dataclass
class Report:
    permits: list[float] = field(default_factory=list[float])
    errors: list[str] = field(default_factory=list[str])
    exchanges: int = 0


async def _work(url: str, options: dict[str, Any], tasks: int, seconds: float) -> Report:
    limiter = RedisRateLimiter(url, name="fleet", **options)
    report = Report()
    lease = limiter._budget.lease

    async def counted(*args: Any) -> Any:
        report.exchanges += 1
        return await lease(*args)

    setattr(limiter._budget, "lease", counted)  # noqa: B010 -- type checkers reject the assignment
    end = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < end:
            try:
                report.permits.append(await limiter.acquire())
            except LimiterUnavailableError as error:
                report.errors.append(str(error))
                await asyncio.sleep(0.05)

    await asyncio.gather(*(one() for _ in range(tasks)))
    await limiter.aclose()
    return report


def work(results: Queue[Report], url: str, options: dict[str, Any], tasks: int, seconds: float) -> None:
    results.put(asyncio.run(_work(url, options, tasks, seconds)))


class WorkerProcesses:
    """Workers that share one budget. Their permits are times of the monotonic clock, which all processes share."""

    def __init__(self, url: str, size: int, seconds: float, *, tasks: int = 70, **options: Any) -> None:
        self._results: Queue[Report] = spawn.Queue()
        arguments = (self._results, url, options, tasks, seconds)
        self._processes = [spawn.Process(target=work, args=arguments) for _ in range(size)]
        for process in self._processes:
            process.start()

    def reports(self) -> list[Report]:
        reports = [self._results.get(timeout=90) for _ in self._processes]
        for process in self._processes:
            process.join()
        return reports
