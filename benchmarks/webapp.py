"""A web app in its own process, on one session of this library or on bare aiohttp.

It shows a group, edits a slot, runs bulk edits in the background, and reports its vitals.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
from aiohttp import web

from aiomutex import LocalRateLimiter, MutexError, MutexSession, SlotEdit
from benchmarks.harness import WrongResultError
from benchmarks.memory import resident
from benchmarks.server import KEY, UNLIMITED
from benchmarks.vitals import Vitals, vitals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

__all__ = ["GROUPS", "IN_FLIGHT", "WebApp", "serving_app"]

GROUPS = 500
IN_FLIGHT = 48
"""Edits of a bulk run in flight: the default of this library, and the number of the other clients."""
WIDE = 256
"""Connections without a limit, so that no request waits for one."""


class Upstream(abc.ABC):
    """How the app calls the service."""

    def __init__(self, url: str, *, limited: bool) -> None:
        self.url = url
        self.limited = limited
        self.edited: Counter[str] = Counter()

    @abc.abstractmethod
    def opened(self) -> contextlib.AbstractAsyncContextManager[object]:
        """Return a context manager of the connections, for the lifetime of the app."""

    @abc.abstractmethod
    async def show(self, group_id: str) -> str:
        """Read a group and return its key."""

    @abc.abstractmethod
    async def edit(self, group_id: str, experiment: int) -> None:
        """Edit a slot."""

    @abc.abstractmethod
    async def bulk(self) -> None:
        """Edit slots until cancelled, and count the outcomes in ``edited``."""

    @property
    @abc.abstractmethod
    def connector(self) -> aiohttp.BaseConnector | None:
        """The connector that holds the connections."""


class Ours(Upstream):
    """One session, like the web app of the README."""

    def opened(self) -> contextlib.AbstractAsyncContextManager[object]:
        free: dict[str, Any] = {"rate_limiter": LocalRateLimiter(UNLIMITED, 10**9), "max_connections": WIDE}
        self.session = MutexSession(KEY, base_url=self.url, **({} if self.limited else free))
        return self.session

    async def show(self, group_id: str) -> str:
        return (await self.session.get_group(group_id)).key

    async def edit(self, group_id: str, experiment: int) -> None:
        await self.session.edit_slot(group_id, 1, experiments=[experiment])

    async def bulk(self) -> None:
        edits = (SlotEdit(1 + n % GROUPS, 2, experiments=[n]) for n in range(10**7))
        async with self.session.stream_slot_edits(edits, concurrency=IN_FLIGHT, canary=False) as outcomes:
            async for outcome in outcomes:
                self.edited[outcome.status] += 1

    @property
    def connector(self) -> aiohttp.BaseConnector | None:
        inside: Any = self.session
        http: aiohttp.ClientSession = inside._transport._http  # noqa: SLF001  # no public attribute
        return http.connector


class ByHand(Upstream):
    """An ``aiohttp.ClientSession`` and dictionaries."""

    limiter: contextlib.AbstractAsyncContextManager[object] = contextlib.nullcontext()

    def opened(self) -> contextlib.AbstractAsyncContextManager[object]:
        connector = None if self.limited else aiohttp.TCPConnector(limit=WIDE)
        self.http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}, connector=connector)
        return self.http

    async def show(self, group_id: str) -> str:
        async with self.limiter, self.http.get(f"{self.url}/api/1/mutexes/{group_id}") as response:
            response.raise_for_status()
            return str((await response.json())["key"])

    async def edit(self, group_id: str, experiment: int) -> None:
        await self._write(group_id, 1, experiment)

    async def bulk(self) -> None:
        numbers = iter(range(10**7))

        async def work() -> None:
            for n in numbers:
                try:
                    await self._write(1 + n % GROUPS, 2, n)
                except aiohttp.ClientError:
                    self.edited["failed"] += 1
                else:
                    self.edited["applied"] += 1

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))

    async def _write(self, group_id: str | int, slot: int, experiment: int) -> None:
        address = f"{self.url}/api/1/mutexes/{group_id}/slots/{slot}"
        async with self.limiter, self.http.patch(address, json={"experiments": [experiment]}) as response:
            response.raise_for_status()
            await response.read()

    @property
    def connector(self) -> aiohttp.BaseConnector | None:
        return self.http.connector


class ByHandInOneQueue(ByHand):
    """The same behind aiolimiter, evenly spaced at the rate of this library, with one queue for all requests."""

    def opened(self) -> contextlib.AbstractAsyncContextManager[object]:
        import aiolimiter  # noqa: PLC0415  # in an extra

        self.limiter = aiolimiter.AsyncLimiter(1, 1.02 / 97)
        return super().opened()


FLAVOURS: dict[str, type[Upstream]] = {"aiomutex": Ours, "aiohttp": ByHand, "aiolimiter": ByHandInOneQueue}


def app_of(upstream: Upstream) -> web.Application:
    runs: list[asyncio.Task[None]] = []

    async def lifespan(_: web.Application) -> AsyncIterator[None]:
        async with upstream.opened():
            yield

    async def show(request: web.Request) -> web.Response:
        try:
            return web.Response(text=await upstream.show(request.match_info["id"]))
        except (MutexError, aiohttp.ClientError) as error:
            return web.Response(status=502, text=str(error))

    async def edit(request: web.Request) -> web.Response:
        try:
            await upstream.edit(request.match_info["id"], int(request.match_info["experiment"]))
        except (MutexError, aiohttp.ClientError) as error:
            return web.Response(status=502, text=str(error))
        return web.Response(text=request.match_info["experiment"])

    async def start(_: web.Request) -> web.Response:
        runs.append(asyncio.create_task(upstream.bulk()))
        return web.Response()

    async def stop(_: web.Request) -> web.Response:
        for run in runs:
            run.cancel()
        for outcome in await asyncio.gather(*runs, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                upstream.edited[f"the run was not cancelled: {outcome!r}"] += 1
        runs.clear()
        return web.Response()

    async def report(_: web.Request) -> web.Response:
        figures = {"vitals": vitals(upstream.connector), "edited": upstream.edited}
        return web.Response(body=msgspec.json.encode(figures))

    app = web.Application()
    app.cleanup_ctx.append(lifespan)
    app.add_routes([web.get("/groups/{id}", show), web.get("/groups/{id}/{experiment}", edit)])
    app.add_routes([web.get("/bulk/start", start), web.get("/bulk/stop", stop), web.get("/figures", report)])
    return app


class WebApp:
    """The running app, as seen by a benchmark."""

    def __init__(self, port: int, process: int) -> None:
        self.port = port
        self.process = process

    def ask(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            body: bytes = response.read()
            return body

    def memory(self) -> float:
        """Return the resident MiB of the app."""
        return resident(self.process)

    def vitals(self) -> Vitals:
        return msgspec.convert(json.loads(self.ask("/figures"))["vitals"], Vitals)

    def edited(self) -> dict[str, int]:
        """Return the number of edits of the bulk run by outcome."""
        return msgspec.convert(json.loads(self.ask("/figures"))["edited"], dict[str, int])


@contextlib.contextmanager
def serving_app(flavour: str, url: str, *, limited: bool = True) -> Generator[WebApp]:
    """Run an app that calls the service at ``url``, for the duration of the block.

    Raises:
        WrongResultError: The app failed or wrote to standard error.
    """
    mode = "limited" if limited else "free"
    command = [sys.executable, "-W", "error", "-m", "benchmarks.webapp", flavour, url, mode]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield WebApp(int(process.stdout.readline() or 0), process.pid)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    if process.returncode or errors:
        raise WrongResultError(f"the app on {flavour} exited with {process.returncode}: {errors}")


async def _serve(flavour: str, url: str, mode: str) -> None:
    logging.getLogger("aiomutex").setLevel(logging.ERROR)  # the emulator counts the 429 responses
    # Cancel the handler when a user disconnects, which is the harder case.
    runner = web.AppRunner(app_of(FLAVOURS[flavour](url, limited=mode == "limited")), handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    # Standard input is closed when the parent process ends.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
