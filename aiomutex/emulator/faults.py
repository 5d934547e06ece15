"""What can go wrong on the way, on demand: scripted one by one, or at a rate drawn from a seed.

This module decides which fault a request meets and how long its answer takes; the application carries it out. The
same seed and the same order of requests give the same faults.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf
from random import Random
from typing import TYPE_CHECKING, Literal, Self, cast, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Fault", "FaultKind", "Faults", "Latency"]

FaultKind = Literal["status", "reset-before", "reset-after", "truncate", "garbage", "stall", "storm"]
"""What happens to a request.

``status``: it is answered with an error. ``reset-before``, ``reset-after``: the connection is reset before or after the
change is made. ``truncate``: the change is made, and the answer breaks off. ``garbage``: the change is made, and the
answer is 200 with bytes that are no JSON. ``stall``: it is accepted and never answered. ``storm``: this and every
request for some seconds is answered with 429.
"""

_FAULT = re.compile(r"(?P<kind>[a-z0-9-]+)(?::(?P<rate>\d+(?:\.\d+)?)%)?(?::(?P<seconds>\d+(?:\.\d+)?)s)?")
_LATENCY = re.compile(
    r"(?P<base>\d+(?:\.\d+)?)\s*(?P<unit>ms|s)(?:\s*(?:±|\+-|\+/-)\s*(?P<jitter>\d+(?:\.\d+)?)\s*(?P<jitter_unit>ms|s)?)?",
)
_SECONDS = {"ms": 0.001, "s": 1.0}
_KINDS = tuple(kind for kind in get_args(FaultKind) if kind != "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: What happens.
        rate: The share of requests it happens to, 0 to 1.
        status: The status of the answer, for ``status``.
        after_commit: For ``status`` and ``stall``: the change is made all the same.
        retry_after: The ``Retry-After`` header: seconds, or the header's text.
        body: The body of the answer, for ``status`` and ``garbage``. Anything but text and bytes is sent as JSON.
        headers: More headers of the answer, for ``status``.
        seconds: How long a ``storm`` lasts.
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
        """Refuse what cannot happen."""
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"kind is {self.kind!r}; it must be one of {', '.join(get_args(FaultKind))}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate is {self.rate}; it must be a share from 0 to 1")
        if not 200 <= self.status <= 599:  # noqa: PLR2004 - what a final status of HTTP can be
            raise ValueError(f"status is {self.status}; it must be 200 to 599")
        if not 0 <= self.seconds < inf:
            raise ValueError(f"seconds is {self.seconds}; it must be a length of time that ends")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``reset-after:2%``, ``503:1%``, ``storm:0.1%:5s``; without a rate it happens to every request.

        Raises:
            ValueError: The text is nothing of that form.
        """
        match = _FAULT.fullmatch(text.strip().lower())
        kind = match["kind"] if match else ""
        right = f"must be KIND:RATE%, as 'reset-after:2%' or '503:1%'; kinds are {', '.join(_KINDS)} and a status"
        if match is None or not (kind in _KINDS or (kind.isdigit() and 400 <= int(kind) <= 599)):  # noqa: PLR2004
            raise ValueError(f"fault {text!r} {right}")
        rate = float(match["rate"] or 100) / 100
        if match["seconds"] and kind != "storm":
            raise ValueError(f"fault {text!r} has a duration; only a storm has one")
        if rate > 1:
            raise ValueError(f"fault {text!r} has a rate above 100%")
        if kind.isdigit():
            return cls(kind="status", rate=rate, status=int(kind))
        return cls(kind=cast("FaultKind", kind), rate=rate, seconds=float(match["seconds"] or 1))

    def body_bytes(self) -> bytes | None:
        """The body as it travels; None leaves it to the dialect."""
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


@dataclass(frozen=True, slots=True)
class Latency:
    """How long an answer takes: ``base`` seconds, give or take up to ``jitter`` seconds."""

    base: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an answer before its request."""
        if not (0 <= self.base < inf and 0 <= self.jitter < inf):
            raise ValueError(f"latency is {self.base} s ± {self.jitter} s; both must be 0 or more, and end")
        if self.jitter > self.base:
            raise ValueError(f"latency has a jitter of {self.jitter} s; it must not exceed its {self.base} s")

    @classmethod
    def parse(cls, value: str | float | Latency) -> Latency:
        """Read ``80ms``, ``80ms±40ms``, ``80ms±40``, ``80ms+-40``, ``1.5s``; a number is seconds.

        Raises:
            ValueError: The text is nothing of that form, or the jitter exceeds the latency.
        """
        if isinstance(value, Latency):
            return value
        if not isinstance(value, str):
            return cls(float(value))
        match = _LATENCY.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"latency {value!r} must be a time with a unit, as '80ms', '80ms±40ms' or '1.5s'")
        unit = match["unit"]
        jitter = float(match["jitter"] or 0) * _SECONDS[match["jitter_unit"] or unit]
        return cls(float(match["base"]) * _SECONDS[unit], jitter)

    def draw(self, rng: Random) -> float:
        """Seconds for one answer."""
        return self.base + self.jitter * rng.uniform(-1, 1) if self.jitter else self.base


@dataclass(slots=True)
class _Script:
    fault: Fault
    left: int
    method: str | None
    path: str | None

    def meets(self, method: str, path: str) -> bool:
        return (self.method is None or self.method == method) and (
            self.path is None or self.path == path or fnmatchcase(path, self.path)
        )


class Faults:
    """Which fault each request meets: scripted ones first, in the order they were asked for, then drawn ones.

    Args:
        drawn: Faults with a rate, as text or ready made. Their rates must not add up to more than 100%.
        seed: What the draws start from.
    """

    def __init__(self, drawn: Iterable[str | Fault] = (), *, seed: int = 0) -> None:
        self._random = Random(seed)
        self._scripts: list[_Script] = []
        self.drawn = [Fault.parse(fault) if isinstance(fault, str) else fault for fault in drawn]
        self.storm_until = 0.0
        total = sum(fault.rate for fault in self.drawn)
        if total > 1 + 1e-9:
            raise ValueError(f"the faults' rates add up to {total:.0%}; they must not exceed 100%")

    def __repr__(self) -> str:
        return f"<Faults {self.scripted} scripted, {len(self.drawn)} drawn>"

    @property
    def scripted(self) -> int:
        """How many scripted faults have not been met yet."""
        return sum(script.left for script in self._scripts)

    def script(self, count: int, fault: Fault, *, method: str | None, path: str | None) -> None:
        """Let the next ``count`` requests that match meet ``fault``."""
        if count < 1:
            raise ValueError(f"n is {count}; it must be 1 or more")
        self._scripts.append(_Script(fault, count, method.upper() if method else None, path))

    def clear(self) -> None:
        """Forget all scripted and drawn faults and end a storm."""
        self._scripts.clear()
        self.drawn = []
        self.storm_until = 0.0

    def meet(self, method: str, path: str) -> Fault | None:
        """The fault this request meets, if any."""
        for script in self._scripts:
            if script.meets(method, path):
                script.left -= 1
                if not script.left:
                    self._scripts.remove(script)
                return script.fault
        if self.drawn:
            mark = self._random.random()
            for fault in self.drawn:
                mark -= fault.rate
                if mark < 0:
                    return fault
        return None
