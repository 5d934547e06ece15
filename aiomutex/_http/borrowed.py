"""An ``aiohttp.ClientSession`` that belongs to the user: what it must not bring, and what its defaults must not change.

It is used and never closed. Its connections wait for no permits, as its connector is not ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiomutex.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    import aiohttp

__all__ = ["NETRC", "borrowed_headers", "check_borrowed"]

_BORROWED: Final = "the aiohttp.ClientSession passed as 'http'"
NETRC: Final = (
    f"{_BORROWED} has trust_env=True, and the .netrc file has credentials for this host; they would take the API key's "
    "place: take the entry out, or pass a session without trust_env"
)


def check_borrowed(http: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """Do nothing if the session can be used here.

    Raises:
        ConfigurationError: It has credentials of its own, or belongs to another event loop.
    """
    if http.auth is not None:
        raise ConfigurationError(f"{_BORROWED} has an 'auth' of its own; it would take the API key's place")
    if getattr(http, "_loop", loop) is not loop:  # its public name warns
        raise ConfigurationError(f"{_BORROWED} belongs to another event loop; make one in each loop")


def borrowed_headers(headers: Mapping[str, str], body: bytes | None) -> Mapping[str, str]:
    """The headers of one request, each written out that a default of the session would go before."""
    return headers if body is None else {**headers, "Content-Type": "application/json"}
