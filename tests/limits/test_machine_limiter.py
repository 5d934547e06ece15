"""The budget that processes of one machine share: real processes, a real file, and what can happen to both."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from limits_support import exchanged, most_in_a_second, take
from support import until
from virtual_time import run

from aiomutex import (
    ConfigurationError,
    DailyBudgetExhaustedError,
    LimiterUnavailableError,
    MutexSession,
    Priority,
    RateLimiter,
)
from aiomutex.limits import schedule
from aiomutex.limits.machine import MachineBudget, MachineRateLimiter
from aiomutex.limits.messages import Lease, LeaseRequest
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.queues import Queue
    from pathlib import Path

spawn = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def close_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the files of all limiters of a test, as Python 3.13 and later warn of those that are dropped."""
    opened: list[sqlite3.Connection] = []
    connect: Any = sqlite3.connect

    def recorded(*args: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **options | {"check_same_thread": False}))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", recorded)
    yield
    for connection in opened:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A budget that was last used more than a window ago, so that tests need not wait for it."""
    path = tmp_path / "budget.db"
    age(path)
    return path


def age(path: Path, used: int = 0) -> None:
    """Make the budget look as if it had not been used for a minute."""
    clock = time.time() - time.monotonic()
    old = time.monotonic() - 60
    day = int(time.time() // 86_400)
    state = f'{{"clock":{clock!r},"state":{{"log":[{old!r}],"day":{day},"used":{used}}}}}'

    async def create() -> None:
        limiter = MachineRateLimiter(path)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limiter.acquire(), 0.05)
        await limiter.aclose()

    if not path.exists():
        asyncio.run(create())
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("REPLACE INTO budget (id, state) VALUES (1, ?)", (state.encode(),))


async def test_it_is_a_rate_limiter_and_its_repr_states_facts(path: Path) -> None:
    limiter = MachineRateLimiter(path)
    assert isinstance(limiter, RateLimiter)
    await limiter.acquire()
    used = limiter.state().used_today  # more than 1 if a busy machine missed a send time
    assert repr(limiter) == (
        f"<MachineRateLimiter {str(path)!r} · {used} of 97 permits used in 1.02 s · "
        f"{used} of 100,000 today · 0 waiting>"
    )
    await limiter.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await limiter.acquire()


async def test_two_limiters_share_the_second_and_the_day(path: Path) -> None:
    one, other = MachineRateLimiter(path), MachineRateLimiter(path)
    first, second = await asyncio.gather(take(one, 80), take(other, 80))
    assert most_in_a_second(first + second) <= 97
    await other.acquire()
    assert other.state().used_today >= 161  # a send time that this machine was too slow for counts, too


async def test_no_other_process_can_act_on_the_state_that_an_exchange_is_about_to_change(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = MachineRateLimiter(path)
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as other_process:

        def exchange(*args: Any) -> Lease:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other_process.execute("BEGIN IMMEDIATE")
            return schedule.exchange(*args)

        monkeypatch.setattr("aiomutex.limits.machine.exchange", exchange)
        await limiter.acquire()
        other_process.execute("BEGIN IMMEDIATE")
    await limiter.aclose()


def test_an_interactive_call_does_not_wait_for_the_turn_of_bulk_work(path: Path) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        others = MachineBudget(path)
        crowd = LeaseRequest(
            max_permits=97,
            window=1.02,
            per_day=999,
            wanted=60,
            interactive=0,
            uncertain=False,
            day=0,
            used=0,
            spacing=2.0,
        )
        assert (await others.lease(crowd, loop.time)).wait == pytest.approx(2.0)
        limiter = MachineRateLimiter(path)
        bulk = asyncio.ensure_future(limiter.acquire(Priority.BULK))
        await asyncio.sleep(0.001)
        start = loop.time()
        await limiter.acquire()
        waited = loop.time() - start
        bulk.cancel()
        await others.aclose()
        await limiter.aclose()
        return waited

    assert run(main()) < 0.2


async def test_the_day_is_shared_and_ends_in_an_error(path: Path) -> None:
    one, other = MachineRateLimiter(path, per_day=5), MachineRateLimiter(path, per_day=5)
    results = [await asyncio.gather(limiter.acquire(), return_exceptions=True) for limiter in (one, other) * 5]
    assert sum(isinstance(result, float) for [result] in results) <= 5
    for limiter in (one, other):
        with pytest.raises(DailyBudgetExhaustedError, match="5 of 5 requests used today"):
            await limiter.acquire()


async def test_the_last_permits_of_a_day_are_granted_without_a_busy_loop(path: Path) -> None:
    limiter = MachineRateLimiter(path, per_second=20, per_day=12)
    budget: Any = vars(limiter)["_budget"]
    exchange, exchanges = budget._exchange, 0

    def counted(*args: Any) -> Any:
        nonlocal exchanges
        exchanges += 1
        return exchange(*args)

    budget._exchange = counted
    results = await asyncio.gather(*(limiter.acquire() for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, DailyBudgetExhaustedError) for result in results) >= 8
    assert exchanges < 40


async def test_a_given_count_replaces_that_of_the_file_once(path: Path) -> None:
    for used_today, expected in ((None, 1), (500, 501), (None, 502), (0, 1)):
        limiter = MachineRateLimiter(path, used_today=used_today)
        await limiter.acquire()
        assert limiter.state().used_today == expected
        await limiter.aclose()
    with pytest.raises(ConfigurationError, match="used_today must be an integer from 0"):
        MachineRateLimiter(path, used_today=-1)


async def test_a_429_pauses_all_processes(path: Path) -> None:
    one, other = MachineRateLimiter(path), MachineRateLimiter(path)
    first, _ = await one.acquire(), await other.acquire()
    one.throttled(first, 0.6)
    await until(lambda: exchanged(one))
    start = time.monotonic()
    await other.acquire()
    assert time.monotonic() - start > 0.5
    assert other.state().per_window == 95


def test_a_permit_is_reported_as_no_later_than_it_was_although_some_loops_count_in_milliseconds(path: Path) -> None:
    rounded = 5.0  # up to a millisecond after the permit was granted
    assert 0.0009 < rounded - MachineBudget(path).earliest_server_time(rounded) < 0.01


async def test_the_rate_recovers_for_all_processes(path: Path) -> None:
    one, other = MachineRateLimiter(path), MachineRateLimiter(path)
    one.throttled(await one.acquire(), 0.1)
    await until(lambda: exchanged(one))
    one.answered(await one.acquire())
    await until(lambda: exchanged(one))
    for permits in (95, 96, 97):
        await other.acquire()
        assert other.state().per_window == permits
        later = "json_set(s, '$.state.recovery.since', json_extract(s, '$.state.recovery.since') - 60)"
        with contextlib.closing(sqlite3.connect(path)) as file, file:
            file.execute(
                f"UPDATE budget SET state = (SELECT {later} FROM (SELECT CAST(state AS TEXT) AS s FROM budget))"
            )
    assert (one.state().pauses_total, one.state().throttled_total, other.state().throttled_total) == (1, 1, 0)


@pytest.mark.parametrize("eager", [False, hasattr(asyncio, "eager_task_factory")])
async def test_it_works_with_eager_tasks(path: Path, eager: bool) -> None:
    loop = asyncio.get_running_loop()
    if eager:
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # new in Python 3.12
    limiter = MachineRateLimiter(path)
    await asyncio.wait_for(take(limiter, 60), 10)
    with pytest.raises(ConfigurationError):
        await asyncio.wait_for(MachineRateLimiter(path.parent).acquire(), 10)


async def test_a_session_uses_it(path: Path) -> None:
    limiter = MachineRateLimiter(path)
    async with (
        MutexEmulator(groups=1) as emulator,
        MutexSession("key", base_url=emulator.url, rate_limiter=limiter) as s,
    ):
        await s.get_group(1)
    assert limiter.state().used_today >= 1
    await limiter.acquire()  # closing a session does not close a limiter that it was given


async def test_interactive_calls_of_one_limiter_go_ahead_of_bulk_work_of_another(path: Path) -> None:
    bulk, interactive = MachineRateLimiter(path), MachineRateLimiter(path)
    backlog = [asyncio.ensure_future(bulk.acquire(Priority.BULK)) for _ in range(400)]
    await until(lambda: sum(permit.done() for permit in backlog) > 100)
    before = sum(permit.done() for permit in backlog)
    await interactive.acquire()
    # However slow this machine is: the call waited behind few of the bulk permits.
    assert sum(permit.done() for permit in backlog) - before <= 12
    for permit in backlog:
        permit.cancel()
    await asyncio.gather(*backlog, return_exceptions=True)


# The file


async def test_a_new_file_waits_one_window_and_belongs_to_its_user_alone(tmp_path: Path) -> None:
    limiter = MachineRateLimiter(tmp_path / "new.db")
    start = time.monotonic()
    await limiter.acquire()
    assert time.monotonic() - start > 1.0
    assert stat.S_IMODE((tmp_path / "new.db").stat().st_mode) == 0o600


def lose(path: Path, *, replace: bool) -> None:
    for file in path.parent.iterdir():
        file.unlink()
    if replace:
        path.write_bytes(b"")


@pytest.mark.parametrize("accident", ["deleted", "replaced"])
async def test_a_file_that_is_deleted_or_replaced_counts_as_full_and_keeps_the_day(path: Path, accident: str) -> None:
    limiter = MachineRateLimiter(path)
    await take(limiter, 40)
    await asyncio.to_thread(lose, path, replace=accident == "replaced")
    start = time.monotonic()
    await limiter.acquire()
    assert time.monotonic() - start > 1.0
    assert limiter.state().used_today >= 41


async def test_after_a_reboot_a_full_window_is_assumed(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("""UPDATE budget SET state = json_set(CAST(state AS TEXT), '$.clock', 5.0)""")
    start = time.monotonic()
    limiter = MachineRateLimiter(path)
    await limiter.acquire()
    assert time.monotonic() - start > 1.0


def make_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE other (x)")


def make_text(path: Path) -> None:
    path.write_text("not a database, but longer than a header" * 9)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "missing" / "x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_text, "is not a budget file"),
        (make_database, "another application"),
        (make_directory, "cannot be opened"),
        (make_dangling_link, "cannot be opened"),
    ],
)
async def test_a_file_that_is_not_a_budget_is_an_error(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "odd"
    await asyncio.to_thread(make, path)
    limiter = MachineRateLimiter(path)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=rf"{path}.*{message}"):
            await asyncio.wait_for(limiter.acquire(), 20)


@pytest.mark.parametrize("state", ["{}", "[1]", '{"clock":1,"state":{"used":-1}}', '{"clock":1,"state":{"log":"x"}}'])
async def test_a_damaged_budget_is_an_error(path: Path, state: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE budget SET state = ?", (state.encode(),))
    with pytest.raises(ConfigurationError, match="is damaged"):
        await asyncio.wait_for(MachineRateLimiter(path).acquire(), 20)


async def test_a_file_dated_far_ahead_is_an_error(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("""UPDATE budget SET state = json_set(CAST(state AS TEXT), '$.state.day', 99999)""")
    with pytest.raises(ConfigurationError, match="days ahead of this machine's clock"):
        await asyncio.wait_for(MachineRateLimiter(path).acquire(), 20)


async def test_a_lock_that_is_held_is_an_error_after_half_a_second_and_the_event_loop_goes_on(path: Path) -> None:
    limiter = MachineRateLimiter(path)
    await limiter.acquire()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticker = asyncio.ensure_future(tick())
        with pytest.raises(LimiterUnavailableError, match=r"locked by another process for 0\.5 s"):
            await asyncio.wait_for(limiter.acquire(), 20)
        assert ticks > 5
        ticker.cancel()
        holder.execute("ROLLBACK")
    await asyncio.wait_for(limiter.acquire(), 20)


async def test_a_full_disk_is_an_error_and_counts_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = MachineRateLimiter(path)
    await limiter.acquire()
    inside: Any = limiter
    connection = inside._budget._connection
    connection.execute("PRAGMA max_page_count = 1")
    connection.execute("CREATE TEMP TABLE filler (x)")

    def encode(row: object) -> bytes:
        return b"x" * 1_000_000

    monkeypatch.setattr("aiomutex.limits.machine._encode", encode)
    with pytest.raises(LimiterUnavailableError, match="cannot be read or written"):
        await asyncio.wait_for(limiter.acquire(), 20)
    monkeypatch.undo()
    connection.execute("PRAGMA max_page_count = 10000")
    await limiter.acquire()
    assert limiter.state().used_today >= 2


@pytest.mark.parametrize(("wrong", "kind"), [(5, "int"), (None, "None"), ("", "str"), ("a\0b", "str"), (["x"], "list")])
def test_an_invalid_path_is_rejected(wrong: Any, kind: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"path must be the path of a file, not .*{kind}"):
        MachineRateLimiter(wrong)


# Processes


LEAST = 30
FORK = """
import asyncio, os, sys
from aiomutex import ConfigurationError, LocalRateLimiter
from aiomutex.limits.machine import MachineRateLimiter

