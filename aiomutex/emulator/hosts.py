"""The names under which the emulator may be addressed.

Otherwise a web page whose host name resolves to this machine (DNS rebinding) could read and change everything.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEADER = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+))(?::[0-9]*)?", re.IGNORECASE)


def allowed_hosts(host: str, names: Iterable[str]) -> frozenset[str]:
    """Return the loopback host, the address ``host`` to listen on, and ``names``, as ``host_of`` returns them."""
    if isinstance(names, str):
        raise ValueError(f"allow_hosts must be a list of host names, not {names!r}")  # noqa: TRY004
    allowed = {"localhost", _host_of_name(host)}
    for name in names:
        if not _host_of_name(name):
            raise ValueError(f"allow_hosts must be host names such as 'emulator', not {name!r}")
        allowed.add(_host_of_name(name))
    return frozenset(allowed - {""})


def _host_of_name(name: str) -> str:
    # An IPv6 address has brackets in a Host header only.
    return host_of(f"[{name}]" if name.count(":") > 1 and name[0] != "[" else name)


@lru_cache(64)
def host_of(header: str) -> str:
    """Return the host in a Host header, which is ``localhost`` for a loopback address; empty if it is malformed."""
    match = _HEADER.fullmatch(header)
    if match is None:
        return ""
    try:
        if match["v6"]:
            address = IPv6Address(match["v6"])
            return "localhost" if int(address) == 1 else str(address)
        return "localhost" if IPv4Address(match["name"]).is_loopback else match["name"]
    except ValueError:
        return "" if match["v6"] else match["name"].lower()
