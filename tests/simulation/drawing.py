"""Draws a scenario from a seed."""

from __future__ import annotations

import itertools
import random
from typing import Any, Final

from .scenario import Call, Edit, Event, Fault, Options, Phase, Scenario, Service

__all__ = ["draw"]

_FAULTS: Final = (
    "slow", "lost", "silent", "reset", "cut", "mute", "late", "status", "status after", "page", "close", "refused",
)  # fmt: skip
_FLEETS: Final = 8
"""One seed in so many has a fleet."""
_STATUSES: Final = (400, 403, 404, 408, 429, 429, 429, 500, 502, 503, 503, 504)


class _Drawing:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.number = 1000
        self.options = Options()
        self.service = Service()

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def scenario(self, seed: int) -> Scenario:
        rng = self.rng
        if seed % _FLEETS == _FLEETS - 1:
            return self._fleet(seed)
        self.service = Service(
            groups=rng.randint(1, 4),
            slots=rng.randint(1, 3),
            latency=rng.choice([(0.01, 0.02), (0.02, 0.3), (0.05, 1.5)]),
        )
        if self.chance(0.2):
            self.service.lag = rng.choice([0.2, 1.0, 5.0])
        self.options = Options(
            attempt_timeout=rng.choice([4.0, 10.0, 30.0]),
            deadline=rng.choice([60.0, 120.0]),
            max_attempts=rng.choice([1, 2, 3, 6, 6]),
            max_connections=rng.choice([1, 2, 8, 64]),
        )
        self.options.max_single = 0 if self.chance(0.5) else 20
        if self.chance(0.15):
            self.options.deadline = 5.0
            self.service.per_second = 2
        elif self.chance(0.2):
            self.service.per_second = rng.choice([5, 20])
        if self.chance(0.15):
            self.service.per_day = rng.randint(10, 60)
        if self.chance(0.2):
            self.service.before_midnight = rng.uniform(0.1, 20)
        if self.chance(0.4):
            self.options.limiter = rng.choice(["shared", "machine", "redis"])
            self.options.clients = rng.randint(1, 4)
            self.service.per_second = rng.choice([3, 5, 10, 20, self.service.per_second])
        shapes = [
            self._one_run,
            self._resumed,
            self._undone,
            self._undone,
            self._creates,
            self._mixed,
            self._crowd,
            self._rush,
            self._applied,
        ]
        phases = rng.choice(shapes)()
        return Scenario(seed=seed, service=self.service, options=self.options, phases=phases)

    # ------------------------------------------------------------------ shapes

    def _one_run(self) -> list[Phase]:
        call = self._bulk(self._edits())
        call.journal = self.rng.choice([None, "a.db"])
        if self.chance(0.2):
            call.cancel = self.rng.uniform(0, 3)
        return [self._phase([call, *self._others()])]

    def _resumed(self) -> list[Phase]:
        edits = self._edits()
        phases: list[Phase] = []
        for _ in range(self.rng.randint(1, 3)):
            call = self._bulk(edits, journal="a.db")
            if self.chance(0.2):
                call.cancel = self.rng.uniform(0, 3)
            phases.append(self._phase([call], crash=0.6))
        last = self._bulk(edits, journal="a.db")
        return [*phases, Phase(calls=[last])]

    def _undone(self) -> list[Phase]:
        phases = self._resumed()
        if self.chance(0.5):
            phases = phases[:1]
        for _ in range(self.rng.randint(0, 1)):
            phases.append(self._phase([Call(kind="undo", journal="a.db")], crash=0.3))
        return [*phases, Phase(calls=[Call(kind="undo", journal="a.db")])]

    def _creates(self) -> list[Phase]:
        calls = [
            Call(kind="create", start=self.rng.uniform(0, 2), key=self.rng.choice([None, f"key-{number}"]),
                 members=[5000 + number])
            for number in range(self.rng.randint(1, 3))
        ]  # fmt: skip
        phase = self._phase(calls)
        if self.chance(0.5):
            key = calls[0].key or "key-0"
            phase.events.append(Event(kind="create", at=self.rng.uniform(0, 3), key=key, lists={"experiments": [4999]}))
        return [phase]

    def _mixed(self) -> list[Phase]:
        call = self._bulk(self._edits())
        calls = [call, *self._others()]
        for number in range(self.rng.randint(0, 4)):
            kind: Any = self.rng.choice(["change", "change", "edit"])
            group = self.rng.randint(1, min(2, self.service.groups))
            call = Call(kind=kind, start=self.rng.uniform(0, 2), group=group, slot=1, add=[6000 + number])
            calls.append(call)
            if kind == "change":
                call.remove = [100 * group + 1]
        return [self._phase(calls)]

    def _crowd(self) -> list[Phase]:
        runs = [self._bulk(self._edits(), self.rng.choice([None, f"{n}.db"])) for n in range(self.options.clients)]
        others = [call for _ in runs for call in self._others()]
        return [self._phase([*runs, *others])]

    def _rush(self) -> list[Phase]:
        """Reads during long runs, without trouble."""
        rng = self.rng
        self.service.groups, self.service.per_second, self.options.max_connections = 30, rng.choice([5, 10, 20]), 64
        lists = itertools.count(7000)
        runs = [
            Call(kind="run", edits=[
                Edit(rng.randint(1, self.service.groups), rng.randint(1, self.service.slots),
                     {"experiments": [next(lists)]})
                for _ in range(40)
            ])
            for _ in range(self.options.clients)
        ]  # fmt: skip
        reads = [Call(kind="read", start=rng.uniform(1, 6)) for _ in range(rng.randint(1, 8))]
        return [Phase(calls=[*runs, *reads])]

    def _applied(self) -> list[Phase]:
        """A plan that is applied until it is done, and perhaps undone."""
        rng = self.rng
        edits = [edit for edit in self._edits() if edit.slot <= self.service.slots]
        for group in range(1, self.service.groups + 1):
            if self.service.slots > 1 and self.chance(0.4):  # members change places, and some of them join others
                first, second = 100 * group + 1, 100 * group + 2
                edits.append(Edit(group, 1, {"experiments": [second] if self.chance(0.5) else [second, first]}))
                edits.append(Edit(group, 2, {"experiments": [first]}))
        call = Call(kind="apply", plan="a", edits=edits, verify=self.chance(0.7), slow=rng.choice([0.0, 0.0, 3.0]))
        call.journal = rng.choice([None, "a.db", "a.db"])
        if self.chance(0.4):
            self.number += 1
            call.key, call.members = "new", [self.number]
        if self.chance(0.3):
            call.archived = rng.randint(1, self.service.groups)
            call.edits = [edit for edit in edits if edit.group != call.archived]
        phases = [self._phase([call, *self._others()], crash=0.6) for _ in range(rng.randint(1, 3))]
        if call.key and self.chance(0.1):
            phases[0].events.append(
                Event(kind="create", at=rng.uniform(0, 3), key="new", lists={"experiments": [4999]})
            )
        phases.append(Phase(calls=[call]))
        if call.journal and self.chance(0.5):
            phases.append(self._phase([Call(kind="undo", journal="a.db")], crash=0.3))
            phases.append(Phase(calls=[Call(kind="undo", journal="a.db")]))
        return phases

    def _fleet(self, seed: int) -> Scenario:
        """Runs on a fleet, whose processes die and freeze."""
        rng = self.rng
        self.options = Options(
            limiter="redis",
            workers=rng.randint(1, 3),
            clients=rng.choice([1, 2, 3]),
            claim_timeout=rng.choice([6.0, 30.0]),
            batch_size=rng.choice([1, 3, 50]),
            max_jobs=rng.choice([1, 2, 12]),
            safe=self.chance(0.5),
            attempt_timeout=rng.choice([2.0, 4.0, 10.0]),
            max_attempts=rng.choice([1, 2, 3, 6, 6]),
            max_single=rng.choice([0, 20]),
        )
        self.service = Service(
            groups=rng.choice([1, 2, 3, 6]),
            slots=rng.randint(1, 3),
            latency=rng.choice([(0.01, 0.02), (0.02, 0.3), (0.2, self.options.claim_timeout / 10)]),
            per_second=rng.choice([5, 5, 20, 100]),
        )
        if self.chance(0.15):
            self.service.lag = rng.choice([0.2, 1.0])
        if self.chance(0.1):
            self.service.per_day, self.service.before_midnight = rng.randint(10, 40), rng.uniform(0.1, 60)
        phases = rng.choice([self._one_run, self._resumed, self._undone, self._crowd, self._crowd])()
        if self.service.per_day < 1_000:
            self._shorten(phases)
        for phase in phases:
            if self.chance(0.7):
                # A new run waits by itself until no worker writes for an old one.
                phase.gap = rng.choice([0.01, 0.5, 3.0])
            for call in phase.calls if len(phase.calls) > 1 else []:
                del call.edits[6:]  # several callers of a fleet take long to simulate
            if self.chance(0.7):
                phase.events += [self._trouble(phase) for _ in range(rng.randint(1, 3))]
            for fault in phase.faults:
                # A worker that loses its jobs leaves its requests this time to be handled.
                fault.delay = min(fault.delay, self.options.claim_timeout / 4 - self.service.latency[1] - 0.1)
        return Scenario(seed=seed, service=self.service, options=self.options, phases=phases)

    @staticmethod
    def _shorten(phases: list[Phase]) -> None:
        """Let no run wait for a second day: a fleet's processes ask for news all day."""
        for number, phase in enumerate(phases):
            for call in phase.calls:
                del call.edits[4:]
                call.source = "list" if call.is_endless else call.source
                call.on_budget = call.on_budget if number == 0 and len(phase.calls) == 1 else "stop"

    def _trouble(self, phase: Phase) -> Event:
        """Something that happens to one of the fleet's processes, or to its Redis."""
        rng, timeout = self.rng, self.options.claim_timeout
        kinds: list[Any] = ["death", "death", "freeze", "redis"]
        event = Event(kind=rng.choice(kinds), worker=rng.randint(1, self.options.workers))
        if event.kind == "death":
            event.seconds = rng.choice([0.0, 2.0, 1.5 * timeout])
        elif event.kind == "freeze":
            event.worker = rng.choice([0, event.worker, event.worker])
            event.seconds = timeout * rng.choice([0.1, 0.4, 0.8, 1.1, 2.0])
        else:
            event.seconds = rng.choice([0.0, 0.5, 0.3 * timeout, 1.2 * timeout])
        if self.chance(0.4):
            event.at = rng.uniform(0, 5)
        else:
            event.request = rng.randint(1, 5 + 2 * sum(len(call.edits) for call in phase.calls))
            event.answered = self.chance(0.5)
        return event

    # ------------------------------------------------------------------ parts

    def _edits(self, groups: list[int] | None = None) -> list[Edit]:
        rng = self.rng
        groups = groups or list(range(1, self.service.groups + 1))
        edits: list[Edit] = []
        for _ in range(rng.choice([1, 2, 3, 5, 10, 25])):
            if edits and self.chance(0.1):
                edits.append(edits[-1])
                continue
            self.number += 1
            lists: dict[str, list[Any]] = {"experiments": [self.number]}
            if self.chance(0.3):
                lists = {"holdouts": [self.number]}
            if self.chance(0.1):
                lists["individuals"] = [f"user-{self.number}"]
            if self.chance(0.05):
                lists["experiments"] = []
            missing = self.chance(0.03)
            edits.append(Edit(rng.choice(groups), rng.randint(1, self.service.slots) + 5 * missing, lists))
        return edits

    def _bulk(self, edits: list[Edit], journal: str | None = None) -> Call:
        rng = self.rng
        call = Call(
            kind="run", edits=edits, journal=journal, verify=self.chance(0.5), stream=self.chance(0.3),
            concurrency=rng.choice([None, None, 1, 3]),
            source=rng.choice(["list", "list", "iterator", "async", "swallow"]),
        )  # fmt: skip
        if self.chance(0.2):
            call.source = "reuse"
        elif self.chance(0.05):
            call.source = "raise"
        if call.stream:
            call.slow = rng.choice([0.0, 0.0, 0.5])
            call.leave = rng.choice([None, None, 1, 3])
            if call.journal is None and self.chance(0.2):
                call.source, call.leave = "endless", rng.choice([1, 30, 90])
        call.canary = self.chance(0.3)
        if self.chance(0.1):
            call.stop_after = rng.randint(1, 3)
        if self.chance(0.3):
            call.on_budget = "wait"
        return call

    def _others(self) -> list[Call]:
        return [
            Call(kind=self.rng.choice(["read", "list"]), start=self.rng.uniform(0, 2),
                 cancel=self.rng.choice([None, None, 0.01, 0.5]))
            for _ in range(self.rng.choice([0, 0, 1, 5]))
        ]  # fmt: skip

    def _phase(self, calls: list[Call], crash: float = 0.0) -> Phase:
        rng = self.rng
        phase = Phase(calls=calls, gap=60.0)
        length = 10 + 2 * sum(len(call.edits) for call in calls)
        density = rng.choice([0.0, 0.05, 0.2, 0.5])
        for request in range(1, length):
            if self.chance(density):
                phase.faults.append(self._fault(request))
        if self.chance(0.1):
            first, status = rng.randint(1, length), rng.choice([429, 503])
            phase.faults += [Fault(request=first + n, kind="status", status=status) for n in range(rng.randint(2, 8))]
        if self.chance(0.3):
            for _ in range(rng.randint(1, 3)):
                self.number += 1
                group, slot = rng.randint(1, self.service.groups), rng.randint(1, self.service.slots)
                lists: dict[str, list[Any]] = {rng.choice(["experiments", "holdouts"]): [self.number]}
                phase.events.append(Event(kind="colleague", at=rng.uniform(0, 5), group=group, slot=slot, lists=lists))
        if self.chance(0.1):
            phase.events.append(Event(kind="outage", at=rng.uniform(0, 3), seconds=rng.choice([0.0, 2.0, 30.0])))
        if self.chance(0.1) and self.service.before_midnight > 1_000:
            # Back, and right again before the day ends: this is how far the daily budget's promise goes.
            phase.events.append(Event(kind="clock", at=rng.uniform(0.3, 3), seconds=rng.choice([-30.0, -50_000.0])))
            phase.events.append(Event(kind="clock", at=rng.uniform(3, 60)))
        if self.options.limiter == "machine" and self.chance(0.2):
            phase.events.append(Event(kind="lock", at=rng.uniform(0, 3), seconds=rng.uniform(0.01, 2)))
        if self.chance(crash):
            kind: Any = "power" if self.chance(0.5) else "crash"
            if self.chance(0.3):
                phase.events.append(Event(kind=kind, at=rng.uniform(0, 3)))
            else:
                phase.events.append(Event(kind=kind, request=rng.randint(1, length), answered=self.chance(0.5)))
        is_cut = (
            any(event.kind in ("crash", "power") for event in phase.events)
            or any(call.cancel is not None or call.leave is not None for call in calls)
            or any(fault.kind == "late" for fault in phase.faults)
        )
        if self.chance(0.5) or not is_cut:
            phase.gap = rng.choice([0.01, 0.5, 3.0])
        return phase

    def _fault(self, request: int) -> Fault:
        rng = self.rng
        kinds: list[Any] = [*_FAULTS, "status", "late"]
        fault = Fault(request=request, kind=rng.choice(kinds))
        if fault.kind == "late":
            # Within the time that the library waits, less what a read may lag.
            fault.delay = rng.uniform(0.01, 9.5 - self.service.lag)
        elif fault.kind == "slow":
            fault.delay = rng.uniform(0, 3)
        elif fault.kind == "status":
            fault.status = rng.choice(_STATUSES)
            if fault.status in (429, 503) and self.chance(0.5):
                fault.retry_after = rng.choice([0.0, 1.0, 5.0])
                if self.chance(0.3):
                    fault.retry_after = rng.choice([30.0, 90.0])
        return fault


def draw(seed: int) -> Scenario:
    """Draw the scenario of a seed."""
    return _Drawing(seed).scenario(seed)
