"""The ``aiohttp.ClientSession`` that a session creates for itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from aiomutex._http.context import ImplicitRetryError, current_attempt
from aiomutex._http.internals import MISSING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["create_http"]


def create_http(headers: Mapping[str, str], max_connections: int) -> aiohttp.ClientSession:
    """Create a session whose requests take a permit each.

    The permit is taken once a connection is ready or, if aiohttp lacks what that needs, before one is looked for.

    Args:
        headers: The headers of every request.
        max_connections: The maximum number of open connections.
    """
    if MISSING:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_connections),  # pyright: ignore[reportUnknownMemberType]
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            middlewares=(_permit_before_connection(max_connections),),
        )
    # These modules cannot even be imported when some of the internals are missing.
    from aiomutex._http.connector import PermitConnector  # noqa: PLC0415
    from aiomutex._http.request import InlineRequest  # noqa: PLC0415

    return aiohttp.ClientSession(
        connector=PermitConnector(limit=max_connections),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        request_class=InlineRequest,
    )


def _permit_before_connection(max_connections: int) -> aiohttp.ClientMiddlewareType:
    connections = asyncio.Semaphore(max_connections)

    async def take_permit(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        context = current_attempt.get()
        if context is not None:
            if context.permit is not None:
                raise ImplicitRetryError
            # Without a free connection the permit would wait in aiohttp's queue, and the permits of a stalled second
            # would be sent together with those of the next.
            await context.enter(connections)
            await context.take_permit()
        return await handler(request)

    return take_permit
