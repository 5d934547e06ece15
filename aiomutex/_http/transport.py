"""One attempt: send a request over aiohttp, and return the complete response or raise one typed error.

Knows no endpoint and never sends anything twice. It reports the response to the limiter, limits the size of bodies,
and lets no aiohttp exception through, as those hold the request's headers and so the API key.
"""

from __future__ import annotations

import asyncio
import functools
import io
import platform
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import anyio
from yarl import URL

from aiomutex import __version__
from aiomutex._api.redaction import Redactor, SecretStr
from aiomutex._api.responses import Response, retry_after_of
from aiomutex._http.context import AttemptContext, connection_failed, current_attempt, interrupted
from aiomutex._http.deadlines import DeadlineTimer
from aiomutex._http.pool import CLOSED_ERROR, NETRC_ERROR, borrowed_headers, check_borrowed, create_http
from aiomutex._util.keyed_lock import KeyedLock
from aiomutex.errors import ConfigurationError, MutexError, SessionClosedError, UnexpectedResponseError

if TYPE_CHECKING:
    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallOptions
    from aiomutex._http.direct import DirectClient, DirectResponse
    from aiomutex._http.observer import Observer
    from aiomutex.events import Hooks
    from aiomutex.limits import RateLimiter

_MAX_ERROR_BODY: Final = 64 * 2**10
_CLOSED: Final = "the session is closed; create a new MutexSession"
_TOO_MANY_REQUESTS: Final = 429
_LARGE_BODY: Final = 2**20
_USER_AGENT: Final = f"aiomutex/{__version__} aiohttp/{aiohttp.__version__} Python/{platform.python_version()}"


@functools.lru_cache(maxsize=16)
def _connect_timeout(seconds: float) -> aiohttp.ClientTimeout:
    """Let aiohttp time the making of a connection only; its ``total`` would also count the wait for a pooled one."""
    return aiohttp.ClientTimeout(total=None, connect=None, sock_connect=seconds, sock_read=None)


def _payload(body: bytes | None) -> aiohttp.Payload | None:
    if body is None:
        return None
    if len(body) > _LARGE_BODY:  # aiohttp warns about such a body passed as bytes, and wants a file to read it from
        return aiohttp.BytesIOPayload(io.BytesIO(body), content_type="application/json")
    return aiohttp.BytesPayload(body, content_type="application/json")


