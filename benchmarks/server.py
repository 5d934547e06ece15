"""A server in as few instructions as Python allows, so that benchmarks measure the clients.

It serves the five endpoints with fixed content and counts requests. On demand it is slow, jittery, or strict about the
limit. It validates nothing; the emulator does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import ssl
import sys
from collections import deque
from contextlib import suppress
from typing import Any, cast

__all__ = ["KEY", "SLOTS", "UNLIMITED", "group_document"]

KEY = "management-key-of-the-benchmarks"
SLOTS = 2
UNLIMITED = 20_000
"""A limit that no client reaches. It is not larger because the limiter stores a number for each permit of a second."""
LIMIT = 100

# The example group of the service's documentation, without its ID.
_BEFORE = b'{"id":'
_AFTER = (
    b',"projectId":1,"name":"mutex name","key":"mutex-key","description":null,"evaluationMode":"local",'
    b'"bucketingKey":"device_id","bucketingSalt":"abcd","slots":[{"name":"SLOT 1","index":1,"variantKey":"slot-1",'
    b'"percentage":95,"experiments":[123],"holdouts":[456],"individuals":[],"cohorts":[]},{"name":"SLOT 2","index":2,'
    b'"variantKey":"slot-2","percentage":5,"experiments":[],"holdouts":[],"individuals":[],"cohorts":[]}]}'
)
_HEAD = (
    b"HTTP/1.1 %s\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"
    b"Date: Mon, 23 Nov 2026 08:00:00 GMT\r\nServer: benchmark\r\n\r\n%s"
)
_EDITED = _HEAD % (b"200 OK", 2, b"OK")
_REJECTED = _HEAD % (b"429 Too Many Requests", 2, b"{}")


def group_document(number: int) -> bytes:
    """Return a group as the service sends it."""
    return b"%s%d%s" % (_BEFORE, number, _AFTER)


class Service:
    """The responses, and the counts of requests."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.groups: int = arguments.groups
        self.latency: float = arguments.latency / 1000
        self.jitter: float = arguments.jitter / 1000
        self.strict: bool = arguments.strict
        self.random = random.Random(1)
        self.reset()

    def reset(self) -> None:
        """Reset the counts."""
        self.requests = self.edits = self.ids = self.rejected = self.busiest = 0
        self.last = b""
        self.recent: deque[float] = deque()
        self.accepted: deque[float] = deque(maxlen=LIMIT)

    def stats(self) -> bytes:
        """Return the counts since the last call, as JSON."""
        counts = {
            "requests": self.requests,
            "edits": self.edits,
            "ids": self.ids,
            "rejected": self.rejected,
            "busiest": self.busiest,
            "last": self.last.decode("utf-8", "replace"),
        }
        self.reset()
        return json.dumps(counts).encode()

    def respond(self, head: bytes, body: bytes, now: float) -> bytes:
        """Return the response to one request."""
        method, target, _ = head.split(b" ", 2)
        if target == b"/stats":
            stats = self.stats()
            return _HEAD % (b"200 OK", len(stats), stats)
        self.requests += 1
        if self.strict and not self._admits(now):
            self.rejected += 1
            return _REJECTED
        path, _, query = target.partition(b"?")
        parts = path.split(b"/")
        if method == b"PATCH":
            self.edits += 1
            self.ids += int(parts[4])
            self.last = body
            return _EDITED
        document = group_document(int(parts[4])) if len(parts) > 4 else self._page(query)
        return _HEAD % (b"200 OK", len(document), document)

    def _admits(self, now: float) -> bool:
        """Apply a strict sliding second at arrival. Rejected requests do not count."""
        recent = self.recent
        recent.append(now)
        while recent[0] <= now - 1.0:
            recent.popleft()
        self.busiest = max(self.busiest, len(recent))
        if len(self.accepted) == LIMIT and now - self.accepted[0] < 1.0:
            return False
        self.accepted.append(now)
        return True

    def _page(self, query: bytes) -> bytes:
        parameters = dict(pair.split(b"=", 1) for pair in query.split(b"&") if b"=" in pair)
        start, limit = int(parameters.get(b"cursor", b"0")), min(1000, int(parameters.get(b"limit", b"1000")))
        end = min(self.groups, start + limit)
        following = b'"%d"' % end if end < self.groups else b"null"
        return b'{"mutexes":[%s],"nextCursor":%s}' % (b",".join(map(group_document, range(start, end))), following)


class Connection(asyncio.Protocol):
    """One keep-alive connection. Responses are sent at once or after the latency."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.loop = loop
        self.unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.unread = self.unread + data if self.unread else data
        if self.service.jitter:
            self.loop.call_later(self.service.random.random() * self.service.jitter, self._serve)
        else:
            self._serve()

    def _serve(self) -> None:
        unread = self.unread
        while (end := unread.find(b"\r\n\r\n")) >= 0:
            head = unread[:end]
            length = 0
            if (at := head.lower().find(b"\r\ncontent-length:")) >= 0:
                length = int(head[at + 17 :].split(b"\r\n", 1)[0])
            whole = end + 4 + length
            if len(unread) < whole:
                break
            response = self.service.respond(head, unread[end + 4 : whole], self.loop.time())
            unread = unread[whole:]
            if self.service.latency:
                self.loop.call_later(self.service.latency, self._write, response)
            else:
                self.transport.write(response)
        self.unread = unread

    def _write(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)


async def _serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    service = Service(arguments)
    context = None
    if arguments.certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(arguments.certificate)
    server = await loop.create_server(lambda: Connection(service, loop), "127.0.0.1", 0, backlog=1024, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Standard input is closed when the parent process ends.
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--groups", type=int, default=1000, help="groups in the listing")
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds until a response is sent")
    parser.add_argument("--jitter", type=float, default=0.0, help="maximum milliseconds until a request arrives")
    parser.add_argument("--strict", action="store_true", help="reject more than 100 requests in any second")
    parser.add_argument("--certificate", help="serve over TLS with the key and the certificate of this file")
    arguments = parser.parse_args()
    run: Any = asyncio.run
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415  # faster, if installed

        run = uvloop.run
    run(_serve(arguments))


if __name__ == "__main__":
    main()
