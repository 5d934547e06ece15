"""Requests written straight to a connection, and responses read from it, with aiohttp's connector, writer and parser.

``ClientSession.request`` spends most of its time on what this package never uses: cookies, redirects, proxies, payloads
of any type, a task for the body.
"""

from __future__ import annotations

import asyncio
import functools
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.http import HttpProcessingError, StreamWriter

from aiomutex._http.context import InvalidResponseError

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from multidict import CIMultiDict
    from yarl import URL

    from aiomutex._http.context import AttemptContext

_SWITCHING_PROTOCOLS: Final = 101
_LARGEST_BODY: Final = 2**20  # which aiohttp writes in parts
_WITHOUT_BODY: Final = ("GET", "HEAD", "OPTIONS")  # methods whose requests say nothing of a body that they do not have


@functools.lru_cache(maxsize=8)
def _is_of_aiohttp(method: object) -> bool:
    """Whether a method is aiohttp's own. It may have been replaced before this module was imported."""
    return type(method) is FunctionType and method.__code__.co_filename == aiohttp.client.__file__


class DirectResponse:
    """What is used of an ``aiohttp.ClientResponse``. The connection is released at the end of the body."""

    __slots__ = ("close", "connection", "content", "headers", "status")

    def __init__(self, connection: Connection, message: RawResponseMessage, content: aiohttp.StreamReader) -> None:
        self.status, self.headers, self.content = message.code, message.headers, content
        self.connection, self.close = connection, connection.close  # does nothing once it is released
        content.on_eof(connection.release)


class DirectClient:
    """Sends requests to one origin, with the connector and the headers of a session."""

    def __init__(self, http: aiohttp.ClientSession, base_url: URL) -> None:
        self._connector: Any = http.connector
        # It names the origin to the connector, and has the headers of all requests.
        loop = asyncio.get_running_loop()
        self._origin = aiohttp.ClientRequest("GET", base_url, headers=http.headers, loop=loop, session=http)

    def takes(self, body: bytes | None) -> bool:
        """Whether to send this here: not if a mock or instrumentation has replaced what sessions do."""
        current = aiohttp.ClientSession._request  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # in internals.json
        return _is_of_aiohttp(current) and (body is None or len(body) <= _LARGEST_BODY)

    async def send(
        self, method: str, target: str, body: bytes | None, timeout: aiohttp.ClientTimeout, context: AttemptContext
    ) -> DirectResponse:
        """Write a request in the iteration of the loop in which its attempt gets the permit, and await the response."""
        headers: CIMultiDict[str] = self._origin.headers.copy()
        context.headers = headers
        if body is not None:
            headers["Content-Length"] = str(len(body))
            headers["Content-Type"] = "application/json"
        elif method not in _WITHOUT_BODY:
            headers["Content-Length"] = "0"
        connection: Connection = await self._connector.connect(self._origin, [], timeout)
        try:
            protocol: Any = connection.protocol  # never None here
            protocol.set_response_params(skip_payload=method == "HEAD", read_until_eof=True)
            writer = StreamWriter(protocol, self._origin.loop)
            await writer.write_headers(f"{method} {target} HTTP/1.1", headers)
            await writer.write_eof(body or b"")
            message, content = await protocol.read()
            while 100 <= message.code <= 199:  # noqa: PLR2004  # HTTP's
                if message.code == _SWITCHING_PROTOCOLS:
                    protocol.force_close()  # no further response can follow
                    break
                message, content = await protocol.read()
        except BaseException as error:
            connection.close()
            if isinstance(error, HttpProcessingError):
                raise InvalidResponseError from None
            raise
        return DirectResponse(connection, message, content)
