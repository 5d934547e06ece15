"""A relay before a server that passes on each response in pieces, so that a client waits for each of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

_TURNS = 6
"""Iterations of the loop between two pieces: enough for a client to read one and wait for the next."""


class SlowRelay:
    """Relays to a port of this machine. It sends the head of a response first, then each half of the body.

    Attributes:
        requests: The number of requests from clients.
        connected: The number of open connections from clients.
        hang_up: The number of new connections to close at once.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.requests = self.connected = self.hang_up = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.hang_up:
            self.hang_up -= 1
            writer.close()
            return
        self.connected += 1
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(self._send_response(upstream_reader, writer))
        self._tasks.add(back)  # the loop keeps only a weak reference
        with suppress(ConnectionError):
            while data := await reader.read(2**20):
                self.requests += data.count(b" HTTP/1.1\r\n")
                upstream.write(data)
        self.connected -= 1
        upstream.close()
        await back
        self._tasks.discard(back)

    async def _send_response(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**20):
                head, end, body = data.partition(b"\r\n\r\n")
                half = len(body) // 2
                for piece in (head + end, body[:half], body[half:]):
                    writer.write(piece)
                    for _ in range(_TURNS if piece else 0):
                        await asyncio.sleep(0)
        writer.close()
