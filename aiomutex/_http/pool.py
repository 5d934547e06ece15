"""The ``aiohttp.ClientSession`` that a session creates for itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from aiomutex._http.context import ImplicitRetryError, current_attempt
from aiomutex._http.internals import MISSING

if TYPE_CHECKING:
    from collections.abc import Mapping


def create_http(headers: Mapping[str, str], max_connections: int) -> aiohttp.ClientSession:
    """Create a session whose requests take a permit each.

    The permit is taken once a connection is ready or, if aiohttp lacks what that needs, before one is looked for.
    """
    if MISSING:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_connections),  # pyright: ignore[reportUnknownMemberType]
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            middlewares=(_permit_before_connection(max_connections),),
        )
    from aiomutex._http.connector import InlineRequest, PermitConnector  # noqa: PLC0415  # fails without the internals

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
            await context.take_permit(request.headers)
        return await handler(request)

    return take_permit
