"""Runs a scenario: each phase is a process with a session of its own, against one service and one network."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import random
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from fakeredis import FakeServer
from fakeredis.aioredis import FakeRedis

from aiomutex import (
    LocalRateLimiter,
    MutexSession,
    NewGroup,
    NewSlot,
    RetryPolicy,
    SlotEdit,
)
from aiomutex.bulk import undo
from aiomutex.limits.machine import MachineRateLimiter
from aiomutex.limits.redis import RedisRateLimiter
from aiomutex.plan import apply

from .clock import MIDNIGHT, OrderedSet, SimulationLoop, simulated_time
from .disk import Disk
from .fleet import NAME, FleetModel, seeded_ids
from .network import Network, Process, current_call, current_process
from .plans import make_plan
from .redis_model import redis_clock
from .service import COLLEAGUE, ModelService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator

    from aiomutex import RateLimiter, SlotOutcome
    from aiomutex.fleet import Fleet
    from aiomutex.plan import Plan, Step

    from .scenario import Call, Event, Phase, Scenario

__all__ = ["CallRecord", "InputBroke", "Leftover", "World", "simulate"]

_TOO_LONG: Final = 60 * 86_400.0
"""Seconds after which a phase counts as hanging."""
_MEMORY: Final = Path("/dev/shm")
"""Where files need no disk: a sync takes no time."""
_LONGEST_LOCK: Final = 2.0
_SETTLE: Final = 60.0
"""Seconds after the last phase, for what is still on its way."""
_TOO_LONG_FOR_A_FLEET: Final = 4_000.0
"""The same for a fleet, which asks Redis for news all the time."""


class _HangError(Exception):
    """A call never ends."""


class InputBroke(Exception):  # noqa: N818  # not ours to raise
    """What a broken input of edits raises."""


@dataclass
class CallRecord:
    """What became of one call."""

    name: str
    phase: int
    client: int
    """The number of its session."""
    call: Call
    started: float
    outcomes: list[tuple[float, SlotOutcome]] = field(default_factory=list["tuple[float, SlotOutcome]"])
    steps: list[tuple[float, Step]] = field(default_factory=list["tuple[float, Step]"])
    """Of an ``apply``."""
    plan: Plan | None = None
    planned_at: float = 0.0
    """When the groups were read for the plan."""
    ended: float | None = None
    """When it returned or raised; ``None`` if its process crashed before."""
    error: BaseException | None = None
    result: Any = None
    most_pending: int = 0
    """The most edits pulled and without an outcome."""
    power_failed: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it returned."""
        return self.ended is not None and self.error is None


@dataclass
class Leftover:
    """What a phase left behind."""

    phase: int
    what: str


