"""The listing: pages, cursors and order, for any number of groups."""

from __future__ import annotations

from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import pytest

from aiomutex.emulator import Dialect

if TYPE_CHECKING:
    from .conftest import Start
    from .helpers import Api


async def walk(api: Api, limit: int) -> tuple[list[Any], list[int]]:
    """Follow the cursors; return all IDs and the size of each page."""
    ids: list[Any] = []
    sizes: list[int] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        page = (await api.list(**query)).json
        ids += [group["id"] for group in page["mutexes"]]
        sizes.append(len(page["mutexes"]))
        cursor = page.get("nextCursor")
        if cursor in (None, ""):
            return ids, sizes
        query["cursor"] = cursor


async def test_the_cursors_lead_to_all_groups_in_order(start: Start) -> None:
    api = await start(groups=7)
    assert await walk(api, 3) == ([1, 2, 3, 4, 5, 6, 7], [3, 3, 1])
    assert await walk(api, 7) == ([1, 2, 3, 4, 5, 6, 7], [7])


async def test_the_cursor_is_an_offset(api: Api) -> None:
    page = (await api.list(cursor=1, limit=1)).json
    assert ([group["id"] for group in page["mutexes"]], page["nextCursor"]) == ([2], 2)


async def test_a_cursor_after_the_end_gives_an_empty_page(api: Api) -> None:
    assert (await api.list(cursor=99)).json == {"mutexes": [], "nextCursor": None}


async def test_a_page_has_at_most_1000_groups_which_is_the_default(start: Start) -> None:
    api = await start(groups=1001)
    for query in ({}, {"limit": 5000}):
        page = (await api.list(**query)).json
        assert (len(page["mutexes"]), page["nextCursor"]) == (1000, 1000)


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": "x"}, {"limit": -1}, {"limit": "1.0"}, {"limit": ""}])
async def test_an_invalid_limit_is_rejected(api: Api, query: dict[str, Any]) -> None:
    reply = await api.list(**query)
    assert (reply.status, "limit must be an integer of 1 or more, not " in reply.text) == (400, True)


@pytest.mark.parametrize("query", [{"cursor": "x"}, {"cursor": -1}, {"cursor": ""}, {"cursor": "²"}])
async def test_an_invalid_cursor_is_rejected(api: Api, query: dict[str, Any]) -> None:
    reply = await api.list(**query)
    assert (reply.status, "cursor must be an integer of 0 or more, not " in reply.text) == (400, True)


async def test_groups_are_sorted_by_id_not_by_insertion(start: Start) -> None:
    api = await start(groups=2)
    for group_id in ("30", "b", "4", "a", "10"):
        api.emulator.add_group(group_id)
    assert (await walk(api, 2))[0] == [1, 2, 4, 10, 30, "a", "b"]
    assert list(api.emulator.groups) == ["1", "2", "4", "10", "30", "a", "b"]


async def test_a_new_group_gets_the_next_integer_as_its_id(start: Start) -> None:
    api = await start(groups=2)
    assert api.emulator.add_group().id == "3"
    api.emulator.add_group("10")
    api.emulator.add_group("x")
    assert api.emulator.add_group().id == "11"


@pytest.mark.parametrize("slots", [1, 3, 20])
async def test_a_generated_group_is_the_same_after_it_was_accessed(start: Start, slots: int) -> None:
    api = await start(groups=30, slots_per_group=slots)
    before = [(await api.get(group_id)).body for group_id in ("7", "23")]
    for group_id in ("7", "23"):
        api.emulator.groups[group_id].slots[0].experiments.append(5)
        api.emulator.groups[group_id].slots[0].experiments.pop()
    assert [(await api.get(group_id)).body for group_id in ("7", "23")] == before
    group = api.emulator.groups["7"]
    assert (len(group.slots), sum(slot.percentage for slot in group.slots)) == (slots, 100)


async def test_with_500_000_groups_the_start_and_the_last_page_are_fast(start: Start) -> None:
    started = process_time()
    api = await start(groups=500_000, limits=False)
    assert process_time() - started < 1
    durations: list[float] = []
    for cursor in (0, 499_000):
        times = list[float]()
        for _ in range(6):
            started = perf_counter()
            page = await api.list(cursor=cursor)
            times.append(perf_counter() - started)
            assert page.body.count(b'"variantKey"') == 3000
        durations.append(min(times))
    # Iterating up to the offset would take hundreds of times as long.
    assert durations[1] < durations[0] * 20
    assert (await api.list(cursor=499_000)).json["nextCursor"] is None


async def test_a_group_deleted_from_the_store_does_not_exist(api: Api) -> None:
    del api.emulator.groups["2"]
    assert (await walk(api, 10))[0] == [1, 3]
    assert (await api.get("2")).status == 404
    assert api.emulator.add_group("2").name == "Group 2"
    assert (await walk(api, 10))[0] == [1, 2, 3]


async def test_a_cursor_does_not_count_hidden_groups(start: Start) -> None:
    api = await start(groups=6, dialect=Dialect(archived="hidden"))
    for group_id in ("1", "2", "4"):
        await api.edit(group_id, {"archive": True})
    assert await walk(api, 2) == ([3, 5, 6], [2, 1])


async def test_hidden_groups_that_a_cursor_counts_leave_empty_pages_with_a_cursor(start: Start) -> None:
    api = await start(groups=6, dialect=Dialect(archived="hidden", offsets="all"))
    for group_id in ("1", "2", "4"):
        await api.edit(group_id, {"archive": True})
    assert await walk(api, 2) == ([3, 5, 6], [0, 1, 2])
