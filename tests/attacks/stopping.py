"""A call, a service that answers in pieces, and everything that must be as before once the call was stopped."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count, product
from typing import TYPE_CHECKING, Any, Final

import pytest
from cancelling import DEADLINE, Loop, Point, Watch, both, deadline, on_leaping_clock, some_turns, watch_here, watched
from dripping import Drip
from support import connector_of, idle, session_for, until

from aiomutex import LocalRateLimiter, MutexError, ServerError
from aiomutex._http.context import current_attempt
from aiomutex.bulk.journal_file import JournalFile
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
    from pathlib import Path

    from cancelling import Way

    from aiomutex import MutexSession, SlotOutcome

PLAIN: Final = ("connect", "permit", "headers", "body", "back-off")
"""What each call passes: a connection is made, the service fails once, and permits are rare."""


@dataclass(frozen=True)
class Subject:
    """A call to be stopped.

    Attributes:
        call: Makes it.
        passes: Stages it must be stopped in.
        fault: What the service does to the first request.
        before: What makes the call possible.
        after: What must be so afterwards, wherever it was stopped.
        outlives: Whether it goes on when a request's deadline is over.
        errors: What may come out besides ``DeadlineExceededError`` when a deadline is over.
        wasteful: Whether a permit may be taken for a request that never leaves.
    """

    name: str
    call: Callable[[Scene], Awaitable[object]]
    passes: tuple[str, ...] = PLAIN
    fault: dict[str, Any] | None = field(default_factory=lambda: {"status": 503})
    before: Callable[[Scene], Awaitable[object]] | None = None
    after: Callable[[Scene], Awaitable[object]] | None = None
    outlives: bool = False
    errors: tuple[type[MutexError], ...] = ()
    wasteful: bool = False


class Scene:
    """One service and one clock for many runs; each run has a session of its own."""

    session: MutexSession
    path: Path

    def __init__(self, loop: Loop, emulator: MutexEmulator, drip: Drip, directory: Path) -> None:
        self.emulator = emulator
        self.drip = drip
        self.loop = loop
        self.told: list[SlotOutcome] = []
        self.kept: dict[str, Any] = {}
        """What a subject's functions tell each other."""
        self._directory = directory
        self._runs = count()
        self._seeded = emulator.snapshot()
        self._failures: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self._failures.append(context))

    async def run(self, subject: Subject, way: Way, point: Point | None) -> Watch:
        """Make the call, stop it at ``point``, and look at what is left."""
        before = open_files()
        self.path = self._directory / f"{next(self._runs)}.db"
        self.told = []
        self.emulator.restore(self._seeded)
        self.emulator.faults.clear()
        limiter = LocalRateLimiter(per_second=1)
        async with session_for(
            self.drip.url, rate_limiter=limiter, deadline=DEADLINE, attempt_timeout=900.0, max_connections=2
        ) as self.session:
            if subject.before is not None:
                await self.unharmed(subject.before(self))
            await self.lose_connections()
            self.emulator.clear_history()
            if subject.fault is not None:
                self.emulator.fail_next(1, **subject.fault)
            await self.unharmed(limiter.acquire())  # so that the call has to wait for its own
            watch = Watch(self.loop, point)
            unsent = limiter.state().used_today - self.drip.requests

            async def call() -> None:
                error: MutexError | None = None
                try:
                    watch.stopped = await way(subject.call(self), watch)
                except MutexError as raised:
                    error = raised
                    watch.stopped = isinstance(error, subject.errors)
                # What the last attempt failed with is told rather than a deadline that leaves no time for another.
                told = way in (deadline, both) and isinstance(error, (ServerError, *subject.errors))
                assert error is None or told, f"{error!r} came out"
                # A call that came to its end in the very turn of the strike has nothing left to be stopped.
                assert watch.stopped or not watch.struck or way is deadline or watch.since < 2, "it went on"
                assert current_attempt.get() is None

            await watched(call(), watch)
            await self._assert_nothing_left(watch, limiter)
            sent = limiter.state().used_today - self.drip.requests - unsent
            assert sent == 0 or (subject.wasteful and sent == 1), f"{sent} permits are lost"
            if subject.after is not None:
                await self.unharmed(subject.after(self))
            self.emulator.faults.clear()
            await self._assert_it_works(limiter)
        await until(lambda: open_files() == before)
        assert not self._failures, self._failures
        return watch

    async def unharmed(self, work: Awaitable[object]) -> None:
        """Await it, with leaps of the clock instead of waits for permits."""

        async def whole() -> None:
            await work

        await watched(whole(), Watch(self.loop))

    async def lose_connections(self) -> None:
        """Let the pool be empty, as it is at the start."""
        for protocol in self._pooled():
            protocol.close()
        await until(lambda: not self.drip.connected)

    def _pooled(self) -> list[Any]:
        """Live connections that wait in the pool."""
        pools = connector_of(self.session)._conns.values()
        return [protocol for pool in pools for protocol, _ in pool if protocol.is_connected()]

    async def _assert_nothing_left(self, watch: Watch, limiter: LocalRateLimiter) -> None:
        await some_turns()
        assert [task for task in watch.tasks if not task.done()] == []
        assert idle(self.session)
        inside: Any = self.session
        assert len(inside._transport._timer) == 0
        assert limiter.state().waiting == 0
        await until(lambda: self.drip.connected == len(self._pooled()))

    async def _assert_it_works(self, limiter: LocalRateLimiter) -> None:
        self.loop.leap()
        try:
            limiter.acquire().send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("a permit that is due has to be waited for")
        await self.unharmed(self.session.get_group(1))


