"""Callers and workers die, freeze and resume in any order. The service's own record of writes is the judge."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from bulk_support import ROOT, EmulatorProcess, Process
from fleet_support import HERE, KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_server import RedisServer

pytestmark = [pytest.mark.deep, pytest.mark.redis]

CLAIM_TIMEOUT: Final = 1.0
LATENCY: Final = 0.03
GROUPS: Final = 4
EDITS: Final = 48
STEP: Final = 1_000
SEEDS: Final = range(int(os.environ.get("FLEET_SEED", "0")), int(os.environ.get("FLEET_SEEDS", "3")))
"""The seeds of the generated test. To replay one: ``FLEET_SEED=7 FLEET_SEEDS=8 pytest -m deep tests/fleet``."""


class Write:
    """One slot write as it arrived at the service."""

    def __init__(self, at: float, path: str, body: dict[str, list[int]]) -> None:
        self.at = at
        self.group, slot = re.findall(r"\d+", path)[1:]
        self.address = f"{self.group}/{slot}"
        self.number = body["experiments"][0]
        self.run = self.number // STEP

    def __repr__(self) -> str:
        return f"{self.at % 1000:.3f}: {self.number} to {self.address}"


class Caller(Process):
    """A process that runs the same edits as all others; the numbers it writes show whose they are."""

    def __init__(self, run: int, env: dict[str, str]) -> None:
        super().__init__(HERE / "fleet_workers.py", "call", run * STEP, EDITS, GROUPS, env=env)
        self.run = run
        self.started = 0.0
        self.killed: float | None = None
        self.resumed: float | None = None
        """When it resumed after it had been frozen for so long that it counted as dead."""


class Scene:
    """An emulator, a Redis, and the workers and callers that a test starts and stops."""

    def __init__(self, emulator: EmulatorProcess, redis_url: str, stack: contextlib.ExitStack) -> None:
        self._emulator = emulator
        self._stack = stack
        self.env = {
            "AMPLITUDE_MANAGEMENT_API_KEY": KEY,
            "AIOMUTEX_BASE_URL": emulator.url,
            "FLEET_REDIS": redis_url,
            "FLEET_CLAIM_TIMEOUT": str(CLAIM_TIMEOUT),
            "FLEET_BATCH": "10",
            "PYTHONPATH": f"{ROOT}:{HERE}:{HERE.parent}",
        }
        self.workers: list[Process] = []
        self.callers: list[Caller] = []
        self.resumed: list[float] = []
        """When workers resumed."""
        self.prepare_caller()

    def start_worker(self, *, wait: bool = True) -> Process:
        worker = self._stack.enter_context(Process(HERE / "fleet_workers.py", "work", env=self.env))
        self.workers.append(worker)
        if wait:
            worker.line()
        return worker

    def prepare_caller(self) -> None:
        """Start a caller's process, so that it can begin its run at once."""
        self._prepared = self._stack.enter_context(Caller(1 + len(self.callers), self.env))

    def start_caller(self) -> Caller:
        caller = self._prepared
        caller.line()
        os.waitid(os.P_PID, caller.process.pid, os.WSTOPPED)
        caller.started = time.time()
        os.kill(caller.process.pid, signal.SIGCONT)
        self.callers.append(caller)
        self.prepare_caller()
        return caller

    def kill_caller(self, caller: Caller) -> None:
        if caller.process.poll() is None and caller.killed is None:
            caller.kill()
            caller.killed = time.time()

    def kill_worker(self, worker: Process) -> None:
        self.workers.remove(worker)
        worker.kill()

    def freeze(self, process: Process, seconds: float) -> None:
        """Stop a process with SIGSTOP and let it continue later."""
        if process.process.poll() is not None:
            return
        os.kill(process.process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(process.process.pid, signal.SIGCONT)
        if not isinstance(process, Caller):
            self.resumed.append(time.time())
        elif seconds > 1.5 * CLAIM_TIMEOUT:
            process.resumed = time.time()

    def writes(self) -> list[Write]:
        return [Write(*each) for each in self._emulator.ask("writes")]

    def wait_for_writes(self, count: int) -> None:
        end = time.monotonic() + 20
        while len(self._emulator.ask("writes")) < count and time.monotonic() < end:
            time.sleep(0.005)

    def finish(self, *, wait: bool = True) -> None:
        """Run the edits a last time, give everything left over the time to do harm, and judge.

        Args:
            wait: Start another worker before, and wait for the callers that are alive.
        """
        reports: dict[int, Any] = {}
        if wait:
            self.start_worker()
            # A live caller that still waits for a group may write after the last one.
            reports = {caller.run: caller.line() for caller in self.callers if caller.killed is None}
        last = self.start_caller()
        reports[last.run] = result = last.line()
        time.sleep(2.5 * CLAIM_TIMEOUT)
        writes = self.writes()
        assert result["report"] == f"{EDITS} edits: {EDITS} applied"
        slots = self._emulator.ask("slots")
        expected = {f"{1 + n % GROUPS}/{1 + n // GROUPS % 3}": [last.run * STEP + n] for n in range(EDITS)}
        assert {address: slots[address][0] for address in expected} == expected
        assert_one_write_in_flight(self.without_last_sends(writes))
        for caller in self.callers:
            assert_dead_runs_write_nothing(caller, self.callers, writes)
            if caller.killed is None:
                assert_truthful(reports[caller.run]["outcomes"], writes)

    def without_last_sends(self, writes: list[Write]) -> list[Write]:
        """Leave out what is not promised: the one request of a worker frozen between its last check and its send."""
        resumed = list(self.resumed)
        left: list[Write] = []
        for write in writes:
            since = [at for at in resumed if 0 <= write.at - at < LATENCY]
            if since and any(other.group == write.group and 0 <= write.at - other.at < LATENCY for other in left):
                resumed.remove(since[0])
            else:
                left.append(write)
        return left


def assert_one_write_in_flight(writes: list[Write]) -> None:
    for group in {write.group for write in writes}:
        mine = [write for write in writes if write.group == group]
        overlaps = [pair for pair in itertools.pairwise(mine) if pair[1].at - pair[0].at < LATENCY]
        assert overlaps == []


def assert_dead_runs_write_nothing(caller: Caller, callers: list[Caller], writes: list[Write]) -> None:
    if caller.killed is not None:
        later = {each.run for each in callers if each.started > caller.killed}
        for group in {write.group for write in writes}:
            runs = [write.run for write in writes if write.group == group]
            first = next((n for n, run in enumerate(runs) if run in later), len(runs))
            assert caller.run not in runs[first:], f"run {caller.run} wrote to group {group} after a later run"
    if caller.resumed is not None:
        assert [write for write in writes if write.run == caller.run and write.at > caller.resumed + LATENCY] == []


def assert_truthful(outcomes: dict[str, str], writes: list[Write]) -> None:
    written = {write.number for write in writes}
    for number, status in outcomes.items():
        assert status != "applied" or int(number) in written
        assert status != "skipped" or int(number) not in written


@pytest.fixture
def scene(redis_server: RedisServer) -> Iterator[Scene]:
    with (
        EmulatorProcess(groups=GROUPS, latency=LATENCY, limits=False, keep_requests=100_000) as emulator,
        contextlib.ExitStack() as stack,
    ):
        yield Scene(emulator, redis_server.url, stack)


def test_the_same_edits_can_be_run_again_at_once_after_caller_and_worker_died(scene: Scene) -> None:
    first = scene.start_worker()
    scene.start_worker()
    dead = scene.start_caller()
    scene.wait_for_writes(GROUPS * 3)
    scene.kill_worker(first)
    scene.kill_caller(dead)
    scene.finish(wait=False)
    assert {write.run for write in scene.writes()} == {1, 2}


def test_two_callers_take_turns_at_each_group(scene: Scene) -> None:
    scene.start_worker()
    scene.start_worker()
    callers = [scene.start_caller(), scene.start_caller()]
    for caller in callers:
        assert caller.line()["report"] == f"{EDITS} edits: {EDITS} applied"
        scene.callers.remove(caller)
    assert_one_write_in_flight(scene.writes())


def test_a_frozen_worker_sends_nothing_after_it_lost_its_jobs(scene: Scene) -> None:
    frozen = scene.start_worker()
    caller = scene.start_caller()
    scene.wait_for_writes(GROUPS)
    scene.start_worker()
    scene.freeze(frozen, 2 * CLAIM_TIMEOUT)
    assert caller.line()["report"] == f"{EDITS} edits: {EDITS} applied"
    scene.callers.remove(caller)
    time.sleep(CLAIM_TIMEOUT)
    writes = scene.writes()
    assert_one_write_in_flight(scene.without_last_sends(writes))
    scene.finish()


def test_a_frozen_caller_finds_its_run_dead(scene: Scene) -> None:
    scene.start_worker()
    frozen = scene.start_caller()
    scene.wait_for_writes(GROUPS)
    scene.freeze(frozen, 2 * CLAIM_TIMEOUT)
    result = frozen.line()
    assert "gave up its jobs" in result["report"]
    assert "skipped" in result["outcomes"].values()
    scene.callers.remove(frozen)
    scene.finish()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_order_of_deaths_brings_earlier_contents_back(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    steps: list[tuple[int, Callable[[], Any]]] = [
        (4, scene.start_caller),
        (3, lambda: scene.kill_caller(chance.choice(scene.callers))),
        (3, lambda: scene.kill_worker(chance.choice(scene.workers))),
        (3, lambda: scene.start_worker(wait=chance.random() < 0.5)),
        (2, lambda: scene.freeze(chance.choice(scene.workers), chance.uniform(0, 2) * CLAIM_TIMEOUT)),
        (2, lambda: scene.freeze(chance.choice(scene.callers), chance.uniform(0, 2) * CLAIM_TIMEOUT)),
    ]
    scene.start_worker()
    scene.start_worker()
    scene.start_caller()
    for _ in range(8):
        time.sleep(chance.uniform(0, 0.5) * CLAIM_TIMEOUT)
        (step,) = chance.choices([step for _, step in steps], [weight for weight, _ in steps])
        with contextlib.suppress(IndexError):  # no worker is left
            step()
    scene.finish()
