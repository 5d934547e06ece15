"""What users hold: one method an endpoint, one a helper; the connections and the limiter behind them.

Each endpoint method validates and builds its request in ``protocol`` and hands it to ``sender``. Nothing here knows
a header, a status or a retry.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import os
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from aiomutex import protocol, rules
from aiomutex.creation import create_once
from aiomutex.endpoint import check_api_key, service_url
from aiomutex.errors import ConfigurationError
from aiomutex.limits import LocalRateLimiter
from aiomutex.paging import GroupPager
from aiomutex.retry import RetryPolicy
from aiomutex.sender import Options, send
from aiomutex.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    import aiohttp

    from aiomutex.limits import Priority, RateLimiter
    from aiomutex.models import CreatedGroup, GroupPage, MutexGroup, NewGroup
    from aiomutex.protocol import Request

__all__ = ["MutexSession"]

T = TypeVar("T")


class MutexSession:
    """A client of the Management API's mutex groups: concurrent, rate limited, typed.

    One session serves a whole application; it is made once, opened with ``async with`` in the event loop that uses it,
    and shared by all tasks.

    Args:
        api_key: A management API key (not a deployment key); from ``AMPLITUDE_MANAGEMENT_API_KEY`` if not given.
        region: ``"us"`` or ``"eu"``; from ``AIOMUTEX_REGION`` if not given, else ``"us"``.
        base_url: Another address of the service, such as an emulator's; from ``AIOMUTEX_BASE_URL`` if neither it nor
            ``region`` is given. Plain http is accepted for loopback only.
        rate_limiter: Shared with other sessions if you give the same object; its own ``LocalRateLimiter()`` if not.
        retry: How often and when calls are sent again.
        attempt_timeout: Seconds for one attempt, from the moment it holds a permit and a connection.
        deadline: Seconds for a call as a whole: waits, attempts and back-offs.
        max_connections: Connections kept at the most.
        http: Your own ``aiohttp.ClientSession``, for a proxy or a special TLS set-up; it is used and never closed.
            Permits are then taken before aiohttp looks for a connection, which lets slow connection set-up bunch
            requests: give the limiter its ``safe`` profile.

    Raises:
        ConfigurationError: A setting is missing or wrong; the message names it and never shows the key.

    Example:
        >>> import asyncio
        >>> async def main() -> None:
        ...     async with MutexSession() as session:
        ...         async for group in session.list_groups():
        ...             print(group.key, [slot.percentage for slot in group.slots])

    Source: Experiment Management API, "Mutual exclusion groups".
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        region: str | None = None,
        base_url: str | None = None,
        rate_limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        attempt_timeout: float = 30.0,
        deadline: float = 120.0,
        max_connections: int = 64,
        http: aiohttp.ClientSession | None = None,
    ) -> None:
        key = check_api_key(os.environ.get("AMPLITUDE_MANAGEMENT_API_KEY") if api_key is None else api_key)
        url, self._region = service_url(region, base_url)
        if type(max_connections) is not int or max_connections < 1:
            raise ConfigurationError(f"max_connections is {max_connections!r}; it must be a whole number from 1")
        self._options = Options(
            attempt_timeout=attempt_timeout, deadline=deadline, retry=RetryPolicy() if retry is None else retry
        )
        limiter = LocalRateLimiter() if rate_limiter is None else rate_limiter
        self._transport = Transport(url, key, limiter, max_connections=max_connections, http=http)

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; further calls of the session and its views fail, closing again does nothing.

        A borrowed ``http`` session stays open.
        """
        await self._transport.aclose()

    def __repr__(self) -> str:
        state = self.rate_limiter.state()
        return (
            f"<MutexSession {self._region} · {self._transport.state} · {self._transport.in_flight} in flight · "
            f"{state.used} of {state.per_window} permits used · {state.used_today:,} today>"
        )

    @property
    def rate_limiter(self) -> RateLimiter:
        """The limiter every request of this session asks; give it to another session to share the budget."""
        return self._transport.limiter

    @property
    def max_connections(self) -> int:
        """Connections kept at the most."""
        return self._transport.max_connections

    def with_options(
        self,
        *,
        attempt_timeout: float | UnsetType = UNSET,
        deadline: float | UnsetType = UNSET,
        retry: RetryPolicy | UnsetType = UNSET,
        priority: Priority | UnsetType = UNSET,
    ) -> Self:
        """A light view over the same connections and limiter, for one call or a group of calls.

        It opens and closes with the session it was made from.

        Args:
            attempt_timeout: Seconds for one attempt.
            deadline: Seconds for a call as a whole.
            retry: How often and when calls are sent again.
            priority: Who goes first when requests wait for permits.

        Raises:
            ConfigurationError: A value is out of its range.

        Example:
            >>> session = MutexSession("key")
            >>> patient = session.with_options(deadline=600.0)
        """
        given = {
            name: value
            for name, value in (
                ("attempt_timeout", attempt_timeout),
                ("deadline", deadline),
                ("retry", retry),
                ("priority", priority),
            )
            if value is not UNSET
        }
        view = copy.copy(self)
        view._options = msgspec.structs.replace(self._options, **given)  # noqa: SLF001  # of our own kind
        return view

    # ------------------------------------------------------------------ the endpoints

    async def list_page(self, *, limit: int = 1000, cursor: str | int | None = None) -> GroupPage:
        """Fetch one page of the listing.

        Args:
            limit: Groups on the page at the most, 1 to 1,000.
            cursor: Where the page starts: the ``next_cursor`` of the page before.

        Raises:
            InvalidRequestError: ``limit`` is out of range or ``cursor`` is empty. Nothing was sent.
            UnexpectedResponseError: The answer is no page of groups.

        Source: Experiment Management API, "List mutex groups".
        """
        return await self._send(protocol.list_page(limit, cursor))

    def list_groups(self, *, page_size: int = 1000, cursor: str | int | None = None) -> GroupPager:
        """Go through all groups of the project, fetching pages as needed.

        Args:
            page_size: Groups a request asks for, 1 to 1,000.
            cursor: Where to start, from an earlier page.

        Returns:
            A pager: ``async for group in pager``, ``async for page in pager.pages()`` or ``await pager.collect()``.

        Raises:
            InvalidRequestError: ``page_size`` is out of range.

        Source: Experiment Management API, "List mutex groups".
        """
        return GroupPager(self._fetch_page, page_size=page_size, cursor=cursor)

    async def get_group(self, group_id: str | int) -> MutexGroup:
        """Fetch one mutex group.

        Args:
            group_id: The group's id, as text or number.

        Raises:
            InvalidRequestError: ``group_id`` is empty or cannot be one path segment. Nothing was sent.
            NotFoundError: The service knows no such group.

        Source: Experiment Management API, "Get mutex group details".
        """
        return await self._send(protocol.get_group(group_id))

    async def find_group(self, key: str) -> MutexGroup | None:
        """Find a group by its key, reading the listing until it turns up; ``None`` if it does not.

        One request for each 1,000 groups: the service documents no search.

        Args:
            key: The group's key.

        Raises:
            InvalidRequestError: ``key`` is empty. Nothing was sent.
        """
        rules.nonempty_text("key", key)
        return await self._find(key, asyncio.get_running_loop().time() + self._options.deadline)

    async def edit_group(
        self, group_id: str | int, *, name: str | UnsetType = UNSET, description: str | UnsetType | None = UNSET
    ) -> None:
        """Change the name or the description of a group. What is not given stays as it is.

        Args:
            group_id: The group's id.
            name: The new name.
            description: The new description; ``None`` is sent as null.

        Raises:
            InvalidRequestError: Nothing is given, or a value breaks a rule. Nothing was sent.
            NotFoundError: The service knows no such group.

        Source: Experiment Management API, "Edit mutex group".
        """
        await self._send(protocol.edit_group(group_id, name=name, description=description))

    async def archive_group(self, group_id: str | int) -> None:
        """Archive a group: it is marked deleted, and its experiments no longer depend on it.

        Archiving a group with a running experiment damages the experiment's data, and what is detached does not come
        back with :meth:`unarchive_group`.

        Raises:
            NotFoundError: The service knows no such group.

        Source: Experiment Management API, "Edit mutex group", argument ``archive``.
        """
        await self._send(protocol.archive_group(group_id, archive=True))

    async def unarchive_group(self, group_id: str | int) -> None:
        """Take a group out of the archive. Experiments that archiving detached stay detached.

        Raises:
            NotFoundError: The service knows no such group.

        Source: Experiment Management API, "Edit mutex group", argument ``archive``.
        """
        await self._send(protocol.archive_group(group_id, archive=False))

    async def edit_slot(
        self,
        group_id: str | int,
        slot_index: int,
        *,
        experiments: Sequence[int] | UnsetType = UNSET,
        holdouts: Sequence[int] | UnsetType = UNSET,
        individuals: Sequence[str] | UnsetType = UNSET,
    ) -> None:
        """Write the lists of one slot. Give each list whole; what is not given is not sent.

        Whether the service replaces its list by a given one or merges the two is not documented. If something was to
        be removed, read the group back, or use ``edit_slots(..., verify=True)``.

        Args:
            group_id: The group's id.
            slot_index: The slot, from 1.
            experiments: Ids of the experiments on it.
            holdouts: Ids of the holdouts on it.
            individuals: User or device ids that always land in it.

        Raises:
            InvalidRequestError: Nothing is given, or a value breaks a rule. Nothing was sent.
            NotFoundError: The service knows no such group or slot.

        Source: Experiment Management API, "Edit mutex group slot".
        """
        await self._send(protocol.edit_slot(group_id, slot_index, experiments, holdouts, individuals))

    async def create_group(self, group: NewGroup) -> CreatedGroup:
        """Create a group, once.

        The service knows no idempotency key, so the group's own key serves as one: it is made here if you give none,
        and when an answer is lost the key is looked up before anything is sent again.

        Raises:
            InvalidRequestError: A field breaks a rule; the message names it. Nothing was sent.
            ConflictError: The key is taken (the service may also say so with a ``BadRequestError``).
            OutcomeUnknownError: Whether it was created could not be learned; ``key`` tells what to look for.

        Source: Experiment Management API, "Create mutex group".
        """
        return await create_once(self._transport, group, self._options, self._find)

    # ------------------------------------------------------------------ inside

    async def _send(self, request: Request[T], ends_at: float | None = None) -> T:
        return await send(self._transport, request, self._options, ends_at)

    async def _fetch_page(self, limit: int, cursor: str | None, ends_at: float | None = None) -> GroupPage:
        return await self._send(protocol.list_page(limit, cursor), ends_at)

    async def _find(self, key: str, ends_at: float) -> MutexGroup | None:
        fetch: Any = functools.partial(self._fetch_page, ends_at=ends_at)
        async for group in GroupPager(fetch, page_size=rules.MAX_PAGE_SIZE, cursor=None):
            if group.key == key:
                return group
        return None
