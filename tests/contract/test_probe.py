"""The probe finds what the emulator was set to, whatever that is, and tells nobody whose groups it saw."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from aiomutex import AuthenticationError, LocalRateLimiter, MutexSession, OutcomeUnknownError, RetryPolicy, ServerError
from aiomutex.cli.probe import probe as command
from aiomutex.emulator import Dialect, MutexEmulator
from aiomutex.probe import MAX_READS, MAX_WRITES, probe
from aiomutex.probe.findings import UNREAD

from .pairwise import dialects, told

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
READ = {
    *("ids", "project_ids", "last_cursor", "cursors", "over_limit", "cohorts", "error_body", "request_ids"),
}
WRITTEN = {
    *("created_id", "taken_key", "patch_body", "slot_patch", "empty_edit", "unknown_fields", "archived"),
}


@asynccontextmanager
async def running(dialect: Dialect, **options: Any) -> AsyncGenerator[tuple[MutexEmulator, MutexSession]]:
    limiter = LocalRateLimiter(per_second=100_000, per_day=100_000_000)
    chosen: dict[str, Any] = {"groups": GROUPS, "limits": False} | options
    async with (
        MutexEmulator(dialect=dialect, **chosen) as emulator,
        MutexSession(
            KEY, base_url=emulator.url, rate_limiter=limiter, retry=RetryPolicy(base=0.001, cap=0.01)
        ) as session,
    ):
        yield emulator, session


def test_it_knows_every_knob() -> None:
    assert set(UNREAD) == set(Dialect.knobs())


@pytest.mark.parametrize("number", range(len(dialects())))
async def test_what_it_tells_is_what_the_emulator_was_set_to(number: int) -> None:
    dialect = dialects()[number]
    async with running(dialect) as (emulator, session):
        report = await probe(session)
        agrees(report.dialect, dialect)
        assert set(report.dialect) >= READ
        assert set(report.dialect) | set(report.unread) == set(Dialect.knobs())
        assert report.requests == len(emulator.requests) <= MAX_READS
        assert {request.method for request in emulator.requests} == {"GET"}
        keeps_secrets(report.to_json())

        emulator.requests.clear()
        report = await probe(session, write_scratch=987002)
        agrees(report.dialect, dialect)
        assert set(report.dialect) >= READ | WRITTEN
        assert report.dialect.get("slot_writes", dialect.slot_writes) == dialect.slot_writes
        assert len(emulator.requests) <= MAX_READS + MAX_WRITES
        keeps_secrets(report.to_json())
        loaded = Dialect.from_json(report.to_json())
        assert all(getattr(loaded, knob) == value for knob, value in report.dialect.items())
        # The scratch group is archived, and nothing but it was written to.
        scratch = [group for group in emulator.groups.values() if group.key.startswith("aiomutex-probe-")]
        assert [group.deleted for group in scratch] == [True]
        assert {commit.group_id for commit in emulator.commits} == {scratch[0].id}


def agrees(found: dict[str, str | int | bool], dialect: Dialect) -> None:
    wrong = {knob: value for knob, value in found.items() if getattr(dialect, knob) != value}
    assert not wrong, told(dialect)


def keeps_secrets(text: str) -> None:
    assert "secret" not in text
    assert "9870" not in text
    assert "9871" not in text
    assert KEY not in text


async def test_racing_writes_are_told_when_seen() -> None:
    async with running(Dialect(slot_writes="racy")) as (_, session):
        told = {(await probe(session, write_scratch=1)).dialect.get("slot_writes") for _ in range(3)}
    # To see no lost write proves nothing, so it may be told or not; that it is told wrongly may not be.
    assert "racy" in told
    assert told <= {"racy", None}


@pytest.mark.parametrize("groups", [0, 1, 1000, 2001])
async def test_it_bears_any_number_of_groups(groups: int) -> None:
    dialect = Dialect(end_of_list="probed", cursors="string")
    async with running(dialect, groups=groups) as (emulator, session):
        report = await probe(session)
        agrees(report.dialect, dialect)
        assert "last_cursor" in report.dialect
        assert ("ids" in report.dialect) is (groups > 0)
        assert ("cursors" in report.dialect) is (groups > 0)
        assert len(emulator.requests) <= MAX_READS


async def test_a_429_is_waited_for_and_told() -> None:
    async with running(Dialect(retry_after="seconds")) as (emulator, session):
        emulator.fail_next(1, status=429)
        report = await probe(session)
    assert report.dialect["retry_after"] == "seconds"
    assert report.seen["statuses"]["list"] == 200


async def test_what_two_answers_tell_differently_is_not_told() -> None:
    async with running(Dialect(error_body="object")) as (emulator, session):
        emulator.fail_next(1, status=404, body="plain words", path="/api/1/mutexes/0")
        emulator.dialect = Dialect(over_limit="refused")
        report = await probe(session)
    assert report.unread["error_body"] == "seen as object and as text"


async def test_a_refusal_tells_nothing_of_what_was_asked_for() -> None:
    async with running(Dialect(over_limit="refused")) as (emulator, session):
        first = {"mutexes": [{"id": 987101}], "nextCursor": None}
        emulator.fail_next(1, status=200, body=first, path="/api/1/mutexes")
        emulator.fail_next(1, status=503, path="/api/1/mutexes")
        emulator.fail_next(1, status=403, path="/api/1/mutexes/987101")
        report = await probe(session)
    assert report.seen["statuses"] == {
        "list": 200,
        "list 1000": 503,
        "list 1001": 400,
        "one group": 403,
        "an absent group": 404,
    }
    assert report.seen["page_fields"] == ["mutexes", "nextCursor"]
    assert report.seen["group_fields"] == ["id"]
    assert "groups" not in report.seen


async def test_an_edit_that_was_refused_does_not_count_as_merged() -> None:
    async with running(Dialect()) as (emulator, session):
        emulator.fail_next(1, status=200, after_commit=True, method="PATCH", path="*/slots/1")
        emulator.fail_next(1, status=503, method="PATCH", path="*/slots/1")
        report = await probe(session, write_scratch=1)
    assert "slot_patch" in report.unread


async def test_an_archived_group_that_only_the_list_hides_is_none_of_the_readings() -> None:
    async with running(Dialect(archived="hidden"), groups=0) as (emulator, session):
        details: dict[str, Any] = {"id": 1, "projectId": 1, "deleted": True, "slots": []}
        emulator.fail_next(9, status=200, body=details, method="GET", path="/api/1/mutexes/1")
        report = await probe(session, write_scratch=1)
    assert report.unread["archived"] == "seen as flagged and as hidden"


async def test_a_refused_key_is_an_error() -> None:
    async with running(Dialect(), key="another") as (emulator, session):
        with pytest.raises(AuthenticationError):
            await probe(session, write_scratch=1)
        assert len(emulator.requests) == 1


@pytest.mark.parametrize("after_commit", [False, True])
async def test_the_scratch_group_is_archived_even_if_its_creation_failed(after_commit: bool) -> None:
    async with running(Dialect()) as (emulator, session):
        emulator.fail_next(1, status=503, after_commit=after_commit, method="POST")
        with pytest.raises(ServerError):
            await probe(session, write_scratch=1)
        left = [group.deleted for group in emulator.groups.values() if group.key.startswith("aiomutex-probe-")]
        assert left == [True] * after_commit


async def test_the_scratch_group_is_archived_even_if_the_probe_is_cancelled() -> None:
    async with running(Dialect()) as (emulator, session):
        emulator.fail_next(1, kind="stall", path="*/slots/1")
        task = asyncio.create_task(probe(session, write_scratch=1))
        while not emulator.commits:  # noqa: ASYNC110 - the emulator tells nobody
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [group.deleted for group in emulator.groups.values() if group.project_id == "1"] == [True]


async def test_a_scratch_group_that_stays_is_named() -> None:
    async with running(Dialect()) as (emulator, session):
        # To be refused an edit is a reading; to be refused to archive leaves a group behind.
        emulator.fail_next(9, status=403, method="PATCH", path="/api/1/mutexes/987106")
        with pytest.raises(OutcomeUnknownError) as caught:
            await probe(session, write_scratch=1)
        left = emulator.groups["987106"]
        assert caught.value.key == left.key
        assert left.key in str(caught.value)


def test_the_command_writes_a_file_that_the_emulator_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "probe.json"
    with MutexEmulator(groups=GROUPS, dialect=Dialect(cursors="string")) as emulator:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
        monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", KEY)
        done = CliRunner().invoke(command, ["--out", str(file)])
        assert (done.exit_code, done.output.count("\n")) == (0, 1), done.output
        assert Dialect.from_json(file.read_bytes()).cursors == "string"
        asked = CliRunner().invoke(command, ["--write-scratch", "1"])
        assert asked.exit_code == 2
        assert not emulator.commits
        done = CliRunner().invoke(command, ["--write-scratch", "1", "--yes"])
        assert json.loads(done.output)["wrote"] is True
        assert emulator.commits
