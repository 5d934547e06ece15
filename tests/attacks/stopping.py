"""Runs a call against an emulator behind a slow relay, interrupts it, and checks that nothing is left behind."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, product
from typing import TYPE_CHECKING, Any, Final

from cancelling import (
    DEADLINE,
    Loop,
    Point,
    Watch,
    deadline,
    deadline_then_cancel,
    run_ready,
    run_with_fake_clock,
    watched,
)
from slow_relay import SlowRelay
from support import connector_of, idle, session_for, until

from aiomutex import LocalRateLimiter, MutexError, ServerError
from aiomutex._http.context import current_attempt
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
    from pathlib import Path

    from cancelling import Way

    from aiomutex import MutexSession, SlotOutcome

PLAIN: Final = ("connect", "permit", "headers", "body", "back-off")
"""Stages that each call passes: it opens a connection, waits for a permit, and the service fails once."""


@dataclass(frozen=True)
class Subject:
    """A call to interrupt.

    Attributes:
        call: Makes the call.
        passes: The stages in which it must be interrupted at least once.
        fault: The emulator's fault for the first request.
        before: Prepares the call.
        after: Checks what must hold afterwards, wherever the call was interrupted.
        outlives: Whether the call continues when a request's deadline expires.
        errors: Errors that an expired deadline may raise besides ``DeadlineExceededError``.
        wasteful: Whether a permit may be used up by a request that is never sent.
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
    """One emulator and one clock for many runs. Each run has its own session."""

    session: MutexSession
    path: Path

    def __init__(self, loop: Loop, emulator: MutexEmulator, relay: SlowRelay, directory: Path) -> None:
        self.emulator = emulator
        self.relay = relay
        self.loop = loop
        self.reported: list[SlotOutcome] = []
        self.kept: dict[str, Any] = {}
        """Values that a subject's functions share."""
        self._directory = directory
        self._runs = count()
        self._seeded = emulator.snapshot()
        self._failures: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self._failures.append(context))

    async def run(self, subject: Subject, way: Way, point: Point | None) -> Watch:
        """Make the call, interrupt it at ``point``, and check what is left."""
        before = open_files()
        self.path = self._directory / f"{next(self._runs)}.db"
        self.reported = []
        self.emulator.restore(self._seeded)
        self.emulator.faults.clear()
        limiter = LocalRateLimiter(per_second=1)
        async with session_for(
            self.relay.url, rate_limiter=limiter, deadline=DEADLINE, attempt_timeout=900.0, max_connections=2
        ) as self.session:
            if subject.before is not None:
                await self.without_interruption(subject.before(self))
            await self.lose_connections()
            self.emulator.clear_history()
            if subject.fault is not None:
                self.emulator.fail_next(1, **subject.fault)
            await self.without_interruption(limiter.acquire())  # makes the call wait for its own permit
            watch = Watch(self.loop, point)
            unsent = limiter.state().used_today - self.relay.requests

            async def call() -> None:
                error: MutexError | None = None
                try:
                    watch.stopped = await way(subject.call(self), watch)
                except MutexError as raised:
                    error = raised
                    watch.stopped = isinstance(error, subject.errors)
                # When the deadline leaves no time for another attempt, the error of the last attempt is raised.
                allowed = way in (deadline, deadline_then_cancel) and isinstance(error, (ServerError, *subject.errors))
                assert error is None or allowed, f"raised {error!r}"
                # A call that ended in the same iteration as the interruption cannot be stopped any more.
                assert watch.stopped or not watch.interrupted or way is deadline or watch.waits_after < 2, (
                    "it continued"
                )
                assert current_attempt.get() is None

            await watched(call(), watch)
            await self._assert_nothing_left(watch, limiter)
            sent = limiter.state().used_today - self.relay.requests - unsent
            assert sent == 0 or (subject.wasteful and sent == 1), f"{sent} permits were lost"
            if subject.after is not None:
                await self.without_interruption(subject.after(self))
            self.emulator.faults.clear()
            await self._assert_session_works(limiter)
        await until(lambda: open_files() == before)
        assert not self._failures, self._failures
        return watch

    async def without_interruption(self, work: Awaitable[object]) -> None:
        """Await ``work`` without an interruption, and without waiting for permits."""

        async def whole() -> None:
            await work

        await watched(whole(), Watch(self.loop))

    async def lose_connections(self) -> None:
        """Close all pooled connections, so that the call opens one."""
        for protocol in self._pooled():
            protocol.close()
        await until(lambda: not self.relay.connected)

    def _pooled(self) -> list[Any]:
        """The live connections in the pool."""
        pools = connector_of(self.session)._conns.values()
        return [protocol for pool in pools for protocol, _ in pool if protocol.is_connected()]

    async def _assert_nothing_left(self, watch: Watch, limiter: LocalRateLimiter) -> None:
        await run_ready()
        assert [task for task in watch.tasks if not task.done()] == []
        assert idle(self.session)
        inside: Any = self.session
        assert len(inside._transport._timer) == 0
        assert limiter.state().waiting == 0
        await until(lambda: self.relay.connected == len(self._pooled()))

    async def _assert_session_works(self, limiter: LocalRateLimiter) -> None:
        self.loop.advance()
        try:
            limiter.acquire().send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("a permit that is due was not granted at once")
        await self.without_interruption(self.session.get_group(1))


def open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208  # numbers, not paths


@asynccontextmanager
async def scene_in(loop: Loop, directory: Path) -> AsyncGenerator[Scene]:
    """Start an emulator behind a slow relay."""
    async with MutexEmulator(groups=4, limits=False) as emulator, SlowRelay(emulator.port) as relay:
        yield Scene(loop, emulator, relay, directory)


def attack(
    directory: Path, subject: Subject, way: Way, numbers: Iterable[int] = (1,), late: Iterable[bool] = (False, True)
) -> Counter[str]:
    """Interrupt a call in each stage it passes, in a run of its own for each point.

    Args:
        directory: A directory for journals.
        subject: The call.
        way: How to interrupt it.
        numbers: At which of its waits in a stage, counted from 1.
        late: Whether to interrupt it late; both by default.

    Returns:
        How often it was interrupted, by stage.
    """

    async def main(loop: Loop) -> Counter[str]:
        async with scene_in(loop, directory) as scene:
            return await _attack(scene, subject, way, numbers, late)

    return run_with_fake_clock(main)


async def stop_everywhere(
    loop: Loop, call: Callable[[], Awaitable[object]], way: Way, after: Callable[[], Awaitable[object]]
) -> set[str]:
    """Interrupt any coroutine at each point where it waits, and call ``after`` each time.

    Returns:
        The stages in which it was interrupted.
    """
    stages: set[str] = set()

    async def run(point: Point | None) -> Watch:
        before = open_files()
        watch = Watch(loop, point, skips_waits=False)
        stopped = await watched(way(call(), watch), watch)
        assert stopped or not watch.interrupted or watch.waits_after < 2, f"it continued after {point}"
        try:
            await after()
        except AssertionError as error:
            error.add_note(f"interrupted at {point}")
            raise
        await until(lambda: all(task.done() for task in watch.tasks))
        await until(lambda: open_files() == before)
        if watch.interrupted and point:
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
        stopped[stage] += watch.interrupted
        certain = way is deadline and stage in ("connect", "permit", "headers") and not late and watch.interrupted
        assert watch.stopped or subject.outlives or not certain, f"no deadline was raised at {stage} {number}"
    missed = set(subject.passes) - set(+stopped) if 1 in numbers else None
    assert not missed, f"never interrupted in {missed}"
    return stopped
