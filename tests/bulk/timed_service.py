"""A service in place of a session's requests, for tests of waiting on virtual time: its reads may lag."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs

from bulk_support import BudgetLimiter, in_seconds

from aiomutex import LocalRateLimiter, OutcomeStream, ServerError, TransportError
from aiomutex._http.call import CallResult
from aiomutex.bulk.engine import Engine
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import collect_report

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex import BulkReport, MutexError
    from aiomutex._api.requests import Request
    from aiomutex.bulk.options import Edits

LATENCY: Final = 0.01
"""Seconds that each request takes."""


class Failure(NamedTuple):
    """How a request fails."""

    error: MutexError
    commits: bool = False
    """Whether the service makes the write all the same."""


def unavailable(*, commits: bool = False) -> Failure:
    """A 503, after which nothing arrives late."""
    error = ServerError("unavailable", status=503, method="", path="")
    return Failure(error.with_attempts(1, maybe_applied=True), commits)


def unanswered() -> Failure:
    """A connection that breaks before the response: the request may still arrive."""
    return Failure(TransportError("broken", method="", path="", sent=True).with_attempts(1, maybe_applied=True))


class TimedService:
    """Groups of three slots, which hold the experiment 0. A day has ``per_day`` requests."""

    def __init__(self, groups: int = 3, *, lag: float = 0.0, per_day: int | None = None) -> None:
        places = [(str(group), slot) for group in range(1, groups + 1) for slot in (1, 2, 3)]
        self.versions: dict[tuple[str, int], list[tuple[float, dict[str, Any]]]] = {
            place: [(-math.inf, {"experiments": [0], "holdouts": [], "individuals": []})] for place in places
        }
        """What each slot held, and from when on."""
        self.lag = lag
        self.limiter: Any = LocalRateLimiter(5_000, 10_000_000)
        if per_day is not None:
            self.limiter = BudgetLimiter(per_day, in_seconds(3_600))
            self.limiter.per_day = per_day
        self.requests: list[str] = []
        """Method and path of each request."""
        self.latency: dict[str, float] = {}
        """Seconds that a request of this method and path takes, if not ``LATENCY``."""
        self.failures: dict[str, list[Failure | None]] = {}
        """By method, what happens to the next requests."""
        self._arrival = asyncio.Event()

    def stream(self, edits: Edits, journal: Path | None = None, **settings: Any) -> OutcomeStream:
        """A run of edits."""
        given: dict[str, Any] = {"concurrency": 4, "canary": False} | settings
        engine = Engine(self.send, self.limiter, Settings(**given), lambda: None, journal=journal)
        return OutcomeStream(engine, edits, None)

    async def edit(self, edits: Edits, **settings: Any) -> BulkReport:
        """Run edits to the end."""
        return await collect_report(self.stream(edits, **settings))

    def write(self, group: str, slot: int, **lists: Any) -> None:
        """Change a slot, as a write does."""
        versions = self.versions[group, slot]
        versions.append((asyncio.get_running_loop().time(), versions[-1][1] | lists))

    def experiments(self, group: str, slot: int) -> list[int]:
        """The experiments that a slot holds now."""
        experiments: list[int] = self.versions[group, slot][-1][1]["experiments"]
        return experiments

    async def sent(self, request: str, times: int = 1) -> None:
        """Wait until a request was sent so often."""
        while self.requests.count(request) < times:
            self._arrival.clear()
            await self._arrival.wait()

    def methods(self) -> Counter[str]:
        """The number of requests of each method; those for pages of the listing are ``LIST``."""
        return Counter("LIST" if "?" in request else request.split()[0] for request in self.requests)

    async def send(self, request: Request[Any]) -> CallResult[Any]:
        """Answer a request."""
        if isinstance(self.limiter, BudgetLimiter):
            await self.limiter.acquire()
        name = f"{request.method} {request.path}"
        self.requests.append(name)
        self._arrival.set()
        waiting = self.failures.get("LIST" if "?" in request.path else request.method, [])
        failure = waiting.pop(0) if waiting else None
        await asyncio.sleep(self.latency.get(name, LATENCY))
        if request.method == "PATCH" and (failure is None or failure.commits):
            *_, group, _, slot = request.path.split("/")
            self.write(group, int(slot), **json.loads(request.body or b""))
        if failure is not None:
            raise failure.error
        assert request.decode is not None
        return CallResult(request.decode(json.dumps(self._answer(request)).encode()), 1)

    def _answer(self, request: Request[Any]) -> object:
        path, _, query = request.path.partition("?")
        if request.method == "PATCH":
            return {}
        if not query:
            return self._group(path.split("/")[-1])
        values = parse_qs(query)
        start, limit = int(values.get("cursor", ["0"])[0]), int(values["limit"][0])
        ids = list(dict.fromkeys(group for group, _ in self.versions))
        following = {"nextCursor": str(start + limit)} if start + limit < len(ids) else {}
        return {"mutexes": [self._group(each) for each in ids[start : start + limit]]} | following

    def _group(self, group: str) -> dict[str, Any]:
        at = asyncio.get_running_loop().time() - self.lag
        slots: list[dict[str, Any]] = [
            {"index": slot, "percentage": 30, "cohorts": []}
            | next(lists for since, lists in reversed(self.versions[group, slot]) if since <= at)
            for slot in (1, 2, 3)
        ]
        return {"id": group, "slots": slots}
