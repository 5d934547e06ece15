"""Checks of an ``aiohttp.ClientSession`` that the user passes in.

It is used and never closed. Its connector is not ours, so permits are taken before a connection is looked for.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final
from urllib.request import getproxies, proxy_bypass

from aiomutex.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    import aiohttp
    from yarl import URL

_BORROWED: Final = "the aiohttp.ClientSession passed as 'http'"
CLOSED_ERROR: Final = f"{_BORROWED} is closed"
NETRC_ERROR: Final = (
    f"{_BORROWED} has trust_env=True, and the .netrc file has credentials for this host, which would replace the API "
    "key: remove that entry, or pass a session without trust_env"
)


def check_borrowed(http: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """Raise ``ConfigurationError`` if the session has credentials of its own, or belongs to another event loop."""
    if http.auth is not None:
        raise ConfigurationError(f"{_BORROWED} must not have an 'auth', which would replace the API key")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that of the only documented way to get the loop
        its_loop = http.loop
    if its_loop is not loop:
        raise ConfigurationError(f"{_BORROWED} belongs to another event loop; create one in each loop")


def _check_proxy(http: aiohttp.ClientSession, base_url: URL) -> None:
    """Check that no proxy would see the API key. The environment may change, so each request needs this check."""
    if base_url.scheme != "http":
        return  # aiohttp tunnels https through a proxy
    from_environment = http.trust_env and "http" in getproxies() and not proxy_bypass(base_url.host or "")
    if from_environment or getattr(http, "_default_proxy", None) is not None:
        raise ConfigurationError(
            f"{_BORROWED} uses a proxy, which would see the API key because {str(base_url)!r} is plain http: pass a "
            "session without a proxy, or exclude the host in the variable no_proxy"
        )


def borrowed_headers(
    http: aiohttp.ClientSession, base_url: URL, headers: Mapping[str, str], body: bytes | None
) -> dict[str, str]:
    """Return the headers of one request, including those that a default of the session would otherwise override."""
    _check_proxy(http, base_url)
    own = {} if http.auto_decompress else {"Accept-Encoding": "identity"}
    if body is not None:
        own["Content-Type"] = "application/json"
    return {**headers, **own}
