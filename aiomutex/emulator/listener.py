"""A listening socket for one aiohttp handler, which closes all its connections at once when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from random import Random
    from ssl import SSLContext

    from aiomutex.emulator.faults import Latency

GRACE = 0.05
"""Seconds that handlers have to finish after their connection was closed."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def listening(
    handler: Handler, *, host: str, port: int, ssl: SSLContext | None, delay: Latency, rng: Random
) -> AsyncGenerator[int]:
    """Serve ``handler`` on ``host`` and the port that is yielded; the first request of each connection is delayed."""
    served: set[web.RequestHandler] = set()

    async def handle_delayed(request: web.BaseRequest) -> web.StreamResponse:
        if request.protocol not in served:
            served.intersection_update(http.connections)  # forgets those that were closed
            served.add(request.protocol)
            await asyncio.sleep(delay.sample(rng))
        return await handler(request)

    # Cancel the handler when its client disconnects: a stalled request would otherwise wait forever.
    http = web.Server(
        handle_delayed if delay.base else handler, handler_cancellation=True, access_log=None, lingering_time=1.0
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(http, host, port, ssl=ssl, backlog=1024, start_serving=False)
    try:
        await server.start_serving()
        yield int(server.sockets[0].getsockname()[1])
    finally:
        for socket in server.sockets:
            # asyncio raises for a connection that it accepts while the server closes, so stop accepting first.
            with suppress(NotImplementedError):
                loop.remove_reader(socket.fileno())
        try:
            await _run_callbacks()
        finally:
            server.close()
            for connection in http.connections:
                if connection.transport is not None:
                    # Its close() would wait for a client that does not read.
                    connection.transport.abort()
        await _run_callbacks()
        await http.shutdown(GRACE)
        await server.wait_closed()


async def _run_callbacks() -> None:
    """Let the loop run callbacks that are due: connections made or lost, handlers cancelled."""
    for _ in range(5):
        await asyncio.sleep(0)
