"""A relay before a server that hands each answer on in pieces, so that a client waits for each of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

_TURNS = 6
"""Turns of the loop between two pieces: enough for a client to read the one and wait for the next."""


class Drip:
    """Relays to a port of this machine. The head of an answer comes first, then each half of its body.

    Attributes:
        requests: Requests that came from clients.
        connected: Connections of clients that are open now.
        hang_up: So many connections to come are closed as soon as they are made.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.requests = self.connected = self.hang_up = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.hang_up:
            self.hang_up -= 1
            writer.close()
            return
        self.connected += 1
        behind_reader, behind = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(self._hand_back(behind_reader, writer))
        self._tasks.add(back)  # its reader is known to nobody else
        with suppress(ConnectionError):
            while data := await reader.read(2**20):
                self.requests += data.count(b" HTTP/1.1\r\n")
                behind.write(data)
        self.connected -= 1
        behind.close()
        await back
        self._tasks.discard(back)

    async def _hand_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**20):
                head, end, body = data.partition(b"\r\n\r\n")
                half = len(body) // 2
                for piece in (head + end, body[:half], body[half:]):
                    writer.write(piece)
                    for _ in range(_TURNS if piece else 0):
                        await asyncio.sleep(0)
        writer.close()
