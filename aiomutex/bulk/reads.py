"""Reading many groups by the cheaper way: one by one, or by pages of the listing, which hold 1,000 groups each.

Knows nothing of edits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from aiomutex._util.tasks import results_of
from aiomutex.bulk.options import FATAL
from aiomutex.errors import MutexError
from aiomutex.paging import offset_step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from aiomutex.models import GroupPage, MutexGroup

MAX_LAG: Final = 10.0
"""Seconds after which a read is assumed to show a write."""

MAX_SINGLE: Final = 20
"""Up to this number of groups, pages are not considered: the listing may have many."""
_MIN_PAGE: Final = 125  # pages that fail are asked for half as many groups each, down to this number


class Reading(NamedTuple):
    """A group as it was read."""

    group: MutexGroup | MutexError
    """The group, or why it could not be read."""
    from_page: bool


class GroupReader:
    """Reads groups for one run, with at most ``concurrency`` requests in flight."""

    def __init__(
        self,
        get_group: Callable[[str], Awaitable[MutexGroup]],
        list_page: Callable[[int, str | None], Awaitable[GroupPage]],
        concurrency: int,
    ) -> None:
        self._get_group = get_group
        self._list_page = list_page
        self._concurrency = concurrency
        self._limit = 1000
        self.pages: int | None = None  # the number of pages of the listing, once its end was seen

    async def read(self, ids: Collection[str]) -> dict[str, Reading]:
        """Read groups. What it raises, every further request would raise as well.

        Pages are read until as many were read as groups are still missing, which are then read one by one. So the cost
        is at most about twice that of the cheaper way, although the number of pages is not known before.
        """
        missing = set(ids)
        found: dict[str, Reading] = {}
        if len(missing) > MAX_SINGLE and (self.pages is None or self.pages < len(missing)):
            await self._read_pages(missing, found)
        return found | await results_of(self.read_one, sorted(missing), self._concurrency)

    async def read_one(self, group_id: str) -> Reading:
        """Read one group on its own. What it raises, every further request would raise as well."""
        try:
            return Reading(await self._get_group(group_id), from_page=False)
        except FATAL:
            raise
        except MutexError as error:
            return Reading(error, from_page=False)

    async def _read_pages(self, missing: set[str], found: dict[str, Reading]) -> None:
        wanted = set(missing)
        pages = 0
        cursor: str | None = None
        step = 0
        while len(missing) > pages:
            # Until the end was seen, at most a quarter of the requested pages may lie past it.
            ahead = max(1, self.pages - pages if self.pages else pages // 3)
            width = min(ahead, len(missing) - pages) if step else 1
            cursors: list[str | None] = [cursor]
            cursors += _offsets(cursor, step, width)
            try:
                batch = await self._fetch(cursors)
            except FATAL:
                raise
            except MutexError:
                if self._limit // 2 < _MIN_PAGE:
                    return
                self._limit, step = self._limit // 2, 0
                continue
            for at, page in batch.items():
                pages += 1
                for group in page.groups:
                    if group.id in wanted:
                        missing.discard(group.id)
                        found[group.id] = Reading(group, from_page=True)
                cursor = page.next_cursor
                if cursor is None:
                    self.pages = pages
                    return
                if step and cursor != str(int(at or 0) + step):
                    break  # no offset after all: go on from here, one page after another
            if len(batch) == 1:
                step = offset_step(batch[cursors[0]])

    async def _fetch(self, cursors: list[str | None]) -> dict[str | None, GroupPage]:
        return await results_of(lambda cursor: self._list_page(self._limit, cursor), cursors, self._concurrency)


def _offsets(cursor: str | None, step: int, width: int) -> list[str]:
    """The cursors of the pages after ``cursor``."""
    return [str(int(cursor or 0) + step * index) for index in range(1, width)]
