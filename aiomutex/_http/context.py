"""The state of one attempt: its permit, its deadline, the slots it holds, and its error without a complete response.

``ClientSession`` passes nothing of ours to its connector, so the context travels in a context variable.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import aiohttp

from aiomutex.errors import AttemptTimeoutError, ConnectionFailedError, DeadlineExceededError, SessionClosedError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallOptions
    from aiomutex._http.connector import StrictResponseHandler
    from aiomutex._http.deadlines import DeadlineTimer
    from aiomutex._http.observer import Observer
    from aiomutex._util.keyed_lock import KeyedLock
    from aiomutex.errors import MutexError
    from aiomutex.limits import RateLimiter


class ImplicitRetryError(aiohttp.ClientConnectionError):
    """aiohttp tried to send a request again on its own.

    It repeats an idempotent request when a pooled connection turns out to be dead. Only ``call.send`` may send again:
    it counts attempts and takes a permit for each.
    """


class InvalidResponseError(aiohttp.ClientError):
    """The response is not valid HTTP."""


class Patience:
    """Lets the calls of a bulk run wait for permits as long as it takes: their deadlines start with the permits.

    The calls of a run wait for each other's permits and for the end of pauses, which is not their own time.
    """

    def __init__(self, deadline: float) -> None:
        self.waiting: set[AttemptContext] = set()
        self.ends_at = 1e9  # never: no event loop's clock reaches it, and timers cannot work with infinity
        self._deadline = deadline

    def end(self) -> None:
        """Limit the waits, too, because the run is stopped: their deadlines start now."""
        self.ends_at = asyncio.get_running_loop().time() + self._deadline
        for context in self.waiting:
            context.ends_at = self.ends_at
            context.timer.move(context.deadline, self.ends_at)


class AttemptContext:
    """What one attempt waits for, and the clock that starts once it may send."""

    def __init__(
        self,
        limiter: RateLimiter,
        options: CallOptions,
        ends_at: float,
        timer: DeadlineTimer,
        observer: Observer | None = None,
    ) -> None:
        self.limiter = limiter
        self.options = options
        if options.patience is not None:
            options.patience.waiting.add(self)
        self.ends_at = ends_at
        self.timer, self.loop = timer, timer.loop
        self.deadline = timer.set(ends_at)
        self.permit: float | None = None  # until the request may be sent
        self.headers: MutableMapping[str, str] | None = None  # those of a request that no ``ClientRequest`` has
        self.observer = observer
        if observer is not None:
            observer.context = self
        self._held: tuple[tuple[KeyedLock, str], ...] = ()
        self._is_lost = False

    async def enter(self, lock: KeyedLock, key: str = "") -> None:
        """Wait for a lock, and hold it until ``leave``."""
        if not lock.acquire_now(key):
            await lock.acquire(key)
        self._held += ((lock, key),)

    def leave(self) -> None:
        held, self._held = self._held, ()
        for lock, key in held:
            lock.release(key)
        if self.options.patience is not None:
            self.options.patience.waiting.discard(self)

    async def take_permit(self, headers: MutableMapping[str, str]) -> None:
        """Wait for the permit, and start the attempt's clock. Tracers may add to the ``headers`` then."""
        if self.observer is not None:
            self.observer.ready_at = self.loop.time()
        self._start(await self.limiter.acquire(self.options.priority), headers)

    async def take_permit_for(self, protocol: StrictResponseHandler, headers: MutableMapping[str, str]) -> bool:
        """Do so while holding a connection. False if it was lost: then the attempt has no permit."""
        if not protocol.is_connected():
            return False
        protocol.context = self
        if self.observer is not None:
            self.observer.ready_at = self.loop.time()
        try:
            permit = await self.limiter.acquire(self.options.priority)
        except asyncio.CancelledError:
            # Only a lost connection is replaced. If anybody else cancelled the task, or its deadline has passed too,
            # going on would swallow that cancellation.
            if not self._is_lost or self.loop.time() >= self.deadline.at or not self.deadline.resolve():
                raise
            self._is_lost = False
            return False
        finally:
            protocol.context = None
        if not protocol.is_connected():
            # The connection was lost in the same iteration of the loop in which the permit was granted. Limiters take
            # no permit back, and keeping it for the next connection could send it late, in a burst with newer ones.
            # So it is discarded, and the day has one request less.
            return False
        self._start(permit, headers)
        return True

    def connection_lost(self) -> None:
        """Stop waiting for the permit: the connection it was meant for is gone."""
        self._is_lost = True
        self.deadline.expire()

    def _start(self, permit: float, headers: MutableMapping[str, str]) -> None:
        self.permit = permit
        now = self.loop.time()
        if self.options.patience is not None:
            self.options.patience.waiting.discard(self)
            self.ends_at = now + self.options.deadline
        self.timer.move(self.deadline, min(now + self.options.attempt_timeout, self.ends_at))
        if self.observer is not None:
            self.observer.permitted(headers)


current_attempt: ContextVar[AttemptContext | None] = ContextVar("current_attempt", default=None)


# The errors of an attempt without a complete response. Their messages hold no headers, and so no API key.


def interrupted(request: Request[Any], context: AttemptContext, *, is_closed: bool) -> MutexError:
    error: SessionClosedError | DeadlineExceededError
    if is_closed:
        error = SessionClosedError("the session was closed during the call")
    elif context.permit is not None and context.loop.time() < context.ends_at:
        seconds = min(context.options.attempt_timeout, round(context.deadline.at - context.permit, 3))
        detail = f"no complete response within {seconds:g} s of sending"
        return AttemptTimeoutError(detail, method=request.method, path=request.path, sent=True)
    else:
        stage = "before the request was sent" if context.permit is None else "while waiting for the response"
        deadline = context.options.deadline
        detail = f"the deadline of {deadline:g} s passed {stage}"
        error = DeadlineExceededError(detail, method=request.method, path=request.path, deadline=deadline)
    error.maybe_applied = context.permit is not None
    return error


def connection_failed(request: Request[Any], context: AttemptContext, error: BaseException) -> ConnectionFailedError:
    # A permit may be taken before the connection is made, but nothing is sent without a connection.
    is_connected = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    sent = context.permit is not None and is_connected
    return ConnectionFailedError(_describe(error), method=request.method, path=request.path, sent=sent)


def _describe(error: BaseException) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError | ImplicitRetryError):
        return "the server closed the connection before it answered"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection ended before the response was complete"
    if isinstance(error, aiohttp.ClientResponseError | InvalidResponseError):
        return "the response is not valid HTTP"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port} ({error.os_error.strerror or error.os_error})"
    if isinstance(error, TimeoutError):
        return "connecting timed out"
    return f"the connection broke ({type(error).__name__}: {error})"
