"""``MutexEmulator``, the public class: assembled from its parts, and started and stopped with its state file.

``controls`` has what tests observe and set, ``app`` handles requests, and ``service`` implements the endpoints.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from contextlib import AsyncExitStack, ExitStack, closing
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Self

from anyio.from_thread import start_blocking_portal

from aiomutex.emulator.controls import Controls
from aiomutex.emulator.dialect import Dialect
from aiomutex.emulator.faults import Fault, Faults, LateChanges, Latency
from aiomutex.emulator.limits import Clock, Limits
from aiomutex.emulator.listener import allowed_hosts, listening
from aiomutex.emulator.pages import pages_of
from aiomutex.emulator.responses import Encoder
from aiomutex.emulator.service import Service
from aiomutex.emulator.storage import GroupSeed, StateFile, read_state, seeded_store

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from os import PathLike


class MutexEmulator(Controls):
    """A local emulator of the mutex-group endpoints of the Management API.

    ``async with MutexEmulator() as emulator`` runs it in the current event loop, ``with MutexEmulator() as emulator``
    in a thread. It serves on ``emulator.url`` until the block ends; it can be started again and keeps its groups. The
    URL also has a web page that shows the groups and the latest requests.

    Args:
        groups: The number of generated groups, or ``Group`` objects or mappings with the service's or Python's names.
        slots_per_group: The number of slots of a generated group, 1 to 20.
        key: The valid API key; None accepts any key that is not empty.
        forbidden_keys: Keys that get a 403.
        host: The address to listen on.
        allow_hosts: Host names under which it is reached, besides ``host`` and those of this machine (``localhost``,
            127.0.0.0/8, ::1). Other Host headers get a 421, so that no web page reaches it by DNS rebinding.
        port: The port; 0 picks a free one.
        limits: Whether to reject requests above the limits. They are counted in any case.
        per_second: Requests accepted in a second.
        per_day: Requests accepted in a UTC day.
        used_today: Requests that count against today's budget at the start.
        dialect: The reading of what the documentation leaves open; None is the most plausible one.
        faults: Random faults with their rates, such as ``"reset-after:2%"``, ``"503:1%"`` or ``Fault`` objects.
        latency: How long responses take: seconds, ``"80ms"`` or ``"80ms±40ms"``. A change is made before the wait, even
            if the client disconnects.
        handshake_delay: How long a new connection waits before it is served, in the same format.
        seed: The seed of faults, latencies, generated keys and salts.
        state_file: An SQLite file that keeps the groups. If it already has groups, ``groups`` is ignored.
        taken_keys: Keys that flags, experiments and holdouts have, and a new group cannot.
        local_experiments: IDs of experiments with local evaluation, which only groups with local evaluation accept.
        ssl_context: Serve TLS with this context.
        cors_origin: The origin whose web pages may call the emulator, or ``"*"`` for any.
        log: Log a line for each request to the logger ``aiomutex.emulator`` at level INFO.
        keep_requests: How many of the latest requests ``requests`` keeps.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from aiomutex import MutexSession
        >>> async def edit() -> list[int]:
        ...     async with MutexEmulator(groups=1) as emulator:
        ...         async with MutexSession("any-key", base_url=emulator.url) as session:
        ...             await session.edit_slot("1", 2, experiments=[123])
        ...         return emulator.groups["1"].slots[1].experiments
        >>> await edit()
        [123]
    """

    def __init__(
        self,
        *,
        groups: int | Iterable[GroupSeed] = 0,
        slots_per_group: int = 3,
        key: str | None = None,
        forbidden_keys: Iterable[str] = (),
        host: str = "127.0.0.1",
        allow_hosts: Iterable[str] = (),
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
        if key is not None and (not key or key != key.strip()):
            raise ValueError("key must be a string that is not empty and has no spaces around it")
        if cors_origin is not None and not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[!-.0-~]+", cors_origin):
            raise ValueError(f"cors_origin must be '*' or an origin such as 'http://localhost:80', not {cors_origin!r}")
        path = self._state_path = None if state_file is None else Path(state_file)
        self.clock = Clock()
        self._service = Service(
            (read_state(path) if path else None) or seeded_store(groups, slots_per_group),
            Encoder(dialect or Dialect()),
            random=Random(seed),
            taken_keys=frozenset(taken_keys),
            local_experiments=frozenset(local_experiments),
            clock=self.clock,
            on_commit=self._save,
        )
        self.commits, self.writes = self._service.commits, self._service.writes
        self.faults = Faults(faults, seed=seed)
        self.limits = Limits(per_second, per_day, enforced=limits)
        self.requests = deque(maxlen=keep_requests)
        self.pages = pages_of(self)
        self.dialect = self._service.dialect  # tells the limits, too
        self.latency = latency
        self.used_today = used_today
        self._late = LateChanges(self.clock)
        self._hosts = allowed_hosts(host, allow_hosts)
        self._key, self._forbidden_keys = key, frozenset(forbidden_keys)
        self._cors_origin, self._log, self._rng = cors_origin, log, Random(seed)
        self.host = host
        self._port: int | None = None
        self._scheme = "https" if ssl_context else "http"
        delay = Latency.parse(handshake_delay)
        self._listen = partial(
            listening, self._handle, host=host, port=port, ssl=ssl_context, delay=delay, rng=Random(seed)
        )
        self._running, self._thread = AsyncExitStack(), ExitStack()

    def __repr__(self) -> str:
        state = self.url if self._port is not None else "not running"
        return f"<MutexEmulator {state} · {len(self.groups):,} groups · {self.limits.accepted:,} requests accepted>"

    async def __aenter__(self) -> Self:
        if self._port is not None:
            raise RuntimeError("the emulator is already running")
        async with AsyncExitStack() as stack:
            if self._state_path is not None:
                state = stack.enter_context(closing(StateFile(self._state_path)))
                state.save_all(self.groups)
                self._state = state
            stack.callback(self._stopped)
            self._port = await stack.enter_async_context(self._listen())
            self._running = stack.pop_all()
        self._service.base_url = self.url
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(self))
            self._thread = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.close()

    def _stopped(self) -> None:
        state, self._state, self._port = self._state, None, None
        self._late.waiting.clear()
        if state is not None:
            # Tests may have changed groups directly, which does not save them.
            state.save_all(self.groups)

    @property
    def port(self) -> int:
        """The port that it listens on.

        Raises:
            RuntimeError: The emulator is not running.
        """
        if self._port is None:
            raise RuntimeError("the emulator is not running; start it with `async with` or `with`")
        return self._port

    @property
    def url(self) -> str:
        """The base URL for clients, such as ``http://127.0.0.1:54321``.

        Raises:
            RuntimeError: The emulator is not running.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"


async def serve(emulator: MutexEmulator, *, on_ready: Callable[[MutexEmulator], None] | None = None) -> None:
    """Run ``emulator`` until this call is cancelled; ``on_ready`` is called when it listens on ``emulator.url``."""
    async with emulator:
        if on_ready is not None:
            on_ready(emulator)
        await asyncio.Event().wait()
