"""Connections and requests that take the permit last: once a connection is ready, just before the request is written.

Making a connection is the largest source of jitter between "permit granted" and "request seen by the service". With
the permit taken last, that jitter cannot push requests together.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter

from aiomutex._http.context import AttemptContext, ImplicitRetryError, current_attempt
from aiomutex.retry import backoff

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

_SWITCHING_PROTOCOLS: Final = 101


class StrictResponseHandler(ResponseHandler):
    """A connection that closes when the server sends data that no request asked for.

    aiohttp would buffer that data without a bound, and read it as the response to the next request.
    """

    context: AttemptContext | None = None  # the attempt that holds the connection while waiting for its permit

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
        """Wait in line for a connection."""
        try:
            await super()._wait_for_available_connection(key, traces)
        except BaseException:
            # It may be woken up and cancelled. aiohttp then leaves the free connection unused, and the rest of the line
            # waits until another connection is released, perhaps forever.
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
                if await context.take_permit_for(protocol, req.headers):
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


class InlineRequest(aiohttp.ClientRequest):
    """A request that is sent in the same iteration of the event loop in which its permit is granted.

    aiohttp writes a request's body in a task of its own. On Python 3.11 that is one iteration later, behind everything
    else that is ready by then; with many requests in flight this adds jitter between permit and service. On every
    version that task is a sixth of the CPU time of a request.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request; anything unusual is left to aiohttp."""
        body, protocol = self.body, conn.protocol
        unusual = self.proxy or self.compress or self.chunked or self._continue
        large = bool(body) and not isinstance(body, aiohttp.BytesPayload)
        if unusual or large or protocol is None or protocol.writing_paused:
            return await super().send(conn)
        loop = asyncio.get_running_loop()
        senders: Any = (self._on_chunk_request_sent, self._on_headers_request_sent) if self._traces else ()
        writer = StreamWriter(protocol, loop, *(functools.partial(send, self.method, self.url) for send in senders))
        await writer.write_headers(f"{self.method} {self.url.raw_path_qs} HTTP/1.1", self.headers)
        if body:
            await writer.write_eof(await body.as_bytes())
        else:
            writer.set_eof()
        protocol.start_timeout()
        return self.response_class(
            self.method,
            self.original_url,
            writer=None,
            continue100=None,
            timer=self._timer,
            request_info=self.request_info,
            traces=self._traces,
            loop=loop,
            session=self.session,
            stream_writer=writer,
        )
