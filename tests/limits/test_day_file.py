# Some tests use private attributes, to set a clock or to assert that nothing leaked.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
import tempfile
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run

from aiomutex.errors import ConfigurationError, DailyBudgetExhaustedError, LimiterUnavailableError
from aiomutex.limits import LocalRateLimiter
from aiomutex.limits import day_file as day_file_module
from aiomutex.limits.daily_budget import DailyBudget
from aiomutex.limits.day_file import BLOCK, DayFile

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event
    from pathlib import Path

spawn = multiprocessing.get_context("spawn")
TODAY = 20_780  # 2026-11-23


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budget"


def count_in(path: Path) -> int:
    return int(path.read_text().split()[3])


def test_the_file_is_readable_text(path: Path) -> None:
    DayFile(path).raise_to(TODAY, 123)
    assert path.read_text() == "requests on 2026-11-23: 000000000123\n"


def test_limiters_share_a_count_that_includes_earlier_runs(path: Path) -> None:
    async def main() -> None:
        first, second = LocalRateLimiter(per_day=120, day_file=path), LocalRateLimiter(per_day=120, day_file=str(path))
        for limiter in (first, second):
            for _ in range(40):
                await limiter.acquire()
        await first.aclose()
        await second.aclose()
        assert count_in(path) == 80
        third = LocalRateLimiter(per_day=120, day_file=path)
        assert third.state().used_today == 80
        for _ in range(40):
            await third.acquire()
        with pytest.raises(DailyBudgetExhaustedError, match="120 of 120 requests used today"):
            await third.acquire()

    run(main())


def test_closing_returns_unused_permits(path: Path) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(day_file=path)
        await limiter.acquire()
        assert count_in(path) == BLOCK
        await limiter.aclose()
        assert count_in(path) == 1
        await limiter.aclose()
        assert count_in(path) == 1
        await limiter.acquire()
        assert count_in(path) == 1 + BLOCK

    run(main())


def test_used_today_raises_the_files_count_and_never_lowers_it(path: Path) -> None:
    assert LocalRateLimiter(day_file=path, used_today=500).state().used_today == 500
    assert LocalRateLimiter(day_file=path, used_today=20).state().used_today == 500


def test_a_new_day_starts_at_zero(path: Path) -> None:
    DayFile(path).raise_to(TODAY - 1, 90_000)
    assert DayFile(path).take(TODAY, 100_000) == (0, BLOCK)


def test_a_new_day_takes_a_new_block(path: Path) -> None:
    clock = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
    now = [clock]
    day = DailyBudget(100, file=DayFile(path), clock=lambda: now[0])
    for _ in range(100):
        day.take()
    with pytest.raises(DailyBudgetExhaustedError):
        day.take()
    now[0] += 86_400
    day.take()
    assert path.read_text() == "requests on 2026-11-24: 000000000050\nrequests on 2026-11-23: 000000000100\n"


def test_a_file_of_one_day_continues_with_two_days(path: Path) -> None:
    path.write_text("requests on 2026-11-22: 000000090000\n")
    assert DayFile(path).take(TODAY - 1, 100_000) == (90_000, BLOCK)
    assert path.read_text() == "requests on 2026-11-22: 000000090050\n"
    assert DayFile(path).take(TODAY, 100_000) == (0, BLOCK)
    assert path.read_text() == "requests on 2026-11-23: 000000000050\nrequests on 2026-11-22: 000000090050\n"


def test_a_clock_set_back_does_not_reset_the_budget(path: Path) -> None:
    DayFile(path).raise_to(TODAY + 1, 700)
    assert DayFile(path).take(TODAY, 100_000) == (700, BLOCK)
    assert DayFile(path).take(TODAY + 1, 100_000) == (700 + BLOCK, BLOCK)


