"""The emulator's only source of time, which tests can move or freeze.

Limits, storms and log lines use this clock and never the system's.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

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

    __slots__ = ("_frozen", "_offset")

    def __init__(self) -> None:
        # perf_counter is monotonic: a correction of the system's clock must not shorten or stretch a rate window.
        self._offset = time.time() - time.perf_counter()
        self._frozen: float | None = None

    def __repr__(self) -> str:
        return f"<Clock {'frozen' if self._frozen is not None else 'running'} at {self.utc().isoformat()}>"

    def now(self) -> float:
        """Return the time in seconds since 1970-01-01T00:00:00Z."""
        return time.perf_counter() + self._offset if self._frozen is None else self._frozen

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
        if self._frozen is None:
            self._offset += seconds
        else:
            self._frozen += seconds

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
        self._frozen = self.now()

    def unfreeze(self) -> None:
        """Let the clock run again from its current time."""
        if self._frozen is not None:
            self._offset = self._frozen - time.perf_counter()
            self._frozen = None

    def until_midnight(self) -> float:
        """Return the seconds until the next UTC day, when the daily budget resets."""
        return DAY - self.now() % DAY
