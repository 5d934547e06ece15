"""Import time of the library and start-up time of the command line, in new interpreters."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from benchmarks.harness import Goal, Result, Row, Size, Table, alternate, check

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]

BASE = "import aiohttp, msgspec, anyio"
# Processor time, because other work on the machine must not count.
TIMED = "import time; {before}; start = time.process_time(); {what}; print((time.process_time() - start) * 1e3)"
# Names are imported on first use; MutexSession imports all that a session needs.
ALL_OF_US = "from aiomutex import MutexSession, SlotEdit"


def _inside(environment: dict[str, str], before: str, what: str) -> Callable[[], float]:
    """Return a function that measures the statement ``what`` after ``before``, in milliseconds."""

    def measure() -> float:
        command = [sys.executable, "-c", TIMED.format(before=before, what=what)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)

    return measure


def _whole(environment: dict[str, str], *arguments: str, says: str = "") -> Callable[[], float]:
    """Return a function that measures a whole process, in milliseconds."""

    def measure() -> float:
        start = time.perf_counter()
        command = [sys.executable, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        elapsed = (time.perf_counter() - start) * 1e3
        check(f"{says!r} in the output of {' '.join(arguments)}", says in done.stdout, True)
        return elapsed

    return measure


def run(size: Size) -> Result:
    """Measure in alternating rounds, with all modules compiled already."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return _measured(size, environment)


def _measured(size: Size, environment: dict[str, str]) -> Result:
    rounds = size.of(15, 1, 1)
    imports = {
        "aiomutex, beyond those three": _inside(environment, BASE, ALL_OF_US),
        "import aiomutex alone": _inside(environment, "pass", "import aiomutex"),
        "aiohttp, msgspec and anyio": _inside(environment, "pass", BASE),
    }
    if importlib.util.find_spec("httpx") and importlib.util.find_spec("pydantic"):
        imports["httpx and pydantic"] = _inside(environment, "pass", "import httpx, pydantic; pydantic.BaseModel")
    alternate(imports, 1)  # compiles the modules
    values = alternate(imports, rounds)
    rows = [Row(name, times) for name, times in values.items()]
    result = Result([Table("Import, processor time", "ms", rows, floor="aiohttp, msgspec and anyio themselves")])
    ours = rows[0].median
    result.goals.append(Goal("import beyond aiohttp, msgspec, anyio", "≤ 20 ms", f"{ours:.1f} ms", ours <= 20))
    if not (importlib.util.find_spec("click") and importlib.util.find_spec("rich")):
        return result
    commands = {
        "aiomutex --help": _whole(environment, "-m", "aiomutex", "--help", says="Usage"),
        "python with click": _whole(environment, "-c", "import click"),
        "python alone": _whole(environment, "-c", "pass"),
    }
    alternate(commands, 1)
    values = alternate(commands, rounds)
    rows = [Row(name, times) for name, times in values.items()]
    result.tables.append(Table("A command, from start to end", "ms", rows, floor="python alone"))
    ours = rows[0].median
    result.goals.append(Goal("aiomutex --help", "≤ 350 ms", f"{ours:.0f} ms", ours <= 350))
    return result
