"""The connection pool with a gate: a permit is taken once a connection is ready, just before the request is written.

Connection set-up is the largest source of jitter between "permit granted" and "request seen by the service". Taking
the permit last removes it; so a permit whose connection is gone is not used for another one. The gate of the attempt
in progress travels in a context variable, because ``ClientSession`` hands its connector nothing of ours.
"""

from __future__ import annotations

import asyncio
import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler

from aiomutex.retry import backoff

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

    from aiomutex._http.deadlines import DeadlineTimer
    from aiomutex.limits import Priority, RateLimiter

__all__ = ["AttemptContext", "ImplicitRetryError", "PermitConnector", "current_attempt"]

_SWITCHING: Final = 101


class AttemptContext:
    """What one attempt waits for, and the clock that starts when it may go.

    Attributes:
        alarm: Interrupts the attempt.
        permit: The permit, from the moment at which the request leaves with it.
    """

    __slots__ = ("_is_lost", "alarm", "attempt_timeout", "clock", "ends_at", "limiter", "loop", "permit", "priority")

    def __init__(
        self,
        limiter: RateLimiter,
        priority: Priority,
        attempt_timeout: float,
        ends_at: float,
        loop: asyncio.AbstractEventLoop,
        clock: DeadlineTimer,
    ) -> None:
        self.limiter = limiter
        self.priority = priority
        self.attempt_timeout = attempt_timeout
        self.ends_at = ends_at
        self.loop = loop
        self.clock = clock
        self.alarm = clock.set(ends_at)
        self.permit: float | None = None
        self._is_lost = False

    async def open(self) -> None:
        """Take the permit, and start the attempt's clock."""
        self._start(await self.limiter.acquire(self.priority))

    async def open_for(self, line: StrictResponseHandler) -> bool:
        """Take the permit for a connection that is held ready, and start the attempt's clock.

        Returns:
            Whether the connection is there to be used. If not, the attempt has no permit either.
        """
        if not line.is_connected():
            return False
        line.gate = self
        try:
            permit = await self.limiter.acquire(self.priority)
        except asyncio.CancelledError:
            # Whoever else interrupts the attempt goes before the loss of its connection.
            if not self._is_lost or self.loop.time() >= self.alarm.at or not self.alarm.resolve():
                raise
            self._is_lost = False
            return False
        finally:
            line.gate = None
        if not line.is_connected():
            # Lost in the very turn in which the permit came. By the time there is another connection the permit would
            # be an old one, and limiters take none back: the day has one request less.
            return False
        self._start(permit)
        return True

    def lose(self) -> None:
        """Leave the line of those who wait for permits: the connection that was held ready is gone."""
        self._is_lost = True
        self.alarm.expire()

    def _start(self, permit: float) -> None:
        self.permit = permit
        stop = self.loop.time() + self.attempt_timeout
        if stop < self.ends_at:
            self.clock.move(self.alarm, stop)


current_attempt: ContextVar[AttemptContext | None] = ContextVar("current_attempt", default=None)


class ImplicitRetryError(aiohttp.ClientConnectionError):
    """aiohttp wanted to send a request again by itself."""


class StrictResponseHandler(ResponseHandler):
    """A connection that ends where the server speaks out of turn.

    aiohttp would keep what nobody asked for, without a bound, and read it as the answer to the next request.

    Attributes:
        gate: That of the attempt which holds the connection while it waits for its permit.
    """

    gate: AttemptContext | None = None

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take an answer's head. After a switch of protocols there is no further answer, whatever aiohttp thinks."""
        if data[0].code == _SWITCHING:
            self.force_close()
        super().feed_data(data, size)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever holds the connection ready."""
        super().connection_lost(exc)
        if self.gate is not None:
            self.gate.lose()

    def data_received(self, data: bytes) -> None:
        """Read what belongs to an answer under way, or to one that is waited for."""
        is_read = self._payload is None or self._payload.is_eof()
        if data and is_read and self._waiter is None and not self._buffer:
            self.close()
            return
        super().data_received(data)


class PermitConnector(aiohttp.TCPConnector):
    """A ``TCPConnector`` that hands out a connection only once the current gate is open."""

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit=limit)  # pyright: ignore[reportUnknownMemberType]  # partly typed by aiohttp
        self._factory = functools.partial(StrictResponseHandler, loop=self._loop)  # type: ignore[assignment]  # a kind of what it is

    async def _wait_for_available_connection(self, key: ConnectionKey, traces: list[Trace]) -> None:
        """Stand in line; who is stopped in the very turn it is called up passes the call on, which aiohttp does not."""
        try:
            await super()._wait_for_available_connection(key, traces)
        except BaseException:
            self._release_waiter()
            raise

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        """Get a ready connection, then wait for the permit; a connection lost while waiting is replaced."""
        gate = current_attempt.get()
        if gate is not None and gate.permit is not None:
            # aiohttp repeats an idempotent request by itself when a pooled connection turns out to be dead. There is
            # one retry layer, ours: it counts attempts and takes a permit for each.
            raise ImplicitRetryError
        losses = 0
        while True:
            connection = await super().connect(req, traces, timeout)
            if gate is None:
                return connection
            line: Any = connection.protocol  # made by our factory
            try:
                if await gate.open_for(line):
                    return connection
            except BaseException:
                connection.release()
                raise
            connection.close()
            losses += 1
            if losses > 1:
                # A server that takes connections and drops them is not to be stormed while a long line waits.
                await asyncio.sleep(backoff(losses - 1))
