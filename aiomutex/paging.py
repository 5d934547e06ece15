"""Reading the listing: one page after the other, or several at once if the cursor turns out to be an offset.

Knows pages and cursors; the function that fetches a page is passed in. Nothing yields inside a task group.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import msgspec

from aiomutex._api import validation
from aiomutex._util.checks import check_integer
from aiomutex._util.tasks import run_workers
from aiomutex.errors import MutexError, PaginationError

if TYPE_CHECKING:
    from aiomutex.models import GroupPage, MutexGroup

Fetch = Callable[[int, str | None], Awaitable["GroupPage"]]

MAX_IDLE_PAGES: Final = 1000
"""Consecutive pages without a new group that are read: about 1 % of the requests of a day."""
_RECENT: Final = 10_000
# Longer strings of digits are not offsets, and Python does not convert thousands of digits to an integer.
_OFFSET: Final = re.compile(r"[0-9]{1,18}")


class GroupPager:
    """The groups of a project: iterate over it for groups, over ``pages()`` for pages, or ``collect()`` a list.

    ``MutexSession.list_groups`` returns it. Each iteration reads the listing again. The cursor is an offset, so while
    others create or archive groups, a listing may skip a group or return one twice. A group returned twice within
    10,000 groups is dropped; a skipped group cannot be noticed.
    """

    def __init__(self, fetch: Fetch, *, page_size: int, cursor: str | int | None) -> None:
        self._fetch = fetch
        self._page_size = check_integer("page_size", page_size, least=1, most=validation.MAX_PAGE_SIZE)
        self._start = validation.page_cursor(cursor)

    def __repr__(self) -> str:
        start = "the beginning" if self._start is None else f"cursor {self._start}"
        return f"<GroupPager from {start} · {self._page_size} a page>"

    async def __aiter__(self) -> AsyncGenerator[MutexGroup, None]:
        # Otherwise the garbage collector would close the inner generator, in a task that nobody awaits.
        async with aclosing(self.pages()) as pages:
            async for page in pages:
                for group in page.groups:
                    yield group

    async def pages(self) -> AsyncGenerator[GroupPage, None]:
        """Yield one page after the other, each when it is needed; one that is not the last may be empty.

        Memory holds one page, the cursors and the IDs of the last 10,000 groups.

        Raises:
            PaginationError: The service repeated a cursor, or sent 1,000 pages in a row without a group other than the
                last 10,000, so the listing may never end.
            MutexError: A page could not be read. ``next_cursor`` of the page before continues there.

        Example:
            >>> async for page in session.list_groups(page_size=2).pages():
            ...     print(len(page.groups), page.next_cursor)
            2 2
            1 None
        """
        recent = OrderedDict[str, None]()
        cursor, seen, idle = self._start, set[str | None](), 0
        while True:
            if cursor in seen:
                problem = f"the service repeated the cursor {cursor!r}, so the listing would never end"
                raise PaginationError(problem, cursor=str(cursor))
            seen.add(cursor)
            page = _without_repeats(await self._fetch(self._page_size, cursor), recent)
            yield page
            idle = _idle_pages(idle, page, len(page.groups))
            if (cursor := page.next_cursor) is None:
                return

    async def collect(self, *, concurrency: int = 8) -> list[MutexGroup]:
        """Read all groups into a list in the service's order, up to ``concurrency`` pages at once where possible.

        It is possible if the first page shows that the cursor is an offset. The number of pages is not known before the
        last one is found, so up to ``concurrency - 1`` requests may be made past the end. A group that was returned
        twice is kept where it came first.

        Raises:
            PaginationError: The service repeated a cursor, or sent 1,000 pages in a row without a new group.
            MutexError: A page could not be read.

        Example:
            >>> groups = await session.list_groups().collect()
            >>> len(groups)
            3
        """
        check_integer("concurrency", concurrency, least=1)
        pages = [await self._fetch(self._page_size, self._start)]
        if concurrency > 1 and (step := offset_step(pages[0])):
            start = int(pages[0].next_cursor or 0)
            pages += await _read_concurrently(self._fetch, self._page_size, start, step, concurrency)
        # The rest of the listing; there is none unless the cursor is not an offset.
        if (cursor := pages[-1].next_cursor) is not None:
            rest = GroupPager(self._fetch, page_size=self._page_size, cursor=cursor)
            pages += [page async for page in rest.pages()]
        groups: dict[str, MutexGroup] = {}
        for group in itertools.chain.from_iterable(page.groups for page in pages):
            groups.setdefault(group.id, group)
        return list(groups.values())


async def _read_concurrently(fetch: Fetch, page_size: int, start: int, step: int, concurrency: int) -> list[GroupPage]:
    """Read the pages at ``start``, ``start + step``, …, to the last or to the first whose cursor is no such offset."""
    read: dict[int, GroupPage | MutexError] = {}
    ids: set[str] = set()
    idle, ended = 0, False

    async def read_at(offset: int) -> None:
        nonlocal idle, ended
        try:
            page = await fetch(page_size, str(offset))
        except MutexError as error:
            # It may be past the end, where an error does not matter. That is known only once all are read.
            read[offset], ended = error, True
            return
        read[offset] = page
        known = len(ids)
        ids.update(group.id for group in page.groups)
        idle = _idle_pages(idle, page, len(ids) - known)
        ended = ended or page.next_cursor != str(offset + step)

    await run_workers(read_at, itertools.takewhile(lambda _: not ended, itertools.count(start, step)), concurrency)
    pages: list[GroupPage] = []
    for offset, page in sorted(read.items()):
        if isinstance(page, MutexError):
            raise page
        pages.append(page)
        if page.next_cursor != str(offset + step):
            break
    return pages


def _idle_pages(idle: int, page: GroupPage, new_groups: int) -> int:
    """Count the pages in a row without a new group; too many are an error, since each costs a request of the day."""
    idle = 0 if new_groups else idle + 1
    if idle >= MAX_IDLE_PAGES and page.next_cursor is not None:
        problem = f"{idle:,} pages in a row had no new group, up to the cursor {page.next_cursor!r}"
        hint = "pass a larger page_size, or this as the cursor to continue"
        raise PaginationError(f"{problem}; {hint}", cursor=page.next_cursor)
    return idle


def _without_repeats(page: GroupPage, recent: OrderedDict[str, None]) -> GroupPage:
    """Drop the groups whose IDs are among the ``recent`` ones, of which the last are kept."""
    new: list[MutexGroup] = []
    for group in page.groups:
        if group.id not in recent:
            new.append(group)
            recent[group.id] = None
            if len(recent) > _RECENT:
                recent.popitem(last=False)
    return page if len(new) == len(page.groups) else msgspec.structs.replace(page, groups=new)


def offset_step(page: GroupPage) -> int:
    """The number of groups in the page if the cursor is an offset that moved by exactly that number; else 0."""
    start, following = page.cursor or "0", page.next_cursor or ""
    if not (_OFFSET.fullmatch(start) and _OFFSET.fullmatch(following)):
        return 0
    step = int(following) - int(start)
    return step if 0 < step == len(page.groups) else 0
