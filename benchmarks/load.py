"""A web app that 200 people use while a bulk run goes on in the same session, beside the same app on bare aiohttp.

At the service's true limits what matters is who waits for whom: the people ask for a bit more than half of what the
limit allows, the bulk run takes the rest. Without limits it is what the library costs a busy app.
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
from benchmarks.webapp import AHEAD, GROUPS, WebApp, serving_app

__all__ = ["BEHIND_THE_RUN", "Load", "loaded", "run"]

LATENCY = 20.0
RATE = 57.0
"""Requests a second of all people together. Each of 200 thinks for 3.5 s then; fewer think for less."""
ALLOWED = 97 / 1.02
BEHIND_THE_RUN = AHEAD / ALLOWED * 1e3 + LATENCY
"""Milliseconds that a call would take that stands in line behind the edits of the bulk run."""
IDEAL = 70
"""Milliseconds. Where a permit comes every 10.5 ms, and each that no person wants goes to the run, people who ask 57
times a second at random wait so long one time in a hundred, even for a limiter that loses nothing."""

OURS, BARE = "aiomutex, a bulk run beside", "bare aiohttp, alone"
PACED = {
    OURS: ("aiomutex", True),
    BARE: ("aiohttp", False),
    "aiomutex, alone": ("aiomutex", False),
    # What one writes next, and first: all stand in one line; no limit is kept, and the service refuses.
    "aiohttp + aiolimiter, bulk beside": ("aiolimiter", True),
    "bare aiohttp, bulk beside": ("aiohttp", True),
}


class Load(msgspec.Struct):
    """What became of an app under load."""

    crowd: Crowd
    refused: int
    """Answers 429 of the service, to whomever."""
    edited: dict[str, int]
    """Edits of the bulk run while people asked, by what became of them."""
    memory: tuple[float, float]
    """MiB of the app, a quarter into the time and at its end."""
    before: Vitals
    after: Vitals
    """The app without users, before them and after."""

    def leaks(self) -> list[str]:
        """What the app holds that it should not, in words."""
        before, after = self.before, self.after
        files = (after.files - after.pooled) - (before.files - before.pooled)
        held = {"connections in use": after.in_use, "tasks": after.tasks - before.tasks, "open files": files}
        return [f"{count} {what} more than before" for what, count in held.items() if count]

    def behind_the_run(self) -> float:
        """Milliseconds that each edit of the run took on average (Little's law)."""
        return AHEAD / self.edited["applied"] * self.crowd.seconds * 1e3

    def note(self) -> str:
        told = self.crowd
        edits = self.edited.get("applied", 0)
        parts = [
            f"p99 {told.quantile(0.99):.0f}, max {max(told.waits):.0f}",
            f"{len(told.waits):,} answers",
            f"{len(told.errors)} errors",
            f"{self.refused:,} 429s",
            *([f"{edits / told.seconds:.1f} bulk edits/s"] if self.edited else []),
            f"{self.memory[0]:.1f} to {self.memory[1]:.1f} MiB",
        ]
        return ", ".join(parts)


def _refused(url: str) -> int:
    with urllib.request.urlopen(f"{url}/status.json?limit=0", timeout=30) as answer:
        status: dict[str, Any] = json.load(answer)
        return int(status["rejected"])


def _settled(app: WebApp, before: Vitals) -> Vitals:
    """The app's vitals once it has noticed that everybody is gone."""
    end = time.monotonic() + 10
    while True:
        now = app.vitals()
        if (now.tasks <= before.tasks and not now.in_use) or time.monotonic() > end:
            return now
        time.sleep(0.1)


def loaded(flavour: str, seconds: float, *, bulk: bool, users: int = USERS) -> Load:
    """Let people use an app on ``flavour`` for so long, at the service's true limits."""
    with emulating(groups=GROUPS, limits=True, latency=f"{LATENCY}ms") as (url, _), serving_app(flavour, url) as app:
        app.ask("/groups/1")
        before = app.vitals()
        if bulk:
            app.ask("/bulk/start")
            time.sleep(1.5)  # the burst from idle is over, and the run is paced
        edited = app.edited()

        async def use() -> tuple[Crowd, float]:
            asking = asyncio.create_task(crowd(app.port, seconds, GROUPS, think=users / RATE, users=users))
            await asyncio.sleep(seconds / 4)
            early = app.memory()
            return await asking, early

        told, early = asyncio.run(use())
        late = app.memory()
        meanwhile = {fate: count - edited.get(fate, 0) for fate, count in app.edited().items()}
        app.ask("/bulk/stop")
        return Load(told, _refused(url), meanwhile, (early, late), before, _settled(app, before))


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
            check(f"fates of edits of {name}", [fate for fate in load.edited if fate != "applied"], [])
            check(f"leaks of {name}", load.leaks(), [])
            if bulk and not load.edited:
                raise WrongResultError("no bulk run was under way")
        rows.append(Row(name, load.crowd.waits, load.note()))
    title = f"A web app with {users} people who ask {RATE:.0f} times a second for {seconds:.0f} s"
    floor = (
        f"{LATENCY:.0f} ms: the latency of the service. {IDEAL} ms more at p99 where the bulk run takes all that is "
        f"left, by arithmetic; in line behind the run each call would take {BEHIND_THE_RUN:.0f}"
    )
    result.tables.append(Table(title, "ms", rows, floor=floor))
    ours, bare = loads[OURS], loads[BARE].crowd.quantile(0.99)
    p99, most = ours.crowd.quantile(0.99), BEHIND_THE_RUN / 4
    what = f"{users} people at a web app with a bulk run"
    goal = f"no 429; p99 ≤ {most:.0f} ms, a quarter of the wait behind the run"
    reached = f"{ours.refused}; {p99:.0f} ms (bare aiohttp without the run {bare:.0f} ms)"
    result.goals.append(Goal(what, goal, reached, p99 <= most and not ours.refused))


def _free(size: Size, result: Result) -> None:
    """Nobody thinks and nobody is held: what the library costs an app whose core is busy."""
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
                told = asyncio.run(crowd(app.port, seconds, GROUPS, think=0.0, keyed=False))
                check(f"errors of {name}", told.errors, [])
                waits[name].values.append(told.quantile(0.99))
                rates[name].values.append(len(told.waits) / told.seconds)
                spent[name].values.append((app.vitals().cpu - before.cpu) / len(told.waits) * 1e6)
                check(f"leaks of {name}", _settled(app, before).in_use, 0)
    what = f"A web app, {USERS} people who never think, no limit"
    result.tables += [
        Table(f"{what}: requests", "a second", list(rates.values()), baseline=base),
        Table(f"{what}: p99", "ms", list(waits.values()), baseline=base),
        Table(f"{what}: processor time of the app", "µs/request", list(spent.values()), baseline=base),
    ]


def run(size: Size) -> Result:
    """Each app under the same people, one after the other; then both without limits, in turns."""
    result = Result([])
    _paced(size, result)
    _free(size, result)
    return result
