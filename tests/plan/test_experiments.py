from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aiomutex import AuthenticationError, NotFoundError
from aiomutex.plan import read_experiments

from .experiments_listing import LISTING, ExperimentPages

if TYPE_CHECKING:
    from aiomutex import MutexSession
    from aiomutex.emulator import MutexEmulator


def running(count: int) -> dict[int, dict[str, Any]]:
    return {number: {"state": "running", "name": f"E{number}"} for number in range(1, count + 1)}


async def test_many_experiments_are_read_from_the_listing(emulator: MutexEmulator, session: MutexSession) -> None:
    pages = ExperimentPages(emulator, running(9000))
    found = await read_experiments(session, range(1, 9001))
    assert {number: described["name"] for number, described in found.items()} == {  # type: ignore[index]
        number: f"E{number}" for number in range(1, 9001)
    }
    assert pages.paths == [LISTING] * 9


async def test_few_experiments_are_read_one_by_one(emulator: MutexEmulator, session: MutexSession) -> None:
    pages = ExperimentPages(emulator, running(50))
    assert len(await read_experiments(session, range(1, 21))) == 20
    assert LISTING not in pages.paths
    assert len(await read_experiments(session, range(1, 22))) == 21
    assert pages.paths[20:] == [LISTING]


async def test_the_listing_never_costs_more_than_twice_the_single_reads(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    pages = ExperimentPages(emulator, running(40_000))
    assert len(await read_experiments(session, range(1, 26))) == 25  # the oldest, on the last page
    assert (pages.paths.count(LISTING), len(pages.paths)) == (25, 50)


@pytest.mark.parametrize(
    "page",
    [
        {"experiments": [{"id": number} for number in range(1, 31)]},  # without their state
        {"experiments": [{"id": str(number), "state": "running"} for number in range(1, 31)], "nextCursor": ""},
        {"experiments": [{"id": 1, "state": "running"}], "nextCursor": 0},  # the same cursor again and again
        {"experiments": 5},
        {"experiments": [None, 5, {"id": None, "state": "x"}, {"id": "²", "state": "x"}]},
        [],
    ],
)
async def test_what_the_listing_does_not_say_is_read_one_by_one(
    emulator: MutexEmulator, session: MutexSession, page: Any
) -> None:
    pages = ExperimentPages(emulator, running(30))
    pages.page = page
    found = await read_experiments(session, range(1, 32))
    assert [number for number, described in found.items() if isinstance(described, NotFoundError)] == [31]
    assert all(described["state"] == "running" for number, described in found.items() if number != 31)  # type: ignore[index]
    assert pages.paths.count(LISTING) <= 2


async def test_a_listing_that_fails_is_replaced_by_single_reads_and_a_rejected_key_is_not(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    pages = ExperimentPages(emulator, running(30))
    pages.statuses = [400]
    assert len(await read_experiments(session, range(1, 31))) == 30
    pages.statuses = [401]
    with pytest.raises(AuthenticationError):
        await read_experiments(session, range(1, 31))
