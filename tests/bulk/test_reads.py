"""Reading many groups: the same groups by any way, for about the price of the cheaper one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import ONCE, fast_limiter, session_for

from aiomutex import AuthenticationError, MutexGroup, MutexSession, ServerError
from aiomutex.bulk.reads import GroupReader, Reading
from aiomutex.emulator import Dialect
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def many() -> AsyncIterator[MutexEmulator]:
    async with MutexEmulator(groups=6_000, limits=False) as emulator:
        yield emulator


def reader_for(session: MutexSession) -> GroupReader:
    return GroupReader(session.get_group, lambda limit, cursor: session.list_page(limit=limit, cursor=cursor), 8)


def found_in(readings: dict[str, Reading]) -> set[str]:
    """The groups that were found, each under its id."""
    groups = {group_id: each.group for group_id, each in readings.items() if isinstance(each.group, MutexGroup)}
    assert all(group.id == group_id for group_id, group in groups.items())
    return set(groups)


async def read(emulator: MutexEmulator, ids: list[str], **options: object) -> tuple[set[str], int]:
    async with session_for(emulator.url, rate_limiter=fast_limiter(), **options) as session:
        found = found_in(await reader_for(session).read(ids))
    requests = len(emulator.requests)
    emulator.clear_history()
    return found, requests


@pytest.mark.parametrize(
    ("count", "least", "most"),
    [(0, 0, 0), (1, 1, 1), (20, 20, 20), (21, 6, 12), (500, 6, 8), (6_000, 6, 8)],
)
async def test_the_cost_is_at_most_about_twice_that_of_the_cheaper_way(
    many: MutexEmulator, count: int, least: int, most: int
) -> None:
    step = 6_000 // count if count else 1
    ids = [str(1 + index * step) for index in range(count)]
    found, requests = await read(many, ids)
    assert found == set(ids)
    assert least <= requests <= most


async def test_groups_that_are_not_listed_are_read_singly_and_missing_ones_are_absent(many: MutexEmulator) -> None:
    many.dialect = Dialect(archived="hidden")
    many.groups["77"].deleted = True
    ids = [*map(str, range(1, 200)), "no-such-group"]
    found, _ = await read(many, ids)
    assert found == set(ids) - {"no-such-group"}


async def test_cursors_that_are_not_offsets_are_followed(many: MutexEmulator) -> None:
    many.dialect = Dialect(archived="hidden", offsets="all")
    for number in range(500, 1_700):
        many.groups[str(number)].deleted = True
    ids = [str(number) for number in range(1, 6_001, 5)]
    found, requests = await read(many, ids)
    assert found == set(ids)
    assert requests <= 6 + 240 + 3


async def test_pages_that_fail_are_asked_for_smaller(many: MutexEmulator) -> None:
    many.fail_next(2, status=500, method="GET")
    async with session_for(many.url, rate_limiter=fast_limiter(), retry=ONCE) as session:
        found = found_in(await reader_for(session).read([str(number) for number in range(1, 100)]))
    assert len(found) == 99
    limits = [request.query["limit"] for request in many.requests if "limit" in request.query]
    assert limits[:3] == ["1000", "500", "250"]


async def test_a_group_that_cannot_be_read_is_an_error(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.fail_next(100, status=503)
    assert isinstance((await reader_for(session).read(["1"]))["1"].group, ServerError)


async def test_a_key_that_is_rejected_ends_the_reading(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.fail_next(100, status=401)
    with pytest.raises(AuthenticationError):
        await reader_for(session).read([str(number) for number in range(1, 100)])
    assert len(emulator.requests) == 1


async def test_the_second_read_knows_how_many_pages_there_are(many: MutexEmulator) -> None:
    async with session_for(many.url, rate_limiter=fast_limiter()) as session:
        reader = reader_for(session)
        await reader.read([str(number) for number in range(1, 6_001)])
        before = len(many.requests)
        await reader.read([str(number) for number in range(1, 6_001)])
        assert len(many.requests) - before <= 6 + 7
        before = len(many.requests)
        await reader.read(["1", "2", "3"])
        assert len(many.requests) - before == 3
