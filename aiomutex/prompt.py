"""Requests that leave in the same turn of the event loop as their permit.

On Python 3.11 aiohttp writes a request's body in a task of its own, one turn later, behind whatever else is ready by
then. With many requests in flight that is jitter between permit and service, and a sixth of what a request costs.
From Python 3.12 on aiohttp starts that task eagerly, and its own class is used.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.http import StreamWriter

if TYPE_CHECKING:
    from aiohttp.connector import Connection

__all__ = ["REQUEST_CLASS"]


class _PromptRequest(aiohttp.ClientRequest):
    """A ``ClientRequest`` that writes a small body at once, together with the headers."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request; anything out of the ordinary is left to aiohttp."""
        body, protocol = self.body, conn.protocol
        unusual = self.proxy or self.compress or self.chunked or self._traces or self._continue
        if unusual or not isinstance(body, aiohttp.BytesPayload) or protocol is None or protocol.writing_paused:
            return await super().send(conn)
        writer = StreamWriter(protocol, self.loop)
        await writer.write_headers(f"{self.method} {self.url.raw_path_qs} HTTP/1.1", self.headers)
        await writer.write_eof(await body.as_bytes())
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
        self.response = response  # type: ignore[assignment]  # declared as None in aiohttp's class
        return response


REQUEST_CLASS: Final[type[aiohttp.ClientRequest]] = (
    _PromptRequest if sys.version_info < (3, 12) else aiohttp.ClientRequest
)
