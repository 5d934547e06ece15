"""What happens in one run of the simulation, as plain data that can be drawn, saved as JSON and reduced."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["Call", "Edit", "Event", "Fault", "Lists", "Options", "Phase", "Scenario", "Service"]

Lists = dict[str, list[Any]]
"""The lists of a slot, by name. A name that is absent is not given."""


class Edit(msgspec.Struct, omit_defaults=True):
    """One edit of a bulk run."""

    group: int
    slot: int
    lists: Lists


class Call(msgspec.Struct, omit_defaults=True):
    """One call of the library, in a task of its own."""

    kind: Literal["run", "undo", "apply", "create", "change", "edit", "read", "list"]
    start: float = 0.0
    """Seconds after the start of the phase."""
    cancel: float | None = None
    """Seconds after the start of the call at which its task is cancelled."""
    edits: list[Edit] = []
    """For ``run``; for ``apply``, what the slots are to hold."""
    journal: str | None = None
    """For ``run``, ``undo`` and ``apply``."""
    plan: str = ""
    """For ``apply``: the name of its plan. The first call with this name makes it."""
    archived: int | None = None
    """For ``apply``: the group to archive."""
    source: Literal["list", "iterator", "async", "reuse", "raise", "swallow", "endless"] = "list"
    """How the edits are passed. ``reuse`` changes the lists of an edit once the next one is pulled; ``raise`` ends in
    an exception, ``swallow`` swallows a cancellation, and ``endless`` repeats the edits for ever."""
    verify: bool = False
    canary: bool = False
    """Whether the run has a canary, however few edits it has."""
    stream: bool = False
    slow: float = 0.0
    """Seconds that the consumer of a stream takes for each outcome, or between a new plan and its apply."""
    leave: int | None = None
    """Leave the stream after this many outcomes."""
    concurrency: int | None = None
    stop_after: int | None = None
    on_budget: Literal["stop", "wait"] = "stop"
    force: bool = False
    """For ``undo``."""
    group: int = 1
    slot: int = 1
    add: list[int] = []
    remove: list[int] = []
    """For ``change``; ``edit`` writes what is to be added."""
    key: str | None = None
    members: list[int] = []
    """For ``create`` and ``apply``: the key of the new group, and the experiments of its first slot."""

    @property
    def is_endless(self) -> bool:
        """Whether its input repeats the edits for ever."""
        return self.source == "endless" or (self.source == "swallow" and self.leave is not None and not self.journal)


class Fault(msgspec.Struct, omit_defaults=True):
    """What goes wrong with one request.

    ``lost`` and ``silent`` requests never arrive. The service answers with ``status`` instead of processing a request,
    or after it (``status after``). ``reset``, ``cut`` and ``mute`` lose the response. A ``late`` request arrives
    ``delay`` after the client gave it up. ``page`` is a maintenance page with status 200. ``close`` ends the connection
    after the response. ``refused`` is a connection that cannot be made.
    """

    request: int
    """The number of the request in its phase, from 1."""
    kind: Literal[
        "slow", "lost", "silent", "reset", "cut", "mute", "late", "status", "status after", "page", "close", "refused"
    ]  # fmt: skip
    delay: float = 0.0
    status: int = 503
    retry_after: float | None = None


class Event(msgspec.Struct, omit_defaults=True):
    """Something that happens outside the client, or to its machine.

    ``colleague`` writes a slot. ``create`` makes a group that looks like one of ours, but for its members. ``clock``
    sets the wall clock wrong by ``seconds``. ``outage`` breaks all connections and lets none be made for ``seconds``.
    ``crash`` ends a process: its memory is lost, and its requests in flight go on. ``power`` also loses what the disk
    was not made to keep. ``lock`` holds the lock of the machine limiter's file for ``seconds``. ``death`` ends a worker
    of a fleet, and another one takes its place after ``seconds``. ``freeze`` stops a worker or the caller for
    ``seconds``. ``redis`` breaks all connections to the fleet's Redis, and lets none be made for ``seconds``.
    """

    kind: Literal[
        "colleague", "create", "clock", "outage", "crash", "power", "lock", "death", "freeze", "redis"
    ]  # fmt: skip
    at: float | None = None
    """Seconds after the start of the phase; or else at a request."""
    request: int | None = None
    """When the request with this number is written."""
    answered: bool = False
    """When its response arrives, instead."""
    group: int = 1
    slot: int = 1
    lists: Lists = {}
    key: str = ""
    seconds: float = 0.0
    worker: int = 0
    """The worker of ``death`` and ``freeze``, from 1. 0 is the caller."""


class Phase(msgspec.Struct, omit_defaults=True):
    """What one process of the client does."""

    calls: list[Call]
    faults: list[Fault] = []
    events: list[Event] = []
    gap: float = 2.0
    """Seconds until the next phase."""


class Service(msgspec.Struct, omit_defaults=True):
    """How the service and the network behave."""

    groups: int = 2
    slots: int = 2
    latency: tuple[float, float] = (0.02, 0.02)
    """Least and largest time of a request, and of a response, on its way."""
    lag: float = 0.0
    """Reads may show what was true up to so many seconds ago."""
    per_day: int = 100_000
    per_second: int = 100
    before_midnight: float = 40_000.0
    """Seconds from the start to midnight."""


class Options(msgspec.Struct, omit_defaults=True):
    """The options of the client's sessions, and how many there are."""

    clients: int = 1
    """Sessions of a phase, among which its calls are dealt in turn."""
    limiter: Literal["own", "shared", "machine", "redis"] = "own"
    """What the sessions share: one limiter, a file as processes of one machine do, or a Redis server, which outlives
    all crashes. ``own`` is for one session."""
    attempt_timeout: float = 5.0
    deadline: float = 60.0
    max_attempts: int = 6
    max_connections: int = 64
    max_single: int = 20
    """The number of groups that a run reads one by one; it reads more of them by pages."""
    workers: int = 0
    """The workers of the fleet that does the runs and undos; without any, the sessions do them. They share the limiter
    in Redis with the sessions, and outlive the crashes of their callers."""
    claim_timeout: float = 30.0
    batch_size: int = 50
    max_jobs: int = 12
    safe: bool = False
    """Whether the workers' limiter keeps its wider margin."""


class Scenario(msgspec.Struct, omit_defaults=True):
    """Everything that one run depends on."""

    seed: int
    service: Service
    options: Options
    phases: list[Phase]
