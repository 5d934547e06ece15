"""What the benchmarks share: a server in a process of its own, turns, medians, tables, goals.

A benchmark is a module with ``run(size) -> Result``. It measures, checks that what it measured was done right, and
raises ``WrongResultError`` if not; it never judges a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

__all__ = [
    "Goal",
    "Result",
    "Row",
    "Server",
    "Size",
    "Table",
    "WrongResultError",
    "check",
    "in_flight",
    "in_turns",
    "median_ratio",
    "module_output",
    "rendered",
    "serving",
]

T = TypeVar("T")


class Size(enum.Enum):
    """How much is done: enough to measure, to check on each change, or to see that it runs."""

    FULL = "full"
    QUICK = "quick"
    TINY = "tiny"

    def of(self, full: T, quick: T, tiny: T) -> T:
        """The one of three amounts that this size stands for."""
        return {Size.FULL: full, Size.QUICK: quick, Size.TINY: tiny}[self]


class WrongResultError(Exception):
    """A benchmark measured something that was not done right."""


def check(what: str, got: object, wanted: object) -> None:
    """Refuse to go on unless two values are equal."""
    if got != wanted:
        raise WrongResultError(f"{what}: {got!r} instead of {wanted!r}")


class Row(msgspec.Struct):
    """One subject's measurements, of one kind and unit."""

    name: str
    values: list[float]
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Table(msgspec.Struct):
    """Subjects side by side."""

    title: str
    unit: str
    rows: list[Row]
    baseline: str = ""
    """The row that ratios are told against; none if empty."""
    floor: str = ""
    """What no client could be better than, in words."""


class Goal(msgspec.Struct):
    """A figure to reach, and the one that was."""

    what: str
    goal: str
    reached: str
    met: bool
    note: str = ""


class Result(msgspec.Struct):
    """What a benchmark found out."""

    tables: list[Table]
    goals: list[Goal] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    """Points for charts, by name."""
    skipped: str = ""
    """Why there is nothing, where there is nothing."""


def median_ratio(row: Row, baseline: Row) -> float:
    """The median of the ratios of values that were measured one after the other."""
    return statistics.median(mine / theirs for mine, theirs in zip(row.values, baseline.values, strict=True))


def rendered(table: Table) -> str:
    """The table as text."""
    base = next((row for row in table.rows if row.name == table.baseline), None)
    width = max(28, *(len(row.name) + 2 for row in table.rows))
    lines = [table.title, f"{'':<{width}}{table.unit:>14}  {'min to max':^21}" + (f"{'ratio':>8}" if base else "")]
    for row in table.rows:
        spread = f"{_short(min(row.values))} to {_short(max(row.values))}" if len(row.values) > 1 else ""
        paired = base is not None and len(base.values) == len(row.values)
        ratio = f"{median_ratio(row, base):>8.2f}" if base is not None and paired else ""
        lines.append(f"{row.name:<{width}}{_short(row.median):>14}  {spread:^21}{ratio}  {row.note}".rstrip())
    if table.floor:
        lines.append(f"floor: {table.floor}")
    return "\n".join(lines)


def _short(value: float) -> str:
    for least, digits in ((1000, 0), (10, 1), (0.1, 2)):
        if abs(value) >= least:
            return f"{value:,.{digits}f}"
    return f"{value:,.4g}"


def in_turns(subjects: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each subject once a round, so that a slow moment of the machine hits them all."""
    values: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, measure in subjects.items():
            gc.collect()
            values[name].append(measure())
    return values


async def in_flight(call: Callable[[int], Awaitable[object]], count: int, width: int) -> tuple[float, float]:
    """Make ``count`` calls, ``width`` of them at a time; seconds of the clock and of the processor that it took."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await call(number)

    gc.collect()
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(width)))
    return time.perf_counter() - start, time.process_time() - cpu


class Server:
    """The bare server, seen from the benchmark."""

    def __init__(self, url: str) -> None:
        self.url = url

    def stats(self) -> dict[str, Any]:
        """What was asked since the last time."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=30) as answer:
            return cast("dict[str, Any]", json.load(answer))


@contextlib.contextmanager
def serving(*options: str) -> Generator[Server]:
    """The bare server in a process of its own, for as long as the block lasts."""
    command = [sys.executable, "-m", "benchmarks.server", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError("the server of the benchmarks did not start")
            yield Server(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def module_output(module: str, *arguments: object) -> Any:
    """Run a module of this package in a fresh process; the JSON it prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise WrongResultError(f"{' '.join(command[1:])} ended with {done.returncode}")
    return json.loads(done.stdout)