class World:
    """Everything that exists in one run, and the record of what happened."""

    def __init__(self, scenario: Scenario, loop: SimulationLoop, disk: Disk, *, tracing: bool = False) -> None:
        self.scenario = scenario
        self.loop = loop
        self.disk = disk
        self.lines: list[str] = []
        self._tracing = tracing
        self.service = ModelService(loop.time)
        self.service.seed(scenario.service.groups, scenario.service.slots)
        self.network = Network(loop, self.service, scenario, Process(0, {}, {}, {}), self.trace)
        self.records: list[CallRecord] = []
        self.leftovers: list[Leftover] = []
        self._redis = FakeServer()
        self.fleet = (
            FleetModel(scenario, loop, self._redis, self._session, self.trace) if scenario.options.workers else None
        )
        self.hung: list[str] = []
        self._plans: dict[str, tuple[Plan, float]] = {}
        """By name, each with the time when the reading for it began. A person keeps them, so they outlive crashes."""
        self.phase = 0

    def trace(self, line: str) -> None:
        """Note what happened, if somebody reads it."""
        if self._tracing:
            line = line.replace(str(self.disk.directory.parent), "")
            self.lines.append(f"{self.loop.time() - 1000:10.3f} {line}")

    async def run(self) -> None:
        """Run all phases, then wait for what is still on its way."""
        if self.fleet is not None:
            self.fleet.start()
        for number, phase in enumerate(self.scenario.phases):
            self.phase = number
            self.trace(f"== phase {number}")
            await self._run_phase(phase)
            await asyncio.sleep(phase.gap)
        await asyncio.sleep(_SETTLE)
        if self.fleet is not None:
            await self._end_fleet(self.fleet)

    async def _end_fleet(self, fleet: FleetModel) -> None:
        await asyncio.sleep(3 * self.scenario.options.claim_timeout)  # dead runs count as dead, and jobs are given up
        self.leftovers += [Leftover(self.phase, each) for each in fleet.leftovers()]
        await fleet.stop()

    async def _run_phase(self, phase: Phase) -> None:
        crashed = self.loop.create_future()
        process = Process(
            self.phase, {(-each.request if each.kind == "refused" else each.request): each for each in phase.faults},
            {}, {},
        )  # fmt: skip
        self.network.process = process
        records: list[CallRecord] = []
        self._schedule(phase, process, crashed, records)
        today = self.loop.true_wall() // 86_400
        used = sum(sent.wall // 86_400 == today for sent in self.network.sent)
        sessions = self._sessions(used)
        for session in sessions:
            inside: Any = await session.__aenter__()
            inside._transport._timer._deadlines = OrderedSet()
        if self.fleet is not None:
            await self.fleet.open_callers(process)
        tasks: list[asyncio.Task[None]] = []
        for number, call in enumerate(phase.calls):
            client = number % len(sessions)
            started = self.loop.time() + call.start
            records.append(CallRecord(f"{call.kind}{self.phase}.{number}", self.phase, client, call, started))
            tasks.append(asyncio.create_task(self._call(sessions[client], records[-1], process), name=records[-1].name))
        self.records += records
        everything = asyncio.gather(*tasks, return_exceptions=True)
        self.network.on_excess = functools.partial(_set, crashed)
        too_long = _TOO_LONG if self.fleet is None else _TOO_LONG_FOR_A_FLEET
        done, _ = await asyncio.wait((everything, crashed), timeout=too_long, return_when=asyncio.FIRST_COMPLETED)
        if not done or len(self.network.sent) >= self.network.most:
            process.is_alive = False
            self.hung += [task.get_name() for task in tasks if not task.done()]
            raise _HangError
        if process.is_alive:
            if self.scenario.options.limiter in ("machine", "redis"):
                await asyncio.sleep(_LONGEST_LOCK + 1.0)  # a 429 may still have to be reported to the others
            for session in sessions:
                self._look_for_leftovers(session)
            is_one_day = self.loop.true_wall() // 86_400 == today and not any(e.kind == "clock" for e in phase.events)
            limiter = sessions[0].rate_limiter
            # What a process has leased from a file and not used is lost.
            lost = limiter.state().used_today - used - process.requests
            if lost and is_one_day and isinstance(limiter, LocalRateLimiter):
                self.leftovers.append(Leftover(self.phase, f"{lost} permits without a request"))
        process.is_alive = False
        if self.fleet is not None:
            self.fleet.end_caller(process)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await everything
        if self.fleet is not None:
            await self.fleet.close_callers()
        for session in sessions:
            await session.aclose()
            if isinstance(session.rate_limiter, MachineRateLimiter | RedisRateLimiter):
                await session.rate_limiter.aclose()
        self.loop.error = 0.0
        crashed.cancel()

    def _sessions(self, used_today: int) -> list[MutexSession]:
        """The sessions of a phase. They are not open yet."""
        settings, options = self.scenario.service, self.scenario.options
        shared = LocalRateLimiter(settings.per_second, settings.per_day, used_today=used_today)
        sessions: list[MutexSession] = []
        for _ in range(options.clients):
            limiter: RateLimiter = shared
            if options.limiter == "machine":
                limiter = MachineRateLimiter(
                    self._budget, per_second=settings.per_second, per_day=settings.per_day
                )  # fmt: skip
            elif options.limiter == "redis":
                limiter = RedisRateLimiter(
                    FakeRedis(server=self._redis), name=NAME, per_second=settings.per_second,
                    per_day=settings.per_day,
                )  # fmt: skip
            sessions.append(self._session(limiter))
        return sessions

    def _session(self, limiter: RateLimiter) -> MutexSession:
        options = self.scenario.options
        return MutexSession(
            "simulated", base_url="http://127.0.0.1", rate_limiter=limiter,
            retry=RetryPolicy(max_attempts=options.max_attempts), attempt_timeout=options.attempt_timeout,
            deadline=options.deadline, max_connections=options.max_connections,
        )  # fmt: skip

    @property
    def _budget(self) -> Path:
        """The file of the machine limiter."""
        return self.disk.directory / "budget.db"

    def _schedule(
        self, phase: Phase, process: Process, crashed: asyncio.Future[None], records: list[CallRecord]
    ) -> None:
        for event in phase.events:
            happen = functools.partial(self._happen, event, process, crashed, records)
            if event.at is not None:
                self.loop.call_later(event.at, happen)
            elif event.request is not None:
                (process.on_response if event.answered else process.on_request)[event.request] = happen

    def _happen(self, event: Event, process: Process, crashed: asyncio.Future[None], records: list[CallRecord]) -> None:
        if event.kind in ("crash", "power"):
            if process.is_alive and not crashed.done():
                self.trace(f"** {event.kind}")
                process.is_alive = False
                if self.fleet is not None:
                    self.fleet.end_caller(process)
                for record in records:
                    record.power_failed = event.kind == "power"
                self.disk.crash(
                    self.disk.directory.with_name(f"disk{self.phase + 1}"),
                    power=event.kind == "power",
                    rng=random.Random(self.scenario.seed + self.phase),
                )
                if event.kind == "power" and self.fleet is None:  # which runs on many machines
                    self.loop.boot_offset -= 500.0
                _set(crashed)
            return
        self.trace(f"** {event}")
        if event.kind == "clock":
            if process is self.network.process:
                self.loop.error = event.seconds
        elif event.kind == "outage":
            self.network.fail(event.seconds)
        elif event.kind == "lock":
            self._lock_budget(event.seconds)
        elif event.kind in ("death", "freeze", "redis"):
            if self.fleet is not None:
                self.fleet.happen(event, process)
        elif event.kind == "create":
            self.service.create(event.key, "New", COLLEAGUE, [event.lists.get("experiments", []), []], [50, 50])
        else:
            self.service.write((event.group, event.slot), event.lists, COLLEAGUE)

    def _lock_budget(self, seconds: float) -> None:
        if self._budget.exists():
            holder = sqlite3.connect(self._budget, timeout=0, isolation_level=None)
            with contextlib.suppress(sqlite3.DatabaseError):  # another event holds it, or a power failure damaged it
                holder.execute("BEGIN IMMEDIATE")
            self.loop.call_later(seconds, holder.close)

    def _look_for_leftovers(self, session: MutexSession) -> None:
        inside: Any = session
        transport = inside._transport
        known = {"simulation", *(record.name for record in self.records)}
        tasks = [task for task in asyncio.all_tasks() if not task.done()]
        if self.fleet is not None:
            tasks = [task for task in tasks if not self.fleet.is_elsewhere(task)]
        found = [task.get_name() for task in tasks if task.get_name() not in known]
        if transport.in_flight:
            found.append(f"{transport.in_flight} requests in flight")
        if transport.limiter.state().waiting:
            found.append(f"{transport.limiter.state().waiting} callers waiting for a permit")
        if len(transport._timer):
            found.append(f"{len(transport._timer)} deadlines")
        if acquired := len(transport._http.connector._acquired):
            found.append(f"{acquired} connections")
        self.leftovers += [Leftover(self.phase, each) for each in found]

    # ------------------------------------------------------------------ calls

    async def _call(self, session: MutexSession, record: CallRecord, process: Process) -> None:
        current_call.set(record.name)
        current_process.set(process)
        call = record.call
        client = self.fleet.callers[record.client] if self.fleet and call.kind in ("run", "undo") else session
        await asyncio.sleep(call.start)
        record.started = self.loop.time()
        self.trace(f"++ {record.name}")
        task = asyncio.current_task()
        assert task is not None
        handle = None if call.cancel is None else self.loop.call_later(call.cancel, task.cancel)
        make = getattr(self, f"_{call.kind}")
        try:
            result, error = await make(client, record, process), None
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001  # judged afterwards
            result, error = None, raised
        if handle is not None:
            handle.cancel()
        if not process.is_alive:
            return
        record.ended, record.result, record.error = self.loop.time(), result, error
        self.trace(f"-- {record.name} {'' if error is None else repr(error)[:300]}")

    def _report(self, record: CallRecord, process: Process, outcome: SlotOutcome) -> None:
        if process.is_alive:
            record.outcomes.append((self.loop.time(), outcome))
            self.trace(
                f"!! {record.name} {outcome.position} {outcome.status} attempts={outcome.attempts} {outcome.note}"
                f" {'' if outcome.error is None else repr(outcome.error)[:200]}"
            )

    async def _run(self, session: MutexSession | Fleet, record: CallRecord, process: Process) -> object:
        call = record.call
        edits = _input_of(call, record)
        journal = None if call.journal is None else self.disk.directory / call.journal
        options: dict[str, Any] = {
            "journal": journal, "verify": call.verify, "concurrency": call.concurrency,
            "stop_after": call.stop_after, "canary": call.canary, "on_budget": call.on_budget,
            "on_outcome": functools.partial(self._report, record, process),
        }  # fmt: skip
        if not call.stream:
            return await session.edit_slots(edits, **options)
        seen = 0
        async with session.stream_slot_edits(edits, **options) as outcomes:
            async for _ in outcomes:
                seen += 1
                record.most_pending = max(record.most_pending, outcomes.pulled - seen)
                if call.slow:
                    await asyncio.sleep(call.slow)
                if seen == call.leave:
                    break
        return None

    async def _undo(self, session: MutexSession | Fleet, record: CallRecord, process: Process) -> object:
        assert record.call.journal is not None
        report = functools.partial(self._report, record, process)
        path = self.disk.directory / record.call.journal
        return await undo(session, path, force=record.call.force, on_outcome=report)

    async def _apply(self, session: MutexSession, record: CallRecord, process: Process) -> object:
        call = record.call
        if call.plan not in self._plans:
            began = self.loop.time()
            made = make_plan(call, await session.list_groups().collect())
            if not process.is_alive:
                return None
            self._plans[call.plan] = made, began
            await asyncio.sleep(call.slow)
        record.plan, record.planned_at = self._plans[call.plan]

        def report(step: Step) -> None:
            if process.is_alive:
                record.steps.append((self.loop.time(), step))
                self.trace(f"!! {record.name} {step}")

        journal = None if call.journal is None else self.disk.directory / call.journal
        return await apply(session, record.plan, journal=journal, verify=call.verify, on_step=report)

    async def _create(self, session: MutexSession, record: CallRecord, process: Process) -> object:
        call = record.call
        slots = [NewSlot(percentage=50, experiments=call.members), NewSlot(percentage=50)]
        options: dict[str, Any] = {} if call.key is None else {"key": call.key}
        return await session.create_group(NewGroup(project_id=1, name="New", slots=slots, **options))

    async def _change(self, session: MutexSession, record: CallRecord, process: Process) -> object:
        call = record.call
        given: dict[str, Any] = {}
        if call.add:
            given["add_experiments"] = call.add
        if call.remove:
            given["remove_experiments"] = call.remove
        return await session.change_slot(call.group, call.slot, **given)

    async def _edit(self, session: MutexSession, record: CallRecord, process: Process) -> object:
        call = record.call
        await session.edit_slot(call.group, call.slot, experiments=call.add)
        return None

    async def _read(self, session: MutexSession, record: CallRecord, process: Process) -> object:
        return await session.get_group(record.call.group)

    async def _list(self, session: MutexSession, record: CallRecord, process: Process) -> object:
        return [group.id async for group in session.list_groups(page_size=2)]


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say nothing of tasks that are left as they are."""


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _input_of(call: Call, record: CallRecord) -> Any:
    edits = [SlotEdit(edit.group, edit.slot, **edit.lists) for edit in call.edits]

    def reused() -> Iterator[SlotEdit]:
        kept: dict[str, list[Any]] = {"experiments": [], "holdouts": [], "individuals": []}
        for edit in call.edits:
            for name, items in edit.lists.items():
                kept[name][:] = items
            yield SlotEdit(edit.group, edit.slot, **{name: kept[name] for name in edit.lists})

    def broken() -> Iterator[SlotEdit]:
        yield from edits
        raise InputBroke

    async def slowly() -> AsyncIterator[SlotEdit]:
        for edit in edits:
            await asyncio.sleep(0.05)
            yield edit

    async def swallowing() -> AsyncIterator[SlotEdit]:
        for edit in itertools.cycle(edits) if call.is_endless else edits:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
            yield edit

    sources: dict[str, Callable[[], Any]] = {
        "list": lambda: edits, "iterator": lambda: iter(edits), "async": slowly, "reuse": reused, "raise": broken,
        "swallow": swallowing, "endless": lambda: itertools.cycle(edits),
    }  # fmt: skip
    return sources[call.source]()


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Log nothing but what is critical."""
    loggers = [logging.getLogger(name) for name in ("aiomutex", "taskiq")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def simulate(scenario: Scenario, *, tracing: bool = False) -> World:
    """Run a scenario to its end.

    Returns:
        The world afterwards.
    """
    loop = SimulationLoop()
    loop.wall_offset = MIDNIGHT - scenario.service.before_midnight - loop.time()

    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.exists() else None) as folder:
        directory = Path(folder) / "disk"
        directory.mkdir()
        disk = Disk(directory)
        world = World(scenario, loop, disk, tracing=tracing)
        pages = mock.patch("aiomutex.bulk.reads.MAX_SINGLE", scenario.options.max_single)
        few = mock.patch("aiomutex.bulk.engine.FEW", -1)
        simulated = simulated_time(loop, scenario.seed), world.network.connected(), disk.watched()
        with contextlib.ExitStack() as patches:
            for patch in (quiet(), *simulated, redis_clock(loop), seeded_ids(scenario.seed), pages, few):
                patches.enter_context(patch)
            if world.fleet is not None:
                patches.enter_context(world.fleet.installed())
            main = loop.create_task(world.run(), name="simulation")
            try:
                loop.run_until_complete(main)
            except _HangError:
                # What hangs is left as it is: waiting for its end would hang, too.
                loop.set_exception_handler(_ignore)
            finally:
                loop.close()
    return world
