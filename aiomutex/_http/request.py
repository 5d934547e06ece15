"""Requests that leave in the same turn of the event loop as their permit.

aiohttp writes a request's body in a task of its own: on Python 3.11 one turn later, behind whatever else is ready by
then, which with many requests in flight is jitter between permit and service; and on each version a sixth of what a
request costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.http import StreamWriter

if TYPE_CHECKING:
    from aiohttp.connector import Connection

__all__ = ["InlineRequest"]


class InlineRequest(aiohttp.ClientRequest):
    """A ``ClientRequest`` that writes headers and a small body at once and together."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request; anything out of the ordinary is left to aiohttp."""
        body, protocol = self.body, conn.protocol
        unusual = self.proxy or self.compress or self.chunked or self._traces or self._continue
        large = bool(body) and not isinstance(body, aiohttp.BytesPayload)
        if unusual or large or protocol is None or protocol.writing_paused:
            return await super().send(conn)
        writer = StreamWriter(protocol, self.loop)
        await writer.write_headers(f"{self.method} {self.url.raw_path_qs} HTTP/1.1", self.headers)
        if body:
            await writer.write_eof(await body.as_bytes())
        else:
            writer.set_eof()
        protocol.start_timeout()
        response = self.response_class(
            self.method,
            self.original_url,
            writer=None,
            continue100=None,
            timer=self._timer,
            request_info=self.request_info,
            traces=self._traces,
            loop=self.loop,
            session=self._session,
            stream_writer=writer,
        )
        inside: Any = self  # aiohttp's class declares its response as None, which mypy sees or not
        inside.response = response
        return response
