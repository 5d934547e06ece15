"""Reading the listing: page after page, or pages side by side where the cursor proves to be an offset.

Knows pages and cursors only; how a page is fetched is a function given to it. Nothing yields inside a task group.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from aiomutex._api import validation
from aiomutex._util.tasks import run_workers
from aiomutex.errors import InvalidRequestError, MutexError, PaginationError

if TYPE_CHECKING:
    from aiomutex.models import GroupPage, MutexGroup

__all__ = ["GroupPager"]

Fetch = Callable[[int, str | None], Awaitable["GroupPage"]]

# Longer runs of digits are names; Python refuses to make numbers of thousands of them.
_OFFSET: Final = re.compile(r"[0-9]{1,18}")


class GroupPager:
    """The groups of a project: iterate over it for groups, over ``pages()`` for pages, or ``collect()`` a list.

    Each iteration reads the listing anew. The cursor is an offset, so while others create or archive groups a listing
    may skip a group or meet one twice. Groups met twice within two pages are dropped; a skipped one cannot be noticed.

    Args:
        fetch: Reads one page, from its size and cursor.
        page_size: Groups a request asks for, 1 to 1,000.
        cursor: Where to start: the ``cursor`` or ``next_cursor`` of a page seen earlier.
    """

    def __init__(self, fetch: Fetch, *, page_size: int, cursor: str | int | None) -> None:
        self._fetch = fetch
        self._page_size = validation.page_limit("page_size", page_size)
        self._start = validation.page_cursor(cursor)

    def __repr__(self) -> str:
        start = "the beginning" if self._start is None else f"cursor {self._start}"
        return f"<GroupPager from {start} · {self._page_size} a page>"

    async def __aiter__(self) -> AsyncGenerator[MutexGroup, None]:
        # Closed together: what is left to the garbage collector is closed by a task that nobody awaits.
        async with aclosing(self.pages()) as pages:
            async for page in pages:
                for group in page.groups:
                    yield group

    async def pages(self) -> AsyncGenerator[GroupPage, None]:
        """Read page after page, the next one when it is asked for.

        Memory holds one page and the ids of two. A page may be empty though it is not the last.

        Raises:
            PaginationError: The service repeated a cursor, which would never end.
            MutexError: A page could not be read; ``cursor`` of the page before, as ``next_cursor``, continues there.
        """
        seen = {self._start}
        met = _Recent(2 * self._page_size)
        cursor = self._start
        while True:
            page = await self._fetch(self._page_size, cursor)
            yield _without(page, met)
            cursor = page.next_cursor
            if cursor is None:
                return
            _check_new(cursor, seen)
            seen.add(cursor)

    async def collect(self, *, concurrency: int = 8) -> list[MutexGroup]:
        """Read all groups into a list, several pages side by side where that is possible.

        That is where the first page shows the cursor to be an offset. How many pages there are is not known before
        the last is found, so up to ``concurrency - 1`` requests may go past the end. Order is kept, and a group met
        twice stands once, where it came first.

        Args:
            concurrency: Pages in flight at the most; 1 reads one after the other.

        Raises:
            PaginationError: The service repeated a cursor.
            MutexError: A page could not be read.
        """
        if type(concurrency) is not int or concurrency < 1:
            raise InvalidRequestError(f"concurrency is {concurrency!r}; it must be a whole number from 1")
        groups: dict[str, MutexGroup] = {}
        first = await self._fetch(self._page_size, self._start)
        _add(groups, first)
        cursor = first.next_cursor
        step = _offset_step(first)
        if step and concurrency > 1:
            reader = _SideBySide(self._fetch, self._page_size, int(first.next_cursor or 0), step)
            for page in await reader.read(concurrency):
                _add(groups, page)
                cursor = page.next_cursor
        # What is left, which is nothing unless the cursor is no offset or stopped being one.
        if cursor is not None:
            _check_new(cursor, {self._start})
            rest = GroupPager(self._fetch, page_size=self._page_size, cursor=cursor)
            async for page in rest.pages():
                if page.next_cursor is not None:
                    _check_new(page.next_cursor, {self._start})
                _add(groups, page)
        return list(groups.values())


class _SideBySide:
    """Pages at ``start``, ``start + step``, … read by several tasks until one of them is the last."""

    def __init__(self, fetch: Fetch, page_size: int, start: int, step: int) -> None:
        self._fetch = fetch
        self._page_size = page_size
        self._step = step
        self._start = start
        self._read: dict[int, GroupPage | MutexError] = {}
        self._ended = False

    async def read(self, concurrency: int) -> list[GroupPage]:
        """The pages in order, up to the last, or up to the first whose cursor does not lead to the next."""
        await run_workers(self._read_at, self._offsets(), concurrency)
        pages: list[GroupPage] = []
        for offset in sorted(self._read):
            page = self._read[offset]
            if isinstance(page, MutexError):
                raise page
            pages.append(page)
            if page.next_cursor != str(offset + self._step):
                break
        return pages

    def _offsets(self) -> Iterator[int]:
        offset = self._start
        while not self._ended:
            yield offset
            offset += self._step

    async def _read_at(self, offset: int) -> None:
        try:
            page: GroupPage | MutexError = await self._fetch(self._page_size, str(offset))
        except MutexError as error:
            # Past the end a service may well refuse; the page is judged once its place is known.
            page = error
        self._read[offset] = page
        if isinstance(page, MutexError) or page.next_cursor != str(offset + self._step):
            self._ended = True


class _Recent:
    """The last ids met, at most ``size`` of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids: dict[str, None] = {}

    def meet(self, group_id: str) -> bool:
        """Note an id; whether it is new."""
        if group_id in self._ids:
            return False
        self._ids[group_id] = None
        if len(self._ids) > self._size:
            del self._ids[next(iter(self._ids))]
        return True


def _without(page: GroupPage, met: _Recent) -> GroupPage:
    fresh = [group for group in page.groups if met.meet(group.id)]
    return page if len(fresh) == len(page.groups) else _replaced(page, fresh)


def _replaced(page: GroupPage, groups: Iterable[MutexGroup]) -> GroupPage:
    return type(page)(groups=list(groups), next_cursor=page.next_cursor, cursor=page.cursor)


def _add(groups: dict[str, MutexGroup], page: GroupPage) -> None:
    for group in page.groups:
        groups.setdefault(group.id, group)


def _offset_step(page: GroupPage) -> int:
    """How far the cursor moves, if it is an offset that moved by exactly the groups of this page; else 0."""
    start, following = page.cursor or "0", page.next_cursor or ""
    if not (_OFFSET.fullmatch(start) and _OFFSET.fullmatch(following)):
        return 0
    step = int(following) - int(start)
    return step if 0 < step == len(page.groups) else 0


def _check_new(cursor: str, seen: set[str | None]) -> None:
    if cursor in seen:
        raise PaginationError(
            f"the service repeated the cursor {cursor!r}; following it would never end", cursor=cursor
        )
