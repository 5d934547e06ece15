"""A plain HTTP client for the emulator's tests, which shares no code with aiomutex."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import msgspec
from support import until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiomutex.emulator import MutexEmulator

PATH = "/api/1/mutexes"


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Api:
    """A running emulator and a client for it."""

    def __init__(self, emulator: MutexEmulator, *, ssl: Any = True) -> None:
        self.emulator = emulator
        self._ssl = ssl

    async def __aenter__(self) -> Self:
        await self.emulator.__aenter__()
        self.url = self.emulator.url
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.http.close()
        await self.emulator.__aexit__(None, None, None)

    async def leave(self, method: str, path: str, **options: Any) -> None:
        """Send a request, and leave without a response soon after it has arrived, however long that takes."""
        arrived = len(self.emulator.requests)
        request = asyncio.create_task(self.send(method, path, **options))
        await until(lambda: len(self.emulator.requests) > arrived)
        await asyncio.wait([request], timeout=0.05)
        assert not request.done()
        request.cancel()
        await asyncio.wait([request])

    async def send(
        self, method: str, path: str, *, key: str | None = "key", timeout: float = 20, **options: Any
    ) -> Reply:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        headers.update(options.pop("headers", {}))
        async with self.http.request(
            method,
            self.url + path,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=timeout),
            allow_redirects=False,
            **options,
        ) as response:
            return Reply(response.status, response.headers, await response.read())

    async def list(self, **query: Any) -> Reply:
        return await self.send("GET", PATH, params=query)

    async def get(self, group_id: str) -> Reply:
        return await self.send("GET", f"{PATH}/{group_id}")

    async def edit(self, group_id: str, body: Any) -> Reply:
        return await self.send("PATCH", f"{PATH}/{group_id}", json=body)

    async def edit_slot(self, group_id: str, index: object, body: Any, **options: Any) -> Reply:
        return await self.send("PATCH", f"{PATH}/{group_id}/slots/{index}", json=body, **options)

    async def create(self, body: Any) -> Reply:
        return await self.send("POST", PATH, json=body)
