"""Handle a request from its arrival to its response: API key, limits, faults, endpoint.

One aiohttp handler without a router or middleware, because benchmarks run against it; ``service`` knows the endpoints.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from math import ceil
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from aiomutex.emulator.listener import host_of
from aiomutex.emulator.responses import HTML, JSON, TEXT, Response
from aiomutex.emulator.service import RACE_WINDOW

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Mapping
    from random import Random

    from aiomutex.emulator.faults import Fault, Faults, LateChanges, Latency
    from aiomutex.emulator.limits import Clock, Limits
    from aiomutex.emulator.service import Service

PageHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_logger = logging.getLogger("aiomutex.emulator")


@dataclass(slots=True, eq=False, repr=False)
class RecordedRequest:
    """A request as it arrived, and the status of its response; the API key is never shown."""

    at: float
    """When it arrived, in seconds since 1970 by the emulator's clock."""
    method: str
    target: str
    """The path and query."""
    _headers: Mapping[str, str]
    body: bytes = b""
    status: int | None = None
    """None if no response was sent (yet)."""
    seconds: float | None = None
    """How long it took until the response or the end of the connection; None if it still takes."""

    def __repr__(self) -> str:
        return f"<RecordedRequest {self.method} {self.target} · {self.status or 'no response'}>"

    @property
    def path(self) -> str:
        """The path without the query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the query."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def headers(self) -> dict[str, str]:
        """The headers, with names in lower case and without the API key."""
        headers = {name.lower(): value for name, value in self._headers.items()}
        if "authorization" in headers:
            scheme, _, key = headers["authorization"].partition(" ")
            headers["authorization"] = f"{scheme} ***" if key else "***"
        return headers

    @property
    def json(self) -> Any:
        """The decoded body; None if it is empty.

        Raises:
            ValueError: The body is not JSON.
        """
        return msgspec.json.decode(self.body) if self.body else None


class Application:
    """The request handler. ``MutexEmulator`` inherits it and sets its attributes."""

    clock: Clock
    faults: Faults
    limits: Limits
    pages: dict[str, PageHandler]
    requests: deque[RecordedRequest]
    _cors_origin: str | None
    _forbidden_keys: frozenset[str]
    _hosts: frozenset[str]
    _key: str | None
    _late: LateChanges
    _latency: Latency
    _log: bool
    _rng: Random
    _service: Service
    _responses = 0

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if host_of(host := request.headers.get("Host", "")) not in self._hosts:
            return self._misdirected(host)
        self._late.make_due()
        record = RecordedRequest(self.clock.now(), request.method, request.raw_path, request.headers)
        if self._cors_origin is not None and record.method == "OPTIONS":
            return web.Response(status=204, headers={"Access-Control-Allow-Origin": self._cors_origin, **_PREFLIGHT})
        if record.method == "GET" and (page := self.pages.get(record.path)):
            return await page(request)
        started = perf_counter()
        self.requests.append(record)
        self.limits.arrive(record.at)
        try:
            response = await self._respond(request, record)
            record.status = None if response is None else response.status
        finally:
            record.seconds = perf_counter() - started
            if self._log:
                at, status = self.clock.utc().strftime("%H:%M:%S.%f")[:-3], record.status or "no response"
                _logger.info("%s %s %s %s %.1f ms", at, record.method, record.target, status, record.seconds * 1000)
        # Without a response the connection is already closed, so aiohttp cannot send this one.
        return web.Response() if response is None else self._to_aiohttp(response)

    async def _respond(self, request: web.BaseRequest, record: RecordedRequest) -> Response | None:
        """Return the response to send, or None if there is none and the connection is closed."""
        response = self._rejection(record.at, request.headers)
        fault: Fault | None = None
        try:
            if request.body_exists:
                record.body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            response = response or self._service.encoder.error(413, "the body must not be larger than 1 MiB")
        except web.RequestPayloadError:
            response = response or self._service.encoder.error(400, "the body does not match its Content-Encoding")
        if response is None:
            fault = self.faults.next_fault(record.method, record.path)
            sent = (record.method, record.target, record.body, request.headers.get("Content-Type", ""))
            if fault is not None and fault.kind == "late":
                await self._late.make_in(fault.seconds, lambda: self._service.respond(*sent))
            elif fault is None or fault.kind not in _BEFORE_COMMIT or fault.after_commit:
                response = self._service.respond(*sent)
                if self._service.dialect.slot_writes == "racy" and record.method == "PATCH":
                    # Edits race only while their responses are outstanding.
                    await asyncio.sleep(2 * RACE_WINDOW)
        if self._latency.base:
            await asyncio.sleep(self._latency.sample(self._rng))
        return response if fault is None else await self._apply_fault(fault, response, request)

    def _misdirected(self, host: str) -> web.Response:
        message = (
            f"the emulator is not addressed as {host!r}: the Host header must be localhost, a loopback address, the "
            "address it listens on, or allowed by --allow-host (in Python: MutexEmulator(allow_hosts=...))"
        )
        if self._log:
            _logger.info("rejected: %s", message)
        return web.json_response({"status": 421, "message": message}, status=421)

    def _rejection(self, now: float, headers: Mapping[str, str]) -> Response | None:
        error = self._service.encoder.error
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            return error(401, "the header Authorization must be: Bearer <management-api-key>")
        if key in self._forbidden_keys:
            return error(403, "the key has no access to this project")
        if self._key is not None and key != self._key:
            return error(401, "the key is invalid or revoked")
        if now < self.faults.storm_until:
            return self._too_many_requests(self.faults.storm_until - now)
        if (exceeded := self.limits.admit(now)) is None:
            return None
        if exceeded == "day" and self._service.dialect.daily_hint:
            used = f"{self.limits.per_day:,} of {self.limits.per_day:,}"
            message = f"daily limit exceeded: {used} requests used until midnight UTC"
            return self._too_many_requests(self.clock.until_midnight(), message)
        return self._too_many_requests(self.limits.wait(now))

    def _too_many_requests(self, wait: float, message: str = "too many requests") -> Response:
        date = formatdate(ceil(self.clock.now() + wait), usegmt=True)
        header = {"none": None, "seconds": str(max(1, ceil(wait))), "date": date}[self._service.dialect.retry_after]
        return self._service.encoder.error(429, message, {"Retry-After": header} if header else None)

    async def _apply_fault(self, fault: Fault, response: Response | None, request: web.BaseRequest) -> Response | None:
        if fault.kind == "status":
            return self._error(fault)
        if fault.kind == "storm":
            self.faults.storm_until = self.clock.now() + fault.seconds
            return self._too_many_requests(fault.seconds)
        if fault.kind in _BODIES:
            body, content_type = _BODIES[fault.kind]
            return Response(200, fault.body_or(body), content_type)
        if fault.kind == "stall":
            # Never done: aiohttp cancels the handler when the connection closes.
            await asyncio.get_running_loop().create_future()
        if (transport := request.transport) is None:
            return None
        if fault.kind == "truncate" and response is not None:
            head = (
                f"HTTP/1.1 {response.status} Truncated\r\nContent-Type: {response.content_type}\r\n"
                f"Content-Length: {max(2, len(response.body))}\r\n\r\n"
            )
            transport.write(head.encode() + response.body[: len(response.body) // 2])
            transport.close()
            return None
        raw = transport.get_extra_info("socket")
        # With a linger time of 0 the kernel sends a reset (RST) instead of closing the connection in order.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        return None

    def _error(self, fault: Fault) -> Response:
        response = self._service.encoder.error(fault.status, f"injected fault with status {fault.status}")
        if fault.status == 429:  # noqa: PLR2004 - too many requests
            response = self._too_many_requests(1.0)
        if fault.body is not None:
            response.body = fault.body_or(b"")
            start = response.body[:1]
            response.content_type = HTML if start == b"<" else JSON if start in (b"{", b"[", b'"') else TEXT
        if fault.status in (204, 304):
            response.body = b""
        if fault.retry_after is not None:
            response.headers["Retry-After"] = str(fault.retry_after)
        response.headers.update(fault.headers)
        return response

    def _to_aiohttp(self, response: Response) -> web.Response:
        headers = {"Content-Type": response.content_type, **response.headers}
        if self._cors_origin is not None:
            headers["Access-Control-Allow-Origin"] = self._cors_origin
        if self._service.dialect.request_ids == "present":
            self._responses += 1
            headers["X-Request-Id"] = f"{self._responses:08x}"
        return web.Response(status=response.status, body=response.body, headers=headers)


_BEFORE_COMMIT = frozenset({"status", "reset-before", "stall", "storm", "maintenance"})
_BODIES = {
    "garbage": (b"\x00\xff{[<garbage>", JSON),
    "maintenance": (b"<!doctype html><title>Maintenance</title><h1>We will be back soon</h1>", HTML),
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
}
