"""A fleet in the simulation: callers and workers as processes of their own, which die and freeze one by one.

Whatever runs for a process has it in ``current_process``. So the event loop can hold what a frozen one would do, and
the network and Redis ignore what a dead one does.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import math
import random
import uuid
import weakref
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import msgspec
from redis.exceptions import RedisError
from taskiq import TaskiqEvents, TaskiqState
from taskiq.receiver import Receiver

from aiomutex.fleet import Fleet
from aiomutex.fleet.wire import Result
from aiomutex.limits import Priority
from aiomutex.limits.redis import RedisRateLimiter

from .clock import OrderedSet
from .network import Process, current_call, current_job, current_process, permitted_at
from .redis_model import URL, RedisModel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator

    from fakeredis import FakeServer

    from aiomutex import MutexSession, RateLimiter

    from .clock import SimulationLoop
    from .network import Sent
    from .scenario import Event, Scenario

__all__ = ["NAME", "FleetModel", "seeded_ids", "writes_at_once", "writes_too_late"]

NAME: Final = "simulated"
"""The name of the queue and of the budget."""
_FIRST: Final = 1_000
"""The number of the first worker's process. Phases have the numbers before."""
_BLOCK: Final = 3.0
"""Seconds after which Redis has ended all reads that wait for jobs."""
_RESTART: Final = 1.0
"""Seconds after which a worker that ended by itself is started again, as by a supervisor."""

msgspec.json.Decoder(Result)  # msgspec looks types up on first use: not while ``datetime`` is the simulated one


