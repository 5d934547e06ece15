"""The way of a request through the emulator: key, limits, faults, endpoint, answer.

One aiohttp handler without router or middleware, because benchmarks run against it. It knows HTTP and time; what the
endpoints mean is the service's business.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from math import ceil
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

from aiohttp import web

from aiomutex.emulator.recorded import RecordedRequest
from aiomutex.emulator.responses import HTML, JSON, TEXT, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiomutex.emulator.clock import Clock
    from aiomutex.emulator.faults import Fault, Faults, Latency
    from aiomutex.emulator.limits import Limits
    from aiomutex.emulator.service import Service

__all__ = ["Application", "PageHandler"]

PageHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

RACE_WINDOW = 0.005
"""Seconds between the read and the write of an edit where the dialect lets edits race."""

_log = logging.getLogger("aiomutex.emulator")


class Application:
    """Holds what a request meets on its way, and carries the faults out."""

    def __init__(
        self,
        service: Service,
        *,
        clock: Clock,
        limits: Limits,
        faults: Faults,
        latency: Latency,
        key: str | None,
        forbidden_keys: Iterable[str],
        cors_origin: str | None,
        log: bool,
        keep_requests: int,
        seed: int,
    ) -> None:
        self.service = service
        self.clock = clock
        self.limits = limits
        self.faults = faults
        self.latency = latency
        self.key = key
        self.forbidden_keys = frozenset(forbidden_keys)
        self.cors_origin = cors_origin
        self.log = log
        self.requests: deque[RecordedRequest] = deque(maxlen=keep_requests)
        self.pages: dict[str, PageHandler] = {}
        self._random = Random(seed)
        self._served = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        now = self.clock.now()
        method = request.method
        target = request.raw_path
        path = target.partition("?")[0]
        if self.cors_origin is not None and method == "OPTIONS":
            return self._preflight()
        page = self.pages.get(path)
        if page is not None and method == "GET":
            return await page(request)

        started = perf_counter()
        record = RecordedRequest(now, method, target, request.headers)
        self.requests.append(record)
        self.limits.arrive(now)
        answer = self._refusal(now, request.headers)
        fault: Fault | None = None
        try:
            if request.body_exists:
                record.body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            answer = answer or self.service.wire.error(413, "the body is larger than 1 MiB")
        except web.RequestPayloadError:
            answer = answer or self.service.wire.error(400, "the body is not encoded as its headers say")
        if answer is None:
            fault = self.faults.meet(method, path)
            if fault is None or fault.kind not in _BEFORE or fault.after_commit:
                answer = await self._serve(record, request.headers.get("Content-Type", ""))
        if self.latency.base:
            await asyncio.sleep(self.latency.draw(self._random))
        if fault is not None:
            answer = await self._go_wrong(fault, answer, request)
        if answer is None:
            self._log(record, started, "no answer")
            # The connection is gone by now: aiohttp finds that out when it tries to write this.
            return web.Response()
        record.status = answer.status
        self._log(record, started, "")
        return self._response(answer)

    def _refusal(self, now: float, headers: Mapping[str, str]) -> Response | None:
        error = self.service.wire.error
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            return error(401, "Authorization is missing or not of the form: Bearer <management-api-key>")
        if key in self.forbidden_keys:
            return error(403, "this key has no access to this project")
        if self.key is not None and key != self.key:
            return error(401, "this key is invalid or was revoked")
        if now < self.faults.storm_until:
            return self._too_many(now, self.faults.storm_until - now, "too many requests")
        broken = self.limits.admit(now)
        if broken is None:
            return None
        if broken == "day" and self.service.dialect.daily_hint:
            used = f"{self.limits.per_day:,} of {self.limits.per_day:,}"
            wait = self.clock.until_midnight()
            return self._too_many(now, wait, f"daily limit: {used} requests used today, which ends at midnight UTC")
        return self._too_many(now, self.limits.wait(now), "too many requests")

    def _too_many(self, now: float, wait: float, message: str) -> Response:
        answer = self.service.wire.error(429, message)
        form = self.service.dialect.retry_after
        if form != "none":
            seconds = max(1, ceil(wait))
            answer.headers["Retry-After"] = (
                str(seconds) if form == "seconds" else formatdate(ceil(now + wait), usegmt=True)
            )
        return answer

    async def _serve(self, record: RecordedRequest, content_type: str) -> Response:
        answer = self.service.answer(record.method, record.target, record.body, content_type)
        if isinstance(answer, Response):
            return answer
        write_back = answer
        loop = asyncio.get_running_loop()
        written: asyncio.Future[Response] = loop.create_future()

        def write() -> None:
            # The change is made even if the client has left by now, as a real server would.
            result = write_back()
            if not written.done():
                written.set_result(result)

        loop.call_later(RACE_WINDOW, write)
        return await written

    async def _go_wrong(self, fault: Fault, answer: Response | None, request: web.BaseRequest) -> Response | None:
        """Carry ``fault`` out; None means that the answer is lost."""
        if fault.kind == "status":
            return self._error_of(fault)
        if fault.kind == "storm":
            now = self.clock.now()
            self.faults.storm_until = now + fault.seconds
            return self._too_many(now, fault.seconds, "too many requests")
        if fault.kind == "garbage":
            body = fault.body_bytes()
            return Response(200, b"\x00\xff{[<garbage>" if body is None else body, JSON)
        if fault.kind == "stall":
            # Only the end of the connection ends this: it cancels the handler.
            await asyncio.get_running_loop().create_future()
        transport = request.transport
        if transport is None:
            return None
        if fault.kind == "truncate" and answer is not None:
            head = (
                f"HTTP/1.1 {answer.status} Cut\r\nContent-Type: {answer.content_type}\r\n"
                f"Content-Length: {max(2, len(answer.body))}\r\n\r\n"
            )
            transport.write(head.encode() + answer.body[: len(answer.body) // 2])
            transport.close()
            return None
        raw = transport.get_extra_info("socket")
        # Without lingering the kernel sends a reset instead of a polite end.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        return None

    def _error_of(self, fault: Fault) -> Response:
        body = fault.body_bytes()
        if fault.status == 429:  # noqa: PLR2004 - too many requests
            now = self.clock.now()
            answer = self._too_many(now, 1.0, "too many requests")
        else:
            answer = self.service.wire.error(fault.status, f"a {fault.status} on demand")
        if body is not None:
            answer.body = body
            answer.content_type = _guess(body)
        if fault.status in _BODILESS:
            answer.body = b""
        if fault.retry_after is not None:
            answer.headers["Retry-After"] = str(fault.retry_after)
        answer.headers.update(fault.headers)
        return answer

    def _response(self, answer: Response) -> web.Response:
        headers = {"Content-Type": answer.content_type}
        if answer.headers:
            headers.update(answer.headers)
        if self.cors_origin is not None:
            headers["Access-Control-Allow-Origin"] = self.cors_origin
        if self.service.dialect.request_ids == "present":
            self._served += 1
            headers["X-Request-Id"] = f"{self._served:08x}"
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    def _preflight(self) -> web.Response:
        headers = {
            "Access-Control-Allow-Origin": self.cors_origin or "",
            "Access-Control-Allow-Methods": "GET, POST, PATCH",
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
        }
        return web.Response(status=204, headers=headers)

    def _log(self, record: RecordedRequest, started: float, instead: str) -> None:
        if self.log:
            moment = self.clock.utc().strftime("%H:%M:%S.%f")[:-3]
            took = (perf_counter() - started) * 1000
            _log.info("%s %s %s %s %.1f ms", moment, record.method, record.target, instead or record.status, took)


_BEFORE = frozenset({"status", "reset-before", "stall", "storm"})
_BODILESS = frozenset({204, 304})


def _guess(body: bytes) -> str:
    start = body[:1]
    if start == b"<":
        return HTML
    return JSON if start in (b"{", b"[", b'"') else TEXT
