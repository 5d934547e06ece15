"""One budget for several processes, through Redis or a file: permits in a sliding second, rate, and exchanges."""

# Round trips are counted with a private attribute.
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from __future__ import annotations

import argparse
import asyncio
import bisect
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from aiomutex import Priority
from aiomutex.limits.machine import MachineRateLimiter
from benchmarks.harness import Goal, Result, Row, Size, Table, WrongResultError, check

__all__ = ["run"]

PROCESSES = 3
TASKS = 70


def _limiter(place: str) -> Any:
    if not place.startswith("redis:"):
        return MachineRateLimiter(place, per_day=10**6)
    from aiomutex.limits.redis import RedisRateLimiter  # noqa: PLC0415  # in the extra

    return RedisRateLimiter(place, name="benchmark", per_day=10**6)


async def _take(place: str, permits: int) -> dict[str, Any]:
    """Take permits. Return their times on the shared clock, the number of exchanges, and the processor time."""
    limiter = _limiter(place)
    times: list[float] = []
    round_trips = 0
    lease: Any = limiter._budget.lease

    async def counted(*arguments: Any) -> Any:
        nonlocal round_trips
        round_trips += 1
        return await lease(*arguments)

    setattr(limiter._budget, "lease", counted)  # noqa: B010  # type checkers reject the assignment
    tickets = iter(range(permits))

    async def one() -> None:
        for _ in tickets:
            times.append(await limiter.acquire(Priority.BULK))  # noqa: PERF401  # tasks share the list

    cpu = time.process_time()
    await asyncio.gather(*(one() for _ in range(TASKS)))
    spent = time.process_time() - cpu
    await limiter.aclose()
    return {"times": times, "round_trips": round_trips, "cpu": spent}


def _server(folder: str, program: str) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return process, f"redis://127.0.0.1:{port}/0"
        except OSError:
            time.sleep(0.02)
    process.kill()
    raise WrongResultError("redis-server did not start")


def _compare(place: str, processes: int, each: int, medium: str, budget: float) -> tuple[Table, Goal]:
    command = [sys.executable, "-m", "benchmarks.shared", place, str(each)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    reports = [json.loads(worker.communicate(timeout=180)[0]) for worker in workers]
    times = sorted(moment for report in reports for moment in report["times"])
    permits = len(times)
    check("permits", permits, processes * each)
    most = max(bisect.bisect_left(times, moment + 1.0) - place for place, moment in enumerate(times))
    rate = (permits - 1) / (times[-1] - times[0])
    trips = sum(report["round_trips"] for report in reports) / permits
    cpu = sum(report["cpu"] for report in reports) / permits * 1e6
    if most > 100:
        raise WrongResultError(f"{most} permits in one second; the service allows 100")
    table = Table(
        f"One budget for {processes} processes of {TASKS} tasks, {permits:,} permits through {medium}",
        "",
        [
            Row("most in a sliding second", [most]),
            Row("permits per second", [rate]),
            Row("exchanges per permit", [trips]),
            Row("CPU per permit, µs", [cpu]),
        ],
        floor="limit 100/s; 97 in 1.02 s is 95.1/s",
    )
    met = most <= 97 and rate >= 93 and trips <= budget
    goal = f"≤ 97 in a second; ≥ 93/s; ≤ {budget} exchanges per permit"
    return table, Goal(
        f"budget shared by {processes} processes through {medium}", goal, f"{most}; {rate:.1f}/s; {trips:.2f}", met
    )


def run(size: Size) -> Result:
    """Take permits as fast as possible in three processes through Redis, and in eight through a file."""
    with tempfile.TemporaryDirectory() as folder:
        results = [_compare(f"{folder}/budget.db", 8, size.of(375, 25, 15), "a file", 1.5)]
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is not None and importlib.util.find_spec("redis") is not None:
            process, url = _server(folder, program)
            try:
                results.append(_compare(url, PROCESSES, size.of(1000, 60, 40), "Redis", 0.3))
            finally:
                process.kill()
                process.wait()
    return Result([table for table, _ in results], [goal for _, goal in results])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("place")
    parser.add_argument("permits", type=int)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(_take(arguments.place, arguments.permits))))


if __name__ == "__main__":
    main()