def test_a_clock_that_was_a_day_ahead_does_not_reset_the_budget(path: Path) -> None:
    file = DayFile(path)
    file.raise_to(TODAY, 1_000)
    assert file.take(TODAY + 1, 1_000) == (0, BLOCK)
    assert file.take(TODAY, 1_000) == (1_000 + BLOCK, 0)
    assert file.raise_to(TODAY, 1_010) == 1_000 + BLOCK
    assert file.raise_to(TODAY, 1_100) == 1_100
    assert file.take(TODAY + 1, 1_000) == (100, BLOCK)
    assert file.take(TODAY + 2, 1_000) == (0, BLOCK)


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 130), st.booleans()), max_size=6), max_size=4))
def test_no_day_exceeds_its_budget_if_the_clock_starts_each_day_right_and_returns_to_yesterday(
    days: list[list[tuple[int, int, bool]]],
) -> None:
    noon = TODAY * 86_400 + 43_200
    now = float(noon)

    def clock() -> float:
        return now

    with tempfile.TemporaryDirectory() as folder:
        file = DayFile(f"{folder}/budget")
        day = DailyBudget(200, file=file, clock=clock)
        for number, setbacks in enumerate(days):
            granted = 0
            for days_back, attempts, ends in [(0, 1, False), *setbacks]:
                now = noon + (number - days_back) * 86_400
                for _ in range(attempts):
                    with contextlib.suppress(DailyBudgetExhaustedError):
                        day.take()
                        granted += 1
                if ends:
                    day.close()
                    day = DailyBudget(200, file=file, clock=clock)
            assert 1 <= granted <= 200


def test_a_file_of_the_day_after_tomorrow_is_too_far_ahead(path: Path) -> None:
    DayFile(path).raise_to(TODAY + 2, 700)
    with pytest.raises(ConfigurationError, match="2 days ahead"):
        DayFile(path).take(TODAY, 100_000)


def test_the_last_block_is_smaller_and_then_there_is_none(path: Path) -> None:
    file = DayFile(path)
    file.raise_to(TODAY, 90)
    assert file.take(TODAY, 100) == (90, 10)
    assert file.take(TODAY, 100) == (100, 0)
    assert file.take(TODAY, 50) == (100, 0)
    assert count_in(path) == 100


def test_permits_are_not_returned_to_another_day_or_below_zero(path: Path) -> None:
    file = DayFile(path)
    file.raise_to(TODAY, 5)
    file.give_back(TODAY - 1, 3)
    assert count_in(path) == 5
    file.give_back(TODAY, 9)
    assert count_in(path) == 0


