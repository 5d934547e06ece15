"""One attempt: a request goes out over aiohttp, and a whole answer comes back or one typed error.

Knows no endpoint and never sends anything twice. It tells the limiter what the service answered, keeps bodies
bounded, and lets no aiohttp exception through: those hold the request's headers, and so the key.
"""

from __future__ import annotations

import asyncio
import functools
import io
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from yarl import URL

from aiomutex._api import responses
from aiomutex._api.redaction import SecretStr, redactor
from aiomutex._http.borrowed import NETRC, borrowed_headers, check_borrowed
from aiomutex._http.connector import AttemptContext, ImplicitRetryError, PermitConnector, current_attempt
from aiomutex._http.deadlines import DeadlineTimer
from aiomutex._http.request import InlineRequest
from aiomutex.errors import (
    AttemptTimeoutError,
    ConfigurationError,
    ConnectionFailedError,
    DeadlineExceededError,
    MutexError,
    UnexpectedResponseError,
)

if TYPE_CHECKING:
    from aiomutex._api.requests import Request
    from aiomutex.limits import Priority, RateLimiter

__all__ = ["Transport"]

MAX_BODY: Final = 64 * 2**20
_MAX_ERROR_BODY: Final = 64 * 2**10
_TOO_MANY: Final = 429
_USER_AGENT: Final = f"aiomutex aiohttp/{aiohttp.__version__}"
# aiohttp warns of larger bodies given as bytes, and wants a file to read them from piece by piece.
_LARGE_BODY: Final = 2**20


