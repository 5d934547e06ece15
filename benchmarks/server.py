"""A service in as few instructions as Python allows, so that clients are what is measured.

It answers the five endpoints with fixed content, counts what it is asked, and on demand is far away
or strict about its limit. It judges nothing else; the emulator is there for that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import deque
from contextlib import suppress
from typing import Any, cast

__all__ = ["KEY", "SLOTS", "UNHELD", "group_document"]

KEY = "management-key-of-the-benchmarks"
SLOTS = 2
UNHELD = 20_000
"""A limit that no client here comes near. Not more: the limiter's log holds a number for each permit of a second."""
LIMIT = 100

# The group that the service's documentation shows, with its id cut out.
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
_REFUSED = _HEAD % (b"429 Too Many Requests", 2, b"{}")


def group_document(number: int) -> bytes:
    """A group as the service tells it."""
    return b"%s%d%s" % (_BEFORE, number, _AFTER)


class Service:
    """What is served, and what was asked."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.groups: int = arguments.groups
        self.latency: float = arguments.latency / 1000
        self.jitter: float = arguments.jitter / 1000
        self.strict: bool = arguments.strict
        self.random = random.Random(1)
        self.reset()

    def reset(self) -> None:
        """Forget what was asked."""
        self.requests = self.edits = self.ids = self.refused = self.busiest = 0
        self.last = b""
        self.recent: deque[float] = deque()
        self.accepted: deque[float] = deque(maxlen=LIMIT)

    def stats(self) -> bytes:
        """What was asked since the last time that anybody wanted to know."""
        told = {
            "requests": self.requests,
            "edits": self.edits,
            "ids": self.ids,
            "refused": self.refused,
            "busiest": self.busiest,
            "last": self.last.decode("utf-8", "replace"),
        }
        self.reset()
        return json.dumps(told).encode()

    def answer(self, head: bytes, body: bytes, now: float) -> bytes:
        """The whole answer to one request."""
        method, target, _ = head.split(b" ", 2)
        if target == b"/stats":
            told = self.stats()
            return _HEAD % (b"200 OK", len(told), told)
        self.requests += 1
        if self.strict and not self._admits(now):
            self.refused += 1
            return _REFUSED
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
        """A strict sliding second: judged on arrival, refusals not counted."""
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
        asked = dict(pair.split(b"=", 1) for pair in query.split(b"&") if b"=" in pair)
        start, limit = int(asked.get(b"cursor", b"0")), min(1000, int(asked.get(b"limit", b"1000")))
        end = min(self.groups, start + limit)
        following = b'"%d"' % end if end < self.groups else b"null"
        return b'{"mutexes":[%s],"nextCursor":%s}' % (b",".join(map(group_document, range(start, end))), following)


class Connection(asyncio.Protocol):
    """One keep-alive connection: requests in, answers out, at once or after the latency."""

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
            answer = self.service.answer(head, unread[end + 4 : whole], self.loop.time())
            unread = unread[whole:]
            if self.service.latency:
                self.loop.call_later(self.service.latency, self._write, answer)
            else:
                self.transport.write(answer)
        self.unread = unread

    def _write(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)


async def _serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    service = Service(arguments)
    server = await loop.create_server(lambda: Connection(service, loop), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    # It ends with whoever started it, however that ends.
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--groups", type=int, default=1000, help="groups in the listing")
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds until an answer leaves")
    parser.add_argument("--jitter", type=float, default=0.0, help="milliseconds that a request may take to arrive")
    parser.add_argument("--strict", action="store_true", help="refuse more than 100 requests in any second")
    arguments = parser.parse_args()
    run: Any = asyncio.run
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415  # quicker, where it is installed

        run = uvloop.run
    run(_serve(arguments))


if __name__ == "__main__":
    main()
