"""A process that takes permits from a shared budget, and a real Redis server to share it through."""

# Round trips are counted from inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from aiomutex.errors import LimiterUnavailableError
from aiomutex.limits.redis import RedisRateLimiter

if TYPE_CHECKING:
    import signal
    from multiprocessing.queues import Queue
    from pathlib import Path

spawn = multiprocessing.get_context("spawn")


class RedisServer:
    def __init__(self, directory: Path, *options: str) -> None:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise RuntimeError(
                "these tests need a real server: install redis-server 6 or later (apt-get install redis-server)"
            )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            program,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(directory),
        ]
        self._command += ["--daemonize", "no", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64):
                        return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("redis-server did not start")

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def know(self, *names: str) -> None:
        """Begin with an empty ledger that knows its past: nothing was sent for a long time."""
        client: Any = redis.Redis(port=self.port)
        client.flushall()
        for name in names:
            client.rpush(f"{{aiomutex:{name}}}:log", *[1] * 97)
            client.hset(f"{{aiomutex:{name}}}:facts", "run", client.info("server")["run_id"])
        client.close()

    def send(self, command: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(65_536)


@dataclass
class Report:
    permits: list[float] = field(default_factory=list[float])
    errors: list[str] = field(default_factory=list[str])
    questions: int = 0


async def _work(url: str, options: dict[str, Any], tasks: int, seconds: float) -> Report:
    limiter = RedisRateLimiter(url, name="fleet", **options)
    report = Report()
    ask = limiter._ledger.ask

    async def counted(*args: Any) -> Any:
        report.questions += 1
        return await ask(*args)

    setattr(limiter._ledger, "ask", counted)  # noqa: B010 -- type checkers refuse the assignment
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


class Fleet:
    """Workers of one budget. Their permits are moments of the clock that all processes of the machine share."""

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
