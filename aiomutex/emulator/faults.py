"""Faults that tests inject, scheduled for the next requests or random at a rate; late changes and latency.

This module decides which fault a request gets; ``app`` applies it. The same seed and requests give the same faults.
"""

from __future__ import annotations

import asyncio
import json
import re
from bisect import insort
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf
from operator import itemgetter
from random import Random
from typing import TYPE_CHECKING, Literal, Self, cast, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from aiomutex.emulator.limits import Clock

FaultKind = Literal[
    "status", "reset-before", "reset-after", "truncate", "garbage", "stall", "storm", "late", "maintenance"
]
"""What happens to a request.

- ``status``: The response is an error; no change is made.
- ``reset-before``, ``reset-after``: The connection is reset before or after the change is made.
- ``truncate``: The change is made, and the response breaks off in the middle of its body.
- ``garbage``: The change is made, and the response is a 200 whose body is not JSON.
- ``stall``: The request is accepted and never gets a response; no change is made.
- ``storm``: This request and all others for some seconds get a 429.
- ``late``: The change is made some seconds later by the emulator's clock, even without the client; then a reset.
- ``maintenance``: The response is a 200 with an HTML page; no change is made.
"""

POLL = 0.005
"""Seconds between two looks at the clock, which a test can move at any time."""