class FleetModel:
    """The workers of all phases, the callers of the present one, and the Redis between them."""

    def __init__(
        self,
        scenario: Scenario,
        loop: SimulationLoop,
        server: FakeServer,
        make_session: Callable[[RateLimiter], MutexSession],
        trace: Callable[[str], None],
    ) -> None:
        self.redis = RedisModel(server, loop)
        self.callers: list[Fleet] = []
        self._scenario = scenario
        self._loop = loop
        self._make_session = make_session
        self._trace = trace
        self._runs: dict[str, str] = {}
        """The call that each job is of."""
        self._workers: dict[int, _Worker] = {}
        self._count = 0
        self._burials: list[asyncio.Task[None]] = []
        self._elsewhere: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        """The tasks of workers and of Redis."""

    @contextlib.contextmanager
    def installed(self) -> Generator[None]:
        """Let processes be frozen, and reach Redis."""
        loop: Any = self._loop
        loop._ready = _Ready(loop._ready)
        loop.set_task_factory(self._make_task)
        with self.redis.connected():
            yield

    def _make_task(self, loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        context = options.get("context")
        process = current_process.get() if context is None else context.get(current_process)
        if process is not None and (process.is_worker or process is self.redis.process):
            self._elsewhere.add(task)
        return task

    def is_elsewhere(self, task: asyncio.Task[Any]) -> bool:
        """Whether a task is not the caller's."""
        return task in self._elsewhere or task.get_name() == "aiomutex-limiter"

    @property
    def has_workers(self) -> bool:
        """Whether somebody takes jobs now."""
        return any(worker.process.is_alive and not worker.process.is_frozen for worker in self._workers.values())

    def start(self) -> None:
        """Start the workers."""
        for place in range(1, self._scenario.options.workers + 1):
            self._start(place)

    async def stop(self) -> None:
        """End the workers as SIGTERM does."""
        for worker in self._workers.values():
            self._thaw(worker.process)
            worker.finish.set()
            await asyncio.wait([worker.task])
        for worker in self._workers.values():
            await worker.close()
        if self._burials:
            await asyncio.wait(self._burials)
        await asyncio.sleep(_BLOCK)

    async def open_callers(self, process: Process) -> None:
        """Make a fleet for each client of a phase, and open it once Redis is there."""
        await self._create_task(process, self._open_callers(process), "opening")

    async def _open_callers(self, process: Process) -> None:
        while len(self.callers) < self._scenario.options.clients:
            fleet = self._fleet()
            broker: Any = fleet.broker
            broker.exchange = functools.partial(self._exchange, broker.exchange)
            try:
                await fleet.__aenter__()
            except RedisError:
                if process.is_alive:
                    await asyncio.sleep(_RESTART)
                    continue
            self.callers.append(fleet)

    async def close_callers(self) -> None:
        """Close the fleets of a phase."""
        for fleet in self.callers:
            await fleet.__aexit__()
        self.callers.clear()

    def happen(self, event: Event, caller: Process) -> None:
        """Let something happen to a process or to Redis."""
        worker = self._workers.get(event.worker)
        process = caller if worker is None else worker.process
        if event.kind == "redis":
            self.redis.leave(event.seconds)
        elif event.kind == "death" and worker is not None and worker.process.is_alive:
            self._end(worker)
            self._later(event.seconds, self._start, event.worker)
        elif event.kind == "freeze" and process.is_alive and not process.is_frozen:
            process.frozen.append((self._loop.time(), math.inf))
            self._later(event.seconds, self._thaw, process)

    def end_caller(self, process: Process) -> None:
        """Note that the caller has died. What it does from now on reaches nobody."""
        process.died_at = self._loop.time()
        self._thaw(process)

    def leftovers(self) -> Iterator[str]:
        """What is left in Redis, when each run has ended or counts as dead and a worker has seen it."""
        contents: Any = self.redis.server.dbs[0]
        for name in ("jobs", "unfinished"):
            key = f"aiomutex:{NAME}:{name}".encode()
            if count := len(contents[key].value if key in contents else ()):
                yield f"{count} {name} in Redis"

    def _fleet(self, **options: Any) -> Fleet:
        given = self._scenario.options
        return Fleet(
            URL, name=NAME, claim_timeout=given.claim_timeout, batch_size=given.batch_size, max_jobs=given.max_jobs,
            **options,
        )  # fmt: skip

    def _start(self, place: int) -> None:
        self._trace(f"** worker {place} starts")
        self._count += 1
        service, options = self._scenario.service, self._scenario.options
        limiter = _NotingLimiter(
            URL, name=NAME, per_second=service.per_second, per_day=service.per_day, safe=options.safe
        )
        fleet = self._fleet(session=lambda: self._make_session(limiter))
        broker: Any = fleet.broker
        broker.work = functools.partial(self._work, broker.work)
        worker = self._workers[place] = _Worker(
            Process(_FIRST + self._count, {}, {}, {}, is_worker=True), broker, limiter
        )
        worker.task = self._create_task(worker.process, worker.run(), f"worker {self._count}")
        worker.task.add_done_callback(lambda _: self._ended(place, worker), context=Context())

    def _ended(self, place: int, worker: _Worker) -> None:
        if worker.process.is_alive and not worker.finish.is_set():
            error = None if worker.task.cancelled() else worker.task.exception()
            self._trace(f"** worker {place} ended: {error!r}")
            self._end(worker)
            self._later(_RESTART, self._start, place)

    def _end(self, worker: _Worker) -> None:
        worker.process.is_alive = False
        worker.process.died_at = self._loop.time()
        self._thaw(worker.process)
        worker.task.cancel()
        self._burials.append(self._create_task(worker.process, worker.close(), "burial"))

    def _thaw(self, process: Process) -> None:
        if process.is_frozen:
            self._trace(f"** process {process.number} goes on")
            process.frozen[-1] = process.frozen[-1][0], self._loop.time()
            ready: Any = self._loop
            ready._ready.extend(process.held)
            process.held.clear()

    def _later(self, seconds: float, happen: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_later(seconds, happen, *arguments, context=Context())

    def _create_task(self, process: Process, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        context = Context()
        context.run(current_process.set, process)
        return self._loop.create_task(work, name=name, context=context)

    async def _exchange(self, exchange: Callable[..., Any], run: str, given: object, *job: Any) -> Any:
        if job:
            self._runs[job[0]] = current_call.get()
        return await exchange(run, given, *job)

    async def _work(self, work: Callable[..., Any], job: str, doing: object) -> None:
        current_call.set(self._runs[job])
        current_job.set(job)
        await work(job, doing)


class _Worker:
    """One worker: what ``taskiq worker`` does, without its process."""

    task: asyncio.Task[None]

    def __init__(self, process: Process, broker: Any, limiter: RedisRateLimiter) -> None:
        self.process = process
        self.finish = asyncio.Event()
        self._broker = broker
        self._limiter = limiter

    async def run(self) -> None:
        self._broker.is_worker_process = True
        receiver = Receiver(self._broker, run_startup=True, max_async_tasks=100)
        self._broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, _order_deadlines)
        await receiver.listen(self.finish)

    async def close(self) -> None:
        await asyncio.wait([self.task])
        await self._broker.shutdown()
        await self._limiter.aclose()


def _order_deadlines(state: TaskiqState) -> None:
    state.session._transport._timer._deadlines = OrderedSet()


class _NotingLimiter(RedisRateLimiter):
    """A limiter that notes when it granted a request."""

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        permit = await super().acquire(priority)
        permitted_at.set(asyncio.get_running_loop().time())
        return permit


class _Ready(collections.deque[asyncio.Handle]):
    """What the event loop has to run now. What is of a frozen process is held when its turn comes."""

    def popleft(self) -> asyncio.Handle:
        handle = super().popleft()
        inside: Any = handle
        process = inside._context.get(current_process)
        if process is None or not process.is_frozen:
            return handle
        process.held.append(handle)
        nothing = asyncio.Handle(lambda: None, (), inside._loop)
        nothing.cancel()
        return nothing


@contextlib.contextmanager
def seeded_ids(seed: int) -> Generator[None]:
    """Let the IDs of runs, jobs and workers come from the seed."""
    drawn = random.Random(seed)

    def draw() -> uuid.UUID:
        return uuid.UUID(bytes=drawn.randbytes(16), version=4)

    with mock.patch.object(uuid, "uuid4", draw):
        yield


def writes_at_once(sent: list[Sent], claim_timeout: float) -> Iterator[tuple[Sent, Sent]]:
    """Pairs of writes of a group of which the second was sent while the first was in flight.

    Not promised, and left out: that a process sends nothing which was frozen after its last check of the job; and that
    a write of a worker that died or froze is waited for longer than ``claim_timeout`` after its last sign of life.
    """
    writes = [each for each in sent if each.method == "PATCH"]
    for index, first in enumerate(writes):
        until = _in_flight_until(first, claim_timeout)
        for second in writes[index + 1 :]:
            if second.at >= until:
                break
            if _was_checked(second) and _group(first) == _group(second):
                yield first, second


def writes_too_late(sent: list[Sent]) -> Iterator[tuple[Sent, Sent]]:
    """Pairs of writes of a group of which the second was sent although its job had been given to others before."""
    turns: dict[str, list[tuple[Process, str]]] = {}
    last: dict[str, Sent] = {}
    for each in sent:
        if each.method != "PATCH":
            continue
        mine, ended = (each.sender, each.job), turns.setdefault(_group(each), [])
        before = last.get(_group(each))
        if before is not None and (before.sender, before.job) != mine:
            ended.append((before.sender, before.job))
            if mine in ended and _was_checked(each) and not _was_given_up(before, each.at):
                yield before, each
        last[_group(each)] = each


def _group(sent: Sent) -> str:
    return sent.path.split("/")[4]


def _was_checked(sent: Sent) -> bool:
    """Whether its process was not frozen between the check of its job and the send."""
    return all(end <= sent.permitted_at or sent.at <= start for start, end in sent.sender.frozen)


def _was_given_up(sent: Sent, at: float) -> bool:
    """Whether its process died or froze until then, so that its job may be given to others, even for a second time."""
    return sent.sender.died_at <= at or any(start < at and end > sent.at for start, end in sent.sender.frozen)


def _in_flight_until(sent: Sent, claim_timeout: float) -> float:
    over = math.inf if sent.over is None else sent.over
    gone = [start for start, _ in sent.sender.frozen if sent.at <= start < over]
    if sent.sender.died_at <= over:
        gone.append(sent.sender.died_at)
    if not gone:
        return over
    # Nobody in the fleet can know more of it than that the service has had the time to handle it.
    # The last sign of life may have been a quarter of the claim timeout earlier.
    handled = sent.at if sent.arrived is None else sent.arrived
    return min(handled, gone[0] + claim_timeout * 3 / 4)
