"""A connection pool that takes the permit last: once a connection is ready, just before the request is written.

Making a connection is the largest source of jitter between "permit granted" and "request seen by the service". With
the permit taken last, that jitter cannot push requests together.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler

from aiomutex._http.context import AttemptContext, ImplicitRetryError, current_attempt
from aiomutex.retry import backoff

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

__all__ = ["PermitConnector", "StrictResponseHandler"]

_SWITCHING_PROTOCOLS: Final = 101


class StrictResponseHandler(ResponseHandler):
    """A connection that closes when the server sends data that no request asked for.

    aiohttp would buffer that data without a bound, and read it as the response to the next request.

    Attributes:
        context: The attempt that holds the connection while waiting for its permit.
    """

    context: AttemptContext | None = None

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Accept the head of a response. After a switch of protocols, no further response can follow."""
        if data[0].code == _SWITCHING_PROTOCOLS:
            self.force_close()
        super().feed_data(data, size)

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

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit=limit)  # pyright: ignore[reportUnknownMemberType]  # partly typed by aiohttp
        handler = functools.partial(StrictResponseHandler, loop=asyncio.get_running_loop())
        self._factory = handler  # type: ignore[assignment]  # a subclass of the declared handler

    async def _wait_for_available_connection(self, key: ConnectionKey, traces: list[Trace]) -> None:
        """Wait in line for a connection.

        A waiter that is cancelled after it was woken up wakes up the next one. aiohttp does not: the free connection
        would stay unused and the rest of the line would wait until another connection is released, perhaps forever.
        """
        try:
            await super()._wait_for_available_connection(key, traces)
        except BaseException:
            self._release_waiter()
            raise

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
                if await context.take_permit_for(protocol):
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