limiter = MachineRateLimiter(sys.argv[1])
local = LocalRateLimiter()
unused = LocalRateLimiter()

async def take(count):
    await asyncio.gather(*(limiter.acquire() for _ in range(count)))
    await limiter.acquire()
    return limiter.state().used_today

async def take_local(limiter):
    await limiter.acquire()

asyncio.run(take(9))
asyncio.run(take_local(local))
child = os.fork()
if child == 0:
    asyncio.run(take(9))
    asyncio.run(take_local(unused))
    try:
        asyncio.run(take_local(local))
    except ConfigurationError as error:
        assert "before a fork" in str(error), error
    else:
        os._exit(2)
    sys.exit(0)  # an ordinary exit, which deallocates what the parent opened
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(asyncio.run(take(9)))
"""


def test_after_a_fork_each_process_leases_for_itself_and_a_local_limiter_says_so(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= LEAST  # more if this machine was too slow for a send time, which is lost then


async def _work(path: str, seconds: float) -> list[float]:
    limiter = MachineRateLimiter(path)
    permits: list[float] = []
    end = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < end:
            permits.append(await limiter.acquire(Priority.BULK))

    await asyncio.gather(*(one() for _ in range(20)))
    await limiter.aclose()
    return permits


def work(path: str, seconds: float, results: Queue[list[float]]) -> None:
    results.put(asyncio.run(_work(path, seconds)))


def test_eight_processes_stay_below_the_limit_while_some_are_killed_or_stopped(path: Path) -> None:
    results: Queue[list[float]] = spawn.Queue()
    processes = [spawn.Process(target=work, args=(str(path), 3.5, results)) for _ in range(8)]
    for process in processes:
        process.start()
    time.sleep(1.5)
    killed, stopped = processes[:2]
    assert killed.pid is not None
    assert stopped.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    os.kill(stopped.pid, signal.SIGSTOP)
    time.sleep(1.0)
    os.kill(stopped.pid, signal.SIGCONT)
    reports = [results.get(timeout=60) for _ in processes[1:]]
    for process in processes:
        process.join()
    permits = [permit for report in reports for permit in report]
    assert most_in_a_second(permits) <= 97
    assert all(reports)
    # The rate is measured by ``python -m benchmarks machine``: here other tests use the processors.
    assert len(permits) > 150
