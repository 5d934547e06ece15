from __future__ import annotations

import asyncio
import csv
import inspect
import pickle
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from bulk_support import after, assert_holds, assert_in_order, assert_true, edits_for, session_for
from support import FAST, ONCE

from aiomutex import (
    AuthenticationError,
    BadRequestError,
    BulkReport,
    InvalidRequestError,
    MutexSession,
    NotFoundError,
    RetryPolicy,
    ServerError,
    SlotEdit,
    SlotOutcome,
    TooManyFailuresError,
    TransportError,
)
from aiomutex.bulk.options import Settings
from aiomutex.emulator.faults import Fault
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bulk_support import Editor


async def test_an_edit_whose_response_was_lost_is_sent_again_and_counts_both_attempts(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.fail_next(1, after_commit=True)
    report = await session.edit_slots([SlotEdit("7", 1, experiments=[123])])
    assert report.applied[0].attempts == 2
    assert emulator.groups["7"].slots[0].experiments == [123]


async def test_each_edit_has_an_outcome_with_its_status_and_error(emulator: MutexEmulator, editor: Editor) -> None:
    edits = [SlotEdit(1, 1, experiments=[1]), SlotEdit(999, 1, experiments=[2]), SlotEdit(2, 9, experiments=[3])]
    report = await editor.edit_slots(edits)
    by_position = {outcome.position: outcome for outcome in report.outcomes}
    assert [by_position[n].status for n in range(3)] == ["applied", "failed", "failed"]
    assert isinstance(by_position[1].error, NotFoundError)
    assert isinstance(by_position[2].error, BadRequestError | NotFoundError)
    assert all(by_position[n].edit == edits[n] for n in range(3))
    assert str(report) == "3 edits: 1 applied, 2 failed"
    with pytest.raises(ExceptionGroup) as caught:
        report.raise_for_failures()
    assert caught.value.message == str(report)
    encoded = [msgspec.json.decode(msgspec.json.encode(outcome.to_dict())) for outcome in report.outcomes]
    assert sorted((each["group_id"], each["status"], each["experiments"]) for each in encoded) == [
        ("1", "applied", [1]),
        ("2", "failed", [3]),
        ("999", "failed", [2]),
    ]
    assert {each["error"] and each["error"]["error"] for each in encoded} >= {None, "NotFoundError"}
    notes = sorted(error.__notes__[0] for error in caught.value.exceptions)
    assert notes == ["edit 1: group 999, slot 1", "edit 2: group 2, slot 9"]
    with pytest.raises(ExceptionGroup) as again:
        report.raise_for_failures()
    assert [len(error.__notes__) for error in again.value.exceptions] == [1, 1]


async def test_raise_for_failures_includes_what_stopped_the_run_once(emulator: MutexEmulator) -> None:
    edits = [SlotEdit(1, 1, experiments=[1]), SlotEdit(1, 1, experiments=[2])]
    async with session_for(emulator.url, retry=ONCE) as session:
        emulator.fail_next(1, status=401)
        rejected = await session.edit_slots(edits)
        emulator.fail_next(1, status=400)
        failed = await session.edit_slots(edits, stop_after=1)
    for report, kinds in ((rejected, [AuthenticationError]), (failed, [BadRequestError, TooManyFailuresError])):
        with pytest.raises(ExceptionGroup) as caught:
            report.raise_for_failures()
        assert [type(error) for error in caught.value.exceptions] == kinds
        assert report.stopped_by is caught.value.exceptions[-1]


async def test_raise_for_failures_does_nothing_without_failures(emulator: MutexEmulator, editor: Editor) -> None:
    report = await editor.edit_slots(edits_for(3))
    report.raise_for_failures()
    assert str(report) == "3 edits: 3 applied"
    assert str(await editor.edit_slots([])) == "0 edits: 0 applied"


async def test_a_report_can_be_pickled(emulator: MutexEmulator, editor: Editor) -> None:
    report = await editor.edit_slots([SlotEdit(999, 1, experiments=[2]), SlotEdit(1, 1, experiments=[2])])
    copy: BulkReport = pickle.loads(pickle.dumps(report))
    assert str(copy) == str(report)
    assert str(copy.failed[0].error) == str(report.failed[0].error)


async def test_on_outcome_is_called_with_each_outcome_in_order(emulator: MutexEmulator, editor: Editor) -> None:
    reported: list[SlotOutcome] = []
    report = await editor.edit_slots(edits_for(30), on_outcome=reported.append)
    assert reported == report.outcomes


async def test_a_write_without_a_response_is_unknown(emulator: MutexEmulator) -> None:
    emulator.fail_next(100, kind="reset-before")
    async with session_for(emulator.url, retry=ONCE) as session:
        report = await session.edit_slots([SlotEdit(1, 1, experiments=[5])])
    assert [outcome.status for outcome in report.outcomes] == ["unknown"]
    assert isinstance(report.unknown[0].error, TransportError)
    assert report.unknown[0].attempts == 1
    with pytest.raises(ExceptionGroup):
        report.raise_for_failures()


async def test_a_write_that_may_still_arrive_is_unknown_although_the_slot_does_not_hold_it(
    emulator: MutexEmulator,
) -> None:
    emulator.fail_next(1, kind="reset-before", method="PATCH")
    async with session_for(emulator.url, retry=ONCE) as session:
        report = await session.edit_slots([SlotEdit(1, 1, experiments=[5])])
    assert [outcome.status for outcome in report.outcomes] == ["unknown"]


async def test_a_write_without_a_response_is_applied_if_the_slot_holds_it(emulator: MutexEmulator) -> None:
    emulator.fail_next(1, kind="reset-after")
    async with session_for(emulator.url, retry=ONCE) as session:
        report = await session.edit_slots([SlotEdit(1, 1, experiments=[5])])
    assert [outcome.status for outcome in report.outcomes] == ["applied"]


async def test_a_write_with_a_server_error_is_failed_if_the_slot_does_not_hold_it(emulator: MutexEmulator) -> None:
    emulator.fail_next(2, status=500, method="PATCH")
    async with session_for(emulator.url, retry=RetryPolicy(max_attempts=2, base=0.001)) as session:
        report = await session.edit_slots([SlotEdit(1, 1, experiments=[5])])
    assert isinstance(report.failed[0].error, ServerError)
    assert report.failed[0].attempts == 2


async def test_a_rejected_key_stops_the_run_at_once(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.fail_next(10_000, status=401)
    edits = edits_for(2_000)
    report = await session.edit_slots(edits, concurrency=8)
    assert isinstance(report.stopped_by, AuthenticationError)
    assert len(emulator.requests) <= 8
    assert 1 <= len(report.failed) <= 8
    assert len(report.failed) + len(report.skipped) == 2_000
    assert sorted(outcome.position for outcome in report.outcomes) == list(range(2_000))
    assert "stopped: GET" in str(report)  # the read before the canary


async def test_stop_after_stops_the_run_after_that_many_failures(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    edits = [SlotEdit(900 + n, 1, experiments=[1]) for n in range(3_000)]
    report = await session.edit_slots(edits, concurrency=4, stop_after=10)
    assert isinstance(report.stopped_by, TooManyFailuresError)
    assert report.stopped_by.failures == 10
    assert 10 <= len(report.failed) <= 10 + 4
    assert len(report.outcomes) == 3_000
    assert all(outcome.note for outcome in report.skipped)


async def test_stop_after_counts_unknown_outcomes(emulator: MutexEmulator) -> None:
    emulator.fail_next(100, kind="reset-before")
    async with session_for(emulator.url, retry=ONCE) as session:
        report = await session.edit_slots(edits_for(50), concurrency=1, stop_after=3, canary=False)
    assert [outcome.status for outcome in report.outcomes[:3]] == ["unknown"] * 3
    assert str(report) == "50 edits: 0 applied, 3 unknown, 47 skipped; stopped: stopped after 3 failed edits"


async def test_a_list_is_checked_completely_before_anything_is_sent(emulator: MutexEmulator, editor: Editor) -> None:
    edits = [*edits_for(100), SlotEdit(1, 0, experiments=[1])]
    with pytest.raises(InvalidRequestError, match=r"edits\[100\]: slot_index must be an integer from 1 to 20, not 0"):
        await editor.edit_slots(edits)
    assert not emulator.requests


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_invalid_edit_of_an_iterator_fails_alone(
    emulator: MutexEmulator, editor: Editor, asynchronous: bool
) -> None:
    edits = [*edits_for(5), SlotEdit(1, 0, experiments=[1]), SlotEdit(1, 1), *edits_for(5, start=50)]

    async def source() -> AsyncIterator[SlotEdit]:
        for edit in edits:
            yield edit

    report = await editor.edit_slots(source() if asynchronous else iter(edits))
    assert len(report.applied) == 10
    assert sorted(outcome.position for outcome in report.failed) == [5, 6]
    assert all(isinstance(outcome.error, InvalidRequestError) for outcome in report.failed)
    assert all(outcome.attempts == 0 for outcome in report.failed)


def test_the_options_of_a_fleet_have_the_defaults_of_a_session() -> None:
    parameters = inspect.signature(MutexSession.stream_slot_edits).parameters
    settings = {each.name: each.default for each in msgspec.structs.fields(Settings) if each.name != "concurrency"}
    assert settings == {name: parameters[name].default for name in settings}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, r"^concurrency must be an integer from 1, not 0 \(int\)$"),
        ({"stop_after": 0}, r"^stop_after must be an integer from 1, not 0 \(int\)$"),
        ({"stop_after": True}, r"^stop_after must be an integer from 1, not True \(bool\)$"),
        ({"reserve": -1}, r"^reserve must be an integer from 0, not -1 \(int\)$"),
        ({"on_budget": "later"}, r"^on_budget must be 'stop' or 'wait', not 'later' \(str\)$"),
    ],
)
async def test_an_invalid_option_is_named(
    emulator: MutexEmulator, session: MutexSession, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        await session.edit_slots([], **options)


@pytest.mark.parametrize(
    ("edits", "options", "message"),
    [
        (None, {}, "^edits must be an iterable of SlotEdit, not NoneType$"),
        (SlotEdit(1, 1, experiments=[1]), {}, "^edits must be an iterable of SlotEdit, not SlotEdit$"),
        (SlotEdit, {}, "^edits must be an iterable of SlotEdit, not the class SlotEdit$"),
        ([], {"on_outcome": "print"}, "^on_outcome must be a function, not str$"),
        ([], {"stop_after": 0}, "^stop_after must be"),
        ([], {"reserve": 0.5}, "^reserve must be"),
        ([], {"on_budget": None}, "^on_budget must be"),
    ],
)
async def test_an_invalid_argument_is_rejected_at_once(
    editor: Editor, edits: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        editor.stream_slot_edits(edits, **options)
    with pytest.raises(InvalidRequestError, match=message):
        await editor.edit_slots(edits, **options)


FAULTS: tuple[str | Fault, ...] = (
    "reset-before:2%",
    "reset-after:2%",
    "500:2%",
    "503:2%",
    "truncate:1%",
    Fault(kind="status", rate=0.01, status=429, retry_after=0.01),
)


@pytest.mark.parametrize(
    ("mode", "seed"),
    [
        ("plain", 1),
        *(
            pytest.param(mode, seed, marks=pytest.mark.deep)
            for mode, seed in [("journal", 1), ("verify", 1), ("plain", 3), ("journal", 7), ("verify", 7), ("plain", 8)]
        ),
    ],
)
async def test_with_a_tenth_of_requests_failing_every_edit_is_applied_in_order_and_reported_truly(
    tmp_path: Any, seed: int, mode: str
) -> None:
    count = 600
    async with MutexEmulator(groups=60, limits=False, faults=FAULTS, seed=seed, keep_requests=10_000) as emulator:
        async with session_for(emulator.url, retry=FAST, deadline=120.0) as session:
            edits = edits_for(count, groups=60)
            report = await session.edit_slots(
                edits, journal=tmp_path / "run.db" if mode == "journal" else None, verify=mode == "verify"
            )
        assert str(report) == f"{count:,} edits: {count:,} applied"
        assert_true(emulator, report.outcomes)
        assert_in_order(emulator, edits)
        assert_holds(emulator, after(edits))
        assert any(outcome.attempts > 1 for outcome in report.outcomes)


async def test_with_half_of_requests_failing_every_outcome_is_true() -> None:
    # Enough faults for each status to occur.
    faults = ["reset-before:10%", "reset-after:10%", "500:25%", "truncate:5%"]
    once = RetryPolicy(max_attempts=2, base=0.001, cap=0.002)
    async with (
        MutexEmulator(groups=60, limits=False, faults=faults, seed=3) as emulator,
        session_for(emulator.url, retry=once) as session,
    ):
        report = await session.edit_slots(edits_for(400, groups=60))
        assert report.applied
        assert report.failed
        assert report.unknown
        assert_true(emulator, report.outcomes)


async def test_errors_of_outcomes_hold_no_tracebacks(emulator: MutexEmulator) -> None:
    emulator.fail_next(3, status=500, method="PATCH")
    async with session_for(emulator.url, retry=RetryPolicy(max_attempts=3, base=0.001)) as session:
        report = await session.edit_slots([SlotEdit(1, 1, experiments=[5])])
    error = report.failed[0].error
    assert error is not None
    assert len(error.earlier) == 2
    assert all(each.__traceback__ is None for each in (error, *error.earlier))


async def test_concurrency_is_the_maximum_number_of_requests_in_flight(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.latency = 0.01
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, sum(request.status is None for request in emulator.requests))
            await asyncio.sleep(0.001)

    watcher = asyncio.create_task(watch())
    await session.edit_slots(edits_for(60), concurrency=3)
    watcher.cancel()
    assert most == 3


def test_a_report_is_written_as_json_lines_and_as_csv(tmp_path: Path) -> None:
    error = NotFoundError("no, none", status=404, method="PATCH", path="/x")
    failed = SlotEdit("2", 1, individuals=["a,b", 'c"d'], holdouts=[])
    report = BulkReport(
        outcomes=[
            SlotOutcome(edit=SlotEdit("1", 2, experiments=[5, 6]), status="applied", position=0, attempts=2),
            SlotOutcome(edit=failed, status="failed", position=1, error=error.with_attempts(1)),
        ]
    )
    lines, table = tmp_path / "outcomes.jsonl", tmp_path / "outcomes.csv"
    report.write_jsonl(lines)
    report.write_csv(table)
    assert [msgspec.json.decode(line) for line in lines.read_text().splitlines()] == [
        outcome.to_dict() for outcome in report.outcomes
    ]
    with table.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first | {"experiments": "[5,6]", "holdouts": "", "error": "", "attempts": "2"} == first
    assert msgspec.json.decode(second["individuals"]) == ["a,b", 'c"d']
    assert (second["holdouts"], second["error"]) == ("[]", "PATCH /x answered 404: no, none (1 attempt)")
    assert [path.stat().st_mode & 0o777 for path in (lines, table)] == [0o600] * 2
