"""The part of the emulator that tests observe and control: groups, requests, commits, faults, latency and dialect."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aiomutex.emulator.app import Application
from aiomutex.emulator.faults import Fault, FaultKind, Latency
from aiomutex.emulator.responses import Encoder
from aiomutex.emulator.storage import SlotSeed, StateFile, document_of, group_of, open_private, store_of_json

if TYPE_CHECKING:
    from collections import Counter, deque
    from collections.abc import Iterable, Mapping
    from os import PathLike

    from aiomutex.emulator.dialect import Dialect
    from aiomutex.emulator.service import Commit
    from aiomutex.emulator.state import Group, GroupStore


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """A copy of all groups at one moment, for ``MutexEmulator.restore``."""

    store: GroupStore

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self.store)} groups>"


class Controls(Application):
    """Attributes and methods of ``MutexEmulator`` to observe it and to change how it behaves.

    Attributes:
        clock: The emulator's clock, which tests can advance or freeze.
        commits: The latest changes made through the API, oldest first; at most 100,000.
        faults: The pending faults: ``faults.pending`` counts them, ``faults.clear()`` removes them.
        limits: The rate limits and their counts, such as ``limits.accepted`` and ``limits.rejected``.
        pages: Handlers of GET requests by path, which need no key and count against no limit. Add your own.
        requests: The latest requests, oldest first.
        writes: How often each slot was written, as ``writes["7", 1]``; ``writes["7", None]`` counts edits of the group.
    """

    commits: deque[Commit]
    writes: Counter[tuple[str, int | None]]
    _state: StateFile | None = None

    @property
    def groups(self) -> GroupStore:
        """All groups by ID, in the order of the listing. You may change them directly."""
        return self._service.store

    @property
    def used_today(self) -> int:
        """Requests that count against the budget of this UTC day. Set it to test what happens near its end."""
        return self.limits.used_today(self.clock.now())

    @used_today.setter
    def used_today(self, used: int) -> None:
        self.limits.set_used_today(self.clock.now(), used)

    @property
    def dialect(self) -> Dialect:
        """The dialect in use. You may set it while the emulator runs."""
        return self._service.dialect

    @dialect.setter
    def dialect(self, dialect: Dialect) -> None:
        self._service.encoder = Encoder(dialect)
        if not dialect.read_lag and not dialect.list_lag:
            self._service.changes.clear()
        self.limits.window = dialect.window
        self.limits.count_rejected = dialect.rejections == "counted"

    @property
    def latency(self) -> Latency:
        """How long responses take. Set it to seconds, a string such as ``"80ms±40ms"`` or a ``Latency``."""
        return self._latency

    @latency.setter
    def latency(self, latency: float | str | Latency) -> None:
        self._latency = Latency.parse(latency)

    @property
    def pending_changes(self) -> int:
        """How many changes of ``late`` faults were not made yet. They are made while the emulator runs."""
        return len(self._late.waiting)

    def busiest_second(self) -> int:
        """Return the most requests that arrived within any one second, including rejected ones."""
        return self.limits.busiest_second()

    def clear_history(self) -> None:
        """Delete the recorded requests and commits and reset the limits' counts; groups and faults stay."""
        self.requests.clear()
        self.commits.clear()
        self.writes.clear()
        self.limits.reset()

    def storm(self, seconds: float) -> None:
        """Reject every request with 429 for the next ``seconds``."""
        self.faults.storm_until = self.clock.now() + seconds

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
        delay: float = 1.0,
    ) -> None:
        """Make the next ``n`` matching requests fail, not counting those that the key or the limits reject.

        By default the response is an error ``status`` (500) and no change is made. With ``after_commit=True`` the
        change is made and the connection is reset, or, if ``status`` is given too, the response has that status. Other
        faults have a ``kind``; see ``FaultKind``. ``delay`` is the seconds until a ``late`` change, or of a ``storm``.

        With ``method`` or ``path``, only such requests match; ``*`` stands for anything, as in ``/api/1/mutexes/7*``.
        The ``body`` of the response is bytes, a string, or anything else as JSON; None leaves it to the dialect.
        ``retry_after`` is seconds or a string, and ``headers`` are additional ones, such as ``{"Location": "..."}``.

        Raises:
            ValueError: An argument is invalid.

        Example:
            >>> from aiomutex.testing import MutexEmulator
            >>> emulator = MutexEmulator(groups=1)
            >>> emulator.fail_next(status=503, method="PATCH")
            >>> emulator.fail_next(2, kind="reset-after")
            >>> emulator.faults.pending
            3
        """
        fault = Fault(
            kind=kind or ("reset-after" if after_commit and status is None else "status"),
            status=500 if status is None else status,
            after_commit=after_commit,
            retry_after=retry_after,
            body=body,
            headers=headers or {},
            seconds=delay,
        )
        self.faults.schedule(n, fault, method=method, path=path)

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

        Without a ``group_id`` it gets the next integer; without a ``name``, ``key`` or ``bucketing_salt`` one that is
        derived from its ID. ``slots`` are percentages, mappings (``{"percentage": 40, "experiments": [123]}``) or
        ``Slot`` objects; ``evaluation_mode`` is ``remote`` or ``local``; a ``deleted`` group is archived. Change the
        fields of the returned group as you like.

        Raises:
            ValueError: Another group has the key, or a slot has an unknown field.

        Example:
            >>> from aiomutex.testing import MutexEmulator
            >>> group = MutexEmulator().add_group("7", slots=[{"percentage": 40, "experiments": [123]}, 60])
            >>> group.key, group.slots[0].experiments
            ('group-7', [123])
        """
        seed: dict[str, Any] = {"id": group_id, "project_id": project_id, "name": name, "key": key, "slots": slots}
        seed |= {"bucketing_key": bucketing_key, "bucketing_salt": bucketing_salt, "evaluation_mode": evaluation_mode}
        group = group_of(seed | {"description": description, "deleted": deleted}, next_id=self.groups.next_id())
        self.groups[group.id] = group
        self._save(group)
        return group

    def snapshot(self) -> Snapshot:
        """Return a copy of all groups, for ``restore``.

        Example:
            >>> from aiomutex.testing import MutexEmulator
            >>> emulator = MutexEmulator(groups=1)
            >>> before = emulator.snapshot()
            >>> emulator.groups["1"].name = "renamed"
            >>> emulator.restore(before)
            >>> emulator.groups["1"].name
            'Group 1'
        """
        return Snapshot(deepcopy(self.groups))

    def restore(self, snapshot: Snapshot) -> None:
        """Replace all groups by those of ``snapshot``, which can be restored several times."""
        self._replace(deepcopy(snapshot.store))

    def dump(self, path: str | PathLike[str]) -> None:
        """Write all groups to a JSON file, for ``load``. Unchanged generated groups take no space in it.

        Raises:
            OSError: The file cannot be written, or is a symbolic link.
        """
        with open(path, "wb", opener=open_private) as file:
            file.write(msgspec.json.format(msgspec.json.encode(document_of(self.groups)), indent=2))

    def load(self, path: str | PathLike[str]) -> None:
        """Replace all groups by those in a JSON file: that of ``dump``, a page of the service, or a list of groups.

        Raises:
            OSError: The file cannot be read.
            ValueError: It has something else in it.
        """
        self._replace(store_of_json(Path(path).read_bytes()))

    def _replace(self, store: GroupStore) -> None:
        self._service.store = store
        self._service.changes.clear()
        self._late.waiting.clear()
        if self._state is not None:
            self._state.save_all(store)

    def _save(self, group: Group) -> None:
        if self._state is not None:
            self._state.save(group)
