"""An ``aiohttp.ClientSession`` lent by its owner: what it must not bring along, and what its defaults must not change.

It is used and never closed. Its connections wait for no permits, as its connector is not ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiomutex.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    import aiohttp

__all__ = ["NETRC", "check_lent", "lent_headers"]

_LENT: Final = "the aiohttp.ClientSession lent as 'http'"
NETRC: Final = (
    f"{_LENT} has trust_env=True, and the .netrc file has credentials for this host; they would take the API key's "
    "place: take the entry out, or lend a session without trust_env"
)


def check_lent(http: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """Do nothing if the session can be used here.

    Raises:
        ConfigurationError: It has credentials of its own, or belongs to another event loop.
    """
    if http.auth is not None:
        raise ConfigurationError(f"{_LENT} has an 'auth' of its own; it would take the API key's place")
    if getattr(http, "_loop", loop) is not loop:  # its public name warns
        raise ConfigurationError(f"{_LENT} belongs to another event loop; make one in each loop")


def lent_headers(headers: Mapping[str, str], body: bytes | None) -> Mapping[str, str]:
    """The headers of one request, each written out that a default of the session would go before."""
    return headers if body is None else {**headers, "Content-Type": "application/json"}
