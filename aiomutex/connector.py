"""The connection pool with a gate: a permit is taken once a connection is ready, just before the request is written.

Connection set-up is the largest source of jitter between "permit granted" and "request seen by the service". Taking
the permit last removes it. The gate of the attempt in progress travels in a context variable, because
``ClientSession`` hands its connector nothing of ours.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    import asyncio

    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from aiomutex.alarm import AlarmClock
    from aiomutex.limits import Priority, RateLimiter

__all__ = ["Gate", "GatedConnector", "SecondSendRefusedError", "current_gate"]


class Gate:
    """What one attempt waits for, and the clock that starts when it may go."""

    __slots__ = ("alarm", "attempt_timeout", "clock", "ends_at", "limiter", "loop", "permit", "priority")

    def __init__(
        self,
        limiter: RateLimiter,
        priority: Priority,
        attempt_timeout: float,
        ends_at: float,
        loop: asyncio.AbstractEventLoop,
        clock: AlarmClock,
    ) -> None:
        self.limiter = limiter
        self.priority = priority
        self.attempt_timeout = attempt_timeout
        self.ends_at = ends_at
        self.loop = loop
        self.clock = clock
        self.alarm = clock.set(ends_at)
        self.permit: float | None = None

    async def open(self) -> None:
        """Take the permit, and start the attempt's clock."""
        self.permit = await self.limiter.acquire(self.priority)
        stop = self.loop.time() + self.attempt_timeout
        if stop < self.ends_at:
            self.clock.move(self.alarm, stop)


current_gate: ContextVar[Gate | None] = ContextVar("current_gate", default=None)


class SecondSendRefusedError(aiohttp.ClientConnectionError):
    """aiohttp wanted to send a request again by itself."""


class TurnTaker(ResponseHandler):
    """A connection that ends where the server speaks out of turn.

    aiohttp would keep what nobody asked for, without a bound, and read it as the answer to the next request.
    """

    def data_received(self, data: bytes) -> None:
        """Read what belongs to an answer under way, or to one that is waited for."""
        is_read = self._payload is None or self._payload.is_eof()
        if data and is_read and self._waiter is None and not self._buffer:
            self.close()
            return
        super().data_received(data)


class GatedConnector(aiohttp.TCPConnector):
    """A ``TCPConnector`` that hands out a connection only once the current gate is open."""

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit=limit)  # pyright: ignore[reportUnknownMemberType]  # partly typed by aiohttp
        self._factory = functools.partial(TurnTaker, loop=self._loop)  # type: ignore[assignment]  # a kind of what it is

    async def _wait_for_available_connection(self, key: ConnectionKey, traces: list[Trace]) -> None:
        """Stand in line; who is stopped in the very turn it is called up passes the call on, which aiohttp does not."""
        try:
            await super()._wait_for_available_connection(key, traces)
        except BaseException:
            self._release_waiter()
            raise

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        """Get a ready connection, then wait for the permit; a connection lost while waiting is replaced."""
        gate = current_gate.get()
        if gate is not None and gate.permit is not None:
            # aiohttp repeats an idempotent request by itself when a pooled connection turns out to be dead. There is
            # one retry layer, ours: it counts attempts and takes a permit for each.
            raise SecondSendRefusedError
        connection = await super().connect(req, traces, timeout)
        if gate is None:
            return connection
        try:
            await gate.open()
        except BaseException:
            connection.release()
            raise
        if connection.protocol is None or not connection.protocol.is_connected():
            connection.close()
            connection = await super().connect(req, traces, timeout)
        return connection
