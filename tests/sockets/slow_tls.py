"""A proxy in front of the emulator that is as slow as the internet: late TLS handshakes, jitter, no keep-alive."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine

__all__ = ["SlowTls"]


class SlowTls:
    """Listens with TLS. Each connection serves one request.

    Args:
        upstream: Port of the emulator on loopback.
        context: The certificate and key.
        handshake: Minimum and maximum seconds before the handshake begins.
        jitter: Maximum seconds before a request is forwarded.
        seed: Seed of the random delays.
    """

    def __init__(
        self, upstream: int, context: ssl.SSLContext, *, handshake: tuple[float, float], jitter: float, seed: int = 1
    ) -> None:
        self._upstream = upstream
        self._context = context
        self._handshake = handshake
        self._jitter = jitter
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            self.connections += 1
            self._start(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        await asyncio.sleep(self._random.uniform(*self._handshake))
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._context)
        except OSError:
            connection.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            request = await _message(reader)
            await asyncio.sleep(self._random.uniform(0, self._jitter))
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            try:
                inner_writer.write(request)
                response = await _message(inner_reader)
            finally:
                inner_writer.close()
            writer.write(response.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await writer.wait_closed()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One HTTP message with its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return head + (await reader.readexactly(int(length[1])) if length else b"")
