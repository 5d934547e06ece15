"""The names under which the emulator may be addressed.

A web page whose own host name resolves to this machine (DNS rebinding) would otherwise be of the emulator's origin, and
could read and change everything.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["AllowedHosts"]

_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+))(?::[0-9]*)?", re.IGNORECASE)


class AllowedHosts:
    """The loopback names (``localhost``, 127.0.0.0/8, ::1), the address to listen on, and ``names``.

    Raises:
        ValueError: ``names`` are not host names.
    """

    def __init__(self, host: str, names: Iterable[str]) -> None:
        if isinstance(names, str):
            raise ValueError(f"allow_hosts must be a list of host names, not {names!r}")  # noqa: TRY004
        self._names = {"localhost", _normalized(_in_header(host))} - {None}
        for name in names:
            if (allowed := _normalized(_in_header(name))) is None:
                raise ValueError(f"allow_hosts must be host names such as 'emulator', not {name!r}")
            self._names.add(allowed)

    def __contains__(self, header: str) -> bool:
        return _normalized(header) in self._names


def _in_header(name: str) -> str:
    return f"[{name}]" if name.count(":") > 1 and name[0] != "[" else name


@lru_cache(64)
def _normalized(header: str) -> str | None:
    """Return the host of a Host header, ``localhost`` for every loopback address; None if it is malformed."""
    match = _HOST.fullmatch(header)
    if match is None:
        return None
    try:
        if match["v6"]:
            address = IPv6Address(match["v6"])
            return "localhost" if int(address) == 1 else str(address)
        return "localhost" if IPv4Address(match["name"]).is_loopback else match["name"]
    except ValueError:
        return None if match["v6"] else match["name"].lower()
