"""The list: pages, cursors, order, at any size."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from aiomutex.emulator import Dialect

if TYPE_CHECKING:
    from .conftest import Start
    from .helpers import Api


async def walk(api: Api, limit: int) -> tuple[list[Any], list[int]]:
    """All ids by following the cursors, and the size of each page."""
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


async def test_the_cursors_lead_through_all_groups_in_order(start: Start) -> None:
    api = await start(groups=7)
    assert await walk(api, 3) == ([1, 2, 3, 4, 5, 6, 7], [3, 3, 1])
    assert await walk(api, 7) == ([1, 2, 3, 4, 5, 6, 7], [7])


async def test_the_cursor_is_an_offset(api: Api) -> None:
    page = (await api.list(cursor=1, limit=1)).json
    assert ([group["id"] for group in page["mutexes"]], page["nextCursor"]) == ([2], 2)


async def test_a_cursor_past_the_end_finds_nothing(api: Api) -> None:
    assert (await api.list(cursor=99)).json == {"mutexes": [], "nextCursor": None}


async def test_a_page_holds_a_thousand_groups_at_most_and_by_default(start: Start) -> None:
    api = await start(groups=1001)
    for query in ({}, {"limit": 5000}):
        page = (await api.list(**query)).json
        assert (len(page["mutexes"]), page["nextCursor"]) == (1000, 1000)


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": "x"}, {"limit": -1}, {"limit": "1.0"}, {"limit": ""}])
async def test_a_limit_that_is_no_number_from_1_is_refused(api: Api, query: dict[str, Any]) -> None:
    reply = await api.list(**query)
    assert (reply.status, "limit is " in reply.text) == (400, True)


@pytest.mark.parametrize("query", [{"cursor": "x"}, {"cursor": -1}, {"cursor": ""}, {"cursor": "²"}])
async def test_a_cursor_that_is_no_offset_is_refused(api: Api, query: dict[str, Any]) -> None:
    reply = await api.list(**query)
    assert (reply.status, "cursor is " in reply.text) == (400, True)


async def test_groups_come_in_the_order_of_their_ids_however_they_were_added(start: Start) -> None:
    api = await start(groups=2)
    for group_id in ("30", "b", "4", "a", "10"):
        api.emulator.add_group(group_id)
    assert (await walk(api, 2))[0] == [1, 2, 4, 10, 30, "a", "b"]
    assert list(api.emulator.groups) == ["1", "2", "4", "10", "30", "a", "b"]


async def test_a_new_group_gets_the_next_number(start: Start) -> None:
    api = await start(groups=2)
    assert api.emulator.add_group().id == "3"
    api.emulator.add_group("10")
    api.emulator.add_group("x")
    assert api.emulator.add_group().id == "11"


async def test_generated_groups_look_the_same_before_and_after_somebody_touched_them(start: Start) -> None:
    api = await start(groups=30, slots_per_group=20)
    before = [(await api.get(group_id)).body for group_id in ("7", "23")]
    for group_id in ("7", "23"):
        api.emulator.groups[group_id].slots[0].experiments.append(5)
        api.emulator.groups[group_id].slots[0].experiments.pop()
    assert [(await api.get(group_id)).body for group_id in ("7", "23")] == before
    group = api.emulator.groups["7"]
    assert (len(group.slots), sum(slot.percentage for slot in group.slots)) == (20, 100)


async def test_half_a_million_groups_cost_no_time_to_start_and_a_late_page_no_more_than_the_first(start: Start) -> None:
    began = perf_counter()
    api = await start(groups=500_000, limits=False)
    ready = perf_counter() - began
    took: list[float] = []
    for cursor in (0, 499_000):
        await api.list(cursor=cursor)
        began = perf_counter()
        page = await api.list(cursor=cursor)
        took.append(perf_counter() - began)
        assert page.body.count(b'"variantKey"') == 3000
    # A list that counts its way to the page would take hundreds of times as long.
    assert took[1] < took[0] * 20
    assert ready < 1
    assert (await api.list(cursor=499_000)).json["nextCursor"] is None


async def test_a_removed_group_is_gone(api: Api) -> None:
    del api.emulator.groups["2"]
    assert (await walk(api, 10))[0] == [1, 3]
    assert (await api.get("2")).status == 404
    assert api.emulator.add_group("2").name == "Group 2"
    assert (await walk(api, 10))[0] == [1, 2, 3]


async def test_hidden_groups_are_skipped_by_the_offset(start: Start) -> None:
    api = await start(groups=6, dialect=Dialect(archived="hidden"))
    for group_id in ("1", "2", "4"):
        await api.edit(group_id, {"archive": True})
    assert await walk(api, 2) == ([3, 5, 6], [2, 1])


async def test_hidden_groups_that_the_offset_counts_leave_empty_pages_with_a_cursor(start: Start) -> None:
    api = await start(groups=6, dialect=Dialect(archived="hidden", offsets="all"))
    for group_id in ("1", "2", "4"):
        await api.edit(group_id, {"archive": True})
    assert await walk(api, 2) == ([3, 5, 6], [0, 1, 2])
