"""The emulator as users hold it: a service of their own on a real port, to seed, to watch and to break.

It puts the parts together and runs them, in the running event loop (``async with``) or in a thread of its own
(``with``). What a request meets on its way is in ``app``, what the endpoints mean in ``service``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Self

import msgspec

from aiomutex.emulator.app import Application, PageHandler
from aiomutex.emulator.background import Background
from aiomutex.emulator.clock import Clock
from aiomutex.emulator.dialect import Dialect
from aiomutex.emulator.faults import Fault, FaultKind, Faults, Latency
from aiomutex.emulator.limits import Limits
from aiomutex.emulator.listener import Listener
from aiomutex.emulator.seeding import GroupSeed, SlotSeed, document_of, seeded_store, slots_of, store_of
from aiomutex.emulator.service import Commit, Service
from aiomutex.emulator.state import Group
from aiomutex.emulator.statefile import StateFile, read_state

if TYPE_CHECKING:
    import ssl
    from collections import Counter, deque
    from collections.abc import Callable, Iterable, Mapping
    from os import PathLike
    from types import TracebackType

    from aiomutex.emulator.record import RecordedRequest
    from aiomutex.emulator.state import GroupStore

__all__ = ["MutexEmulator", "Snapshot", "serve"]


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """All groups as they were at one moment; hand it to ``MutexEmulator.restore``."""

    store: GroupStore

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self.store)} groups>"


class MutexEmulator:
    """A faithful local stand-in for the mutex-group endpoints of the Management API.

    ``async with MutexEmulator() as emulator`` runs it in the current event loop, ``with MutexEmulator() as emulator``
    in a thread of its own; both serve on ``emulator.url`` until the block ends. It may be started again afterwards
    and keeps its groups.

    Args:
        groups: How many generated groups there are, or the groups: ``Group`` objects or mappings with the
            service's field names or Python's.
        slots_per_group: How many slots a generated group has.
        key: The API key; None accepts any key that is not empty.
        forbidden_keys: Keys that are answered with 403.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        limits: Whether the limits are enforced. They are counted in any case.
        per_second: Requests accepted in a second.
        per_day: Requests accepted in a UTC day.
        used_today: How much of the day's budget is gone at the start.
        dialect: How to read what the documentation leaves open.
        faults: Faults drawn at a rate, as ``"reset-after:2%"``, ``"503:1%"`` or ``Fault`` objects.
        latency: How long answers take: seconds, ``"80ms"`` or ``"80ms±40ms"``. Changes are made before the wait, so
            whoever gives up waiting has changed the group all the same.
        handshake_delay: How long each new connection waits before it is served, written like ``latency``.
        seed: What faults, latencies, generated keys and salts are drawn from.
        state_file: An SQLite file that keeps the groups; if it already holds some, they take the place of ``groups``.
        taken_keys: Keys in use by flags, experiments and holdouts, which no group may have.
        local_experiments: Experiments with local evaluation, which only groups with local evaluation may hold.
        ssl_context: Serve TLS with it.
        cors_origin: The origin (or ``"*"``) whose pages may call the emulator from a browser.
        log: Log a line for each request to the logger ``aiomutex.emulator`` at level INFO.
        keep_requests: How many of the latest requests ``requests`` keeps.

    Raises:
        ValueError: An argument is not what it must be; the message says which and why.
    """

    def __init__(
        self,
        *,
        groups: int | Iterable[GroupSeed] = 0,
        slots_per_group: int = 3,
        key: str | None = None,
        forbidden_keys: Iterable[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        limits: bool = True,
        per_second: int = 100,
        per_day: int = 100_000,
        used_today: int = 0,
        dialect: Dialect | None = None,
        faults: Iterable[str | Fault] = (),
        latency: float | str | Latency = 0.0,
        handshake_delay: float | str | Latency = 0.0,
        seed: int = 0,
        state_file: str | PathLike[str] | None = None,
        taken_keys: Iterable[str] = (),
        local_experiments: Iterable[int] = (),
        ssl_context: ssl.SSLContext | None = None,
        cors_origin: str | None = None,
        log: bool = False,
        keep_requests: int = 10_000,
    ) -> None:
        dialect = dialect or Dialect()
        self.clock = Clock()
        self.host = host
        self._asked_port = port
        self._port: int | None = None
        self._ssl_context = ssl_context
        self._handshake_delay = Latency.parse(handshake_delay)
        self._seed = seed
        self._path = None if state_file is None else Path(state_file)
        self._state: StateFile | None = None
        self._listener: Listener | None = None
        self._background: Background | None = None
        self._service = Service(
            (read_state(self._path) if self._path else None) or seeded_store(groups, slots_per_group),
            dialect,
            seed=seed,
            taken_keys=taken_keys,
            local_experiments=local_experiments,
            on_commit=self._save if self._path else None,
        )
        self._app = Application(
            self._service,
            clock=self.clock,
            limits=Limits(per_second, per_day, enforced=limits),
            faults=Faults(faults, seed=seed),
            latency=Latency.parse(latency),
            key=key,
            forbidden_keys=forbidden_keys,
            cors_origin=cors_origin,
            log=log,
            keep_requests=keep_requests,
            seed=seed,
        )
        self.dialect = dialect
        self.used_today = used_today

    def __repr__(self) -> str:
        state = self.url if self._port is not None else "not running"
        return f"<MutexEmulator {state} · {len(self.groups):,} groups · {self.limits.accepted:,} requests accepted>"

    # Running

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end()

    def __enter__(self) -> Self:
        if self._background is not None:
            raise RuntimeError("this emulator is already running")
        self._background = Background(self._start, self._end)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        background, self._background = self._background, None
        if background is not None:
            background.stop()

    async def _start(self) -> None:
        if self._listener is not None:
            raise RuntimeError("this emulator is already running")
        listener = Listener(
            self._app.handle,
            host=self.host,
            port=self._asked_port,
            ssl_context=self._ssl_context,
            handshake_delay=self._handshake_delay,
            rng=Random(self._seed),
        )
        if self._path is not None:
            self._state = StateFile(self._path)
            self._state.save_all(self.groups)
        try:
            self._port = await listener.open()
        except BaseException:
            self._close_state()
            raise
        self._listener = listener
        self._service.base_url = self.url

    async def _end(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        await listener.close()
        self._port = None
        if self._state is not None:
            # Tests change groups directly, too.
            self._state.save_all(self.groups)
        self._close_state()

    def _close_state(self) -> None:
        if self._state is not None:
            self._state.close()
            self._state = None

    def _save(self, group: Group) -> None:
        if self._state is not None:
            self._state.save(group)

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            RuntimeError: The emulator is not running.
        """
        if self._port is None:
            raise RuntimeError("the emulator is not running; use it within `async with` or `with`")
        return self._port

    @property
    def url(self) -> str:
        """The base URL to hand to a client, as ``http://127.0.0.1:54321``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._ssl_context else 'http'}://{host}:{self.port}"

    @property
    def pages(self) -> dict[str, PageHandler]:
        """Further paths to answer GET on, without key and limits: path to aiohttp handler."""
        return self._app.pages

    # Groups

    @property
    def groups(self) -> GroupStore:
        """All groups by id, in the order of the list; change them freely."""
        return self._service.store

    def add_group(
        self,
        group_id: str | int | None = None,
        *,
        slots: Iterable[SlotSeed] = (50, 50),
        name: str | None = None,
        key: str | None = None,
        project_id: str | int = 1,
        description: str | None = None,
        evaluation_mode: str = "remote",
        bucketing_key: str = "amplitude_id",
        bucketing_salt: str | None = None,
        deleted: bool = False,
    ) -> Group:
        """Add a group without asking the rules, as if it had always been there.

        Args:
            group_id: Its id; None takes the next free number.
            slots: Its slots: percentages, mappings (``{"percentage": 40, "experiments": [123]}``) or ``Slot`` objects.
            name: Its name; None makes one of the id.
            key: Its key; None makes one of the id.
            project_id: The id of its project.
            description: Its description.
            evaluation_mode: ``remote`` or ``local``.
            bucketing_key: What users are told apart by.
            bucketing_salt: The salt; None makes one of the id.
            deleted: Whether it is archived.

        Raises:
            ValueError: Another group has the key.
        """
        group_id = self.groups.free_id() if group_id is None else str(group_id)
        group = Group(
            id=group_id,
            project_id=str(project_id),
            name=name or f"Group {group_id}",
            key=key or f"group-{group_id}",
            description=description,
            evaluation_mode=evaluation_mode,
            bucketing_key=bucketing_key,
            bucketing_salt=bucketing_salt or f"salt-{group_id}",
            slots=slots_of(slots),
            deleted=deleted,
        )
        self.groups[group_id] = group
        self._save(group)
        return group

    def snapshot(self) -> Snapshot:
        """All groups as they are now."""
        return Snapshot(self.groups.copy())

    def restore(self, snapshot: Snapshot) -> None:
        """Make all groups what they were; the same snapshot may be restored many times."""
        self._replace(snapshot.store.copy())

    def dump(self, path: str | PathLike[str]) -> None:
        """Write all groups to a JSON file; generated ones nobody touched are written as their number."""
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(document_of(self.groups)), indent=2))

    def load(self, path: str | PathLike[str]) -> None:
        """Replace all groups by those of a JSON file: a dump, a page of the real service, or a list of groups.

        Raises:
            ValueError: The file is none of these.
        """
        self._replace(store_of(msgspec.json.decode(Path(path).read_bytes())))

    def _replace(self, store: GroupStore) -> None:
        self._service.store = store
        if self._state is not None:
            self._state.save_all(store)

    # What happened

    @property
    def requests(self) -> deque[RecordedRequest]:
        """The latest requests, oldest first. Clear it as you like."""
        return self._app.requests

    @property
    def commits(self) -> deque[Commit]:
        """The latest changes made through the API, oldest first; at most 100,000."""
        return self._service.commits

    @property
    def writes(self) -> Counter[tuple[str, int | None]]:
        """How often each slot was written: ``writes["7", 1]``; ``writes["7", None]`` counts the group's own changes."""
        return self._service.writes

    @property
    def limits(self) -> Limits:
        """The limits and their counts: ``limits.accepted``, ``limits.refused``, ``limits.rate(now)``."""
        return self._app.limits

    @property
    def used_today(self) -> int:
        """How many requests count against the budget of this UTC day. Set it to bring the day's end nearer."""
        return self.limits.used_today(self.clock.now())

    @used_today.setter
    def used_today(self, used: int) -> None:
        self.limits.use_today(self.clock.now(), used)

    def busiest_second(self) -> int:
        """The most requests, refused ones included, that ever arrived within one second, wherever it starts."""
        return self.limits.busiest_second()

    def forget(self) -> None:
        """Forget what happened (requests, commits, counts of limits); groups and faults stay."""
        self.requests.clear()
        self.commits.clear()
        self.writes.clear()
        self.limits.forget()

    # How it behaves

    @property
    def dialect(self) -> Dialect:
        """How it reads what the documentation leaves open. It may be changed while running."""
        return self._service.dialect

    @dialect.setter
    def dialect(self, dialect: Dialect) -> None:
        self._service.speak(dialect)
        self.limits.window = dialect.window
        self.limits.count_refused = dialect.refused == "counted"

    @property
    def faults(self) -> Faults:
        """The faults to come: ``faults.clear()``, ``faults.scripted``."""
        return self._app.faults

    @property
    def latency(self) -> Latency:
        """How long answers take. Set it to seconds, text or a ``Latency``."""
        return self._app.latency

    @latency.setter
    def latency(self, latency: float | str | Latency) -> None:
        self._app.latency = Latency.parse(latency)

    def fail_next(
        self,
        n: int = 1,
        *,
        kind: FaultKind | None = None,
        status: int | None = None,
        after_commit: bool = False,
        method: str | None = None,
        path: str | None = None,
        retry_after: float | str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let the next ``n`` requests that match go wrong, after key and limits have let them through.

        Without a kind it is an error ``status`` (500), and the change is not made. With ``after_commit=True`` the
        change is made and the connection reset; with a status as well, the change is made and the status answered.

        Args:
            n: How many requests.
            kind: ``"status"``, ``"reset-before"``, ``"reset-after"``, ``"truncate"``, ``"garbage"`` or ``"stall"``.
            status: The status to answer.
            after_commit: Make the change all the same.
            method: Only requests with this method.
            path: Only requests to this path; ``*`` stands for anything, as in ``/api/1/mutexes/7*``.
            retry_after: The ``Retry-After`` header: seconds, or the header's text.
            body: The body of the answer: bytes, text, or what is sent as JSON. None leaves it to the dialect.
            headers: More headers of the answer, such as ``{"Location": "..."}``.

        Raises:
            ValueError: An argument is not what it must be.
        """
        if kind is None:
            kind = "reset-after" if after_commit and status is None else "status"
        fault = Fault(
            kind=kind,
            status=500 if status is None else status,
            after_commit=after_commit,
            retry_after=retry_after,
            body=body,
            headers=headers or {},
        )
        self.faults.script(n, fault, method=method, path=path)

    def storm(self, seconds: float) -> None:
        """Answer everything with 429 for ``seconds`` from now, whatever the limits say."""
        self.faults.storm_until = self.clock.now() + seconds


async def serve(emulator: MutexEmulator, *, on_ready: Callable[[MutexEmulator], None] | None = None) -> None:
    """Run ``emulator`` until this call is cancelled.

    Args:
        emulator: What to run.
        on_ready: Called once it listens; ``emulator.url`` is where.
    """
    async with emulator:
        if on_ready is not None:
            on_ready(emulator)
        await asyncio.Event().wait()
