"""What users hold: one method an endpoint, one a helper.

Each method validates and builds its request in ``protocol`` and hands it on. Nothing here knows a header, a status, a
retry or a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import os
from collections.abc import AsyncIterable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import aiohttp
import msgspec
from msgspec import UNSET, UnsetType

from aiomutex._api import requests, validation
from aiomutex._api.redaction import SecretStr
from aiomutex._http.call import CallResult, Options, send
from aiomutex._http.config import check_api_key, service_url
from aiomutex._http.create import create_once
from aiomutex._http.transport import Transport
from aiomutex._util.checks import check_integer, type_name
from aiomutex.bulk import slot_changes
from aiomutex.bulk.options import Settings, check_all
from aiomutex.bulk.report import BulkReport, SlotOutcome
from aiomutex.bulk.slot_changes import GroupLocks
from aiomutex.bulk.stream import OutcomeStream
from aiomutex.errors import ConfigurationError, InvalidRequestError, PaginationError
from aiomutex.limits import LocalRateLimiter, Priority
from aiomutex.paging import GroupPager
from aiomutex.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from aiomutex._api.requests import Request
    from aiomutex._api.responses import Response
    from aiomutex.bulk.options import Edits, OnBudget
    from aiomutex.limits import RateLimiter
    from aiomutex.models import CreatedGroup, GroupPage, MutexGroup, NewGroup, Slot

__all__ = ["MutexSession"]

T = TypeVar("T")

_LIMITER_METHODS: Final = ("acquire", "throttled", "answered", "state")


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
        max_connections: Connections kept at the most; bulk calls use three quarters of them at the most.
        http: Your own ``aiohttp.ClientSession``, for a proxy or a special TLS set-up; it is used and never closed.
            Permits are then taken before aiohttp looks for a connection, which lets slow connection set-up bunch
            requests, and aiohttp itself repeats a read on a connection that turns out dead: give the limiter its
            ``safe`` profile.

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
        # A traceback that prints locals shows this frame, whatever else is wrong with the arguments.
        api_key = SecretStr.of(os.environ.get("AMPLITUDE_MANAGEMENT_API_KEY") if api_key is None else api_key)
        key = check_api_key(api_key)
        url, self._place = service_url(region, base_url)
        check_integer("max_connections", max_connections, least=1, error=ConfigurationError)
        self._options = Options(
            attempt_timeout=attempt_timeout, deadline=deadline, retry=RetryPolicy() if retry is None else retry
        )
        self._locks = GroupLocks()
        limiter = LocalRateLimiter() if rate_limiter is None else _checked_limiter(rate_limiter)
        if http is not None and not isinstance(http, aiohttp.ClientSession):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
            raise ConfigurationError(f"http must be an aiohttp.ClientSession, not {type_name(http)}")
        self._transport = Transport(url, key, limiter, max_connections=max_connections, http=http)

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; calls under way and further ones fail, closing again does nothing.

        The views of the session close with it. A borrowed ``http`` session stays open.
        """
        await self._transport.aclose()

    def __repr__(self) -> str:
        if "_transport" not in vars(self):
            # What a traceback that prints locals shows where the constructor refuses its arguments.
            return "<MutexSession not set up>"
        state = self.rate_limiter.state()
        return (
            f"<MutexSession {self._place} · {self._transport.state} · {self._transport.in_flight} in flight · "
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
            >>> from aiomutex import MutexSession
            >>> patient = MutexSession("key").with_options(deadline=600.0)
        """
        given: dict[str, Any] = {
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
        view._options = Options(**msgspec.structs.asdict(self._options) | given)  # noqa: SLF001  # of our own kind
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
            PaginationError: The service repeats the API key as a cursor.

        Source: Experiment Management API, "List mutex groups".
        """
        return await self._fetch_page(limit, cursor)

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
        return await self._send(requests.get_group(group_id))

    async def find_group(self, key: str) -> MutexGroup | None:
        """Find a group by its key, reading the listing until it turns up; ``None`` if it does not.

        One request for each 1,000 groups: the service documents no search.

        Args:
            key: The group's key.

        Raises:
            InvalidRequestError: ``key`` is empty. Nothing was sent.
        """
        validation.nonempty_text("key", key)
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
        await self._send(requests.edit_group(group_id, name=name, description=description))

    async def archive_group(self, group_id: str | int) -> None:
        """Archive a group: it is marked deleted, and its experiments no longer depend on it.

        Archiving a group with a running experiment damages the experiment's data, and what is detached does not come
        back with :meth:`unarchive_group`.

        Raises:
            NotFoundError: The service knows no such group.

        Source: Experiment Management API, "Edit mutex group", argument ``archive``.
        """
        await self._send(requests.archive_group(group_id, archive=True))

    async def unarchive_group(self, group_id: str | int) -> None:
        """Take a group out of the archive. Experiments that archiving detached stay detached.

        Raises:
            NotFoundError: The service knows no such group.

        Source: Experiment Management API, "Edit mutex group", argument ``archive``.
        """
        await self._send(requests.archive_group(group_id, archive=False))

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
        await self._send(requests.edit_slot(group_id, slot_index, experiments, holdouts, individuals))

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

    async def request(
        self, method: str, path: str, *, json: object = UNSET, idempotent: bool | None = None
    ) -> Response:
        """Send a request to any endpoint of the service, for what this library does not model.

        It goes through the same limiter, retries, timeouts and errors as every other call.

        Args:
            method: The HTTP method in capital letters.
            path: Path and query, percent-encoded, such as ``"/api/1/experiments?limit=10"``.
            json: The body, encoded as JSON; ``None`` is sent as null, and nothing is sent if it is not given.
            idempotent: Whether the request may be sent again when its response was lost. If not given, it follows the
                method: true for GET, HEAD, OPTIONS, PUT and DELETE, false for PATCH and POST.

        Returns:
            The response of a success, with ``status``, ``headers``, ``body``, ``json()``, ``request_id`` and
            ``attempts``.

        Raises:
            InvalidRequestError: An argument cannot be sent. Nothing was sent.
            APIError: The service answered with a status outside 200 to 299.
            TransportError: No complete response arrived; ``maybe_applied`` says whether it may have been applied.

        Example:
            >>> async def experiment_names(session: MutexSession) -> list[str]:
            ...     response = await session.request("GET", "/api/1/experiments?limit=1000")
            ...     return [experiment["name"] for experiment in response.json()["experiments"]]
        """
        result = await self._send_counted(requests.any_request(method, path, json, idempotent))
        response: Response = result.value
        response.attempts = result.attempts
        return response

    # ------------------------------------------------------------------ bulk edits

    async def edit_slots(
        self,
        edits: Edits,
        *,
        concurrency: int | None = None,
        journal: str | os.PathLike[str] | None = None,
        verify: bool = False,
        on_outcome: Callable[[SlotOutcome], object] | None = None,
        stop_after: int | None = None,
        on_budget: OnBudget = "stop",
        reserve: int = 0,
    ) -> BulkReport:
        """Write many slots, and report what became of each edit.

        Edits of one group go one after the other, in the order given; groups go side by side. Identical edits that
        follow each other share a request. Interactive calls of the same limiter go ahead.

        Args:
            edits: An iterable or async iterable of ``SlotEdit``, pulled as needed. A collection is checked as a whole
                before anything is sent; of an iterator, a wrong edit fails when its turn comes.
            concurrency: Edits in flight at the most; three quarters of ``max_connections`` if not given, which is also
                how many have a connection at a time: the others are for interactive calls.
            journal: A file that remembers progress and earlier content. The same call after a crash goes on where the
                run stopped; ``aiomutex.bulk.undo`` takes it back. Costs one read for each group.
            verify: Read each group before and after, and fail an edit whose slot does not hold what was written.
            on_outcome: Called with each outcome as it comes; it must not block.
            stop_after: Stop after so many failed edits. A refused API key stops the run in any case.
            on_budget: When the day's requests are used up: ``"stop"``, to be resumed later, or ``"wait"`` for the next
                day.
            reserve: Requests of the day to leave to others.

        Raises:
            InvalidRequestError: An argument or an edit of a collection breaks a rule. Nothing was sent.
            JournalError: The journal belongs to another input or process, or is no journal.

        Source: Experiment Management API, "Edit mutex group slot".
        """
        outcomes: list[SlotOutcome] = []
        stream = self.stream_slot_edits(
            edits,
            concurrency=concurrency,
            journal=journal,
            verify=verify,
            on_outcome=on_outcome,
            stop_after=stop_after,
            on_budget=on_budget,
            reserve=reserve,
        )
        async with stream:
            async for outcome in stream:
                outcomes.append(outcome)  # noqa: PERF401  # a comprehension would lose what came before an error
        if not isinstance(edits, AsyncIterable | Iterator):
            # A stopped run leaves the rest of its input unread; each edit of a collection gets its outcome still.
            for position, edit in enumerate(edits):
                if position >= stream.pulled:
                    note = "not sent: the run was stopped before"
                    outcomes.append(SlotOutcome(edit=edit, status="skipped", position=position, note=note))
        return BulkReport(outcomes=outcomes, stopped_by=stream.stopped_by)

    def stream_slot_edits(
        self,
        edits: Edits,
        *,
        concurrency: int | None = None,
        journal: str | os.PathLike[str] | None = None,
        verify: bool = False,
        on_outcome: Callable[[SlotOutcome], object] | None = None,
        stop_after: int | None = None,
        on_budget: OnBudget = "stop",
        reserve: int = 0,
    ) -> OutcomeStream:
        """Write many slots and keep nothing: the outcomes come as they are known. For millions of edits.

        Arguments and errors are those of :meth:`edit_slots`.

        Example:
            >>> async def migrate(session, edits):
            ...     async with session.stream_slot_edits(edits, journal="run.db") as outcomes:
            ...         async for outcome in outcomes:
            ...             if outcome.error:
            ...                 print(outcome.edit, outcome.error)
        """
        settings = Settings(
            concurrency=max(1, self.max_connections * 3 // 4) if concurrency is None else concurrency,
            stop_after=stop_after,
            on_budget=on_budget,
            reserve=reserve,
        )
        if not isinstance(edits, AsyncIterable | Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
            raise InvalidRequestError(f"edits must be an iterable of SlotEdit, not {type_name(edits)}")
        if on_outcome is not None and not callable(on_outcome):
            raise InvalidRequestError(f"on_outcome must be a function, not {type_name(on_outcome)}")
        if not isinstance(edits, AsyncIterable | Iterator):
            check_all(edits)
        bulk = self.with_options(priority=Priority.BULK)
        return OutcomeStream(
            bulk._send_counted,  # noqa: SLF001  # a view of our own
            self.rate_limiter,
            edits,
            settings,
            journal=journal,
            verify=verify,
            on_outcome=on_outcome,
        )

    async def change_slot(
        self,
        group_id: str | int,
        slot_index: int,
        *,
        add_experiments: Sequence[int] | UnsetType = UNSET,
        remove_experiments: Sequence[int] | UnsetType = UNSET,
        add_holdouts: Sequence[int] | UnsetType = UNSET,
        remove_holdouts: Sequence[int] | UnsetType = UNSET,
        add_individuals: Sequence[str] | UnsetType = UNSET,
        remove_individuals: Sequence[str] | UnsetType = UNSET,
    ) -> Slot:
        """Add to and remove from the lists of one slot: read, write only if something changes, read back.

        Changes of one group queue up inside this session and its views. The service has no ETags, so a write of
        somebody else between our read and our write is overwritten unseen; one between our write and our read-back is
        noticed. The session's deadline holds for all of it, the queue included.

        Returns:
            The slot as it is afterwards.

        Raises:
            InvalidRequestError: Nothing is given, an id is both added and removed, or the group has no such slot.
            VerificationError: The read-back shows something else.
            MutexError: A request failed; ``maybe_applied`` tells whether the change may have been made all the same.
        """
        return await slot_changes.change_slot(
            self._turn(),
            group_id,
            slot_index,
            {
                "add_experiments": add_experiments,
                "remove_experiments": remove_experiments,
                "add_holdouts": add_holdouts,
                "remove_holdouts": remove_holdouts,
                "add_individuals": add_individuals,
                "remove_individuals": remove_individuals,
            },
        )

    async def move_experiment(self, group_id: str | int, experiment: int, from_slot: int, to_slot: int) -> MutexGroup:
        """Move an experiment to another slot of its group; to run it again completes a move that broke off.

        It enters the new slot before it leaves the old one, so it is never on users of neither. Moving a running
        experiment reshuffles its users. The session's deadline holds for all of it.

        Returns:
            The group as it is afterwards.

        Raises:
            InvalidRequestError: The experiment is on neither slot, or a slot does not exist.
            VerificationError: A read-back shows something else.
            MutexError: A request failed; ``maybe_applied`` tells whether some of the move may have been made.
        """
        return await slot_changes.move_experiment(self._turn(), group_id, experiment, from_slot, to_slot)

    # ------------------------------------------------------------------ inside

    async def _send(self, request: Request[T], ends_at: float | None = None) -> T:
        return (await send(self._transport, request, self._options, ends_at)).value

    async def _send_counted(self, request: Request[Any], ends_at: float | None = None) -> CallResult[Any]:
        return await send(self._transport, request, self._options, ends_at)

    def _turn(self) -> slot_changes.Turn:
        deadline = self._options.deadline
        ends_at = asyncio.get_running_loop().time() + deadline
        send = functools.partial(self._send_counted, ends_at=ends_at)
        return slot_changes.Turn(send, self._locks, ends_at, deadline)

    async def _fetch_page(self, limit: int, cursor: str | int | None, ends_at: float | None = None) -> GroupPage:
        page = await self._send(requests.list_page(limit, cursor), ends_at)
        shown = self._transport.redact(page.next_cursor or "")
        if shown == (page.next_cursor or ""):
            return page
        # It would go into the next request's path, and so into errors; its page is not left to tracebacks either.
        del page
        raise PaginationError("the service gives the API key as a cursor; it is not followed", cursor=shown)

    async def _find(self, key: str, ends_at: float) -> MutexGroup | None:
        fetch: Any = functools.partial(self._fetch_page, ends_at=ends_at)
        pager = GroupPager(fetch, page_size=validation.MAX_PAGE_SIZE, cursor=None)
        async with contextlib.aclosing(aiter(pager)) as groups:
            async for group in groups:
                if group.key == key:
                    return group
        return None


def _checked_limiter(limiter: RateLimiter) -> RateLimiter:
    # Not isinstance: a limiter that wraps another one may look its methods up when they are called.
    if not isinstance(limiter, type) and all(callable(getattr(limiter, name, None)) for name in _LIMITER_METHODS):
        return limiter
    raise ConfigurationError(f"rate_limiter must be a limiter such as LocalRateLimiter(), not {type_name(limiter)}")
