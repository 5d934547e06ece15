"""Connections and requests that take the permit last: once a connection is ready, just before the request is written.

Making a connection is the largest source of jitter between "permit granted" and "request seen by the service". With
the permit taken last, that jitter cannot push requests together.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from aiomutex._http.context import AttemptContext, ImplicitRetryError, current_attempt
from aiomutex.retry import backoff

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


class StrictResponseHandler(ResponseHandler):
    """A connection that closes when the server sends data that no request asked for.

    aiohttp would buffer that data without a bound, and read it as the response to the next request.
    """

    context: AttemptContext | None = None  # the attempt that holds the connection while waiting for its permit

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wake up the attempt that holds the connection."""
        super().connection_lost(exc)
        if self.context is not None:
            self.context.connection_lost()

    def data_received(self, data: bytes) -> None:
        """Read data of the response in progress or of one that is awaited; otherwise close."""
        is_read = self._payload is None or self._payload.is_eof()
        if data and is_read and self._waiter is None and not self._buffer:
            self.close()
            return
        super().data_received(data)


class PermitConnector(aiohttp.TCPConnector):
    """A ``TCPConnector`` that returns a connection only once the current attempt has its permit."""

    def __init__(self) -> None:
        super().__init__(limit=0)  # pyright: ignore[reportUnknownMemberType]  # partly typed by aiohttp
        handler = functools.partial(StrictResponseHandler, loop=asyncio.get_running_loop())
        self._factory = handler  # type: ignore[assignment]  # a subclass of the declared handler

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        """Get a ready connection, then wait for the permit. A connection lost while waiting is replaced."""
        context = current_attempt.get()
        if context is not None and context.permit is not None:
            raise ImplicitRetryError
        losses = 0
        while True:
            connection = await super().connect(req, traces, timeout)
            if context is None:
                return connection
            protocol: Any = connection.protocol  # made by our factory
            try:
                if await context.take_permit_for(protocol, context.headers or req.headers):
                    return connection
            except BaseException:
                # Unused, so it goes back to the pool. Without this it would count against the limit forever.
                connection.release()
                raise
            connection.close()
            losses += 1
            if losses > 1:
                # Without a pause, a server that accepts connections and drops them would be flooded with new ones for
                # as long as attempts wait for permits.
                await asyncio.sleep(backoff(losses - 1))