class _BodyTooLargeError(Exception):
    """More bytes than an answer may have."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@functools.lru_cache(maxsize=16)
def _connect_timeout(seconds: float) -> aiohttp.ClientTimeout:
    """Only making one connection is timed by aiohttp; its ``total`` would also count the wait for a pooled one."""
    return aiohttp.ClientTimeout(total=None, connect=None, sock_connect=seconds, sock_read=None)


def _payload(body: bytes | None) -> aiohttp.Payload | None:
    if body is None:
        return None
    if len(body) > _LARGE_BODY:
        return aiohttp.BytesIOPayload(io.BytesIO(body), content_type="application/json")
    return aiohttp.BytesPayload(body, content_type="application/json")


class Transport:
    """The connections to one service, and the limiter that guards them.

    Args:
        base_url: Scheme, host and optional path prefix, checked already.
        api_key: The management API key, checked already.
        limiter: Asked for a permit before each attempt.
        max_connections: Size of the pool; ignored for a borrowed session.
        http: A borrowed session, used and never closed. Its permits are taken before aiohttp looks for a connection.
        max_body: Bytes a success may have after decompression.
    """

    def __init__(
        self,
        base_url: URL,
        api_key: str,
        limiter: RateLimiter,
        *,
        max_connections: int,
        http: aiohttp.ClientSession | None,
        max_body: int = MAX_BODY,
    ) -> None:
        self.base_url = base_url
        self.limiter = limiter
        self.in_flight = 0
        self._root = str(base_url).rstrip("/")
        self._prefix = base_url.raw_path.rstrip("/")
        self._key = SecretStr(api_key)
        self.redact = redactor(api_key)
        self._headers = {
            "Authorization": SecretStr(f"Bearer {api_key}"),
            "Accept": "application/json",
            "User-Agent": _USER_AGENT,
        }
        self.max_connections = max_connections
        # A call holds its connection while it waits for a permit, and bulk calls wait longest: without this the others
        # would stand in line behind them for a connection. A borrowed session's connections wait for no permits.
        self._bulk_room = asyncio.Semaphore(max(1, max_connections * 3 // 4))
        self._max_body = max_body
        self._borrowed = http
        self._http: aiohttp.ClientSession | None = None
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: DeadlineTimer | None = None

    @property
    def state(self) -> str:
        """``new``, ``open`` or ``closed``."""
        if self._is_closed:
            return "closed"
        return "new" if self._http is None else "open"

    def open(self) -> None:
        """Make the pool ready; nothing is connected yet."""
        if self._is_closed or self._http is not None:
            raise ConfigurationError(f"the session is {self.state} already; make a new MutexSession for each use")
        self._loop = asyncio.get_running_loop()
        if self._borrowed is not None:
            check_borrowed(self._borrowed, self._loop)
        self._clock = DeadlineTimer(self._loop)
        self._http = self._borrowed or aiohttp.ClientSession(
            connector=PermitConnector(limit=self.max_connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=InlineRequest,
            headers=self._headers,
        )

    async def aclose(self) -> None:
        """End the attempts under way and close what ``open`` made. Further calls do nothing."""
        self._is_closed = True
        http, self._http = self._http, None
        if self._clock is not None:
            self._clock.close()
        if http is not None and http is not self._borrowed:
            await http.close()

    def check_open(self) -> tuple[aiohttp.ClientSession, asyncio.AbstractEventLoop, DeadlineTimer]:
        """The pool, the event loop it belongs to, and the clock of its attempts.

        Raises:
            ConfigurationError: The session is not open, or belongs to another event loop.
        """
        if self._http is None or self._loop is None or self._clock is None:
            if self._is_closed:
                raise ConfigurationError("the session is closed; make a new MutexSession")
            raise ConfigurationError("the session is not open yet; use it inside 'async with MutexSession(...)'")
        if self._http.closed:
            raise ConfigurationError("the aiohttp.ClientSession passed as 'http' is closed")
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError("the session was opened in another event loop; open one in each loop")
        return self._http, self._loop, self._clock

    async def attempt(
        self, request: Request[Any], *, priority: Priority, attempt_timeout: float, ends_at: float, deadline: float
    ) -> responses.Response:
        """Send ``request`` once and read the whole answer, whatever its status.

        Args:
            request: What to send.
            priority: Its place among those who wait for permits.
            attempt_timeout: Seconds from the permit to the last byte of the answer.
            ends_at: When the call as a whole must have ended, on the loop's clock.
            deadline: The seconds that ``ends_at`` came from, for the message.

        Raises:
            AttemptTimeoutError: ``attempt_timeout`` was over.
            DeadlineExceededError: ``ends_at`` was reached.
            ConnectionFailedError: No connection, or it broke before the last byte.
            UnexpectedResponseError: A success with a body over the maximum.
            DailyBudgetExhaustedError, LimiterUnavailableError: The limiter gave no permit; nothing was sent.
        """
        http, loop, clock = self.check_open()
        gate = AttemptContext(self.limiter, priority, attempt_timeout, ends_at, loop, clock)
        token = current_attempt.set(gate)
        response: aiohttp.ClientResponse | None = None
        room: asyncio.Semaphore | None = None
        self.in_flight += 1
        try:
            if self._borrowed is not None:
                await gate.open()
            elif priority:
                await self._bulk_room.acquire()
                room = self._bulk_room
            response = await http.request(
                request.method,
                self._url(request.path),
                data=_payload(request.body),
                headers=borrowed_headers(self._headers, request.body) if self._borrowed is not None else None,
                allow_redirects=False,
                raise_for_status=False,  # a borrowed session may have its own way
                timeout=_connect_timeout(attempt_timeout),
            )
            status = response.status
            if gate.permit is not None:
                if status == _TOO_MANY:
                    self.limiter.throttled(gate.permit, responses.retry_after_of(response.headers))
                else:
                    self.limiter.answered(gate.permit)
            body = await self._read(response)
            return responses.Response(
                status, response.headers, body, method=request.method, path=request.path, redact=self.redact
            )
        except asyncio.CancelledError as error:
            if not gate.alarm.resolve():
                # Further down are frames of aiohttp's with the answer in their locals, and it may repeat the API key.
                error.__traceback__ = None
                raise
            failure = (
                self._broken(request, gate, error) if self._is_closed else self._timed_out(request, gate, deadline)
            )
        except (aiohttp.ClientError, OSError) as error:
            failure = self._broken(request, gate, error)
        except ValueError:
            if self._borrowed is None or not self._borrowed.trust_env:
                raise  # of a middleware of its owner's, say
            failure = ConfigurationError(NETRC)
        except _BodyTooLargeError as error:
            failure = UnexpectedResponseError(
                f"a body of more than {self._max_body:,} bytes",
                status=error.status,
                method=request.method,
                path=request.path,
            )
            failure.too_large = True
        finally:
            if response is not None and response.connection is not None:
                # A switch of protocols, or an answer that overtook the request: aiohttp would keep the connection.
                response.close()
            response = None  # its repr shows headers, which may repeat the API key, and tracebacks print reprs
            clock.cancel(gate.alarm)
            self.in_flight -= 1
            if room is not None:
                room.release()
            try:  # noqa: SIM105  # contextlib's way costs more, in each call
                current_attempt.reset(token)
            except ValueError:
                pass  # The coroutine was closed from outside its task, in a context that never had the gate.
        # Raised out here so that no aiohttp exception, with the request's headers in it, becomes its context.
        raise failure

    def _url(self, path: str) -> URL:
        if "?" in path:
            return URL(self._root + path, encoded=True)
        # Nothing of the base is parsed again.
        return self.base_url.with_path(self._prefix + path, encoded=True)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole body; of a refusal only its beginning. The connection is free afterwards."""
        content = response.content
        try:
            body = await content.readany()
            if content.at_eof() and len(body) <= self._max_body:
                return body
            refused = response.status >= 300  # noqa: PLR2004  # HTTP's
            most = _MAX_ERROR_BODY if refused else self._max_body
            chunks, size = [body], len(body)
            while size <= most and not content.at_eof():
                chunks.append(await content.readany())
                size += len(chunks[-1])
            if size <= most:
                return b"".join(chunks)
            if not refused:
                raise _BodyTooLargeError(response.status)  # noqa: TRY301  # closed below like any other failure
        except BaseException:
            response.close()
            raise
        response.close()
        return b"".join(chunks)[:most]

    def _timed_out(self, request: Request[Any], gate: AttemptContext, deadline: float) -> MutexError:
        if gate.loop.time() >= gate.ends_at:
            where = "before it was sent" if gate.permit is None else "while it waited for the answer"
            late = DeadlineExceededError(
                f"not done within its deadline of {deadline:g} s; it ended {where}",
                method=request.method,
                path=request.path,
                deadline=deadline,
            )
            late.maybe_applied = gate.permit is not None
            return late
        return AttemptTimeoutError(
            f"no complete answer within {gate.attempt_timeout:g} s of sending",
            method=request.method,
            path=request.path,
            sent=True,
        )

    def _broken(self, request: Request[Any], gate: AttemptContext, error: BaseException) -> ConnectionFailedError:
        return ConnectionFailedError(
            _plainly(error), method=request.method, path=request.path, sent=gate.permit is not None
        )


def _plainly(error: BaseException) -> str:
    """What broke, in words that hold neither headers nor the whole request."""
    if isinstance(error, asyncio.CancelledError):
        return "the session was closed meanwhile"
    if isinstance(error, aiohttp.ServerDisconnectedError | ImplicitRetryError):
        return "the server closed the connection before it answered"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection ended before the whole answer was read"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not HTTP that can be read"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port} ({error.os_error.strerror or error.os_error})"
    if isinstance(error, TimeoutError):
        return "the connection could not be made in time"
    return f"the connection broke ({type(error).__name__}: {error})"
