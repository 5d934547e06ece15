"""Instructions per call, counted by callgrind. They do not depend on the load of the machine, so growth is an error.

The count starts after a warm-up and ends with the last call. It does not include the kernel.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import gc
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks import hooks
from benchmarks.harness import Goal, Result, Row, Size, Table, WrongResultError, in_flight, serving
from benchmarks.subjects import Call, Ours, Plain, Tuned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.subjects import Subject

__all__ = ["WIDTH", "missing_tool", "per_call", "run"]

CLIENTS: dict[str, type[Subject]] = {"aiomutex": Ours, "plain": Plain, "tuned": Tuned}
SUBJECTS: dict[str, type[Subject]] = {**CLIENTS, **hooks.SUBJECTS}
MAX_RATIO = {"edit": 0.85, "get": 0.90}
"""The ratio to a plain client above which the run fails, with some margin above the present ratio."""
WIDTH = 64


def _count(name: str, call: Call, url: str, calls: int) -> int:
    """Return the instructions of ``calls`` calls after a warm-up, in a new process."""
    program = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null"]
    command = [*program, sys.executable, "-m", "benchmarks.instructions", name, call, url, str(calls)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # The control program is started here: starting it in the counted process would be counted too.
        for line in process.stdout:
            control = ["callgrind_control", "-i", line.strip(), str(process.pid)]
            subprocess.run(control, check=True, capture_output=True)
            process.stdin.write("\n")
            process.stdin.flush()
        _, errors = process.communicate()
    found = re.search(r"Collected : (\d+)", errors)
    if process.returncode or found is None:
        raise WrongResultError(f"valgrind failed: {errors[-500:]}")
    return int(found[1])


def missing_tool() -> str:
    """Name the tool that is not installed, if there is one."""
    missing = [tool for tool in ("valgrind", "callgrind_control") if shutil.which(tool) is None]
    return f"{missing[0]} is not installed (apt-get install valgrind)" if missing else ""


def per_call(names: Sequence[str], calls: int) -> dict[Call, dict[str, float]]:
    """Count the instructions of an edit and of a get in each subject."""
    kinds: tuple[Call, ...] = ("edit", "get")
    runs = [(name, call) for call in kinds for name in names]
    with serving() as server, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def count(run: tuple[str, Call]) -> float:
            return _count(*run, server.url, calls) / calls

        counts = dict(zip(runs, pool.map(count, runs), strict=True))
    return {call: {name: counts[name, call] for name in names} for call in kinds}


def run(size: Size) -> Result:
    """Count both calls of each client. Raise if this library needs too many instructions."""
    if missing := missing_tool():
        return Result([], skipped=missing)
    result = Result([])
    for call, each in per_call(list(CLIENTS)[: size.of(3, 2, 2)], size.of(1280, 640, 128)).items():
        rows = [Row(name, [value]) for name, value in each.items()]
        result.tables.append(Table(f"Instructions per {call}, {WIDTH} in flight", "", rows, baseline="plain"))
        ratio = each["aiomutex"] / each["plain"]
        result.goals.append(
            Goal(
                f"instructions per {call} beside plain aiohttp",
                f"≤ {MAX_RATIO[call]:.2f}",
                f"{ratio:.3f}",
                ratio <= MAX_RATIO[call],
            )
        )
        if ratio > MAX_RATIO[call]:
            raise WrongResultError(
                f"a {call} takes {each['aiomutex']:,.0f} instructions, {ratio:.2f} of a plain client's "
                f"{each['plain']:,.0f}; the limit is {MAX_RATIO[call]:.2f}"
            )
    return result


def _counting(switch: str) -> None:
    """Ask the parent to switch the count, and wait until it has done so."""
    print(switch, flush=True)
    sys.stdin.readline()


async def _work(name: str, call: Call, url: str, calls: int) -> None:
    subject = SUBJECTS[name](url)
    await subject.open()
    work = subject.edit if call == "edit" else subject.get
    await in_flight(work, 2 * WIDTH, WIDTH)
    gc.collect()
    gc.freeze()  # else the collection before the measured calls would be counted as theirs
    _counting("on")
    await in_flight(work, calls, WIDTH)
    _counting("off")
    await subject.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=SUBJECTS)
    parser.add_argument("call", choices=("edit", "get"))
    parser.add_argument("url")
    parser.add_argument("calls", type=int)
    arguments = parser.parse_args()
    asyncio.run(_work(arguments.name, arguments.call, arguments.url, arguments.calls))


if __name__ == "__main__":
    main()
