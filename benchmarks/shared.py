"""One budget for three processes through Redis: permits in a sliding second, rate, and round trips."""

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

from benchmarks.harness import Goal, Result, Row, Size, Table, WrongResultError, check

__all__ = ["run"]

PROCESSES = 3
TASKS = 70


async def _take(url: str, permits: int) -> dict[str, Any]:
    """Take permits. Return their times on the shared clock, the number of round trips, and the processor time."""
    from aiomutex.limits.redis import RedisRateLimiter  # noqa: PLC0415  # in the extra

    limiter = RedisRateLimiter(url, name="benchmark", per_day=10**6)
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
            times.append(await limiter.acquire())  # noqa: PERF401  # tasks share the list

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


def run(size: Size) -> Result:
    """Take permits as fast as possible in three processes with 70 tasks each."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        return Result([], skipped="redis-server is not installed (apt-get install redis-server)")
    if importlib.util.find_spec("redis") is None:
        return Result([], skipped="redis-py is not installed (pip install 'aiomutex[redis]')")
    each = size.of(1000, 60, 40)
    with tempfile.TemporaryDirectory() as folder:
        process, url = _server(folder, program)
        try:
            command = [sys.executable, "-m", "benchmarks.shared", url, str(each)]
            workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
            reports = [json.loads(worker.communicate(timeout=180)[0]) for worker in workers]
        finally:
            process.kill()
            process.wait()
    times = sorted(moment for report in reports for moment in report["times"])
    permits = len(times)
    check("permits", permits, PROCESSES * each)
    most = max(bisect.bisect_left(times, moment + 1.0) - place for place, moment in enumerate(times))
    rate = (permits - 1) / (times[-1] - times[0])
    trips = sum(report["round_trips"] for report in reports) / permits
    cpu = sum(report["cpu"] for report in reports) / permits * 1e6
    if most > 100:
        raise WrongResultError(f"{most} permits in one second; the service allows 100")
    table = Table(
        f"One budget for {PROCESSES} processes of {TASKS} tasks, {permits:,} permits through Redis",
        "",
        [
            Row("most in a sliding second", [most]),
            Row("permits per second", [rate]),
            Row("round trips per permit", [trips]),
            Row("CPU per permit, µs", [cpu]),
        ],
        floor="limit 100/s; 97 in 1.02 s is 95.1/s",
    )
    reached = f"{most}; {rate:.1f}/s; {trips:.2f}"
    met = most <= 97 and rate >= 93 and trips <= 0.3
    what = f"budget shared by {PROCESSES} processes through Redis"
    return Result([table], [Goal(what, "≤ 97 in a second; ≥ 93/s; ≤ 0.3 round trips per permit", reached, met)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("permits", type=int)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(_take(arguments.url, arguments.permits))))


if __name__ == "__main__":
    main()
