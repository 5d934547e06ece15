"""What the benchmarks share: a server in another process, alternating rounds, medians, tables and goals.

A benchmark is a module with ``run(size) -> Result``. It measures, and raises ``WrongResultError`` if a subject did not
do its work correctly. A slow result is not an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import trustme

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping

__all__ = [
    "Goal",
    "Result",
    "Row",
    "Server",
    "Size",
    "Table",
    "WrongResultError",
    "alternate",
    "check",
    "in_flight",
    "median_ratio",
    "module_output",
    "rendered",
    "serving",
]

T = TypeVar("T")


class Size(enum.Enum):
    """How much work is done: enough to measure, to check the results, or to see that it runs."""

    FULL = "full"
    QUICK = "quick"
    TINY = "tiny"

    def of(self, full: T, quick: T, tiny: T) -> T:
        """Return the amount for this size."""
        return {Size.FULL: full, Size.QUICK: quick, Size.TINY: tiny}[self]


class WrongResultError(Exception):
    """A subject of a benchmark produced a wrong result."""


def check(what: str, actual: object, expected: object) -> None:
    """Raise ``WrongResultError`` unless two values are equal."""
    if actual != expected:
        raise WrongResultError(f"{what}: {actual!r} instead of {expected!r}")


class Row(msgspec.Struct):
    """The measurements of one subject."""

    name: str
    values: list[float]
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Table(msgspec.Struct):
    """The measurements of several subjects, in one unit."""

    title: str
    unit: str
    rows: list[Row]
    baseline: str = ""
    """The name of the row that ratios refer to, or empty."""
    floor: str = ""
    """The lower bound of any client, in words."""


class Goal(msgspec.Struct):
    """A goal and the figure that was reached."""

    what: str
    goal: str
    reached: str
    met: bool
    note: str = ""


class Result(msgspec.Struct):
    """The outcome of a benchmark."""

    tables: list[Table]
    goals: list[Goal] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    """Points for charts, by name."""
    skipped: str = ""
    """Why the benchmark did not run, if it did not."""


def median_ratio(row: Row, baseline: Row) -> float:
    """Return the median of the ratios of values from the same rounds."""
    return statistics.median(mine / theirs for mine, theirs in zip(row.values, baseline.values, strict=True))


def rendered(table: Table) -> str:
    """Render a table as text."""
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


def alternate(subjects: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each subject once per round, so that a slow moment of the machine affects all of them."""
    values: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, measure in subjects.items():
            gc.collect()
            values[name].append(measure())
    return values


async def in_flight(call: Callable[[int], Awaitable[object]], count: int, width: int) -> tuple[float, float]:
    """Make ``count`` calls, ``width`` at a time. Return the wall and the processor time, in seconds."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await call(number)

    gc.collect()
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(width)))
    return time.perf_counter() - start, time.process_time() - cpu


class Server:
    """The bare server in its own process. ``certificate`` is the file of the authority that its clients must trust."""

    def __init__(self, url: str, certificate: str | None = None) -> None:
        self.url = url
        # Processes with this environment trust the server: requests has a variable of its own.
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if certificate else ()
        self.environment = os.environ | dict.fromkeys(names, certificate or "")

    def stats(self) -> dict[str, Any]:
        """Return the counts since the last call."""
        return stats_of(self.url, self.environment.get("SSL_CERT_FILE"))


def stats_of(url: str, certificate: str | None = None) -> dict[str, Any]:
    """Return the counts of the bare server since the last call."""
    context = ssl.create_default_context(cafile=certificate) if url.startswith("https") else None
    with urllib.request.urlopen(f"{url}/stats", timeout=30, context=context) as response:
        return cast("dict[str, Any]", json.load(response))


@contextlib.contextmanager
def serving(*options: str, tls: bool = False) -> Generator[Server]:
    """Run the bare server in its own process for the duration of the block."""
    with contextlib.ExitStack() as opened:
        certificate = None
        if tls:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
            certificate, own = str(folder / "authority.pem"), str(folder / "server.pem")
            authority = trustme.CA()
            authority.cert_pem.write_to_path(certificate)
            authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(own)
            options = (*options, "--certificate", own)
        command = [sys.executable, "-m", "benchmarks.server", *options]
        pipe = subprocess.PIPE
        process = opened.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        opened.callback(process.kill)
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError("the benchmark server did not start")
        yield Server(f"{'https' if tls else 'http'}://127.0.0.1:{port}", certificate)


def module_output(module: str, *arguments: object, environment: Mapping[str, str] | None = None) -> Any:
    """Run a module of this package in a new process, and return the JSON that it prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise WrongResultError(f"{' '.join(command[1:])} ended with {done.returncode}")
    return json.loads(done.stdout)
