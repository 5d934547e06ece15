"""Reading many groups by the cheaper way: one by one, or by pages of the listing, which hold 1,000 groups each.

Knows sessions, but nothing of edits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, Self

from aiomutex._util.tasks import run_workers
from aiomutex.errors import NotFoundError, ServerError, TransportError, UnexpectedResponseError
from aiomutex.paging import offset_step

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiomutex.limits import Priority, RateLimiter
    from aiomutex.models import GroupPage, MutexGroup

__all__ = ["MAX_LAG", "GroupReader", "ReadingSession"]

MAX_LAG: Final = 10.0
"""Seconds after which a read is assumed to show a write."""

_MAX_SINGLE: Final = 20
"""Up to this number of groups, pages are not considered: the listing may have many."""
_MIN_PAGE: Final = 125
"""Pages that fail are asked for half as many groups each, down to this number."""


class ReadingSession(Protocol):
    """What reading needs of a session."""

    @property
    def rate_limiter(self) -> RateLimiter:
        """The limiter of its requests."""
        ...

    def with_options(self, *, priority: Priority) -> Self:
        """A view of the session with another priority."""
        ...

    async def get_group(self, group_id: str) -> MutexGroup:
        """Fetch one group."""
        ...

    async def list_page(self, *, limit: int, cursor: str | None) -> GroupPage:
        """Fetch one page of the listing."""
        ...


class GroupReader:
    """Reads groups for one run.

    Args:
        session: Sends the requests.
        concurrency: The maximum number of requests in flight.
    """

    def __init__(self, session: ReadingSession, concurrency: int) -> None:
        self._session = session
        self._concurrency = concurrency
        self._limit = 1000
        self._pages: int | None = None  # the number of pages of the listing, once its end was seen
        self.requests = 0
        """The number of reads made, without retries."""

    async def read(self, ids: Collection[str]) -> dict[str, MutexGroup]:
        """Read groups; those that do not exist are absent from the result.

        Pages are read until as many were read as groups are still missing, which are then read one by one. So the cost
        is at most about twice that of the cheaper way, although the number of pages is not known before.

        Raises:
            MutexError: A group could not be read.
        """
        missing = set(ids)
        found: dict[str, MutexGroup] = {}
        if len(missing) > _MAX_SINGLE and (self._pages is None or self._pages < len(missing)):
            await self._read_pages(missing, found)

        async def read_one(group_id: str) -> None:
            self.requests += 1
            try:
                found[group_id] = await self._session.get_group(group_id)
            except NotFoundError:
                return

        await run_workers(read_one, sorted(missing), self._concurrency)
        return found

    async def _read_pages(self, missing: set[str], found: dict[str, MutexGroup]) -> None:
        pages = 0
        cursor: str | None = None
        step = 0
        while len(missing) > pages:
            # Until the end was seen, at most a quarter of the requested pages may lie past it.
            ahead = self._concurrency if self._pages else max(1, pages // 3)
            width = min(ahead, len(missing) - pages) if step else 1
            cursors: list[str | None] = [cursor]
            cursors += _offsets(cursor, step, width)
            try:
                batch = await self._fetch(cursors)
            except (ServerError, TransportError, UnexpectedResponseError):
                if self._limit // 2 < _MIN_PAGE:
                    return
                self._limit, step = self._limit // 2, 0
                continue
            for at, page in zip(cursors, batch, strict=True):
                pages += 1
                for group in page.groups:
                    if group.id in missing:
                        missing.discard(group.id)
                        found[group.id] = group
                cursor = page.next_cursor
                if cursor is None:
                    self._pages = pages
                    return
                if step and cursor != str(int(at or 0) + step):
                    break  # no offset after all: go on from here, one page after another
            if len(batch) == 1:
                step = offset_step(batch[0])

    async def _fetch(self, cursors: list[str | None]) -> list[GroupPage]:
        pages: dict[int, GroupPage] = {}

        async def fetch(index: int) -> None:
            self.requests += 1
            pages[index] = await self._session.list_page(limit=self._limit, cursor=cursors[index])

        await run_workers(fetch, range(len(cursors)), self._concurrency)
        return [pages[index] for index in range(len(cursors))]


def _offsets(cursor: str | None, step: int, width: int) -> list[str]:
    """The cursors of the pages after ``cursor``."""
    return [str(int(cursor or 0) + step * index) for index in range(1, width)]
