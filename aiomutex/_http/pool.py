"""The ``aiohttp.ClientSession`` that a session creates for itself, and checks of one that the user passes in.

A borrowed one is used and never closed. Its connector is not ours, so permits are taken before a connection is looked
for.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Final
from urllib.request import getproxies, proxy_bypass

import aiohttp

from aiomutex._http.context import ImplicitRetryError, current_attempt
from aiomutex._http.internals import MISSING
from aiomutex.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from yarl import URL

    from aiomutex._http.direct import DirectClient

_BORROWED: Final = "the aiohttp.ClientSession passed as 'http'"
CLOSED_ERROR: Final = f"{_BORROWED} is closed"
NETRC_ERROR: Final = (
    f"{_BORROWED} has trust_env=True, and the .netrc file has credentials for this host, which would replace the API "
    "key: remove that entry, or pass a session without trust_env"
)


def create_http(headers: Mapping[str, str], base_url: URL) -> tuple[aiohttp.ClientSession, DirectClient | None]:
    """Create a session whose requests take a permit each, and what sends them without ``ClientSession.request``.

    The permit is taken once a connection is ready or, if aiohttp lacks what that needs, before one is looked for. The
    number of connections is limited by the attempts in progress.
    """
    create = functools.partial(aiohttp.ClientSession, cookie_jar=aiohttp.DummyCookieJar(), headers=headers)
    if MISSING:
        connector = aiohttp.TCPConnector(limit=0)  # pyright: ignore[reportUnknownMemberType]  # partly typed
        return create(connector=connector, middlewares=(_permit_before_connection,)), None
    from aiomutex._http.connector import PermitConnector  # noqa: PLC0415  # fails without the internals
    from aiomutex._http.direct import DirectClient  # noqa: PLC0415  # as above

    http = create(connector=PermitConnector())
    return http, None if http.trace_configs else DirectClient(http, base_url)


async def _permit_before_connection(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    context = current_attempt.get()
    if context is not None:
        if context.permit is not None:
            raise ImplicitRetryError
        await context.take_permit(request.headers)
    return await handler(request)


def check_borrowed(http: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """Raise ``ConfigurationError`` if the session has credentials of its own, or belongs to another event loop."""
    if http.auth is not None:
        raise ConfigurationError(f"{_BORROWED} must not have an 'auth', which would replace the API key")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that of the only documented way to get the loop
        its_loop = http.loop
    if its_loop is not loop:
        raise ConfigurationError(f"{_BORROWED} belongs to another event loop; create one in each loop")


def borrowed_headers(
    http: aiohttp.ClientSession, base_url: URL, headers: Mapping[str, str], body: bytes | None
) -> dict[str, str]:
    """Return the headers of one request, including those that a default of the session would otherwise override.

    Raise ``ConfigurationError`` if a proxy would see the API key. The environment may change at any time.
    """
    if base_url.scheme == "http":  # aiohttp tunnels https through a proxy
        from_environment = http.trust_env and "http" in getproxies() and not proxy_bypass(base_url.host or "")
        if from_environment or getattr(http, "_default_proxy", None) is not None:
            raise ConfigurationError(
                f"{_BORROWED} uses a proxy, which would see the API key because {str(base_url)!r} is plain http: pass "
                "a session without a proxy, or exclude the host in the variable no_proxy"
            )
    own = {} if http.auto_decompress else {"Accept-Encoding": "identity"}
    if body is not None:
        own["Content-Type"] = "application/json"
    return {**headers, **own}
