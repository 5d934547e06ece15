"""The session: one method for each endpoint and helper, and the session's life.

Each method checks its arguments and builds its request in ``_api``, then passes it on. Nothing here knows a header, a
status code, a retry or a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import os
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

import aiohttp
import msgspec
from msgspec import UNSET, UnsetType

from aiomutex._api import requests, validation
from aiomutex._api.redaction import SecretStr
from aiomutex._http.call import CallOptions, send
from aiomutex._http.config import check_api_key, service_url
from aiomutex._http.context import Patience
from aiomutex._http.create import create_once
from aiomutex._http.transport import Transport
from aiomutex._util.checks import check_integer, type_name
from aiomutex.bulk import slot_changes
from aiomutex.bulk.canary import Canary
from aiomutex.bulk.engine import Engine
from aiomutex.bulk.options import Settings
from aiomutex.bulk.stream import OutcomeStream, collect_report
from aiomutex.errors import ConfigurationError, PaginationError
from aiomutex.events import checked_hooks, configure_logging
from aiomutex.limits import LocalRateLimiter, Priority
from aiomutex.models import SlotChange
from aiomutex.paging import GroupPager
from aiomutex.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiomutex._api.requests import Request
    from aiomutex._api.responses import Response
    from aiomutex._http.call import CallResult
    from aiomutex.bulk.options import Edits
    from aiomutex.bulk.report import BulkReport, SlotOutcome
    from aiomutex.events import Hook
    from aiomutex.limits import RateLimiter
    from aiomutex.models import CreatedGroup, GroupPage, MutexGroup, NewGroup, Slot

T = TypeVar("T")

configure_logging()
_LIMITER_METHODS: Final = ("acquire", "throttled", "answered", "state")


class MutexSession:
    """An async client for the mutex-group endpoints of the Management API: concurrent, rate limited and typed.

    Create one session when the application starts, open it with ``async with`` in the event loop that uses it, and
    share it between all tasks. Methods raise subclasses of ``MutexError``.

    Args:
        api_key: A management API key, which is not a deployment key. Default: ``AMPLITUDE_MANAGEMENT_API_KEY`` from
            the environment.
        region: ``"us"`` or ``"eu"``. Default: ``AIOMUTEX_REGION`` from the environment, else ``"us"``.
        base_url: Another address of the service, such as an emulator's. Default, if ``region`` is not given either:
            ``AIOMUTEX_BASE_URL`` from the environment. It excludes ``region``.
        allow_insecure_http: Accept plain http for a ``base_url`` that is not a loopback address, such as that of an
            emulator in a container, with a warning. It is never accepted for Amplitude's hosts or through a proxy.
            Default: true if ``AIOMUTEX_ALLOW_INSECURE_HTTP`` in the environment is ``1``.
        rate_limiter: The limiter that grants each request. Pass the same object to several sessions to share its
            budget. Default: a new ``LocalRateLimiter()``.
        retry: How often and when a request is sent again. Default: ``RetryPolicy()``.
        attempt_timeout: Seconds for one attempt, from the moment it has a permit and a connection.
        deadline: Seconds for a call as a whole: waits, attempts and back-offs.
        max_connections: The maximum number of open connections. Bulk calls use at most three quarters of them.
        http: Your own ``aiohttp.ClientSession``, for a proxy or special TLS settings. It is never closed here.
            With it, permits are taken before aiohttp looks for a connection, so slow connection set-up may bunch
            requests, and aiohttp itself repeats a read on a connection that turns out to be dead: use a limiter with
            ``safe=True``.
        on_attempt: A function called with an ``aiomutex.events.Attempt`` after each attempt of a call, for metrics and
            logs, or an ``aiomutex.events.Tracer``, or a list of those. What it raises is logged and affects no call.

    Raises:
        ConfigurationError: A setting is missing or wrong. The message names it and never shows the key.

    Example:
        >>> async with MutexSession("key", base_url=url) as session:
        ...     group = await session.get_group("1")
        >>> group.key, [slot.percentage for slot in group.slots]
        ('group-1', [34, 33, 33])

    Source: Experiment Management API, "Mutual exclusion groups".
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        region: str | None = None,
        base_url: str | None = None,
        allow_insecure_http: bool = False,
        rate_limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        attempt_timeout: float = 30.0,
        deadline: float = 120.0,
        max_connections: int = 64,
        http: aiohttp.ClientSession | None = None,
        on_attempt: Hook | Sequence[Hook] | None = None,
    ) -> None:
        # A traceback that prints locals shows this frame, whatever else is wrong with the arguments.
        api_key = SecretStr.of(os.environ.get("AMPLITUDE_MANAGEMENT_API_KEY") if api_key is None else api_key)
        key = check_api_key(api_key)
        url, self._place = service_url(region, base_url, allow_insecure_http=allow_insecure_http)
        check_integer("max_connections", max_connections, least=1, error=ConfigurationError)
        self._options = CallOptions(
            attempt_timeout=attempt_timeout, deadline=deadline, retry=RetryPolicy() if retry is None else retry
        )
        limiter = LocalRateLimiter() if rate_limiter is None else _checked_limiter(rate_limiter)
        if http is not None and not isinstance(http, aiohttp.ClientSession):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
            raise ConfigurationError(f"http must be an aiohttp.ClientSession, not {type_name(http)}")
        self._canary = Canary()
        self._transport = Transport(
            url, key, limiter, max_connections=max_connections, http=http, hooks=checked_hooks(on_attempt)
        )

    async def open(self) -> Self:
        """Open the session in the running event loop, as ``async with`` does, and return it. Close it with ``aclose``.

        Raises:
            ConfigurationError: It is open already, or asyncio does not run.
            SessionClosedError: It was closed; create a new one.

        Example:
            >>> opened = await MutexSession("key", base_url=url).open()
            >>> await opened.aclose()
        """
        self._transport.open()
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self, drain: float = 0.0) -> None:
        """Close the connections. Calls in progress and later calls raise ``SessionClosedError``.

        With ``drain``, calls in progress first get that many seconds to end; new calls raise meanwhile. The session's
        views close with it. A session passed as ``http`` stays open. Closing twice does nothing.

        Example:
            >>> await session.aclose(drain=5.0)
            >>> repr(session).split(" · ")[1]
            'closed'
        """
        await self._transport.aclose(drain)

    def end_attempts(self, within: float) -> None:
        """End the attempts in progress after ``within`` seconds, unless they end before. Later ones are not limited.

        Example:
            >>> session.end_attempts(within=10.0)  # before the process is killed
        """
        _, timer = self._transport.check_open()
        timer.limit(within)

    def __repr__(self) -> str:
        if "_transport" not in vars(self):
            # A traceback that prints locals calls this while the constructor rejects its arguments.
            return "<MutexSession not set up>"
        state = self.rate_limiter.state()
        return (
            f"<MutexSession {self._place} · {self._transport.state} · {self._transport.in_flight} in flight · "
            f"{state.used} of {state.per_window} permits used · {state.used_today:,} today>"
        )

    @property
    def rate_limiter(self) -> RateLimiter:
        """The limiter that grants every request of this session. Pass it to another session to share the budget.

        If another one is assigned, it grants the requests from then on, including those of the session's views.
        """
        return self._transport.limiter

    @rate_limiter.setter
    def rate_limiter(self, limiter: RateLimiter) -> None:
        self._transport.limiter = _checked_limiter(limiter)

    @property
    def max_connections(self) -> int:
        """The maximum number of open connections."""
        return self._transport.max_connections

    def with_options(
        self,
        *,
        attempt_timeout: float | UnsetType = UNSET,
        deadline: float | UnsetType = UNSET,
        retry: RetryPolicy | UnsetType = UNSET,
        priority: Priority | UnsetType = UNSET,
    ) -> Self:
        """Return a view of this session with other options. It shares everything else, and opens and closes with it.

        Seconds and ``retry`` are those of ``MutexSession``. ``priority`` decides which requests go first when several
        wait for a permit.

        Raises:
            ConfigurationError: A value is out of its range.

        Example:
            >>> patient = session.with_options(deadline=600.0)
            >>> (await patient.get_group("1")).id
            '1'
        """
        values = {"attempt_timeout": attempt_timeout, "deadline": deadline, "retry": retry, "priority": priority}
        given: dict[str, Any] = {name: value for name, value in values.items() if value is not UNSET}
        view = copy.copy(self)
        # Not structs.replace, which checks nothing in older releases of msgspec.
        view._options = CallOptions(**msgspec.structs.asdict(self._options) | given)  # noqa: SLF001  # of our own type
        return view

    # ------------------------------------------------------------------ the endpoints

    async def list_page(self, *, limit: int = 1000, cursor: str | int | None = None) -> GroupPage:
        """Fetch one page of the listing: its ``groups``, and a ``next_cursor``, which is ``None`` on the last page.

        Args:
            limit: The maximum number of groups on the page, 1 to 1,000.
            cursor: Where the page starts: the ``next_cursor`` of the page before. Default: at the first group.

        Raises:
            InvalidRequestError: ``limit`` is out of range or ``cursor`` is empty. Nothing was sent.
            PaginationError: The service returned the API key as a cursor.

        Example:
            >>> page = await session.list_page(limit=2)
            >>> [group.id for group in page.groups], page.next_cursor
            (['1', '2'], '2')
        """
        return await self._fetch_page(limit, cursor)

    def list_groups(self, *, page_size: int = 1000, cursor: str | int | None = None) -> GroupPager:
        """Iterate over all groups of the project. Pages are fetched as needed.

        Iterate over the pager itself for groups, over its ``pages()`` for pages, or await its ``collect()`` for a list.

        Args:
            page_size: The number of groups each request asks for, 1 to 1,000.
            cursor: Where to start: the ``next_cursor`` of an earlier page. Default: at the first group.

        Raises:
            InvalidRequestError: ``page_size`` is out of range.

        Example:
            >>> [group.key async for group in session.list_groups() if group.slots[0].percentage > 33]
            ['group-1', 'group-2', 'group-3']
            >>> groups = await session.list_groups().collect()  # pages are fetched concurrently
            >>> len(groups)
            3
        """
        return GroupPager(self._fetch_page, page_size=page_size, cursor=cursor)

    async def get_group(self, group_id: str | int) -> MutexGroup:
        """Fetch one mutex group with its slots. Here and elsewhere, ids of groups may be strings or integers.

        Raises:
            InvalidRequestError: ``group_id`` is empty or cannot be one path segment. Nothing was sent.
            NotFoundError: The service knows no such group.

        Example:
            >>> group = await session.get_group("1")
            >>> group.slots[0].experiments
            [101]
        """
        return await self._send(requests.get_group(group_id))

    async def find_group(self, key: str) -> MutexGroup | None:
        """Find a group by its key in the listing; ``None`` if no group has it.

        It costs one request for each 1,000 groups up to the one found, as the service documents no search.

        Raises:
            InvalidRequestError: ``key`` is empty. Nothing was sent.

        Example:
            >>> group = await session.find_group("group-2")
            >>> group.id
            '2'
        """
        validation.nonempty_string("key", key)
        return await self._find(key, asyncio.get_running_loop().time() + self._options.deadline)

    async def edit_group(
        self, group_id: str | int, *, name: str | UnsetType = UNSET, description: str | UnsetType | None = UNSET
    ) -> None:
        """Change the name or the description of a group. What is not given stays; ``None`` is sent as null.

        Raises:
            InvalidRequestError: Neither is given, or a value breaks a rule. Nothing was sent.
            NotFoundError: The service knows no such group.

        Example:
            >>> await session.edit_group("1", name="Checkout", description=None)
        """
        await self._send(requests.edit_group(group_id, name=name, description=description))

    async def archive_group(self, group_id: str | int) -> None:
        """Archive a group: the service marks it as deleted and detaches its experiments from it.

        Archiving the group of a running experiment damages the experiment's data. ``unarchive_group`` does not
        attach the experiments again.

        Raises:
            InvalidRequestError: ``group_id`` is empty or cannot be one path segment. Nothing was sent.
            NotFoundError: The service knows no such group.

        Example:
            >>> await session.archive_group("3")
        """
        await self._send(requests.archive_group(group_id, archive=True))

    async def unarchive_group(self, group_id: str | int) -> None:
        """Restore an archived group. Experiments that the archiving detached stay detached.

        The argument and the errors are those of ``archive_group``.

        Example:
            >>> await session.unarchive_group("3")
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
        """Write the lists of one slot. Pass each list as a whole; a list that is not given is not sent.

        Slots are counted from 1. ``individuals`` are the user or device ids that are always in this slot. It is not
        documented whether the service replaces the slot's list by the given one or merges the two. To be certain of a
        removal, use ``edit_slots(..., verify=True)`` or ``change_slot``.

        Raises:
            InvalidRequestError: No list is given, or a value breaks a rule. Nothing was sent.
            NotFoundError: The service knows no such group or slot.

        Example:
            >>> await session.edit_slot("1", 2, experiments=[456, 789], individuals=["ada@example.com"])
        """
        await self._send(requests.edit_slot(group_id, slot_index, experiments, holdouts, individuals))

    async def create_group(self, group: NewGroup) -> CreatedGroup:
        """Create a group, exactly once, and return its ``id``, ``url`` and ``key``.

        The service has no idempotency key, so the group's own ``key`` serves as one: a random key is used if none is
        given, and after a lost response the key is looked up before anything is sent again.

        Raises:
            InvalidRequestError: A field breaks a rule; the message names it. Nothing was sent.
            ConflictError: The key is taken. The service may report this as a ``BadRequestError``, too.
            OutcomeUnknownError: Whether the group was created is unknown. The error's ``key`` says what to look for.

        Example:
            >>> from aiomutex import NewGroup, NewSlot
            >>> slots = [NewSlot(percentage=40, experiments=[123]), NewSlot(percentage=60)]
            >>> group = NewGroup(project_id=1, name="Checkout", key="checkout", slots=slots)
            >>> created = await session.create_group(group)
            >>> created.id, created.key
            ('4', 'checkout')
        """
        return await create_once(self._transport, group, self._options, self._find)

    async def request(
        self, method: str, path: str, *, json: object = UNSET, idempotent: bool | None = None
    ) -> Response:
        """Send a request to any endpoint of the service, for endpoints that this library does not model.

        It goes through the same limiter, retries, timeouts and errors as every other call. The response has
        ``status``, ``headers``, ``body``, ``json()``, ``request_id`` and ``attempts``.

        Args:
            method: The HTTP method in capital letters.
            path: Path and query, percent-encoded, such as ``"/api/1/experiments?limit=10"``.
            json: The body, encoded as JSON. ``None`` is sent as null; what is not given is not sent.
            idempotent: Whether the request may be sent again after its response was lost. Default: by the method,
                which is true for GET, HEAD, OPTIONS, PUT and DELETE, and false for PATCH and POST.

        Raises:
            InvalidRequestError: An argument cannot be sent. Nothing was sent.
            APIError: The status is not from 200 to 299.
            TransportError: No complete response arrived. ``maybe_applied``: whether the request may have been applied.

        Example:
            >>> response = await session.request("GET", "/api/1/mutexes?limit=1")
            >>> response.status, response.attempts, response.json()["mutexes"][0]["key"]
            (200, 1, 'group-1')
        """
        result = await send(self._transport, requests.any_request(method, path, json, idempotent), self._options)
        result.value.attempts = result.attempts
        return result.value

    # ------------------------------------------------------------------ bulk edits

    async def edit_slots(
        self,
        edits: Edits,
        *,
        concurrency: int | None = None,
        journal: str | os.PathLike[str] | None = None,
        verify: bool = False,
        skip_unchanged: bool = False,
        canary: bool = True,
        reads: Literal["auto", "groups"] = "auto",
        on_outcome: Callable[[SlotOutcome], object] | None = None,
        stop_after: int | None = None,
        on_budget: Literal["stop", "wait"] = "stop",
        reserve: int = 0,
    ) -> BulkReport:
        """Write many slots, and report the outcome of each edit.

        Groups are edited concurrently. The edits of one group are sent one after another, in the order given, and
        identical edits in a row share a request. Interactive calls on the same limiter go first.

        Args:
            edits: The edits, pulled as needed. A collection is checked as a whole before anything is sent; an invalid
                edit of an iterator fails when it is pulled.
            concurrency: The maximum number of edits in flight. Default: three quarters of ``max_connections``, which
                is also the number of connections that bulk calls may use.
            journal: A file that records progress and what each slot held before. After a crash, the same call
                continues where the run stopped, and ``aiomutex.bulk.undo`` undoes the run. The groups are read
                once.
            verify: Read each group before and after, and fail an edit whose slot does not hold what was written.
            skip_unchanged: Do not send an edit whose slot holds it already.
            canary: Write the first change alone and read its group back, before any other edit is sent. If the service
                reads it otherwise than this library, the run stops with a ``VerificationError``. Once for a session
                and a journal, unless the input has at most 20 edits.
            reads: ``"auto"`` reads groups one by one or by pages of 1,000, whichever takes fewer requests. ``"groups"``
                reads each on its own, shortly before and after its edits.
            on_outcome: Called with each outcome as it becomes known. It must not block.
            stop_after: Stop after this many failed edits. A rejected API key always stops the run.
            on_budget: What to do when the daily budget is exhausted: ``"stop"``, to resume later, or ``"wait"`` for
                the next day.
            reserve: The number of requests of the daily budget to leave to others.

        Raises:
            InvalidRequestError: An argument, or an edit of a collection, breaks a rule. Nothing was sent.
            JournalError: The journal belongs to a different input or another process, or is not a journal.

        Example:
            >>> from aiomutex import SlotEdit
            >>> report = await session.edit_slots(SlotEdit(group, 1, experiments=[7]) for group in ("1", "2", "99"))
            >>> print(report)
            3 edits: 2 applied, 1 failed
            >>> report.failed[0].error.status
            404
        """
        stream = self.stream_slot_edits(
            edits,
            concurrency=concurrency,
            journal=journal,
            verify=verify,
            skip_unchanged=skip_unchanged,
            canary=canary,
            reads=reads,
            on_outcome=on_outcome,
            stop_after=stop_after,
            on_budget=on_budget,
            reserve=reserve,
        )
        return await collect_report(stream)

    def stream_slot_edits(
        self,
        edits: Edits,
        *,
        concurrency: int | None = None,
        journal: str | os.PathLike[str] | None = None,
        verify: bool = False,
        skip_unchanged: bool = False,
        canary: bool = True,
        reads: Literal["auto", "groups"] = "auto",
        on_outcome: Callable[[SlotOutcome], object] | None = None,
        stop_after: int | None = None,
        on_budget: Literal["stop", "wait"] = "stop",
        reserve: int = 0,
    ) -> OutcomeStream:
        """Write many slots with bounded memory: outcomes are yielded as they become known, and none is kept.

        Arguments and errors are those of ``edit_slots``. Leaving the ``async with`` block stops the run.

        Example:
            >>> from aiomutex import SlotEdit
            >>> edits = (SlotEdit(group, 1, experiments=[7]) for group in range(1, 4))
            >>> async with session.stream_slot_edits(edits, verify=True) as outcomes:
            ...     async for outcome in outcomes:
            ...         if outcome.error is not None:
            ...             print(outcome.edit, outcome.error)
            >>> dict(outcomes.counts)
            {'applied': 3}
        """
        settings = Settings(
            concurrency=max(1, self.max_connections * 3 // 4) if concurrency is None else concurrency,
            stop_after=stop_after,
            on_budget=on_budget,
            reserve=reserve,
            verify=verify,
            skip_unchanged=skip_unchanged,
            canary=canary,
            reads=reads,
        )
        bulk, end_patience = self._bulk_calls()
        timeout = self._options.attempt_timeout
        engine = Engine(
            bulk,
            self.rate_limiter,
            settings,
            end_patience,
            canary=self._canary,
            journal=journal,
            attempt_timeout=timeout,
        )
        return OutcomeStream(engine, edits, on_outcome)

    def _bulk_calls(self) -> tuple[Callable[[Request[Any]], Awaitable[CallResult[Any]]], Callable[[], None]]:
        """How a run sends its requests, and how it ends their waits for permits within the deadline."""
        patience = Patience(self._options.deadline)
        options = msgspec.structs.replace(self._options, priority=Priority.BULK, patience=patience)
        return functools.partial(send, self._transport, options=options), patience.end

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
        """Add ids to and remove ids from the lists of one slot, counted from 1, and return the slot after the change.

        The group is read, the slot is written only if something changes, and the group is read back. Meanwhile this
        session and its views write nothing else to the group. The service has no ETags: a write by someone else
        between our read and our write is overwritten; one between our write and our read-back is noticed. The
        session's deadline covers all of it, waiting included.

        Raises:
            InvalidRequestError: Nothing is given, an id is both added and removed, or the group has no such slot.
            VerificationError: The slot that was read back holds something else.
            MutexError: A request failed. ``maybe_applied`` says whether the change may have been made.

        Example:
            >>> slot = await session.change_slot("1", 1, add_experiments=[7], remove_experiments=[101])
            >>> slot.experiments
            [7]
        """
        change = SlotChange(
            group_id,
            slot_index,
            add_experiments=add_experiments,
            remove_experiments=remove_experiments,
            add_holdouts=add_holdouts,
            remove_holdouts=remove_holdouts,
            add_individuals=add_individuals,
            remove_individuals=remove_individuals,
        )
        return await slot_changes.change_slot(self._group_change(), change)

    async def move_experiment(self, group_id: str | int, experiment: int, from_slot: int, to_slot: int) -> MutexGroup:
        """Move an experiment to another slot of its group, both counted from 1, and return the group after the move.

        The experiment is added to the new slot before it is removed from the old one, so it is always in at least one
        of them. Moving a running experiment reshuffles its users. The session's deadline covers all of it. Run it again
        to complete a move that was interrupted.

        Raises:
            InvalidRequestError: The experiment is in neither slot, or a slot does not exist.
            VerificationError: A slot that was read back holds something else.
            MutexError: A request failed. ``maybe_applied`` says whether part of the move may have been made.

        Example:
            >>> group = await session.move_experiment("1", 101, from_slot=1, to_slot=2)
            >>> [slot.experiments for slot in group.slots]
            [[], [102, 101], [103]]
        """
        return await slot_changes.move_experiment(self._group_change(), group_id, experiment, from_slot, to_slot)

    # ------------------------------------------------------------------ inside

    async def _send(self, request: Request[T]) -> T:
        return (await send(self._transport, request, self._options)).value

    def _group_change(self) -> slot_changes.GroupChange:
        deadline = self._options.deadline
        ends_at = asyncio.get_running_loop().time() + deadline
        bounded = functools.partial(send, self._transport, options=self._options, ends_at=ends_at)
        return slot_changes.GroupChange(bounded, self._transport.group_locks, ends_at, deadline)

    async def _fetch_page(
        self, limit: int, cursor: str | int | None, ends_at: float | None = None, attempts: list[int] | None = None
    ) -> GroupPage:
        result = await send(self._transport, requests.list_page(limit, cursor), self._options, ends_at)
        page = result.value
        if attempts is not None:
            attempts.append(result.attempts)
        shown = self._transport.redact(page.next_cursor or "")
        if shown == (page.next_cursor or ""):
            return page
        # The cursor would enter the next request's path, and so error messages. Tracebacks must not show the page.
        del page, result
        raise PaginationError("the service returned the API key as a cursor, which is not followed", cursor=shown)

    async def _find(self, key: str, ends_at: float, attempts: list[int] | None = None) -> MutexGroup | None:
        fetch: Any = functools.partial(self._fetch_page, ends_at=ends_at, attempts=attempts)
        pager = GroupPager(fetch, page_size=validation.MAX_PAGE_SIZE, cursor=None)
        async with contextlib.aclosing(aiter(pager)) as groups:
            async for group in groups:
                if group.key == key:
                    return group
        return None


def _checked_limiter(limiter: RateLimiter) -> RateLimiter:
    # Not isinstance, because a limiter that wraps another may look up its methods when they are called.
    if not isinstance(limiter, type) and all(callable(getattr(limiter, name, None)) for name in _LIMITER_METHODS):
        return limiter
    raise ConfigurationError(f"rate_limiter must be a limiter such as LocalRateLimiter(), not {type_name(limiter)}")
