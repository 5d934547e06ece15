"""``MutexEmulator``, the public class, assembled from its parts.

``lifecycle`` starts and stops it, ``controls`` has what tests observe and set, ``app`` handles requests, and
``service`` implements the endpoints.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec

from aiomutex.emulator.app import Application
from aiomutex.emulator.clock import Clock
from aiomutex.emulator.dialect import Dialect
from aiomutex.emulator.faults import Fault, Faults, Latency
from aiomutex.emulator.hosts import allowed_hosts
from aiomutex.emulator.late import LateChanges
from aiomutex.emulator.lifecycle import Lifecycle
from aiomutex.emulator.limits import Limits
from aiomutex.emulator.pages import pages_of
from aiomutex.emulator.seeding import GroupSeed, SlotSeed, document_of, seeded_store, slots_of, store_of_json
from aiomutex.emulator.service import Service
from aiomutex.emulator.state import Group
from aiomutex.emulator.state_file import open_private, read_state

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from os import PathLike

    from aiomutex.emulator.state import GroupStore

__all__ = ["MutexEmulator", "Snapshot", "serve"]


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """A copy of all groups at one moment, for ``MutexEmulator.restore``."""

    store: GroupStore

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self.store)} groups>"


class MutexEmulator(Lifecycle):
    """A local emulator of the mutex-group endpoints of the Management API.

    ``async with MutexEmulator() as emulator`` runs it in the current event loop, ``with MutexEmulator() as emulator``
    in a thread. It serves on ``emulator.url`` until the block ends; it can be started again and keeps its groups. The
    URL also has a web page that shows the groups and the latest requests.

    Args:
        groups: The number of generated groups, or the groups: ``Group`` objects or mappings with the service's field
            names or Python's.
        slots_per_group: The number of slots of a generated group, 1 to 20.
        key: The valid API key; None accepts any key that is not empty.
        forbidden_keys: Keys that get a 403.
        host: The address to listen on.
        allow_hosts: Host names under which it is reached, besides ``host`` and those of this machine (``localhost``,
            127.0.0.0/8, ::1). Requests with another Host header get a 421, so that no web page can reach the emulator
            by DNS rebinding.
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
        dialect = dialect or Dialect()
        path = None if state_file is None else Path(state_file)
        clock = Clock()
        service = Service(
            (read_state(path) if path else None) or seeded_store(groups, slots_per_group),
            dialect,
            seed=seed,
            taken_keys=taken_keys,
            local_experiments=local_experiments,
            clock=clock,
        )
        app = Application(
            service=service,
            clock=clock,
            limits=Limits(per_second, per_day, enforced=limits),
            faults=Faults(faults, seed=seed),
            latency=Latency.parse(latency),
            late=LateChanges(clock),
            hosts=allowed_hosts(host, allow_hosts),
            key=key,
            forbidden_keys=frozenset(forbidden_keys),
            cors_origin=cors_origin,
            log=log,
            requests=deque(maxlen=keep_requests),
            rng=Random(seed),
        )
        super().__init__(
            app,
            service,
            clock,
            host=host,
            port=port,
            ssl_context=ssl_context,
            handshake_delay=Latency.parse(handshake_delay),
            seed=seed,
            state_path=path,
        )
        app.pages.update(pages_of(app))
        self.dialect = dialect
        self.used_today = used_today

    def __repr__(self) -> str:
        state = self.url if self._port is not None else "not running"
        return f"<MutexEmulator {state} · {len(self.groups):,} groups · {self.limits.accepted:,} requests accepted>"

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
        """Add a group without a request. It is not checked, not recorded as a commit, and counts against no limit.

        Args:
            group_id: Its ID; None takes the next integer.
            slots: Its slots: percentages, mappings (``{"percentage": 40, "experiments": [123]}``) or ``Slot`` objects.
            name: Its name; None derives one from the ID.
            key: Its key; None derives one from the ID.
            project_id: The ID of its project.
            description: Its description.
            evaluation_mode: ``remote`` or ``local``.
            bucketing_key: The user property by which users are bucketed.
            bucketing_salt: Its salt; None derives one from the ID.
            deleted: Whether it is archived.

        Returns:
            The group. You may change its fields.

        Raises:
            ValueError: Another group has the key, or a slot has an unknown field.

        Example:
            >>> group = MutexEmulator().add_group("7", slots=[{"percentage": 40, "experiments": [123]}, 60])
            >>> group.key, group.slots[0].experiments
            ('group-7', [123])
        """
        group_id = self.groups.next_id() if group_id is None else str(group_id)
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
        """Return a copy of all groups, for ``restore``.

        Example:
            >>> emulator = MutexEmulator(groups=1)
            >>> before = emulator.snapshot()
            >>> emulator.groups["1"].name = "renamed"
            >>> emulator.restore(before)
            >>> emulator.groups["1"].name
            'Group 1'
        """
        return Snapshot(self.groups.copy())

    def restore(self, snapshot: Snapshot) -> None:
        """Replace all groups by those of ``snapshot``, which can be restored several times."""
        self._replace(snapshot.store.copy())

    def dump(self, path: str | PathLike[str]) -> None:
        """Write all groups to a JSON file, for ``load``. Unchanged generated groups take no space in it.

        Raises:
            OSError: The file cannot be written, or is a symbolic link.
        """
        with os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(document_of(self.groups)), indent=2))

    def load(self, path: str | PathLike[str]) -> None:
        """Replace all groups by those in a JSON file.

        Args:
            path: A file that ``dump`` wrote, a page of the real service, or a list of groups.

        Raises:
            OSError: The file cannot be read.
            ValueError: It has something else in it.
        """
        self._replace(store_of_json(Path(path).read_bytes()))


async def serve(emulator: MutexEmulator, *, on_ready: Callable[[MutexEmulator], None] | None = None) -> None:
    """Run ``emulator`` until this call is cancelled.

    Args:
        emulator: The emulator to run.
        on_ready: Called with the emulator when it listens on ``emulator.url``.
    """
    async with emulator:
        if on_ready is not None:
            on_ready(emulator)
        await asyncio.Event().wait()
