"""Listen for one aiohttp handler, and check under which name a request addresses it.

Without the check a web page whose host name resolves to this machine (DNS rebinding) could read and change everything.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from random import Random
    from ssl import SSLContext

    from aiomutex.emulator.app import PageHandler
    from aiomutex.emulator.faults import Latency

_HEADER = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+))(?::[0-9]*)?", re.IGNORECASE)


@asynccontextmanager
async def listening(
    handler: PageHandler, *, host: str, port: int, ssl: SSLContext | None, delay: Latency, rng: Random
) -> AsyncGenerator[int]:
    """Serve ``handler`` on ``host`` and the port that is yielded; the first request of each connection is delayed."""
    served: set[web.RequestHandler] = set()

    async def handle_delayed(request: web.BaseRequest) -> web.StreamResponse:
        if request.protocol not in served:
            served.intersection_update(http.connections)  # forgets those that were closed
            served.add(request.protocol)
            await asyncio.sleep(delay.sample(rng))
        return await handler(request)

    # Cancel the handler when its client disconnects: a stalled request would otherwise wait forever.
    handle = handle_delayed if delay.base else handler
    http = web.Server(handle, handler_cancellation=True, access_log=None, lingering_time=1.0)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(http, host, port, ssl=ssl, backlog=1024, start_serving=False)
    try:
        await server.start_serving()
        yield int(server.sockets[0].getsockname()[1])
    finally:
        for socket in server.sockets:
            # asyncio raises for a connection that it accepts while the server closes, so stop accepting first.
            with suppress(NotImplementedError):
                loop.remove_reader(socket.fileno())
        try:
            await _run_callbacks()
        finally:
            server.close()
            for connection in http.connections:
                if connection.transport is not None:
                    # Its close() would wait for a client that does not read.
                    connection.transport.abort()
        await _run_callbacks()
        await http.shutdown(0.05)  # seconds that handlers have to finish
        await server.wait_closed()


async def _run_callbacks() -> None:
    """Let the loop run callbacks that are due: connections made or lost, handlers cancelled."""
    for _ in range(5):
        await asyncio.sleep(0)


def allowed_hosts(host: str, names: Iterable[str]) -> frozenset[str]:
    """Return the loopback host, the address ``host`` to listen on, and ``names``, as ``host_of`` returns them."""
    if isinstance(names, str):
        raise ValueError(f"allow_hosts must be a list of host names, not {names!r}")  # noqa: TRY004  # of its argument's value
    allowed = {name: _host_of_name(name) for name in names}
    if malformed := [name for name in allowed if not allowed[name]]:
        raise ValueError(f"allow_hosts must be host names such as 'emulator', not {malformed[0]!r}")
    return frozenset({"localhost", _host_of_name(host), *allowed.values()} - {""})


def _host_of_name(name: str) -> str:
    # An IPv6 address has brackets in a Host header only.
    return host_of(f"[{name}]" if name.count(":") > 1 and name[0] != "[" else name)


@lru_cache(64)
def host_of(header: str) -> str:
    """Return the host in a Host header, which is ``localhost`` for a loopback address; empty if it is malformed."""
    if (match := _HEADER.fullmatch(header)) is None:
        return ""
    try:
        if match["v6"]:
            address = IPv6Address(match["v6"])
            return "localhost" if int(address) == 1 else str(address)
        return "localhost" if IPv4Address(match["name"]).is_loopback else match["name"]
    except ValueError:
        return "" if match["v6"] else match["name"].lower()
