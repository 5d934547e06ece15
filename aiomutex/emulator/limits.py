"""The service's limits as the service counts them: requests a second and requests a UTC day, judged on arrival.

It also keeps the exact number of arrivals in the busiest second, which is what a careful client is measured by.
Limits know times and counts; who sent what is none of their business.
"""

from __future__ import annotations

from collections import deque
from math import floor
from typing import Literal

from aiomutex.emulator.clock import DAY

__all__ = ["Limits"]


class Limits:
    """Counts arrivals and says which limit, if any, an arrival breaks.

    Args:
        per_second: Requests accepted in a second.
        per_day: Requests accepted in a UTC day.
        enforced: False counts without ever refusing.
        window: ``sliding``: no second whatsoever holds more than ``per_second`` accepted requests. ``fixed``: no
            second of the clock does.
        count_rejected: Whether requests that were refused use up the limits too.
    """

    __slots__ = (
        "_arrivals",
        "_busiest",
        "_counted",
        "_day",
        "_used_today",
        "accepted",
        "count_rejected",
        "enforced",
        "per_day",
        "per_second",
        "rejected",
        "window",
    )

    def __init__(
        self,
        per_second: int = 100,
        per_day: int = 100_000,
        *,
        enforced: bool = True,
        window: Literal["sliding", "fixed"] = "sliding",
        count_rejected: bool = False,
    ) -> None:
        if per_second < 1 or per_day < 1:
            raise ValueError(f"per_second is {per_second} and per_day {per_day}; both must be 1 or more")
        self.per_second = per_second
        self.per_day = per_day
        self.enforced = enforced
        self.window: Literal["sliding", "fixed"] = window
        self.count_rejected = count_rejected
        self.accepted = 0
        self.rejected = 0
        self._day = 0
        self._used_today = 0
        self._busiest = 0
        # Only the last second is kept of either: what is older can decide nothing any more.
        self._arrivals: deque[float] = deque()
        self._counted: deque[float] = deque()

    def __repr__(self) -> str:
        limits = f"{self.per_second}/s and {self.per_day:,}/day" if self.enforced else "off"
        return f"<Limits {limits} · {self.accepted:,} accepted · {self.rejected:,} rejected>"

    def arrive(self, now: float) -> None:
        """Note an arrival, whatever becomes of it."""
        arrivals = self._arrivals
        while arrivals and arrivals[0] <= now - 1.0:
            arrivals.popleft()
        arrivals.append(now)
        self._busiest = max(self._busiest, len(arrivals))

    def admit(self, now: float) -> Literal["second", "day"] | None:
        """Accept or refuse an arrival; the answer names the limit that refuses it."""
        counted = self._counted
        edge = now - 1.0
        if self.window == "sliding":
            while counted and counted[0] <= edge:
                counted.popleft()
        else:
            second = floor(now)
            while counted and counted[0] < second:
                counted.popleft()
        if now // DAY != self._day:
            self._day = int(now // DAY)
            self._used_today = 0
        broken: Literal["second", "day"] | None = None
        if self.enforced:
            if self._used_today >= self.per_day:
                broken = "day"
            elif len(counted) >= self.per_second:
                broken = "second"
        if broken is None:
            self.accepted += 1
        else:
            self.rejected += 1
            if not self.count_rejected:
                return broken
        counted.append(now)
        self._used_today += 1
        return broken

    def wait(self, now: float) -> float:
        """Seconds until the per-second limit has room again."""
        if len(self._counted) < self.per_second:
            return 0.0
        opens = self._counted[-self.per_second] + 1.0 if self.window == "sliding" else floor(now) + 1.0
        return max(0.0, opens - now)

    def rate(self, now: float) -> int:
        """Arrivals in the second before ``now``."""
        return sum(1 for arrival in self._arrivals if arrival > now - 1.0)

    def used_today(self, now: float) -> int:
        """Requests that count against the budget of the UTC day of ``now``."""
        return self._used_today if now // DAY == self._day else 0

    def use_today(self, now: float, used: int) -> None:
        """Set how much of the day's budget is gone."""
        self._day = int(now // DAY)
        self._used_today = used

    def busiest_second(self) -> int:
        """The most arrivals, refused ones included, in any sliding second so far (half open: 1.000 s apart is two)."""
        return self._busiest

    def forget(self) -> None:
        """Start counting anew; the limits stay."""
        self._arrivals.clear()
        self._counted.clear()
        self._busiest = self._used_today = self.accepted = self.rejected = 0
