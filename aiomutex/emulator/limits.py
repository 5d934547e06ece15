"""The service's rate limits, per second and per UTC day, applied when a request arrives.

They also count the arrivals in the busiest second exactly, by which tests judge a client.
"""

from __future__ import annotations

from collections import deque
from dataclasses import KW_ONLY, dataclass, field
from math import floor
from typing import Literal

from aiomutex.emulator.clock import DAY


@dataclass(eq=False, repr=False)
class Limits:
    """Count arrivals and decide which requests to reject.

    Attributes:
        per_second: Requests accepted in a second.
        per_day: Requests accepted in a UTC day.
        enforced: Whether requests are rejected. They are counted in any case.
        window: ``sliding`` for any second, ``fixed`` for each second of the clock.
        count_rejected: Whether rejected requests count against the limits.
        accepted: Requests accepted so far.
        rejected: Requests rejected so far.

    Raises:
        ValueError: A limit is below 1.
    """

    per_second: int = 100
    per_day: int = 100_000
    _: KW_ONLY
    enforced: bool = True
    window: Literal["sliding", "fixed"] = "sliding"
    count_rejected: bool = False
    accepted: int = field(default=0, init=False)
    rejected: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.per_second < 1 or self.per_day < 1:
            raise ValueError(f"per_second and per_day must be 1 or more, not {self.per_second} and {self.per_day}")
        self._day = self._used_today = self._busiest = 0
        # Both hold the last second only, so that memory is bounded.
        self._arrivals: deque[float] = deque()
        self._counted: deque[float] = deque()

    def __repr__(self) -> str:
        limits = f"{self.per_second}/s and {self.per_day:,}/day" if self.enforced else "off"
        return f"<Limits {limits} · {self.accepted:,} accepted · {self.rejected:,} rejected>"

    def arrive(self, now: float) -> None:
        """Count an arrival at ``now``, before it is accepted or rejected."""
        arrivals = self._arrivals
        while arrivals and arrivals[0] <= now - 1.0:
            arrivals.popleft()
        arrivals.append(now)
        self._busiest = max(self._busiest, len(arrivals))

    def admit(self, now: float) -> Literal["second", "day"] | None:
        """Accept a request, or return the limit that it exceeds."""
        counted = self._counted
        sliding, second = self.window == "sliding", floor(now)
        while counted and (counted[0] <= now - 1.0 if sliding else counted[0] < second):
            counted.popleft()
        self.set_used_today(now, self.used_today(now))
        exceeded: Literal["second", "day"] | None = None
        if self.enforced and self._used_today >= self.per_day:
            exceeded = "day"
        elif self.enforced and len(counted) >= self.per_second:
            exceeded = "second"
        if exceeded is None:
            self.accepted += 1
        else:
            self.rejected += 1
        if exceeded is None or self.count_rejected:
            counted.append(now)
            self._used_today += 1
        return exceeded

    def wait(self, now: float) -> float:
        """Return the seconds until the limit per second accepts a request again."""
        if len(self._counted) < self.per_second:
            return 0.0
        opens = self._counted[-self.per_second] + 1.0 if self.window == "sliding" else floor(now) + 1.0
        return max(0.0, opens - now)

    def rate(self, now: float) -> int:
        """Return the number of arrivals in the second before ``now``."""
        return sum(1 for arrival in self._arrivals if arrival > now - 1.0)

    def used_today(self, now: float) -> int:
        """Return the requests that count against the budget of the UTC day of ``now``."""
        return self._used_today if now // DAY == self._day else 0

    def set_used_today(self, now: float, used: int) -> None:
        """Set the requests that count against the budget of the UTC day of ``now``."""
        self._day = int(now // DAY)
        self._used_today = used

    def busiest_second(self) -> int:
        """Return the most arrivals in any one second, including rejected ones."""
        return self._busiest

    def reset(self) -> None:
        """Set all counts to 0."""
        self._arrivals.clear()
        self._counted.clear()
        self._busiest = self._used_today = self.accepted = self.rejected = 0
