"""A listening socket and its connections: opened at once, closed at once, slow to greet on demand.

It runs one aiohttp handler in the running event loop and knows nothing of what is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from random import Random

    from aiomutex.emulator.faults import Latency

__all__ = ["Listener"]

GRACE = 0.05
"""Seconds that handlers get to end when their connection was cut."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Greeting(asyncio.Protocol):
    """Holds a new connection for a while before it is served; what arrives meanwhile is kept."""

    def __init__(self, serve: Callable[[], asyncio.Protocol], delay: float, waiting: set[_Greeting]) -> None:
        self._serve = serve
        self._delay = delay
        self._waiting = waiting
        self._early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._waiting.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._delay, self._begin)

    def data_received(self, data: bytes) -> None:
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self._waiting.discard(self)
        self._timer.cancel()

    def _begin(self) -> None:
        self._waiting.discard(self)
        if self.transport.is_closing():
            return
        protocol = self._serve()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if self._early:
            protocol.data_received(bytes(self._early))


class Listener:
    """Serves ``handler`` on ``host`` and ``port`` from ``open`` to ``close``.

    Args:
        handler: What answers requests.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        ssl_context: Serve TLS with it.
        handshake_delay: How long each new connection waits before it is served.
        rng: What the delays are drawn from.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None,
        handshake_delay: Latency,
        rng: Random,
    ) -> None:
        self._handler = handler
        self._host = host
        self._port = port
        self._ssl = ssl_context
        self._delay = handshake_delay
        self._rng = rng
        self._waiting: set[_Greeting] = set()

    async def open(self) -> int:
        """Start to listen and say on which port."""
        # A client that leaves ends its handler, so that neither a stall nor a long answer outlives its connection.
        self._web = web.Server(self._handler, handler_cancellation=True, access_log=None, lingering_time=1.0)
        self._server = await asyncio.get_running_loop().create_server(
            self._greet if self._delay.base else self._web,
            self._host,
            self._port,
            ssl=self._ssl,
            backlog=1024,
            start_serving=False,
        )
        try:
            await self._server.start_serving()
        except BaseException:
            self._server.close()
            raise
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and cut every connection: idle, busy or waiting. One that is cancelled has done so too."""
        loop = asyncio.get_running_loop()
        for listening in self._server.sockets:
            # A server that is closed chokes on a connection it has accepted but not yet seen; so first no more of them.
            with suppress(NotImplementedError):
                loop.remove_reader(listening.fileno())
        try:
            await _rounds()
        finally:
            self._server.close()
            transports = [waiting.transport for waiting in self._waiting]
            transports += [it.transport for it in self._web.connections if it.transport is not None]
            for transport in transports:
                # A polite close would wait for a client that does not read.
                transport.abort()
        await _rounds()
        await self._web.shutdown(GRACE)
        await self._server.wait_closed()

    def _greet(self) -> asyncio.Protocol:
        return _Greeting(self._web, self._delay.draw(self._rng), self._waiting)


async def _rounds() -> None:
    """Let the loop finish what it has begun: connections to be made, to be lost, handlers to be cancelled."""
    for _ in range(5):
        await asyncio.sleep(0)
