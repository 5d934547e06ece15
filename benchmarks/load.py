"""A web app with 200 users and a bulk run in the same session, beside the same app on bare aiohttp.

At the limits of the service, the users send a bit more than half of the allowed requests and the bulk run takes the
rest, so the question is how long users wait. Without limits, the question is what the library costs a busy app.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from typing import Any

import msgspec

from benchmarks.emulator import emulating
from benchmarks.harness import Goal, Result, Row, Size, Table, WrongResultError, check, serving
from benchmarks.users import USERS, Crowd, crowd
from benchmarks.vitals import Vitals
from benchmarks.webapp import GROUPS, IN_FLIGHT, WebApp, serving_app

__all__ = ["BEHIND_THE_RUN", "Load", "loaded", "run"]

LATENCY = 20.0
RATE = 57.0
"""Requests per second of all users. Each of 200 users pauses for 3.5 s on average; fewer users pause for less."""
ALLOWED = 97 / 1.02
BEHIND_THE_RUN = IN_FLIGHT / ALLOWED * 1e3 + LATENCY
"""Milliseconds of a call that waits behind the edits of the bulk run."""
IDEAL = 70
"""Milliseconds. With a permit every 10.5 ms and 57 random requests per second, one request in a hundred waits this
long, even with a perfect limiter, because the run uses every permit that no user needs."""

OURS, BARE = "aiomutex with a bulk run", "bare aiohttp, alone"
PACED = {
    OURS: ("aiomutex", True),
    BARE: ("aiohttp", False),
    "aiomutex, alone": ("aiomutex", False),
    # What users write by hand: one queue for all, or no limiter at all.
    "aiohttp + aiolimiter with a bulk run": ("aiolimiter", True),
    "bare aiohttp with a bulk run": ("aiohttp", True),
}


class Load(msgspec.Struct):
    """The figures of an app under load."""

    crowd: Crowd
    rejected: int
    """The 429 responses of the service, to users and to the run."""
    edited: dict[str, int]
    """Edits of the bulk run during the measurement, by outcome."""
    memory: tuple[float, float]
    """MiB of the app after a quarter of the time and at the end."""
    before: Vitals
    after: Vitals
    """The app without users, before and after the load."""

    def leaks(self) -> list[str]:
        """Describe connections, tasks and files that the app did not release."""
        before, after = self.before, self.after
        files = (after.files - after.pooled) - (before.files - before.pooled)
        held = {"connections in use": after.in_use, "tasks": after.tasks - before.tasks, "open files": files}
        return [f"{count} {what} more than before" for what, count in held.items() if count]

    def behind_the_run(self) -> float:
        """Return the average milliseconds of an edit of the run (Little's law)."""
        return IN_FLIGHT / self.edited["applied"] * self.crowd.seconds * 1e3

    def note(self) -> str:
        users = self.crowd
        edits = self.edited.get("applied", 0)
        parts = [
            f"p99 {users.quantile(0.99):.0f}, max {max(users.waits):.0f}",
            f"{len(users.waits):,} responses",
            f"{len(users.errors)} errors",
            f"{self.rejected:,} 429s",
            *([f"{edits / users.seconds:.1f} bulk edits/s"] if self.edited else []),
            f"{self.memory[0]:.1f} to {self.memory[1]:.1f} MiB",
        ]
        return ", ".join(parts)


def _rejected(url: str) -> int:
    with urllib.request.urlopen(f"{url}/status.json?limit=0", timeout=30) as response:
        status: dict[str, Any] = json.load(response)
        return int(status["rejected"])


def _settled(app: WebApp, before: Vitals) -> Vitals:
    """Return the vitals of the app once all users are disconnected."""
    end = time.monotonic() + 10
    while True:
        now = app.vitals()
        if (now.tasks <= before.tasks and not now.in_use) or time.monotonic() > end:
            return now
        time.sleep(0.1)


def loaded(flavour: str, seconds: float, *, bulk: bool, users: int = USERS) -> Load:
    """Put load on an app at the limits of the service.

    Args:
        flavour: What the app calls the service with.
        seconds: How long the users send requests.
        bulk: Whether a bulk run goes on meanwhile.
        users: The number of users.
    """
    with emulating(groups=GROUPS, limits=True, latency=f"{LATENCY}ms") as (url, _), serving_app(flavour, url) as app:
        app.ask("/groups/1")
        before = app.vitals()
        if bulk:
            app.ask("/bulk/start")
            time.sleep(1.5)  # until the burst from idle is over
        edited = app.edited()

        async def use() -> tuple[Crowd, float]:
            load = asyncio.create_task(crowd(app.port, seconds, GROUPS, think=users / RATE, users=users))
            await asyncio.sleep(seconds / 4)
            early = app.memory()
            return await load, early

        users_, early = asyncio.run(use())
        late = app.memory()
        meanwhile = {status: count - edited.get(status, 0) for status, count in app.edited().items()}
        app.ask("/bulk/stop")
        return Load(users_, _rejected(url), meanwhile, (early, late), before, _settled(app, before))


def _paced(size: Size, result: Result) -> None:
    seconds, users = size.of((60.0, USERS), (2.0, 60), (1.0, 20))
    rows: list[Row] = []
    loads: dict[str, Load] = {}
    for name, (flavour, bulk) in PACED.items():
        if size is not Size.FULL and name not in (OURS, BARE):
            continue
        load = loads[name] = loaded(flavour, seconds if name in (OURS, BARE) else seconds / 3, bulk=bulk, users=users)
        if flavour == "aiomutex":
            check(f"errors of {name}", load.crowd.errors, [])
            check(f"failed edits of {name}", [status for status in load.edited if status != "applied"], [])
            check(f"leaks of {name}", load.leaks(), [])
            if bulk and not load.edited:
                raise WrongResultError("no bulk run was in progress")
        rows.append(Row(name, load.crowd.waits, load.note()))
    title = f"A web app with {users} users who send {RATE:.0f} requests/s for {seconds:.0f} s"
    floor = (
        f"{LATENCY:.0f} ms, the latency of the service, and {IDEAL} ms more at p99 where a bulk run uses the rest "
        f"of the limit (calculated); in one queue with the run each call would take {BEHIND_THE_RUN:.0f} ms"
    )
    result.tables.append(Table(title, "ms", rows, floor=floor))
    ours, bare = loads[OURS], loads[BARE].crowd.quantile(0.99)
    p99, most = ours.crowd.quantile(0.99), BEHIND_THE_RUN / 4
    what = f"{users} users of a web app with a bulk run"
    goal = f"no 429; p99 ≤ {most:.0f} ms, a quarter of the wait in one queue"
    reached = f"{ours.rejected}; {p99:.0f} ms (bare aiohttp without the run {bare:.0f} ms)"
    result.goals.append(Goal(what, goal, reached, p99 <= most and not ours.rejected))


def _free(size: Size, result: Result) -> None:
    """Measure an app at full load: users do not pause, and there is no limit."""
    seconds, rounds = size.of(5.0, 1.0, 0.3), size.of(7, 1, 1)
    base = "bare aiohttp"
    waits, rates, spent = ({name: Row(name, []) for name in ("aiomutex", base)} for _ in range(3))
    with (
        serving("--groups", str(GROUPS)) as server,
        serving_app("aiomutex", server.url, limited=False) as ours,
        serving_app("aiohttp", server.url, limited=False) as bare,
    ):
        for _ in range(rounds):
            for name, app in (("aiomutex", ours), (base, bare)):
                before = app.vitals()
                users = asyncio.run(crowd(app.port, seconds, GROUPS, think=0.0, keyed=False))
                check(f"errors of {name}", users.errors, [])
                waits[name].values.append(users.quantile(0.99))
                rates[name].values.append(len(users.waits) / users.seconds)
                spent[name].values.append((app.vitals().cpu - before.cpu) / len(users.waits) * 1e6)
                check(f"leaks of {name}", _settled(app, before).in_use, 0)
    what = f"A web app, {USERS} users without pauses, no limit"
    result.tables += [
        Table(f"{what}: requests", "a second", list(rates.values()), baseline=base),
        Table(f"{what}: p99", "ms", list(waits.values()), baseline=base),
        Table(f"{what}: processor time of the app", "µs/request", list(spent.values()), baseline=base),
    ]


def run(size: Size) -> Result:
    """Measure each app at the limits, and two of them without limits in alternating rounds."""
    result = Result([])
    _paced(size, result)
    _free(size, result)
    return result
