"""The emulator's only source of time, which tests can move or freeze, and the rate limits per second and per UTC day.

Limits also count the arrivals in the busiest second exactly, by which tests judge a client.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from math import floor
from typing import Literal

DAY = 86_400.0


class Clock:
    """A clock that starts at the system's time and that tests can advance or freeze.

    Example:
        >>> clock = Clock()
        >>> clock.freeze()
        >>> before = clock.now()
        >>> clock.advance(60)
        >>> clock.now() - before
        60.0
    """

    def __init__(self) -> None:
        # perf_counter is monotonic: a correction of the system's clock must not shorten or stretch a rate window.
        self._offset = time.time() - time.perf_counter()
        self._running = True

    def __repr__(self) -> str:
        return f"<Clock {'running' if self._running else 'frozen'} at {self.utc().isoformat()}>"

    def now(self) -> float:
        """Return the time in seconds since 1970-01-01T00:00:00Z."""
        return self._offset + (time.perf_counter() if self._running else 0.0)

    def utc(self) -> datetime:
        """Return the time as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.now(), UTC)

    def advance(self, seconds: float) -> None:
        """Move the clock forward by ``seconds``.

        Raises:
            ValueError: ``seconds`` is negative. The clock cannot move back, because the rate windows rely on it.
        """
        if seconds < 0:
            raise ValueError(f"seconds must be 0 or more, not {seconds}: the clock only moves forward")
        self._offset += seconds

    def move_to(self, moment: datetime) -> None:
        """Move the clock forward to ``moment``.

        Raises:
            ValueError: ``moment`` has no time zone or is in the past.
        """
        if moment.tzinfo is None:
            raise ValueError(f"moment must have a time zone, as in datetime(..., tzinfo=UTC), not {moment.isoformat()}")
        self.advance(moment.timestamp() - self.now())

    def freeze(self) -> None:
        """Stop the clock; from now on only ``advance`` and ``move_to`` move it."""
        self._offset, self._running = self.now(), False

    def unfreeze(self) -> None:
        """Let the clock run again from its current time."""
        if not self._running:
            self._offset, self._running = self._offset - time.perf_counter(), True

    def until_midnight(self) -> float:
        """Return the seconds until the next UTC day, when the daily budget resets."""
        return DAY - self.now() % DAY


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
        self._busiest = 0
        self._used: Counter[float] = Counter()  # by UTC day
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
        sliding, second, day = self.window == "sliding", floor(now), now // DAY
        while counted and (counted[0] <= now - 1.0 if sliding else counted[0] < second):
            counted.popleft()
        exceeded: Literal["second", "day"] | None = None
        if self.enforced and self._used[day] >= self.per_day:
            exceeded = "day"
        elif self.enforced and len(counted) >= self.per_second:
            exceeded = "second"
        self.accepted += exceeded is None
        self.rejected += exceeded is not None
        if exceeded is None or self.count_rejected:
            counted.append(now)
            self._used[day] += 1
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
        return self._used[now // DAY]

    def set_used_today(self, now: float, used: int) -> None:
        """Set the requests that count against the budget of the UTC day of ``now``."""
        self._used[now // DAY] = used

    def busiest_second(self) -> int:
        """Return the most arrivals in any one second, including rejected ones."""
        return self._busiest

    def reset(self) -> None:
        """Set all counts to 0."""
        self._arrivals.clear()
        self._counted.clear()
        self._used.clear()
        self._busiest = self.accepted = self.rejected = 0
