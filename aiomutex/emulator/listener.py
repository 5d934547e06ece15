"""A listening socket for one aiohttp handler, which closes all its connections at once when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

if TYPE_CHECKING:
    from random import Random
    from ssl import SSLContext

    from aiomutex.emulator.faults import Latency

GRACE = 0.05
"""Seconds that handlers have to finish after their connection was closed."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _DelayedConnection(asyncio.Protocol):
    """A new connection that is served after a delay; data that arrives earlier is buffered."""

    def __init__(
        self, serve: Callable[[], asyncio.Protocol], delay: float, waiting: set[asyncio.BaseTransport]
    ) -> None:
        self._serve = serve
        self._delay = delay
        self._waiting = waiting
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._waiting.add(transport)
        asyncio.get_running_loop().call_later(self._delay, self._begin, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data

    def _begin(self, transport: Any) -> None:
        self._waiting.discard(transport)
        if not transport.is_closing():
            protocol = self._serve()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            if self._buffer:
                protocol.data_received(bytes(self._buffer))


class Listener:
    """Serve ``handler`` on ``host`` and ``port`` between ``open`` and ``close``; each connection after a ``delay``."""

    def __init__(
        self, handler: Handler, *, host: str, port: int, ssl: SSLContext | None, delay: Latency, rng: Random
    ) -> None:
        self._handler = handler
        self._options: dict[str, Any] = {"host": host, "port": port, "ssl": ssl}
        self._delay = delay
        self._rng = rng
        self._delayed: set[asyncio.BaseTransport] = set()

    async def open(self) -> int:
        """Start to listen and return the port."""
        # Cancel the handler when its client disconnects: a stalled request would otherwise wait forever.
        self._web = web.Server(self._handler, handler_cancellation=True, access_log=None, lingering_time=1.0)
        delay, rng, delayed = self._delay, self._rng, self._delayed
        factory = (lambda: _DelayedConnection(self._web, delay.sample(rng), delayed)) if delay.base else self._web
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(factory, **self._options, backlog=1024, start_serving=False)
        try:
            await self._server.start_serving()
        except BaseException:
            self._server.close()
            raise
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and abort every connection, even if this call is cancelled."""
        loop = asyncio.get_running_loop()
        for listening in self._server.sockets:
            # asyncio raises for a connection that it accepts while the server closes, so stop accepting first.
            with suppress(NotImplementedError):
                loop.remove_reader(listening.fileno())
        try:
            await _run_callbacks()
        finally:
            self._server.close()
            for transport in [*self._delayed, *(it.transport for it in self._web.connections)]:
                if transport is not None:
                    cast("asyncio.Transport", transport).abort()  # close() would wait for a client that does not read
        await _run_callbacks()
        await self._web.shutdown(GRACE)
        await self._server.wait_closed()


async def _run_callbacks() -> None:
    """Let the loop run callbacks that are due: connections made or lost, handlers cancelled."""
    for _ in range(5):
        await asyncio.sleep(0)
