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

    from benchmarks.harness import Server
    from benchmarks.subjects import Subject

__all__ = ["WIDTH", "missing_tool", "per_call", "run"]

CLIENTS: dict[str, type[Subject]] = {"aiomutex": Ours, "plain": Plain, "tuned": Tuned}
SUBJECTS: dict[str, type[Subject]] = {**CLIENTS, **hooks.SUBJECTS}
GOALS = {"edit": 0.80, "get": 0.75}
MAX_RATIO = {("http", "edit"): 0.62, ("http", "get"): 0.66, ("https", "edit"): 0.68, ("https", "get"): 0.72}
"""The ratio to a plain client above which the run fails, with some margin above the present ratio."""
WIDTH = 64


def _count(name: str, call: Call, server: Server, calls: int) -> int:
    """Return the instructions of ``calls`` calls after a warm-up, in a new process."""
    program = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null"]
    command = [*program, sys.executable, "-m", "benchmarks.instructions", name, call, server.url, str(calls)]
    environment = server.environment | {"PYTHONHASHSEED": "0"}
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


def per_call(names: Sequence[str], calls: int, *, tls: bool = False) -> dict[Call, dict[str, float]]:
    """Count the instructions of an edit and of a get in each subject."""
    kinds: tuple[Call, ...] = ("edit", "get")
    runs = [(name, call) for call in kinds for name in names]
    with serving(tls=tls) as server, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def count(run: tuple[str, Call]) -> float:
            return _count(*run, server, calls) / calls

        counts = dict(zip(runs, pool.map(count, runs), strict=True))
    return {call: {name: counts[name, call] for name in names} for call in kinds}


def run(size: Size) -> Result:
    """Count both calls of each client. Raise if this library needs too many instructions."""
    if missing := missing_tool():
        return Result([], skipped=missing)
    result = Result([])
    for tls in (False, True):
        scheme = "https" if tls else "http"
        names = list(CLIENTS)[: size.of(3, 2, 2)]
        for call, each in per_call(names, size.of(1280, 640, 128), tls=tls).items():
            rows = [Row(name, [value]) for name, value in each.items()]
            title = f"Instructions per {call} over {scheme}, {WIDTH} in flight"
            result.tables.append(Table(title, "", rows, baseline="plain"))
            ratio, most = each["aiomutex"] / each["plain"], MAX_RATIO[scheme, call]
            what = f"instructions per {call} over {scheme} beside plain aiohttp"
            result.goals.append(Goal(what, f"≤ {GOALS[call]:.2f}", f"{ratio:.3f}", ratio <= GOALS[call]))
            if ratio > most:
                raise WrongResultError(
                    f"the {call} over {scheme} takes {each['aiomutex']:,.0f} instructions, {ratio:.2f} of a plain "
                    f"client's {each['plain']:,.0f}; the limit is {most:.2f}"
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