class Transport:
    """The connections to one service, and the limiter that grants each request.

    ``base_url`` and ``api_key`` are checked already. ``http`` is a borrowed session, which is used and never closed;
    its permits are taken before aiohttp looks for a connection.
    """

    def __init__(
        self,
        base_url: URL,
        api_key: str,
        limiter: RateLimiter,
        *,
        max_connections: int,
        http: aiohttp.ClientSession | None,
        hooks: Hooks | None = None,
    ) -> None:
        self.base_url = base_url
        self.limiter = limiter
        self.hooks = hooks
        self.in_flight = 0
        self._calls = 0
        self._drained: asyncio.Event | None = None  # once no further call may begin
        self.root = str(base_url).rstrip("/")
        self.address = base_url.host or "", base_url.port or 0
        self._prefix = base_url.raw_path.rstrip("/")
        self.redact = Redactor(api_key)
        self._headers = {
            "Authorization": SecretStr(f"Bearer {api_key}"),
            "Accept": "application/json",
            "User-Agent": _USER_AGENT,
        }
        self.max_connections = max_connections
        # aiohttp's own limit loses a free connection if the call that is about to get it is cancelled.
        self._slots = KeyedLock(max_connections)
        # A call holds its connection while it waits for a permit, and bulk calls wait longest. Without this limit they
        # could hold all connections, and interactive calls would wait behind them.
        self._bulk_slots = KeyedLock(max(1, max_connections * 3 // 4))
        self.group_locks = KeyedLock()
        self._max_body = 64 * 2**20  # after decompression
        self._borrowed = http
        self._http: aiohttp.ClientSession | None = None
        self._direct: DirectClient | None = None
        self._is_closed = False
        self._timer: DeadlineTimer | None = None

    @property
    def state(self) -> str:
        """``new``, ``open`` or ``closed``."""
        if self._is_closed:
            return "closed"
        return "new" if self._http is None else "open"

    def open(self) -> None:
        """Create the pool. No connection is made yet."""
        if self._is_closed:
            raise SessionClosedError(_CLOSED)
        if self._http is not None:
            raise ConfigurationError("the session is already open; create a new MutexSession for each use")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                "MutexSession needs asyncio: open it in a coroutine that asyncio runs; trio is not supported"
            ) from None
        if self._borrowed is not None:
            check_borrowed(self._borrowed, loop)
        self._timer = DeadlineTimer(loop)
        self._http = self._borrowed
        if self._http is None:
            self._http, self._direct = create_http(self._headers, self.base_url)

    def begin_call(self) -> None:
        """Count a call that ``aclose`` may wait for."""
        if self._drained is not None:
            raise SessionClosedError(_CLOSED)
        self._calls += 1

    def end_call(self) -> None:
        self._calls -= 1
        if not self._calls and self._drained is not None:
            self._drained.set()

    async def aclose(self, drain: float = 0.0) -> None:
        """Wait up to ``drain`` seconds for calls, end the attempts in progress, and close the pool."""
        try:
            if self._calls and drain > 0:
                self._drained = self._drained or asyncio.Event()
                with anyio.move_on_after(drain):
                    await self._drained.wait()
        finally:
            self._is_closed = True
            http, self._http = self._http, None
            if self._timer is not None:
                self._timer.close()
            if http is not None and http is not self._borrowed:
                await http.close()

    def check_open(self) -> tuple[aiohttp.ClientSession, DeadlineTimer]:
        """Return the pool, and the timer of its attempts, if they can be used here."""
        if self._http is None or self._timer is None:
            if self._is_closed:
                raise SessionClosedError(_CLOSED)
            raise ConfigurationError("the session is not open yet; use it inside 'async with MutexSession(...)'")
        if self._http.closed:
            raise ConfigurationError(CLOSED_ERROR)
        if asyncio.get_running_loop() is not self._timer.loop:
            raise ConfigurationError("the session was opened in another event loop; open one in each loop")
        return self._http, self._timer

    async def attempt(
        self, request: Request[Any], options: CallOptions, ends_at: float, observer: Observer | None = None
    ) -> Response:
        """Send ``request`` once in a call that must end at ``ends_at``, and read the response, whatever its status."""
        http, timer = self.check_open()
        headers: dict[str, str] | None = None  # those of the pool
        context = AttemptContext(self.limiter, options, ends_at, timer, observer)
        token = current_attempt.set(context)
        response: aiohttp.ClientResponse | DirectResponse | None = None
        self.in_flight += 1
        try:
            if request.group is not None:
                # First, so that what waits for the lock of a group keeps nothing from the writes of other groups.
                await context.enter(self.group_locks, request.group)
            if self._borrowed is not None:
                headers = borrowed_headers(http, self.base_url, self._headers, request.body)
                await context.take_permit(headers)
                # Once more, because a proxy may be set while the call waits.
                borrowed_headers(http, self.base_url, self._headers, request.body)
            else:
                if options.priority:
                    await context.enter(self._bulk_slots)
                await context.enter(self._slots)
            method, path, body = request.method, request.path, request.body
            timeout = _connect_timeout(options.attempt_timeout)
            if (direct := self._direct) is not None and direct.takes(body):
                response = await direct.send(method, self._prefix + path, body, timeout, context)
            else:
                response = await http.request(
                    method,
                    URL(self.root + path, encoded=True),
                    data=_payload(body),
                    headers=headers,
                    allow_redirects=False,
                    raise_for_status=False,  # a borrowed session may have another default
                    timeout=timeout,
                )
            if context.permit is not None:
                if response.status == _TOO_MANY_REQUESTS:
                    self.limiter.throttled(context.permit, retry_after_of(response.headers))
                else:
                    self.limiter.answered(context.permit)
            status = response.status
            content = await self._read(response)
            if content is not None:
                return Response(status, response.headers, content, method=method, path=path, redact=self.redact)
            detail = f"a body of more than {self._max_body:,} bytes"
            too_large = UnexpectedResponseError(detail, status=status, method=method, path=path)
            too_large.too_large = True
            failure: MutexError = too_large
        except asyncio.CancelledError as error:
            if not context.deadline.resolve():
                # Frames of aiohttp have the response in their locals, and it may repeat the API key.
                error.__traceback__ = None
                raise
            failure = interrupted(request, context, is_closed=self._is_closed)
        except MutexError:
            raise  # by the limiter; some of these errors are an OSError or a ValueError, too
        except (aiohttp.ClientError, OSError) as error:
            failure = connection_failed(request, context, error)
        except ValueError:
            if self._borrowed is None or not http.trust_env:
                raise  # for example by a middleware of a borrowed session
            failure = ConfigurationError(NETRC_ERROR)
        except (RuntimeError, AttributeError):  # the latter after ``detach``
            if not http.closed:
                raise
            failure = ConfigurationError(CLOSED_ERROR)
        finally:
            if response is not None and response.connection is not None:
                # After a switch of protocols, or a response that came before the whole request was written, aiohttp
                # would return the connection to its pool in a state in which the next request fails.
                response.close()
            response = None  # its repr shows headers, which may repeat the API key, and tracebacks print reprs
            timer.cancel(context.deadline)
            context.leave()
            self.in_flight -= 1
            try:  # noqa: SIM105  # contextlib.suppress costs more, in each call
                current_attempt.reset(token)
            except ValueError:
                pass  # The coroutine was closed from outside its task, in a context that never had the variable.
        # Raised out here so that no aiohttp exception, with the request's headers in it, becomes its context.
        raise failure

    async def _read(self, response: aiohttp.ClientResponse | DirectResponse) -> bytes | None:
        """Read the body, of an error only the beginning; ``None`` if it is too large. Frees the connection."""
        content = response.content
        try:
            body = await content.readany()
            if content.at_eof() and len(body) <= self._max_body:
                return body
            is_error = response.status >= 300  # noqa: PLR2004  # HTTP's
            limit = _MAX_ERROR_BODY if is_error else self._max_body
            chunks, size = [body], len(body)
            while size <= limit and not content.at_eof():
                chunks.append(await content.readany())
                size += len(chunks[-1])
            if size <= limit:
                return b"".join(chunks)
        except BaseException:
            response.close()
            raise
        response.close()
        return b"".join(chunks)[:limit] if is_error else None