def test_a_file_from_the_future_is_a_clear_error(path: Path) -> None:
    DayFile(path).raise_to(TODAY + 30, 700)
    with pytest.raises(ConfigurationError) as caught:
        DayFile(path).take(TODAY, 100_000)
    assert str(caught.value) == (
        f"day_file {path} is dated 2026-12-23, 30 days ahead of this machine's clock; "
        "correct the clock, or delete the file to start at 0"
    )


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "requests on 2026-11-23: 00000000",
        "requests on 2026-13-45: 000000000001\n",
        "requests on 2026-11-23: 000000000001\nrequests on 2026-13-45: 000000000001\n",
        "requests on 2026-11-23: 000000000001\nrequests on 2026-11-23: 000000000001\n",
        "requests on 2026-11-23: 000000000001\nrequests on 2026-11-22: 00000",
        "requests on 2026-11-23: 000000000001\nrequests on 2026-11-22: 000000000001\nx",
        "\0" * 37,
        "x" * 99,
    ],
)
def test_a_corrupted_file_is_a_clear_error(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        LocalRateLimiter(day_file=path)
    assert str(caught.value) == (
        f"day_file {path} must contain the count of a day, not {text[:40].encode()!r}; "
        "use another file, or delete this one to start at 0"
    )


def test_a_file_corrupted_later_fails_the_waiters(path: Path) -> None:
    def spoil() -> None:
        path.write_text("garbage")

    async def main() -> None:
        limiter = LocalRateLimiter(per_second=1, day_file=path)
        await limiter.acquire()
        limiter._daily_budget.used = limiter._daily_budget.checkpoint = limiter._daily_budget._block_end
        spoil()
        with pytest.raises(ConfigurationError):
            await limiter.acquire()

    run(main())


class Disk:
    """A disk that is full or unreachable while ``works`` is false."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, code: int = errno.ENOSPC) -> None:
        self._real = getattr(os, call)
        self._code = code
        self.works = True
        monkeypatch.setattr(os, call, self._call)

    def _call(self, *given: object) -> object:
        if not self.works:
            raise OSError(self._code, os.strerror(self._code))
        return self._real(*given)


@pytest.mark.parametrize(
    ("call", "code"),
    [("pwrite", errno.ENOSPC), ("pwrite", errno.EDQUOT), ("pread", errno.EIO), ("pread", errno.ESTALE)],
)
def test_a_failing_disk_fails_the_waiters_at_once_until_it_works_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    disk = Disk(monkeypatch, call, code)

    async def main() -> None:
        limiter = LocalRateLimiter(day_file=path)
        calls = [asyncio.ensure_future(limiter.acquire()) for _ in range(160)]
        await asyncio.sleep(0.01)
        served = sum(call.done() for call in calls)
        disk.works = False
        start = asyncio.get_running_loop().time()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert asyncio.get_running_loop().time() - start < 1.5
        errors = [result for result in results if isinstance(result, BaseException)]
        assert served < 160 - len(errors) < 160
        assert {type(error) for error in errors} == {LimiterUnavailableError}
        assert str(errors[0]) == f"day_file {path} cannot be read or written: {os.strerror(code)}"
        with pytest.raises(LimiterUnavailableError):
            await limiter.acquire()
        assert limiter.state().waiting == 0
        disk.works = True
        await limiter.acquire()

    run(main())


def test_a_disk_that_fails_on_close_raises_the_same_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DayFile(path)
    real = os.close

    def close(handle: int) -> None:  # like a network file system, which writes late
        real(handle)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "close", close)
    with pytest.raises(LimiterUnavailableError, match="cannot be read or written: Disk quota exceeded"):
        file.take(TODAY, 100)


def test_any_other_failure_of_the_daily_budget_leaves_nobody_waiting(path: Path) -> None:
    def broken() -> float:
        raise ZeroDivisionError

    async def main() -> None:
        limiter = LocalRateLimiter(per_second=2, day_file=path)
        first, second = (asyncio.ensure_future(limiter.acquire()) for _ in range(2))
        await first
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        limiter._daily_budget.clock = broken
        with pytest.raises(LimiterUnavailableError, match="the limiter failed: ZeroDivisionError"):
            await second
        assert [type(error) for error in reported] == [ZeroDivisionError]
        with pytest.raises(ZeroDivisionError):
            await limiter.acquire()
        assert len(limiter._waiters) == 0

    run(main())


def test_a_caller_whose_enqueueing_fails_is_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        limiter = LocalRateLimiter(day_file=path)
        await limiter.acquire()

        def fails(*_: object) -> None:
            raise ZeroDivisionError

        limiter._check_clock_at = 0.0
        monkeypatch.setattr(limiter, "_on_join", fails)
        with pytest.raises(ZeroDivisionError):
            await limiter.acquire()
        assert len(limiter._waiters) == 0

    run(main())


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "", 5, b"a\0b"])
def test_an_impossible_file_name_is_a_clear_error(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^day_file must be the path of a file, not .* \(\w+\)$"):
        LocalRateLimiter(day_file=name)


def test_a_file_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened: No such file or directory"):
        LocalRateLimiter(day_file=tmp_path / "absent" / "budget")
    with pytest.raises(ConfigurationError, match="cannot be opened: Is a directory"):
        LocalRateLimiter(day_file=tmp_path)


def test_a_platform_without_locks_is_a_clear_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day_file_module, "fcntl", None)
    with pytest.raises(ConfigurationError, match=r"^day_file needs POSIX file locks \(fcntl\), which this"):
        LocalRateLimiter(day_file=path)


def test_a_lock_that_is_never_released_is_an_error_not_a_hang(path: Path) -> None:
    file = DayFile(path)
    file.raise_to(TODAY, 1)
    holder = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(LimiterUnavailableError, match="another process has locked day_file"):
            file.take(TODAY, 100)
    finally:
        os.close(holder)
    assert file.take(TODAY, 100) == (1, BLOCK)


def take_blocks(path: str, blocks: int, ready: Event) -> None:
    file = DayFile(path)
    ready.set()
    for _ in range(blocks):
        file.take(TODAY, 10**9)


def take_forever(path: str, ready: Event) -> None:
    take_blocks(path, 1, ready)
    while True:
        DayFile(path).take(TODAY, 10**9)


def test_processes_count_together(path: Path) -> None:
    ready = spawn.Event()
    processes = [spawn.Process(target=take_blocks, args=(str(path), 100, ready)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert count_in(path) == 3 * 100 * BLOCK


def test_a_killed_process_leaves_an_intact_file_and_no_lock(path: Path) -> None:
    for _ in range(2):
        ready = spawn.Event()
        process = spawn.Process(target=take_forever, args=(str(path), ready))
        process.start()
        ready.wait()
        time.sleep(0.02)
        before = DayFile(path).raise_to(TODAY, 0)
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        used, size = DayFile(path).take(TODAY, 10**9)
        assert size == BLOCK
        assert used >= before
        assert used % BLOCK == 0
