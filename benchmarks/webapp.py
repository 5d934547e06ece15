"""A web app in front of the service, in a process of its own: on one session of this library, or on bare aiohttp.

It shows a group, edits a slot, has a bulk run go on beside it, and tells its vitals.
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
from benchmarks.server import KEY, UNHELD
from benchmarks.vitals import Vitals, vitals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

__all__ = ["AHEAD", "GROUPS", "WebApp", "serving_app"]

GROUPS = 500
AHEAD = 48
"""Edits of a bulk run that are in flight at once: this library's default, and what the others get too."""
WIDE = 256
"""Connections where the limit is off, so that nobody waits for one."""


class Upstream(abc.ABC):
    """How the app calls the service."""

    def __init__(self, url: str, *, limited: bool) -> None:
        self.url = url
        self.limited = limited
        self.edited: Counter[str] = Counter()

    @abc.abstractmethod
    def opened(self) -> contextlib.AbstractAsyncContextManager[object]:
        """The connections, for as long as the app runs."""

    @abc.abstractmethod
    async def show(self, group_id: str) -> str:
        """Read a group; its key."""

    @abc.abstractmethod
    async def edit(self, group_id: str, experiment: int) -> None:
        """Write a slot."""

    @abc.abstractmethod
    async def bulk(self) -> None:
        """Write one slot after the other until cancelled, and count in ``edited`` how that went."""

    @property
    @abc.abstractmethod
    def connector(self) -> aiohttp.BaseConnector | None:
        """Where the connections are kept."""


class Ours(Upstream):
    """One session, as the README's web app has it."""

    def opened(self) -> contextlib.AbstractAsyncContextManager[object]:
        free: dict[str, Any] = {"rate_limiter": LocalRateLimiter(UNHELD, 10**9), "max_connections": WIDE}
        self.session = MutexSession(KEY, base_url=self.url, **({} if self.limited else free))
        return self.session

    async def show(self, group_id: str) -> str:
        return (await self.session.get_group(group_id)).key

    async def edit(self, group_id: str, experiment: int) -> None:
        await self.session.edit_slot(group_id, 1, experiments=[experiment])

    async def bulk(self) -> None:
        edits = (SlotEdit(1 + n % GROUPS, 2, experiments=[n]) for n in range(10**7))
        async with self.session.stream_slot_edits(edits, concurrency=AHEAD) as outcomes:
            async for outcome in outcomes:
                self.edited[outcome.status] += 1

    @property
    def connector(self) -> aiohttp.BaseConnector | None:
        inside: Any = self.session
        http: aiohttp.ClientSession = inside._transport._http  # noqa: SLF001  # nobody else needs it
        return http.connector


class ByHand(Upstream):
    """An ``aiohttp.ClientSession`` and dicts."""

    limiter: contextlib.AbstractAsyncContextManager[object] = contextlib.nullcontext()

    def opened(self) -> contextlib.AbstractAsyncContextManager[object]:
        connector = None if self.limited else aiohttp.TCPConnector(limit=WIDE)
        self.http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}, connector=connector)
        return self.http

    async def show(self, group_id: str) -> str:
        async with self.limiter, self.http.get(f"{self.url}/api/1/mutexes/{group_id}") as answer:
            answer.raise_for_status()
            return str((await answer.json())["key"])

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

        await asyncio.gather(*(work() for _ in range(AHEAD)))

    async def _write(self, group_id: str | int, slot: int, experiment: int) -> None:
        address = f"{self.url}/api/1/mutexes/{group_id}/slots/{slot}"
        async with self.limiter, self.http.patch(address, json={"experiments": [experiment]}) as answer:
            answer.raise_for_status()
            await answer.read()

    @property
    def connector(self) -> aiohttp.BaseConnector | None:
        return self.http.connector


class ByHandInLine(ByHand):
    """The same behind aiolimiter, evenly spaced at this library's own rate, which everybody waits in line for."""

    def opened(self) -> contextlib.AbstractAsyncContextManager[object]:
        import aiolimiter  # noqa: PLC0415  # in an extra

        self.limiter = aiolimiter.AsyncLimiter(1, 1.02 / 97)
        return super().opened()


FLAVOURS: dict[str, type[Upstream]] = {"aiomutex": Ours, "aiohttp": ByHand, "aiolimiter": ByHandInLine}


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
        for fate in await asyncio.gather(*runs, return_exceptions=True):
            if not isinstance(fate, asyncio.CancelledError):
                upstream.edited[f"the run ended by itself: {fate!r}"] += 1
        runs.clear()
        return web.Response()

    async def told(_: web.Request) -> web.Response:
        figures = {"vitals": vitals(upstream.connector), "edited": upstream.edited}
        return web.Response(body=msgspec.json.encode(figures))

    app = web.Application()
    app.cleanup_ctx.append(lifespan)
    app.add_routes([web.get("/groups/{id}", show), web.get("/groups/{id}/{experiment}", edit)])
    app.add_routes([web.get("/bulk/start", start), web.get("/bulk/stop", stop), web.get("/figures", told)])
    return app


class WebApp:
    """The running app, seen from outside."""

    def __init__(self, port: int, process: int) -> None:
        self.port = port
        self.process = process

    def ask(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            told: bytes = answer.read()
            return told

    def memory(self) -> float:
        """MiB that the app holds."""
        return resident(self.process)

    def vitals(self) -> Vitals:
        return msgspec.convert(json.loads(self.ask("/figures"))["vitals"], Vitals)

    def edited(self) -> dict[str, int]:
        """How many edits of the bulk run ended how."""
        return msgspec.convert(json.loads(self.ask("/figures"))["edited"], dict[str, int])


@contextlib.contextmanager
def serving_app(flavour: str, url: str, *, limited: bool = True) -> Generator[WebApp]:
    """An app that calls the service at ``url``, until the block ends.

    Raises:
        WrongResultError: It did not end well, or had something to complain about.
    """
    mode = "limited" if limited else "free"
    command = [sys.executable, "-W", "error", "-m", "benchmarks.webapp", flavour, url, mode]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield WebApp(int(process.stdout.readline() or 0), process.pid)
            _, complaints = process.communicate(timeout=30)
        finally:
            process.kill()
    if process.returncode or complaints:
        raise WrongResultError(f"the app on {flavour} ended with {process.returncode}: {complaints}")


async def _serve(flavour: str, url: str, mode: str) -> None:
    logging.getLogger("aiomutex").setLevel(logging.ERROR)  # 429s are counted where they are answered
    # A user who hangs up takes the handler along, which is the harder case.
    runner = web.AppRunner(app_of(FLAVOURS[flavour](url, limited=mode == "limited")), handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    # It ends with whoever started it, however that ends.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
