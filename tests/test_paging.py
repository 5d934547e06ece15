"""Paging: every group once and in order, for any form of cursor, and never endlessly."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from support import GROUP, ONCE, http, session_for, until

from aiomutex import (
    GroupPage,
    GroupPager,
    InvalidRequestError,
    MutexError,
    MutexGroup,
    NewGroup,
    NewSlot,
    PaginationError,
    ServerError,
    UnexpectedResponseError,
)
from aiomutex.emulator import Dialect

if TYPE_CHECKING:
    from support import RawServer

    from aiomutex import MutexSession
    from aiomutex.testing import MutexEmulator


def group(number: int | str) -> MutexGroup:
    return MutexGroup(id=str(number), slots=[])


def page(ids: Any, following: str | None) -> GroupPage:
    return GroupPage(groups=[group(number) for number in ids], next_cursor=following)


class Service:
    """Pages by cursor. Records the requested cursors, the most requests at once, and how often there was none."""

    def __init__(self, pages: dict[str | None, GroupPage | MutexError]) -> None:
        self.pages = pages
        self.requested: list[str | None] = []
        self.busy = self.busiest = self.pauses = 0

    async def fetch(self, limit: int, cursor: str | None) -> GroupPage:
        self.pauses += not self.busy and bool(self.requested)
        self.requested.append(cursor)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            await asyncio.sleep(0)
            result = self.pages.get(cursor, GroupPage(groups=[]))
        finally:
            self.busy -= 1
        if isinstance(result, MutexError):
            raise result
        return GroupPage(groups=result.groups, next_cursor=result.next_cursor, cursor=cursor)

    def pager(self, cursor: str | int | None = None, page_size: int = 3) -> GroupPager:
        return GroupPager(self.fetch, page_size=page_size, cursor=cursor)

    async def ids(self, cursor: str | None = None) -> str:
        return " ".join([group.id async for group in self.pager(cursor)])

    async def collected(self, concurrency: int = 8, cursor: str | None = None) -> str:
        return " ".join(group.id for group in await self.pager(cursor).collect(concurrency=concurrency))


def offsets(count: int, size: int = 3, *, probed: bool = False) -> dict[str | None, GroupPage | MutexError]:
    """A listing whose cursors are offsets; a ``probed`` listing ends with an empty page."""
    pages: dict[str | None, GroupPage | MutexError] = {}
    for start in range(0, count + 1 if probed else max(count, 1), size):
        end = min(start + size, count)
        more = end - start == size if probed else end < count
        pages[str(start) if start else None] = page(range(start, end), str(end) if more else None)
    return pages


def error() -> ServerError:
    return ServerError("down", status=500, method="GET", path="/p")


# ------------------------------------------------------------------ sequential


async def test_groups_of_all_pages_come_once_and_in_order() -> None:
    service = Service(offsets(8))
    assert await service.ids() == "0 1 2 3 4 5 6 7"
    assert service.requested == [None, "3", "6"]


async def test_an_empty_page_with_a_cursor_is_not_the_end() -> None:
    service = Service({None: page([], "a"), "a": page([], "b"), "b": page([1], "c"), "c": page([], None)})
    assert await service.ids() == "1"
    assert await service.collected() == "1"


@pytest.mark.parametrize(
    "pages",
    [
        {None: page([1], "a"), "a": page([2], "a")},
        {None: page([1], "a"), "a": page([2], "b"), "b": page([3], "a")},
        {None: page([], "a"), "a": page([], "a")},
        {None: page([1, 2, 3], "3"), "3": page([4, 5, 6], "3")},
        {None: page([1, 2, 3], "3"), "3": page([4, 5, 6], "6"), "6": page([7, 8, 9], "3")},
        {None: page([1, 2, 3], "3"), "3": page([4, 5, 6], "6"), "6": page([7, 8, 9], "6")},
    ],
)
async def test_a_repeated_cursor_is_an_error_instead_of_an_endless_loop(pages: Any) -> None:
    for read in (Service.ids, Service.collected):
        service = Service(pages)
        with pytest.raises(PaginationError, match="repeated the cursor") as caught:
            await read(service)
        assert caught.value.cursor in pages
        assert len(service.requested) < 20


@pytest.mark.parametrize("cursor", ["s", "2"])
async def test_a_cursor_back_to_the_start_is_an_error(cursor: str) -> None:
    pages: Any = {cursor: page([1], "b"), "b": page([2], cursor)}
    with pytest.raises(PaginationError):
        await Service(pages).ids(cursor)
    with pytest.raises(PaginationError):
        await Service(pages).collected(cursor=cursor)
    with pytest.raises(PaginationError):
        await Service({cursor: page([1], cursor)}).collected(cursor=cursor)


@pytest.mark.parametrize("groups", [[], [1, 2, 3]], ids=["empty pages", "the same page"])
@pytest.mark.parametrize("cursors", ["offsets", "names"])
async def test_a_listing_that_goes_on_without_new_groups_is_an_error(groups: list[int], cursors: str) -> None:
    requests = 0

    async def fetch(limit: int, cursor: str | None) -> GroupPage:
        nonlocal requests
        requests += 1
        following = str(int(cursor or 0) + 3) if cursors == "offsets" else f"page {requests}"
        return GroupPage(groups=list(map(group, groups)), next_cursor=following, cursor=cursor)

    pager = GroupPager(fetch, page_size=3, cursor=None)
    with pytest.raises(PaginationError, match="1,000 pages in a row had no new group") as caught:
        async for _ in pager:
            pass
    assert caught.value.cursor is not None
    assert 1000 <= requests <= 1001
    requests = 0
    with pytest.raises(PaginationError, match="1,000 pages in a row had no new group"):
        await pager.collect(concurrency=8)
    assert 1000 <= requests <= 1020


async def test_a_listing_that_goes_in_a_circle_with_new_cursors_is_an_error() -> None:
    requests = 0

    async def fetch(limit: int, cursor: str | None) -> GroupPage:
        nonlocal requests
        requests += 1
        assert requests <= 1010
        return page([requests % 3 * 2, requests % 3 * 2 + 1], f"page {requests}")

    with pytest.raises(PaginationError, match="1,000 pages in a row had no new group"):
        async for _ in GroupPager(fetch, page_size=2, cursor=None):
            pass


async def test_many_empty_pages_before_the_last_group_are_read() -> None:
    pages: dict[str | None, GroupPage | MutexError] = {
        str(number) if number else None: page([], str(number + 1)) for number in range(999)
    }
    pages["999"] = page([7], None)
    assert await Service(pages).ids() == "7"
    assert await Service(pages).collected() == "7"


async def test_more_than_a_thousand_pages_with_new_groups_are_read() -> None:
    service = Service(offsets(1100, size=1))
    assert len(await service.pager(page_size=1).collect()) == 1100


async def test_a_group_that_moves_to_the_next_page_is_returned_once() -> None:
    service = Service({None: page([1, 2, 3], "x"), "x": page([3, 4], "y"), "y": page([4, 5, 1], None)})
    assert await service.ids() == "1 2 3 4 5"
    assert await service.collected() == "1 2 3 4 5"


async def test_a_page_without_its_repeated_groups_keeps_its_cursors() -> None:
    service = Service({None: page([1, 2, 3], "x"), "x": page([3, 4], "y"), "y": page([5], None)})
    cursors = [(found.cursor, found.next_cursor, len(found.groups)) async for found in service.pager().pages()]
    assert cursors == [(None, "x", 3), ("x", "y", 1), ("y", None, 1)]


async def test_the_last_10_000_groups_are_remembered_and_no_more() -> None:
    service = Service({**offsets(10_001, size=1000), "10000": page([0, 10_000, 0], None)})
    ids = [int(group.id) async for group in service.pager(page_size=1000)]
    assert ids == [*range(10_001), 0]


async def test_a_failed_listing_can_continue_from_the_cursor_of_its_last_page() -> None:
    service = Service({**offsets(9), "6": error()})
    seen: list[GroupPage] = []

    async def read() -> None:
        async for found in service.pager().pages():
            seen.append(found)  # noqa: PERF401  # a comprehension would lose what came before the error

    with pytest.raises(ServerError):
        await read()
    assert [(found.cursor, found.next_cursor) for found in seen] == [(None, "3"), ("3", "6")]
    service.pages = offsets(9)
    assert await service.ids(seen[-1].next_cursor) == "6 7 8"


async def test_a_pager_can_be_iterated_again() -> None:
    service = Service(offsets(4))
    pager = service.pager()
    assert [group.id async for group in pager] == [group.id async for group in pager] == ["0", "1", "2", "3"]


async def test_a_page_is_fetched_only_when_it_is_needed() -> None:
    service = Service(offsets(9))
    async for _ in service.pager():
        break
    assert service.requested == [None]


async def test_memory_does_not_grow_with_the_number_of_groups() -> None:
    async def fetch(limit: int, cursor: str | None) -> GroupPage:
        start = int(cursor or 0)
        return page(range(start, start + limit), str(start + limit) if start < 40_000 else None)

    pager = GroupPager(fetch, page_size=500, cursor=None)
    tracemalloc.start()
    try:
        count = early = late = 0
        async for _ in pager:
            count += 1
            if count == 12_000:
                gc.collect()
                early = tracemalloc.get_traced_memory()[0]
            elif count == 40_000:
                gc.collect()
                late = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert count == 40_500
    # 56 more cursors are remembered, and nothing of 28,000 groups.
    assert late - early < 100_000


# ------------------------------------------------------------------ concurrent


@pytest.mark.parametrize("concurrency", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("probed", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 30, 31])
async def test_collect_returns_the_same_groups_as_iteration(count: int, probed: bool, concurrency: int) -> None:
    service = Service(offsets(count, probed=probed))
    expected = await service.ids()
    sequential = len(service.requested)
    service.requested.clear()
    assert await service.collected(concurrency) == expected
    assert len(service.requested) - sequential <= concurrency - 1
    assert service.busiest <= concurrency


@pytest.mark.parametrize("concurrency", [2, 5])
@pytest.mark.parametrize("size", [1, 3])
async def test_offset_pages_are_read_concurrently_to_the_end(concurrency: int, size: int) -> None:
    service = Service(offsets(20 * size, size))
    await service.pager(page_size=size).collect(concurrency=concurrency)
    assert service.busiest == concurrency
    # The first page is read alone. After it, there is always a request in flight.
    assert service.pauses == 1


async def test_eight_pages_are_read_at_once_by_default() -> None:
    service = Service(offsets(60))
    await service.pager().collect()
    assert service.busiest == 8


@pytest.mark.parametrize(
    "pages",
    [
        {None: page([1, 2], "a"), "a": page([3, 4], "b"), "b": page([5], None)},
        {None: page([1, 2], "900"), "900": page([3, 4], "2000"), "2000": page([5], None)},
        {None: page([1, 2], "1"), "1": page([3, 4], "2"), "2": page([5], None)},
        {None: page([1, 2], "-2"), "-2": page([3, 4], "-4"), "-4": page([5], None)},
        {None: page([], "2"), "2": page([1, 2, 3, 4, 5], None)},
        {None: page([1, 2], "\N{SUPERSCRIPT TWO}"), "\N{SUPERSCRIPT TWO}": page([3, 4, 5], None)},
    ],
)
async def test_a_cursor_that_is_not_an_offset_is_followed_sequentially(pages: Any) -> None:
    service = Service(pages)
    assert await service.collected(8) == "1 2 3 4 5"
    assert service.busiest == 1
    assert service.requested == list(pages)


async def test_cursors_that_stop_being_offsets_are_followed_from_there() -> None:
    pages: Any = {**offsets(12), "6": page([6, 7, 8], "tail"), "tail": page(["x"], "end"), "end": page(["y"], None)}
    service = Service(pages)
    assert await service.collected(4) == "0 1 2 3 4 5 6 7 8 x y"


async def test_short_pages_in_the_middle_lose_nothing() -> None:
    pages: Any = {None: page([0, 1, 2], "3"), "3": page([3], "6"), "6": page([], "9"), "9": page([9], None)}
    assert await Service(pages).collected(4) == "0 1 2 3 9"


async def test_a_concurrent_listing_can_start_at_a_cursor() -> None:
    service = Service(offsets(30))
    assert await service.collected(4, cursor="6") == " ".join(map(str, range(6, 30)))
    assert service.busiest > 1


async def test_errors_past_the_end_are_ignored_and_errors_before_it_are_raised() -> None:
    past: Any = {**offsets(9), **{str(offset): error() for offset in range(9, 60, 3)}}
    assert await Service(past).collected(8) == " ".join(map(str, range(9)))
    before: Any = {**offsets(300), "12": error()}
    service = Service(before)
    with pytest.raises(ServerError):
        await service.collected(8)
    assert len(service.requested) < 30


async def test_an_error_on_the_first_page_is_raised() -> None:
    with pytest.raises(ServerError):
        await Service({None: error()}).collected()


async def test_an_unexpected_exception_is_raised_as_itself_and_not_in_a_group() -> None:
    pages: Any = offsets(30)

    async def fetch(limit: int, cursor: str | None) -> GroupPage:
        if cursor == "9":
            raise ZeroDivisionError
        await asyncio.sleep(0)
        found: GroupPage = pages[cursor]
        return found

    with pytest.raises(ZeroDivisionError):
        await GroupPager(fetch, page_size=3, cursor=None).collect(concurrency=4)


async def test_cancelling_a_collect_stops_all_its_readers() -> None:
    started = 0

    async def fetch(limit: int, cursor: str | None) -> GroupPage:
        nonlocal started
        if cursor is None:
            return page([0, 1, 2], "3")
        started += 1
        await asyncio.Event().wait()
        raise AssertionError

    call = asyncio.ensure_future(GroupPager(fetch, page_size=3, cursor=None).collect(concurrency=4))
    await until(lambda: started >= 4)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_collect_checks_its_concurrency() -> None:
    with pytest.raises(InvalidRequestError, match="concurrency"):
        await Service({}).collected(0)


def test_a_page_size_out_of_range_is_named() -> None:
    with pytest.raises(InvalidRequestError, match=r"^page_size must be an integer from 1 to 1,000, not 1001 "):
        Service({}).pager(page_size=1001)


def test_a_cursor_of_another_type_is_named() -> None:
    for cursor in (-1, 1.5, True):
        wrong: Any = cursor
        with pytest.raises(InvalidRequestError, match=rf"^cursor must be a string or an integer from 0, not {cursor} "):
            Service({}).pager(wrong)


def test_the_repr_of_a_pager_states_facts() -> None:
    assert repr(Service({}).pager()) == "<GroupPager from the beginning · 3 a page>"
    assert repr(Service({}).pager(5)) == "<GroupPager from cursor 5 · 3 a page>"


# ------------------------------------------------------------------ over a real socket


@pytest.mark.parametrize("last", ["null", "absent", "empty"])
@pytest.mark.parametrize("cursors", ["number", "string"])
@pytest.mark.parametrize("end", ["known", "probed"])
async def test_every_dialect_of_cursors_is_read_to_the_end(
    emulator: MutexEmulator, session: MutexSession, last: Any, cursors: Any, end: Any
) -> None:
    emulator.dialect = Dialect(last_cursor=last, cursors=cursors, end_of_list=end)
    expected = [str(number) for number in range(1, 11)]
    assert [group.id async for group in session.list_groups(page_size=5)] == expected
    assert [group.id for group in await session.list_groups(page_size=2).collect()] == expected


async def test_empty_pages_of_hidden_groups_are_skipped(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.dialect = Dialect(archived="hidden", offsets="all")
    for number in range(1, 8):
        emulator.groups[str(number)].deleted = True
    assert [group.id async for group in session.list_groups(page_size=2)] == ["8", "9", "10"]
    assert [group.id for group in await session.list_groups(page_size=2).collect()] == ["8", "9", "10"]


async def test_a_cursor_of_white_space_is_an_unexpected_response(raw: RawServer) -> None:
    raw.answer(http(200, {"mutexes": [], "nextCursor": " "}))
    async with session_for(raw.url, retry=ONCE) as session:
        for call in (session.list_page, session.list_groups().collect):
            with pytest.raises(UnexpectedResponseError, match="Expected a cursor, got white space"):
                await call()


@pytest.mark.parametrize("way", ["find_group", "create_group", "aclosing"])
async def test_leaving_a_listing_early_leaves_no_task_behind(raw: RawServer, way: str) -> None:
    raw.answer(http(200, b'{"mutexes":[%s],"nextCursor":1}' % GROUP))
    async with session_for(raw.url, retry=ONCE) as session:
        await session.list_page()
        before = asyncio.all_tasks()
        if way == "find_group":
            assert await session.find_group("mutex-key")
        elif way == "create_group":
            slots = [NewSlot(percentage=95, experiments=[123], holdouts=[456]), NewSlot(percentage=5)]
            raw.answer(http(500), http(200, b'{"mutexes":[%s],"nextCursor":1}' % GROUP))
            await session.create_group(NewGroup(project_id=1, name="mutex name", key="mutex-key", slots=slots))
        else:
            async with aclosing(aiter(session.list_groups())) as groups:
                assert await anext(groups)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


async def test_a_page_that_fails_permanently_fails_the_listing_with_its_path(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url, retry=ONCE) as session:
        emulator.fail_next(status=500)
        with pytest.raises(ServerError) as caught:
            await session.list_groups(page_size=4, cursor=4).collect()
    assert caught.value.path == "/api/1/mutexes?limit=4&cursor=4"