_LATENCY = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)(?:\s*(?:±|\+-|\+/-)\s*(\d+(?:\.\d+)?)\s*(ms|s)?)?")
_SECONDS = {"ms": 0.001, "s": 1.0}
_KINDS = tuple(kind for kind in get_args(FaultKind) if kind != "status")
_FAULT = re.compile(
    rf"(?P<kind>{'|'.join(_KINDS)}|[45][0-9]{{2}})(:(?P<rate>\d+(\.\d+)?)%)?(:(?P<seconds>\d+(\.\d+)?)s)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault that a request gets; the other fields are those of ``MutexEmulator.fail_next``.

    Attributes:
        kind: What happens; see ``FaultKind``.
        rate: The share of requests that get it, 0 to 1.
        after_commit: For ``status``, ``stall``, ``storm`` and ``maintenance``: make the change first.
        body: The body of the response, for ``status``, ``garbage`` and ``maintenance``.
        seconds: How long a ``storm`` lasts, and how long after its request a ``late`` change is made.

    Raises:
        ValueError: A field is out of range.
    """

    kind: FaultKind
    rate: float = 1.0
    status: int = 500
    after_commit: bool = False
    retry_after: float | str | None = None
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(FaultKind))}, not {self.kind!r}")
        for name, lowest, highest in (("rate", 0, 1), ("status", 200, 599)):  # final statuses of HTTP
            if not lowest <= getattr(self, name) <= highest:
                raise ValueError(f"{name} must be from {lowest} to {highest}, not {getattr(self, name)}")
        if not 0 <= self.seconds < inf:
            raise ValueError(f"seconds must be a finite number of 0 or more, not {self.seconds}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a fault such as ``reset-after:2%``, ``503:1%`` or ``late:0.1%:5s``; without a rate it is 100%.

        Raises:
            ValueError: ``text`` is not a fault.

        Example:
            >>> Fault.parse("503:1%").status
            503
        """
        if (match := _FAULT.fullmatch(text.strip().lower())) is None:
            kinds = ", ".join(_KINDS)
            raise ValueError(f"fault must be KIND:RATE%, not {text!r}; KIND is {kinds} or a status from 400 to 599")
        kind, rate = match["kind"], float(match["rate"] or 100) / 100
        if match["seconds"] and kind not in ("storm", "late"):
            raise ValueError(f"fault must not have a duration unless it is storm or late, not {text!r}")
        if rate > 1:
            raise ValueError(f"fault must have a rate of at most 100%, not {text!r}")
        if kind.isdigit():
            return cls(kind="status", rate=rate, status=int(kind))
        return cls(kind=cast("FaultKind", kind), rate=rate, seconds=float(match["seconds"] or 1))

    def body_or(self, default: bytes) -> bytes:
        """Return the encoded body, or ``default`` if it is None."""
        if self.body is None:
            return default
        if isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a response takes: ``base`` seconds plus or minus at most ``jitter`` seconds, uniformly distributed.

    Raises:
        ValueError: A number is negative or infinite, or the jitter is larger than the base.
    """

    base: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.jitter <= self.base < inf:
            times = f"{self.base} s ± {self.jitter} s"
            raise ValueError(f"latency must be finite, with a jitter from 0 to the latency, not {times}")

    @classmethod
    def parse(cls, value: str | float | Latency) -> Latency:
        """Parse a latency such as ``80ms``, ``80ms±40ms``, ``80ms+-40`` or ``1.5s``; a number is in seconds.

        Raises:
            ValueError: ``value`` is not a latency, or its jitter is larger than its base.

        Example:
            >>> Latency.parse("80ms±40ms")
            Latency(base=0.08, jitter=0.04)
        """
        if isinstance(value, Latency):
            return value
        if not isinstance(value, str):
            return cls(float(value))
        if (match := _LATENCY.fullmatch(value.strip())) is None:
            raise ValueError(f"latency must be a time such as '80ms', '80ms±40ms' or '1.5s', not {value!r}")
        base, unit, jitter, jitter_unit = match.groups()
        return cls(float(base) * _SECONDS[unit], float(jitter or 0) * _SECONDS[jitter_unit or unit])

    def sample(self, rng: Random) -> float:
        """Return the latency of one response, in seconds."""
        return self.base + self.jitter * rng.uniform(-1, 1) if self.jitter else self.base


@dataclass(slots=True)
class _Scheduled:
    fault: Fault
    remaining: int
    method: str
    path: str


class Faults:
    """Decide which fault each request gets: scheduled faults first, in order, then ``random`` ones with a rate."""

    def __init__(self, random: Iterable[str | Fault] = (), *, seed: int = 0) -> None:
        self._rng = Random(seed)
        self._scheduled: list[_Scheduled] = []
        self.random = [Fault.parse(fault) if isinstance(fault, str) else fault for fault in random]
        self.storm_until = 0.0
        if (total := sum(fault.rate for fault in self.random)) > 1 + 1e-9:
            raise ValueError(f"faults must have rates that add up to at most 100%, not {total:.0%}")

    def __repr__(self) -> str:
        return f"<Faults {self.pending} scheduled, {len(self.random)} random>"

    @property
    def pending(self) -> int:
        """How many scheduled faults have not happened yet."""
        return sum(scheduled.remaining for scheduled in self._scheduled)

    def schedule(self, count: int, fault: Fault, *, method: str | None, path: str | None) -> None:
        """Apply ``fault`` to the next ``count`` requests that match."""
        if count < 1:
            raise ValueError(f"n must be 1 or more, not {count}")
        self._scheduled.append(_Scheduled(fault, count, (method or "*").upper(), path or "*"))

    def clear(self) -> None:
        """Remove all scheduled and random faults and end a storm."""
        self._scheduled.clear()
        self.random = []
        self.storm_until = 0.0

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Return the fault that this request gets, if any."""
        for scheduled in self._scheduled:
            matches = path == scheduled.path or fnmatchcase(path, scheduled.path)
            if matches and scheduled.method in ("*", method):
                scheduled.remaining -= 1
                if not scheduled.remaining:
                    self._scheduled.remove(scheduled)
                return scheduled.fault
        rates = [fault.rate for fault in self.random]
        return self._rng.choices([*self.random, None], [*rates, max(0.0, 1 - sum(rates))])[0] if rates else None


class LateChanges:
    """Make each change when the emulator's clock reaches its time, or at the next request after that."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.waiting: list[tuple[float, Callable[[], object]]] = []  # the earliest first

    async def make_in(self, seconds: float, change: Callable[[], object]) -> None:
        """Wait ``seconds`` and call ``change``, which is called even if this wait is cancelled."""
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self._poll)
        late = (self._clock.now() + seconds, change)
        insort(self.waiting, late, key=itemgetter(0))
        while late in self.waiting:  # noqa: ASYNC110  # it may also be dropped
            await asyncio.sleep(POLL)

    def make_due(self) -> None:
        """Make the changes whose time has come, in the order of their times."""
        while self.waiting and self.waiting[0][0] <= self._clock.now():
            self.waiting.pop(0)[1]()

    def _poll(self) -> None:
        if self.waiting:
            self.make_due()
            asyncio.get_running_loop().call_later(POLL, self._poll)
