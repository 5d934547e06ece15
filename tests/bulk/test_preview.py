"""A preview says what a run would change and cost, and writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import session_for

from aiomutex import InvalidRequestError, MutexSession, SlotEdit
from aiomutex.bulk import preview
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def seed(emulator: MutexEmulator) -> None:
    emulator.add_group("a", key="checkout", slots=[{"percentage": 40, "experiments": [1, 2]}, 60])
    emulator.add_group("b", key="search", slots=[{"percentage": 100, "individuals": ["u"]}])


async def test_each_edit_is_counted_as_what_it_would_do(emulator: MutexEmulator, session: MutexSession) -> None:
    seed(emulator)
    edits = [
        SlotEdit("a", 1, experiments=[2, 3]),
        SlotEdit("a", 1, experiments=[3, 2]),  # holds already, after the one before
        SlotEdit("a", 2, holdouts=[]),  # holds already
        SlotEdit("b", 1, individuals=[]),
        SlotEdit("b", 2, individuals=[]),
        SlotEdit("nope", 1, individuals=[]),
        SlotEdit("a", 0, individuals=[]),
        SlotEdit("a", 1, experiments=[9]),
    ]
    found = await preview(session, edits, verify=True)
    assert (found.edits, found.unchanged, len(found.impossible)) == (8, 2, 3)
    assert [(each.position, each.reason.partition(",")[0]) for each in found.impossible] == [
        (4, "group b has no slot 2"),
        (5, "group nope does not exist"),
        (6, "slot_index must be an integer from 1 to 20"),
    ]
    assert [(each.position, each.reason) for each in found.contradictions] == [
        (7, "group a, slot 1: an earlier edit writes other content")
    ]
    assert [str(each) for each in found.differences] == [
        "group a (checkout), slot 1: experiments +9; experiments -1, 2",
        "group b (search), slot 1: individuals -u",
    ]
    # Five edits can be sent, and two groups are read twice.
    assert found.requests == 5 + 2 * 2
    assert not emulator.writes


async def test_the_summary_is_for_people(emulator: MutexEmulator, session: MutexSession) -> None:
    seed(emulator)
    edits = [SlotEdit("a", 1, experiments=[number]) for number in range(30)]
    text = str(await preview(session, edits))
    assert text.startswith("30 edits: 1 slot would change, 0 unchanged, 0 impossible, 29 contradicting")
    assert "30 requests, " in text
    assert text.endswith("… and 10 more")


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_edits_come_from_any_iterable(emulator: MutexEmulator, session: MutexSession, asynchronous: bool) -> None:
    async def later() -> AsyncIterator[SlotEdit]:
        yield SlotEdit(1, 1, experiments=[5])

    found = await preview(session, later() if asynchronous else iter([SlotEdit(1, 1, experiments=[5])]))
    assert (found.edits, len(found.differences)) == (1, 1)


async def test_what_is_not_an_edit_is_an_error(session: MutexSession) -> None:
    wrong: Any = ["edit"]
    with pytest.raises(InvalidRequestError, match="an edit must be a SlotEdit"):
        await preview(session, wrong)


async def test_thousands_of_groups_are_read_by_pages() -> None:
    async with MutexEmulator(groups=3_000, limits=False) as emulator, session_for(emulator.url) as session:
        edits = [SlotEdit(number, 1, experiments=[7]) for number in range(1, 3_001)]
        found = await preview(session, edits, journal=True)
        assert len(emulator.requests) <= 5
    assert (len(found.differences), found.requests) == (3_000, 3_003)
    assert found.share_of_day == pytest.approx(3_003 / session.rate_limiter.state().per_day)


@pytest.mark.parametrize(("journal", "verify"), [(False, False), (True, False), (False, True), (True, True)])
async def test_a_run_makes_the_requests_that_its_preview_says(tmp_path: Path, journal: bool, verify: bool) -> None:
    async with MutexEmulator(groups=12, limits=False) as emulator, session_for(emulator.url) as session:
        edits = [SlotEdit(number, 1, experiments=[number, last]) for number in range(1, 13) for last in (7, 8)]
        found = await preview(session, edits, journal=journal, verify=verify)
        emulator.requests.clear()
        report = await session.edit_slots(
            edits, journal=tmp_path / "run.db" if journal else None, verify=verify, canary=False
        )
        assert not report.failed
    assert len(emulator.requests) == found.requests


async def test_a_run_sends_identical_edits_that_follow_each_other_once() -> None:
    async with MutexEmulator(groups=1, limits=False) as emulator, session_for(emulator.url) as session:
        edits = [SlotEdit(1, 1, experiments=[7])] * 5
        found = await preview(session, edits)
        emulator.requests.clear()
        await session.edit_slots(edits)
    assert len(emulator.requests) < found.requests == 5
