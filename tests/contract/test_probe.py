"""The probe determines what the emulator was set to, in any dialect, and reports nothing private."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from aiomutex import (
    AuthenticationError,
    InvalidRequestError,
    LocalRateLimiter,
    MutexSession,
    OutcomeUnknownError,
    Response,
    RetryPolicy,
    ServerError,
    UnexpectedResponseError,
)
from aiomutex.cli.emulator import probe as command
from aiomutex.emulator import Dialect, MutexEmulator
from aiomutex.probe import MAX_READS, MAX_WRITES, probe
from aiomutex.probe.findings import REASONS, Findings
from aiomutex.probe.requests import Prober

from .pairwise import describe, dialects

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

KEY = "mgmt-secret-probe-key"
SLOT = {"percentage": 60, "experiments": [987001], "individuals": ["secret-person"], "cohorts": ["secret-cohort"]}
GROUPS: list[dict[str, Any]] = [
    {
        "id": number,
        "projectId": 987002,
        "name": f"secret name {number}",
        "key": f"secret-key-{number}",
        "description": "secret description",
        "bucketingKey": "secret-bucketing",
        "bucketingSalt": "secret-salt",
        "slots": [SLOT, 40],
        "deleted": number == 987102,
    }
    for number in range(987101, 987106)
]
DETERMINED_BY_READS = {
    *("ids", "project_ids", "last_cursor", "cursors", "over_limit", "cohorts", "error_body", "request_ids"),
}
DETERMINED_BY_WRITES = {
    *(
        "created_id",
        "taken_key",
        "patch_body",
        "slot_patch",
        "slot_numbers",
        "empty_edit",
        "unknown_fields",
        "archived",
    ),
}


@asynccontextmanager
async def running(dialect: Dialect, **options: Any) -> AsyncGenerator[tuple[MutexEmulator, MutexSession]]:
    limiter = LocalRateLimiter(per_second=100_000, per_day=100_000_000)
    all_options: dict[str, Any] = {"groups": GROUPS, "limits": False} | options
    async with (
        MutexEmulator(dialect=dialect, **all_options) as emulator,
        MutexSession(
            KEY, base_url=emulator.url, rate_limiter=limiter, retry=RetryPolicy(base=0.001, cap=0.01)
        ) as session,
    ):
        yield emulator, session


def test_the_probe_knows_every_knob() -> None:
    assert set(REASONS) == set(Dialect.knobs())


@pytest.mark.parametrize("number", range(len(dialects())))
async def test_each_reported_reading_is_the_emulators(number: int) -> None:
    dialect = dialects()[number]
    async with running(dialect) as (emulator, session):
        report = await probe(session)
        assert_agrees(report.dialect, dialect)
        assert set(report.dialect) >= DETERMINED_BY_READS
        assert set(report.dialect) | set(report.undetermined) == set(Dialect.knobs())
        assert report.requests == len(emulator.requests) <= MAX_READS
        assert {request.method for request in emulator.requests} == {"GET"}
        assert_nothing_private(report.to_json())

        emulator.requests.clear()
        report = await probe(session, write_scratch=987002)
        assert_agrees(report.dialect, dialect)
        assert set(report.dialect) >= DETERMINED_BY_READS | DETERMINED_BY_WRITES
        assert report.dialect.get("slot_writes", dialect.slot_writes) == dialect.slot_writes
        assert len(emulator.requests) <= MAX_READS + MAX_WRITES
        assert_nothing_private(report.to_json())
        loaded = Dialect.from_json(report.to_json())
        assert all(getattr(loaded, knob) == value for knob, value in report.dialect.items())
        # The scratch group is archived, and no other group was written to.
        scratch = [group for group in emulator.groups.values() if group.key.startswith("aiomutex-probe-")]
        assert [group.deleted for group in scratch] == [True]
        assert {commit.group_id for commit in emulator.commits} == {scratch[0].id}


def assert_agrees(reported: dict[str, str | int | bool], dialect: Dialect) -> None:
    differences = {knob: value for knob, value in reported.items() if getattr(dialect, knob) != value}
    assert not differences, describe(dialect)


def assert_nothing_private(text: str) -> None:
    assert "secret" not in text
    assert "9870" not in text
    assert "9871" not in text
    assert KEY not in text


async def test_racing_writes_are_reported_when_seen() -> None:
    async with running(Dialect(slot_writes="racy")) as (_, session):
        reported = {(await probe(session, write_scratch=1)).dialect.get("slot_writes") for _ in range(3)}
    # To see no lost write proves nothing, so the reading may be missing. It may not be wrong.
    assert "racy" in reported
    assert reported <= {"racy", None}


@pytest.mark.parametrize("groups", [0, 1, 1000, 2001])
async def test_the_probe_works_with_any_number_of_groups(groups: int) -> None:
    dialect = Dialect(end_of_list="probed", cursors="string")
    async with running(dialect, groups=groups) as (emulator, session):
        report = await probe(session)
        assert_agrees(report.dialect, dialect)
        assert "last_cursor" in report.dialect
        assert ("ids" in report.dialect) is (groups > 0)
        assert ("cursors" in report.dialect) is (groups > 0)
        assert ("end_of_list" in report.dialect) is (0 < groups < 1000)
        assert "archived" not in report.dialect
        assert len(emulator.requests) <= MAX_READS


async def test_the_probe_reads_as_little_as_shows_each_reading() -> None:
    async with running(Dialect(end_of_list="probed"), groups=2) as (emulator, session):
        await probe(session)
        assert [(request.method, request.target) for request in emulator.requests] == [
            ("GET", "/api/1/mutexes?limit=1"),
            ("GET", "/api/1/mutexes?limit=1000"),
            ("GET", "/api/1/mutexes?limit=2"),
            ("GET", "/api/1/mutexes?limit=2&cursor=2"),
            ("GET", "/api/1/mutexes?limit=1001"),
            ("GET", "/api/1/mutexes/1"),
            ("GET", "/api/1/mutexes/0"),
        ]


async def test_no_more_requests_are_sent_than_promised() -> None:
    async with running(Dialect(retry_after="none"), limits=False) as (emulator, session):
        prober = Prober(session)
        for number in range(MAX_READS):
            await prober.send(f"read {number}", "GET", "/api/1/mutexes/0")
        with pytest.raises(InvalidRequestError, match="the probe has sent its maximum of 10 requests"):
            await prober.send("one more", "GET", "/api/1/mutexes/0")
        assert len(emulator.requests) == prober.sent == MAX_READS


@pytest.mark.parametrize(
    ("status", "rest"),
    [
        (503, {}),
        (200, {"mutexes": [{"id": 987102}], "nextCursor": None}),
        (200, {"mutexes": [], "nextCursor": 2}),
    ],
)
async def test_a_full_page_is_not_the_last_one_if_more_may_follow(status: int, rest: dict[str, Any]) -> None:
    full: dict[str, Any] = {"mutexes": [{"id": 987101}], "nextCursor": 1}
    async with running(Dialect()) as (emulator, session):
        for answer in (full, full | {"nextCursor": None}, full):
            emulator.fail_next(1, status=200, body=answer, path="/api/1/mutexes")
        emulator.fail_next(1, status=status, body=rest, path="/api/1/mutexes")
        report = await probe(session)
    assert report.observed["statuses"]["list after all"] == status
    assert "end_of_list" in report.undetermined


async def test_groups_of_the_largest_page_show_readings_that_no_other_page_shows() -> None:
    async with running(Dialect(over_limit="capped", ids="string")) as (emulator, session):
        emulator.fail_next(1, status=200, body={"mutexes": []}, path="/api/1/mutexes")
        emulator.fail_next(1, status=503, path="/api/1/mutexes")
        report = await probe(session)
    assert report.dialect["ids"] == "string"


@pytest.mark.parametrize("of_service", [200, 429])
def test_a_429_without_a_request_id_may_be_a_gateways_and_contradicts_no_other_response(of_service: int) -> None:
    findings = Findings()
    for status, headers in ((429, {}), (of_service, {"x-request-id": "a1"})):
        findings.add_response("list", Response(status, headers, b"{}", method="GET", path="/p"))
    assert findings.report(requests=2, wrote=False).dialect["request_ids"] == "present"


@pytest.mark.parametrize("form", ["none", "seconds", "date"])
async def test_a_429_is_retried_and_its_retry_after_reported(form: Any) -> None:
    async with running(Dialect(retry_after=form)) as (emulator, session):
        emulator.fail_next(1, status=429)
        report = await probe(session)
    assert report.dialect["retry_after"] == form
    assert report.observed["statuses"]["list"] == 200
    assert "4xx application/json" in report.observed["content_types"]


async def test_contradicting_responses_leave_a_knob_undetermined() -> None:
    async with running(Dialect(error_body="object")) as (emulator, session):
        emulator.fail_next(1, status=404, body="plain words", path="/api/1/mutexes/0")
        emulator.dialect = Dialect(over_limit="rejected")
        report = await probe(session)
    assert report.undetermined["error_body"] == "seen as object and as text"


async def test_a_cut_error_body_shows_no_form() -> None:
    async with running(Dialect()) as (emulator, session):
        emulator.fail_next(1, status=404, body={"message": "x" * 5000}, path="/api/1/mutexes/0")
        report = await probe(session)
    assert report.undetermined["error_body"] == REASONS["error_body"]


async def test_an_error_response_shows_nothing_about_pages_and_groups() -> None:
    async with running(Dialect(over_limit="rejected")) as (emulator, session):
        first = {"mutexes": [{"id": 987101}], "nextCursor": None}
        emulator.fail_next(1, status=200, body=first, path="/api/1/mutexes")
        emulator.fail_next(1, status=503, path="/api/1/mutexes")
        emulator.fail_next(1, status=403, path="/api/1/mutexes/987101")
        report = await probe(session)
    assert report.observed["statuses"] == {
        "list": 200,
        "list 1000": 503,
        "list 1001": 400,
        "one group": 403,
        "an absent group": 404,
    }
    assert report.observed["content_types"] == [f"{family}xx application/json" for family in (2, 4, 5)]
    assert report.observed["page_fields"] == ["mutexes", "nextCursor"]
    assert report.observed["group_fields"] == ["id"]
    assert "groups" not in report.observed


@pytest.mark.parametrize("group_id", ["..", "a/b", "", "%2e%2e"])
async def test_an_id_that_needs_escaping_is_not_requested(group_id: str) -> None:
    async with running(Dialect()) as (emulator, session):
        page: dict[str, Any] = {"mutexes": [{"id": group_id}], "nextCursor": None}
        emulator.fail_next(1, status=200, body=page, path="/api/1/mutexes")
        report = await probe(session)
        assert {request.path for request in emulator.requests} == {"/api/1/mutexes", "/api/1/mutexes/0"}
    assert "one group" not in report.observed["statuses"]


async def test_a_rejected_edit_does_not_count_as_merged() -> None:
    async with running(Dialect()) as (emulator, session):
        emulator.fail_next(1, status=200, after_commit=True, method="PATCH", path="*/slots/1")
        emulator.fail_next(1, status=503, method="PATCH", path="*/slots/1")
        report = await probe(session, write_scratch=1)
    assert "slot_patch" in report.undetermined


async def test_a_flagged_group_that_the_list_hides_leaves_archived_undetermined() -> None:
    async with running(Dialect(archived="hidden"), groups=0) as (emulator, session):
        details: dict[str, Any] = {"id": 1, "projectId": 1, "deleted": True, "slots": []}
        emulator.fail_next(9, status=200, body=details, method="GET", path="/api/1/mutexes/1")
        report = await probe(session, write_scratch=1)
    assert report.undetermined["archived"] == "seen as flagged and as hidden"


async def test_a_rejected_key_is_an_error() -> None:
    async with running(Dialect(), key="another") as (emulator, session):
        with pytest.raises(AuthenticationError):
            await probe(session, write_scratch=1)
        assert len(emulator.requests) == 1


@pytest.mark.parametrize("project_id", ["", " ", -1, True, 1.5])
async def test_an_invalid_project_id_sends_nothing(project_id: Any) -> None:
    async with running(Dialect()) as (emulator, session):
        with pytest.raises(InvalidRequestError, match="write_scratch must be a project ID"):
            await probe(session, write_scratch=project_id)
        assert not emulator.requests


async def test_a_service_that_is_not_the_expected_one_is_an_error() -> None:
    async with running(Dialect()) as (emulator, session):
        emulator.fail_next(1, status=200, body="OK", path="/api/1/mutexes")
        with pytest.raises(UnexpectedResponseError, match="not a page of groups") as caught:
            await probe(session)
        assert caught.value.path == emulator.requests[-1].target


@pytest.mark.parametrize("after_commit", [False, True])
async def test_the_scratch_group_is_archived_even_if_its_creation_failed(after_commit: bool) -> None:
    async with running(Dialect()) as (emulator, session):
        emulator.fail_next(1, status=503, after_commit=after_commit, method="POST")
        with pytest.raises(ServerError):
            await probe(session, write_scratch=1)
        remaining = [group.deleted for group in emulator.groups.values() if group.key.startswith("aiomutex-probe-")]
        assert remaining == [True] * after_commit


async def test_the_scratch_group_is_archived_even_if_its_id_is_missing() -> None:
    async with running(Dialect()) as (emulator, session):
        emulator.fail_next(1, status=200, after_commit=True, body={"url": "x"}, method="POST")
        with pytest.raises(UnexpectedResponseError, match="no ID of the created group"):
            await probe(session, write_scratch=1)
        assert [group.deleted for group in emulator.groups.values() if group.project_id == "1"] == [True]


async def test_the_scratch_group_is_archived_even_if_the_probe_is_cancelled() -> None:
    async with running(Dialect()) as (emulator, session):
        emulator.fail_next(1, kind="stall", path="*/slots/1")
        task = asyncio.create_task(probe(session, write_scratch=1))
        while not emulator.commits:  # noqa: ASYNC110 - the emulator sends no notifications
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [group.deleted for group in emulator.groups.values() if group.project_id == "1"] == [True]


async def test_a_scratch_group_that_cannot_be_archived_is_named() -> None:
    async with running(Dialect()) as (emulator, session):
        # A rejected edit is a reading; a rejected archive call leaves the group behind.
        emulator.fail_next(9, status=403, method="PATCH", path="/api/1/mutexes/987106")
        with pytest.raises(OutcomeUnknownError) as caught:
            await probe(session, write_scratch=1)
        remaining = emulator.groups["987106"]
        assert caught.value.key == remaining.key
        assert remaining.key in str(caught.value)


def test_the_command_writes_a_file_that_the_emulator_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "probe.json"
    with MutexEmulator(groups=GROUPS, dialect=Dialect(cursors="string")) as emulator:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
        monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", KEY)
        result = CliRunner().invoke(command, ["--out", str(file)])
        assert (result.exit_code, result.output.count("\n")) == (0, 1), result.output
        assert Dialect.from_json(file.read_bytes()).cursors == "string"
        unconfirmed = CliRunner().invoke(command, ["--write-scratch", "1"])
        assert unconfirmed.exit_code == 2
        assert not emulator.commits
        result = CliRunner().invoke(command, ["--write-scratch", "1", "--yes"])
        assert json.loads(result.output)["wrote"] is True
        assert emulator.commits
