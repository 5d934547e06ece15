"""The emulator as users hold it: a service of their own on a real port, to seed, to watch and to break.

It puts the parts together. How it runs is in ``running``, what else tests hold of it in ``controls``, what a request
meets on its way in ``app``, what the endpoints mean in ``service``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aiomutex.emulator.app import Application
from aiomutex.emulator.clock import Clock
from aiomutex.emulator.dialect import Dialect
from aiomutex.emulator.faults import Fault, Faults, Latency
from aiomutex.emulator.limits import Limits
from aiomutex.emulator.pages import pages_of
from aiomutex.emulator.running import Running
from aiomutex.emulator.seeding import GroupSeed, SlotSeed, document_of, seeded_store, slots_of, store_of_json
from aiomutex.emulator.service import Service
from aiomutex.emulator.state import Group
from aiomutex.emulator.state_file import read_state

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from os import PathLike

    from aiomutex.emulator.state import GroupStore

__all__ = ["MutexEmulator", "Snapshot", "serve"]


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """All groups as they were at one moment; hand it to ``MutexEmulator.restore``."""

    store: GroupStore

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self.store)} groups>"


class MutexEmulator(Running):
    """A faithful local stand-in for the mutex-group endpoints of the Management API.

    ``async with MutexEmulator() as emulator`` runs it in the current event loop, ``with MutexEmulator() as emulator``
    in a thread of its own; both serve on ``emulator.url`` until the block ends. It may be started again afterwards
    and keeps its groups. A browser that opens the URL sees the groups and what is asked of them.

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
        path = None if state_file is None else Path(state_file)
        clock = Clock()
        service = Service(
            (read_state(path) if path else None) or seeded_store(groups, slots_per_group),
            dialect,
            seed=seed,
            taken_keys=taken_keys,
            local_experiments=local_experiments,
        )
        app = Application(
            service,
            clock=clock,
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
        self._replace(store_of_json(Path(path).read_bytes()))


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
