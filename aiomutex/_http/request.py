"""Requests that are sent in the same iteration of the event loop in which their permit is granted.

aiohttp writes a request's body in a task of its own. On Python 3.11 that is one iteration later, behind everything
else that is ready by then; with many requests in flight this adds jitter between permit and service. On every version
that task is a sixth of the CPU time of a request.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http import StreamWriter

if TYPE_CHECKING:
    from aiohttp.connector import Connection

__all__ = ["InlineRequest"]


class InlineRequest(aiohttp.ClientRequest):
    """A ``ClientRequest`` that writes the headers and a small body together and at once."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request; anything unusual is left to aiohttp."""
        body, protocol = self.body, conn.protocol
        unusual = self.proxy or self.compress or self.chunked or self._traces or self._continue
        large = bool(body) and not isinstance(body, aiohttp.BytesPayload)
        if unusual or large or protocol is None or protocol.writing_paused:
            return await super().send(conn)
        loop = asyncio.get_running_loop()
        writer = StreamWriter(protocol, loop)
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
