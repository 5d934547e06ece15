"""Reads that lag, requests that arrive late, and a budget that ends, on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import math
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import timed_service
from bulk_support import commit_inline, in_seconds
from simulation.clock import MIDNIGHT, SimulationLoop, simulated_time
from timed_service import Failure, TimedService, unanswered, unavailable
from virtual_time import run

from aiomutex import (
    BadRequestError,
    DailyBudgetExhaustedError,
    LimiterUnavailableError,
    LocalRateLimiter,
    SlotChange,
    SlotEdit,
    VerificationError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from aiomutex import BulkReport
    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallResult
    from aiomutex.bulk.options import AnyEdit

LAG = 5.0
DAY = 86_400.0
GET = "GET /api/1/mutexes/1"


@pytest.fixture(autouse=True)
def _reads_do_not_lag() -> None:  # pyright: ignore[reportUnusedFunction]
    """Here they do."""


@pytest.fixture(autouse=True)
def nothing_arrives_late() -> None:
    """Here it does."""


def statuses(report: BulkReport) -> list[str]:
    return [outcome.status for outcome in sorted(report.outcomes, key=lambda outcome: outcome.position)]


async def spaced(*edits: AnyEdit) -> AsyncIterator[AnyEdit]:
    """Edits with a second between them, in which a run forgets the group."""
    for edit in edits:
        yield edit
        await asyncio.sleep(1.0)


# ---------------------------------------------------------------------------------------------- reads that lag


def test_a_change_keeps_what_the_run_wrote_before_although_reads_do_not_show_it_yet() -> None:
    service = TimedService(lag=LAG)
    edits = spaced(SlotChange(1, 1, add_experiments=[7]), SlotChange(1, 1, add_experiments=[8]))
    assert statuses(run(service.edit(edits))) == ["applied", "applied"]
    assert service.experiments("1", 1) == [0, 7, 8]
    # The second one is read again when a read shows the first one, and not before that.
    assert service.methods() == {"GET": 3, "PATCH": 2}


def test_an_edit_is_not_skipped_because_a_read_does_not_show_one_in_doubt_yet() -> None:
    service = TimedService(lag=LAG)
    service.failures = {"PATCH": [unavailable(commits=True)], "GET": [None, unavailable()]}
    edits = spaced(SlotEdit(1, 1, experiments=[7]), SlotEdit(1, 1, experiments=[0]))
    assert statuses(run(service.edit(edits, skip_unchanged=True))) == ["unknown", "applied"]
    assert service.experiments("1", 1) == [0]


def test_a_canary_is_read_back_as_soon_as_a_read_shows_it_with_few_requests() -> None:
    service = TimedService(groups=30, lag=LAG)

    async def main() -> None:
        started = asyncio.get_running_loop().time()
        edits = [SlotEdit(number, 1, experiments=[number]) for number in range(1, 31)]
        assert statuses(await service.edit(edits, canary=True)) == ["applied"] * 30
        assert asyncio.get_running_loop().time() - started < 9.0

    run(main())
    assert service.methods() == {"GET": 6, "PATCH": 30}  # once before it, and after 0, 0.5, 1.5, 3.5 and 7.5 seconds


# ---------------------------------------------------------------------------------------------- requests in doubt


def test_a_change_keeps_what_an_edit_in_doubt_may_have_written() -> None:
    service = TimedService()
    service.failures = {"PATCH": [unavailable(commits=True)], "GET": [None, unavailable()]}
    changes = [SlotChange(1, 1, add_experiments=[7]), SlotChange(1, 1, add_experiments=[8])]
    assert statuses(run(service.edit(changes))) == ["unknown", "applied"]
    assert service.experiments("1", 1) == [0, 7, 8]


def test_a_group_that_waits_for_a_late_write_is_served_once_when_the_wait_ends_during_a_write() -> None:
    service = TimedService()
    service.failures = {"PATCH": [unanswered()]}
    last = "PATCH /api/1/mutexes/1/slots/3"
    service.latency = {last: 5.0}

    async def edits() -> AsyncIterator[AnyEdit]:
        yield SlotEdit(1, 1, experiments=[7])
        yield SlotEdit(1, 1, experiments=[8])
        await asyncio.sleep(29.5)  # the first one may arrive for 30 seconds
        yield SlotEdit(1, 3, experiments=[9])
        await service.sent(last)
        await asyncio.sleep(4.0)
        yield SlotEdit(1, 2, experiments=[9])

    assert statuses(run(service.edit(edits(), verify=True))) == ["unknown", "applied", "applied", "applied"]
    assert service.requests[-1] == GET


def test_a_write_that_can_no_longer_arrive_does_not_explain_what_somebody_else_wrote() -> None:
    service = TimedService()
    service.failures = {"PATCH": [unanswered()]}
    service.latency = {GET: 0.1}
    write = "PATCH /api/1/mutexes/1/slots/1"

    async def edits() -> AsyncIterator[AnyEdit]:
        yield SlotEdit(1, 1, experiments=[7])
        yield SlotEdit(1, 1, experiments=[8])
        await service.sent(GET, 3)  # before the first edit, after it, and when it can no longer arrive
        yield SlotEdit(1, 1, experiments=[9])
        await service.sent(write, 3)
        await asyncio.sleep(0.05)
        service.write("1", 1, experiments=[7])

    report = run(service.edit(edits(), verify=True))
    assert statuses(report) == ["unknown", "applied", "failed"]
    assert isinstance(report.failed[0].error, VerificationError)
    assert service.experiments("1", 1) == [7]
    assert service.requests.count(write) == 3


def test_a_resumed_run_expects_that_a_request_of_the_killed_run_arrives_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_inline(monkeypatch)
    (tmp_path / "first").mkdir()
    service = TimedService()
    write = "PATCH /api/1/mutexes/1/slots/1"
    edits = [SlotEdit(1, 1, experiments=[n]) for n in (7, 8)]

    async def main() -> None:
        service.latency = {write: 10.0}
        first = asyncio.create_task(service.edit(edits, journal=tmp_path / "first" / "run.db"))
        await service.sent(write)
        shutil.copytree(tmp_path / "first", tmp_path / "killed")  # what is on the disk if the process is killed now
        first.cancel()
        service.latency.clear()
        asyncio.get_running_loop().call_later(5.0, lambda: service.write("1", 1, experiments=[7]))
        report = await service.edit(edits, journal=tmp_path / "killed" / "run.db", verify=True)
        assert statuses(report) == ["applied", "applied"]
        await asyncio.sleep(5.0)

    run(main())
    assert service.experiments("1", 1) == [8]


def test_what_a_run_knows_of_a_group_is_not_read_again() -> None:
    service = TimedService()
    changes = [SlotChange(1, slot, add_experiments=[n]) for n, slot in enumerate((1, 2, 1), start=7)]
    assert statuses(run(service.edit(changes))) == ["applied"] * 3
    assert service.experiments("1", 1) == [0, 7, 9]
    assert service.methods() == {"GET": 1, "PATCH": 3}


def test_a_group_is_read_again_before_a_change_that_waited_for_more_than_a_minute() -> None:
    service = TimedService()
    first = "PATCH /api/1/mutexes/1/slots/1"
    service.latency = {first: 70.0}

    async def main() -> None:
        changes = [SlotChange(1, slot, add_experiments=[7]) for slot in (1, 2)]
        editing = asyncio.create_task(service.edit(changes))
        await service.sent(first)
        service.write("1", 2, experiments=[5])
        assert statuses(await editing) == ["applied", "applied"]

    run(main())
    assert service.experiments("1", 2) == [5, 7]


# ---------------------------------------------------------------------------------------------- the end of a run


@pytest.mark.parametrize("verify", [False, True])
def test_a_run_whose_groups_wait_for_more_than_a_minute_reads_each_of_them_once_before_its_edit(
    monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    groups = 200
    monkeypatch.setattr(timed_service, "LATENCY", 1.0)
    service = TimedService(groups, per_day=10 * groups)
    edits = [SlotEdit(number, 1, experiments=[number]) for number in range(1, groups + 1)]
    report = run(service.edit(edits, reads="groups", verify=verify, skip_unchanged=True, concurrency=2))
    assert statuses(report) == ["applied"] * groups
    assert service.methods() == {"GET": groups * (1 + verify), "PATCH": groups}


def test_every_edit_has_an_outcome_if_no_group_can_be_read() -> None:
    service = TimedService(groups=5)
    service.failures = {"GET": [Failure(LimiterUnavailableError("no Redis")) for _ in range(5)]}
    report = run(service.edit([SlotEdit(number, 1, experiments=[number]) for number in range(1, 6)], verify=True))
    assert sorted(statuses(report)) == ["failed", *["skipped"] * 4]
    assert isinstance(report.stopped_by, LimiterUnavailableError)


def test_an_edit_that_fails_after_the_run_was_stopped_is_failed_and_not_skipped() -> None:
    service = TimedService()
    error = BadRequestError("rejected", status=400, method="PATCH", path="").with_attempts(1)
    service.failures = {"PATCH": [Failure(error)]}

    async def main() -> list[str]:
        async with service.stream([SlotEdit(1, 1, experiments=[n]) for n in (1, 2)]) as outcomes:
            await service.sent("PATCH /api/1/mutexes/1/slots/1")
            outcomes.stop()
            return [outcome.status async for outcome in outcomes]

    assert run(main()) == ["failed", "skipped"]


@pytest.mark.parametrize(("verify", "most"), [(False, 1_000), (True, 12_000)])
def test_the_number_of_edits_pulled_ahead_is_bounded(verify: bool, most: int) -> None:
    service = TimedService()
    service.latency = {GET: 100.0, "PATCH /api/1/mutexes/1/slots/1": 100.0}

    async def main() -> int:
        endless = (SlotEdit(1, 1, experiments=[n]) for n in itertools.count())
        async with service.stream(endless, verify=verify) as outcomes:
            await asyncio.sleep(1.0)
            return outcomes.pulled

    assert run(main()) == most


# ---------------------------------------------------------------------------------------------- budgets


def test_what_was_read_back_needs_no_more_of_the_budget() -> None:
    service = TimedService(groups=20, per_day=63)
    edits = spaced(*(SlotEdit(number, 1, experiments=[number]) for number in range(1, 21)))
    assert statuses(run(service.edit(edits, verify=True))) == ["applied"] * 20
    assert service.methods() == {"GET": 40, "PATCH": 20}


@pytest.mark.parametrize(
    ("groups", "per_day"),
    [
        pytest.param(20, 31, id="groups one by one"),
        pytest.param(60, 115, id="pages that fail"),
    ],
)
def test_what_was_written_is_read_back_before_the_budget_ends(groups: int, per_day: int) -> None:
    service = TimedService(groups=groups, per_day=per_day)
    service.failures = {"LIST": [unavailable() for _ in range(100)]}
    edits = [SlotEdit(number, 1, experiments=[number]) for number in range(1, groups + 1)]
    report = run(service.edit(edits, verify=True, concurrency=1))
    assert set(statuses(report)) == {"applied", "skipped"}
    assert len(report.applied) == service.methods()["PATCH"]


def test_a_listing_of_many_pages_is_read_after_more_writes() -> None:
    service = TimedService(groups=1_500)
    service.failures = {"LIST": [unavailable() for _ in range(3)]}  # pages of 125 groups: 12 of them
    edits = [SlotEdit(number, 1, experiments=[number]) for number in range(1, 1_441, 6)]
    assert statuses(run(service.edit(edits, verify=True))) == ["applied"] * 240
    assert service.methods()["LIST"] < 3 + 3 * 12  # before the writes and after them


class DailyService(TimedService):
    """A service with a budget for each day."""

    def __init__(self, groups: int, per_day: int) -> None:
        super().__init__(groups)
        self.limiter = LocalRateLimiter(5_000, per_day)

    async def send(self, request: Request[Any]) -> CallResult[Any]:
        await self.limiter.acquire()
        return await super().send(request)


def run_from_midnight(work: Coroutine[Any, Any, None]) -> None:
    loop = SimulationLoop()
    loop.wall_offset = MIDNIGHT - loop.time()
    with asyncio.Runner(loop_factory=lambda: loop) as runner, simulated_time(loop, seed=1):
        runner.run(work)


def test_each_day_of_a_run_is_used_up_and_what_was_written_on_it_is_read_back_on_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = DailyService(groups=5, per_day=40)
        edits = [SlotEdit(1 + n % 5, 1 + n % 3, experiments=[n]) for n in range(120)]
        started = loop.time()
        by_day = Counter[int]()
        async with asyncio.timeout(10 * DAY):
            stream = service.stream(edits, verify=True, on_budget="wait", concurrency=8)
            async with stream as outcomes:
                async for outcome in outcomes:
                    assert outcome.status == "applied"
                    by_day[int((loop.time() - started) / DAY)] += 1
        assert len(by_day) == 5
        assert all(by_day[day] >= 28 for day in range(4))  # 30 writes a day, or a few less
        assert sum(by_day.values()) == 120

    run_from_midnight(main())


def test_more_groups_than_workers_are_read_back_on_the_day_on_which_they_were_written() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = DailyService(groups=5, per_day=40)
        edits = [SlotEdit(1 + n % 5, 1 + n % 3, experiments=[n]) for n in range(60)]
        started = loop.time()
        first_day = wrote = 0
        stream = service.stream(edits, verify=True, on_budget="wait", reads="groups", concurrency=2)
        async with asyncio.timeout(10 * DAY), stream as outcomes:
            async for _ in outcomes:
                if loop.time() - started < DAY / 2:
                    first_day += 1
                    wrote = service.methods()["PATCH"]
        assert first_day == wrote

    run_from_midnight(main())


def test_an_edit_in_doubt_that_finds_no_budget_on_the_next_day_stays_in_doubt() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = TimedService()
        used_up, again = (
            DailyBudgetExhaustedError("used up", resets_at=in_seconds(DAY), used=1, limit=1, suspected=True)
            for _ in range(2)
        )
        service.failures = {
            "PATCH": [Failure(used_up.with_attempts(1, maybe_applied=True)), *[Failure(again) for _ in range(99)]]
        }
        stream = service.stream([SlotEdit(1, 1, experiments=[7])], on_budget="wait")
        async with stream as outcomes:
            loop.call_later(70, outcomes.stop)
            assert [outcome.status async for outcome in outcomes] == ["unknown"]

    run_from_midnight(main())


class RetryingService(TimedService):
    """A service that confirms its first write after an attempt without a response."""

    async def send(self, request: Request[Any]) -> CallResult[Any]:
        is_first = request.method == "PATCH" and not self.methods()["PATCH"]
        result = await super().send(request)
        return result._replace(attempts=2, earlier=(unanswered().error,)) if is_first else result


@pytest.mark.parametrize("is_in_doubt", [False, True])
def test_a_group_that_waits_for_a_late_write_is_not_read_meanwhile(is_in_doubt: bool) -> None:
    service = RetryingService()
    if is_in_doubt:
        service.failures = {"PATCH": [None, None, unanswered()]}
    edits: list[AnyEdit] = [SlotEdit(1, 1, experiments=[1]), SlotEdit(1, 1, experiments=[2])]
    edits += [SlotEdit(1, 1, experiments=[3])] if is_in_doubt else [SlotEdit(2, 1, experiments=[9])]
    edits += [SlotChange(1, 1, add_experiments=[4]) if is_in_doubt else SlotEdit(1, 2, experiments=[5])]

    async def source() -> AsyncIterator[AnyEdit]:
        for edit in edits[:-1]:
            yield edit
        await asyncio.sleep(3)
        yield edits[-1]

    run(service.edit(source(), verify=True))
    assert service.methods()["GET"] <= 6


def test_a_read_for_one_slot_that_fails_decides_nothing_about_an_edit_of_another() -> None:
    service = RetryingService()
    service.failures = {"PATCH": [None, None, unavailable()], "GET": [None, None, unavailable()]}

    async def edits() -> AsyncIterator[AnyEdit]:
        yield SlotEdit(1, 1, experiments=[1])  # its first attempt may arrive within 30 s
        yield SlotEdit(1, 1, experiments=[2])
        await asyncio.sleep(25.0)
        yield SlotEdit(1, 2, experiments=[3])  # is read again after 10 s
        yield SlotEdit(1, 2, experiments=[4])

    assert statuses(run(service.edit(edits(), verify=True))) == ["unknown", "unknown", "failed", "applied"]


# ---------------------------------------------------------------------------------------------- other lists


class ClearingService(TimedService):
    """A service that clears the lists that an edit does not give."""

    def write(self, group: str, slot: int, **lists: Any) -> None:
        super().write(group, slot, **{"experiments": [], "holdouts": [], "individuals": []} | lists)


def test_an_edit_that_changed_other_lists_fails_although_its_last_read_back_is_slow() -> None:
    service = ClearingService()
    service.versions["1", 1] = [(-math.inf, {"experiments": [0], "holdouts": [5], "individuals": []})]

    async def main() -> None:
        editing = asyncio.create_task(service.edit([SlotEdit(1, 1, experiments=[7])], verify=True))
        await service.sent(GET, 2)
        service.latency[GET] = 0.5
        report = await editing
        assert statuses(report) == ["failed"]
        assert isinstance(report.outcomes[0].error, VerificationError)

    run(main())