def open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208  # numbers, not paths


@asynccontextmanager
async def scene_in(loop: Loop, directory: Path) -> AsyncGenerator[Scene]:
    """A service, and calls that are watched also where they write a journal, for which they wait for nothing."""
    inside: Any = JournalFile
    writing = inside._writing

    @contextmanager
    def watched_writing(journal: JournalFile) -> Generator[object]:
        watch = watch_here()
        with writing(journal) as db:
            yield db
            if watch:
                watch.at("journal")  # within the transaction

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JournalFile, "_writing", watched_writing)
        async with MutexEmulator(groups=4, limits=False) as emulator, Drip(emulator.port) as drip:
            yield Scene(loop, emulator, drip, directory)


def attack(
    directory: Path, subject: Subject, way: Way, numbers: Iterable[int] = (1,), late: Iterable[bool] = (False, True)
) -> Counter[str]:
    """Stop a call in each stage it passes, early and late, the so-and-so-many-eth time it is there.

    Returns:
        How often it was stopped, by stage.
    """

    async def main(loop: Loop) -> Counter[str]:
        async with scene_in(loop, directory) as scene:
            return await _attack(scene, subject, way, numbers, late)

    return on_leaping_clock(main)


async def stopped_everywhere(
    loop: Loop, call: Callable[[], Awaitable[object]], way: Way, after: Callable[[], Awaitable[object]]
) -> set[str]:
    """Stop a call of any kind at each point at which it waits, with a look at what is left.

    Returns:
        The stages it was stopped in.
    """
    stages: set[str] = set()

    async def run(point: Point | None) -> Watch:
        before = open_files()
        watch = Watch(loop, point, leaps=False)
        stopped = await watched(way(call(), watch), watch)
        assert stopped or not watch.struck or watch.since < 2, f"it went on after {point}"
        try:
            await after()
        except AssertionError as error:
            error.add_note(f"stopped at {point}")
            raise
        await until(lambda: all(task.done() for task in watch.tasks))
        await until(lambda: open_files() == before)
        if watch.struck and point:
            stages.add(point.stage)
        return watch

    passed = (await run(None)).passed
    for stage, late in product(passed, (False, True)):
        for number in range(1, passed[stage] + 1):
            await run(Point(stage, number, late))
    return stages


async def _attack(
    scene: Scene, subject: Subject, way: Way, numbers: Iterable[int], moments: Iterable[bool]
) -> Counter[str]:
    stages = (await scene.run(subject, way, None)).passed
    stopped: Counter[str] = Counter()
    for stage, late, number in product(stages, moments, numbers):
        if number > stages[stage]:
            continue
        watch = await scene.run(subject, way, Point(stage, number, late))
        stopped[stage] += watch.struck
        certain = way is deadline and stage in ("connect", "permit", "headers") and not late and watch.struck
        assert watch.stopped or subject.outlives or not certain, f"no deadline came out at {stage} {number}"
    missed = set(subject.passes) - set(+stopped) if 1 in numbers else None
    assert not missed, f"never stopped in {missed}"
    return stopped
