"""Shared by the tests of the core: a scriptable raw server, responses as bytes, and the key that must never show."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
from aioresponses import aioresponses

from aiomutex import LocalRateLimiter, MutexError, MutexSession, RetryPolicy
from aiomutex._http.internals import MISSING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

KEY: Final = "mgmt-3f9a51c07be24d68"
ROOT: Final = "/api/1/mutexes"
US: Final = "https://experiment.amplitude.com"
FAST: Final = RetryPolicy(base=0.001, cap=0.01)
ONCE: Final = RetryPolicy(max_attempts=1)

permit_at_connection = pytest.mark.skipif(
    bool(MISSING), reason="without aiohttp's internals, permits are taken before connections"
)


def no_lag(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> None:
    """Let runs wait less than ten seconds before they read an unexpected slot again."""
    for module in ("writer", "recent_writes"):
        monkeypatch.setattr(f"aiomutex.bulk.{module}.MAX_LAG", seconds)
    monkeypatch.setattr("aiomutex.bulk.journal._LATE", 0.0)


# The examples of the documentation, byte for byte.
GROUP: Final = (
    b'{"id":7,"projectId":1,"name":"mutex name","key":"mutex-key","description":null,"evaluationMode":"local",'
    b'"bucketingKey":"device_id","bucketingSalt":"abcd","slots":[{"name":"SLOT 1","index":1,"variantKey":"slot-1",'
    b'"percentage":95,"experiments":[123],"holdouts":[456],"individuals":[],"cohorts":[]},{"name":"SLOT 2","index":2,'
    b'"variantKey":"slot-2","percentage":5,"experiments":[],"holdouts":[],"individuals":[],"cohorts":[]}]}'
)
CREATE: Final = (
    b'{"projectId":"<projectId>","name":"Example Mutex Group","key":"example-mutex",'
    b'"description":"An example mutex group","evaluationMode":"remote","slots":[{"percentage":40,"experiments":[123],'
    b'"holdouts":[456]},{"percentage":60,"experiments":[789],"individuals":["x@amplitude.com"]}]}'
)
SLOT_EDIT: Final = b'{"experiments":[123,456],"individuals":["x@amplitude.com","y@amplitude.com","abcde-12345"]}'
GROUP_EDIT: Final = b'{"name":"updated name","description":"updated description"}'


def fast_limiter() -> LocalRateLimiter:
    """A limiter that never makes a call wait."""
    return LocalRateLimiter(per_second=5_000, per_day=100_000_000)


def session_for(url: str, **options: Any) -> MutexSession:
    """A session that retries quickly and never waits for a permit, unless ``options`` say otherwise."""
    defaults: dict[str, Any] = {"rate_limiter": fast_limiter(), "retry": FAST, "attempt_timeout": 5.0, "deadline": 10.0}
    return MutexSession(KEY, base_url=url, **(defaults | options))


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until a condition is true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is awaited lies in objects that know no events
            await asyncio.sleep(0.0005)


def connector_of(session: MutexSession) -> Any:
    inside: Any = session
    return inside._transport._http.connector


def idle(session: MutexSession) -> bool:
    """Whether no connection of the session is in use and no request in progress."""
    inside: Any = session
    connector = connector_of(session)
    transport = inside._transport
    return not (connector._acquired or transport._slots._holders or transport.in_flight)


def pooled(session: MutexSession) -> int:
    """The number of idle connections in the session's pool."""
    return sum(len(connections) for connections in connector_of(session)._conns.values())


def assert_only_our_errors(error: BaseException) -> None:
    """Everything that a traceback of the error would print is an error of this library."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and link not in seen:
            assert isinstance(link, MutexError), link
            seen.append(link)
            waiting += [link.__cause__, link.__context__, *link.earlier]


async def failure_of(session: MutexSession) -> MutexError:
    """The error of a GET. It must fail well before the session's deadline, and leave nothing behind."""
    async with asyncio.timeout(20):
        with pytest.raises(MutexError) as caught:
            await session.get_group("7")
    assert_only_our_errors(caught.value)
    assert idle(session)
    return caught.value


# ---------------------------------------------------------------------------------------------- a raw server


@dataclass
class RawRequest:
    """One request, as bytes."""

    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode()

    @property
    def path(self) -> str:
        return urlsplit(self.line.split(" ")[1]).path

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}


if TYPE_CHECKING:
    Act = Callable[["Visit"], Awaitable[None]]


@dataclass
class Visit:
    """One request and its connection, for a coroutine function that answers it."""

    request: RawRequest
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        reset(self.writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset instead of a FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def http(
    status: int = 200,
    body: bytes | str | object = b"",
    headers: Mapping[str, str] | None = None,
    *,
    content_type: str = "application/json",
) -> bytes:
    """A complete HTTP response. A body that is neither bytes nor a string is encoded as JSON."""
    data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    fields = {"Content-Type": content_type, "Content-Length": str(len(data)), **(headers or {})}
    lines = [f"HTTP/1.1 {status} Reason", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def say_nothing(visit: Visit) -> None:
    """Keep the connection open and silent until the client leaves."""
    await visit.reader.read()


async def reset_before_response(visit: Visit) -> None:
    visit.reset()


async def close_before_response(visit: Visit) -> None:
    visit.writer.close()


class RawServer:
    """A server that sends the given responses, one for each request, and repeats the last one.

    A response is the bytes to write, or an act: a coroutine function that gets the ``Visit``.
    """

    def __init__(self) -> None:
        self.requests: list[RawRequest] = []
        self.connections = 0
        self.reads_bodies = True
        self.greet: Callable[[asyncio.StreamWriter], bool] = lambda _: True
        self._responses: deque[bytes | Act] = deque([http(200, GROUP)])
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def answer(self, *responses: bytes | Act) -> None:
        self._responses = deque(responses)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.greet(writer):
            return
        while not writer.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            request = RawRequest(head, b"")
            if self.reads_bodies:
                request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
            self.requests.append(request)
            response = self._responses.popleft() if len(self._responses) > 1 else self._responses[0]
            if isinstance(response, bytes):
                writer.write(response)
                await writer.drain()
            else:
                await response(Visit(request, reader, writer))


# ---------------------------------------------------------------------------------------------- aioresponses


class _Response(aiohttp.ClientResponse):
    """aioresponses makes responses without ``stream_writer``, which aiohttp requires since 3.14 (its issue 289)."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"stream_writer": SimpleNamespace(output_size=0)} | more)


class Responses:
    """aioresponses with types, and with responses that work with this aiohttp."""

    def __init__(self) -> None:
        self._mock: Any = aioresponses()

    def __enter__(self) -> Self:
        self._mock.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._mock.stop()

    def answer(self, method: str, url: str, body: bytes = b"", **more: Any) -> None:
        self._mock.add(url, method=method, body=body, response_class=_Response, **more)

    def sent(self) -> list[tuple[str, str, dict[str, str], bytes | None]]:
        """Each request: method, URL, headers and body, neither decoded nor reordered."""
        calls: dict[tuple[str, object], list[Any]] = self._mock.requests
        return [
            (method, str(url), dict(call.kwargs["headers"]), getattr(call.kwargs["data"], "_value", None))
            for (method, url), made in calls.items()
            for call in made
        ]
