"""Shared by the tests of fleets: workers in this process and as commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from bulk_support import ROOT, session_for
from redis.asyncio import Redis
from support import until
from taskiq.api import run_receiver_task

from aiomutex.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiomutex.limits import RateLimiter
    from aiomutex.testing import MutexEmulator

HERE: Final = Path(__file__).parent
NAME: Final = "project-1"
KEY: Final = "mgmt-of-the-workers-5c1d"


def redis_of(url: str) -> Any:
    return Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]  # untyped upstream


@contextlib.asynccontextmanager
async def worker(
    emulator: MutexEmulator, redis_url: str, limiter: RateLimiter | None = None, **options: Any
) -> AsyncGenerator[Fleet]:
    """Run a worker in this process."""
    more = {} if limiter is None else {"rate_limiter": limiter}
    fleet = Fleet(redis_url, name=NAME, session=lambda: session_for(emulator.url, **more), **options)
    task = asyncio.create_task(run_receiver_task(fleet.broker, run_startup=True))
    try:
        await until(lambda: hasattr(fleet.broker.state, "keeping"))
        yield fleet
    finally:
        task.cancel()
        await asyncio.wait([task])
        await fleet.broker.shutdown()


class Worker:
    """A ``taskiq worker`` command in its own process group."""

    def __init__(self, url: str, redis_url: str, key: str = KEY) -> None:
        self.env = os.environ | {
            "AMPLITUDE_MANAGEMENT_API_KEY": key,
            "AIOMUTEX_BASE_URL": url,
            "FLEET_REDIS": redis_url,
            "PYTHONPATH": f"{ROOT}:{HERE}:{HERE.parent}",
        }

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "taskiq", "worker", "fleet_workers:broker", "--workers", "1"]
        self.process = subprocess.Popen(
            command, env=self.env, cwd=HERE, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return self

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> str:
        """Send SIGTERM, wait for the end, and return the output."""
        self.process.terminate()
        return self.process.communicate(timeout=15)[0].decode()

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self.process.communicate()
