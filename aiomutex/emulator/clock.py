"""The emulator's only source of time, which tests can move or stop.

Limits, storms and log lines read this clock; nothing else in the emulator asks the machine what time it is.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["DAY", "Clock"]

DAY = 86_400.0


class Clock:
    """Seconds since 1970 (UTC) that run evenly from the machine's time at the start, unless a test moves them."""

    __slots__ = ("_frozen", "_offset")

    def __init__(self) -> None:
        # perf_counter never jumps, so a correction of the machine's clock cannot tear a window apart.
        self._offset = time.time() - time.perf_counter()
        self._frozen: float | None = None

    def __repr__(self) -> str:
        return f"<Clock {'frozen' if self._frozen is not None else 'running'} at {self.utc().isoformat()}>"

    def now(self) -> float:
        """Seconds since 1970-01-01T00:00:00Z."""
        return time.perf_counter() + self._offset if self._frozen is None else self._frozen

    def utc(self) -> datetime:
        """The same moment as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.now(), UTC)

    def advance(self, seconds: float) -> None:
        """Move the clock forward by ``seconds``.

        Raises:
            ValueError: ``seconds`` is negative; the limits' windows rely on time that does not run backwards.
        """
        if seconds < 0:
            raise ValueError(f"seconds is {seconds}; a clock moves forward only, so it must be 0 or more")
        if self._frozen is None:
            self._offset += seconds
        else:
            self._frozen += seconds

    def move_to(self, moment: datetime) -> None:
        """Move the clock forward to ``moment``, which must be aware and not in its past.

        Raises:
            ValueError: ``moment`` has no time zone or lies in the clock's past.
        """
        if moment.tzinfo is None:
            raise ValueError(f"moment is {moment.isoformat()}; it must carry a time zone, as datetime(..., tzinfo=UTC)")
        self.advance(moment.timestamp() - self.now())

    def freeze(self) -> None:
        """Stop the clock: from here on only ``advance`` and ``move_to`` move it."""
        self._frozen = self.now()

    def unfreeze(self) -> None:
        """Let the clock run on from where it stands."""
        if self._frozen is not None:
            self._offset = self._frozen - time.perf_counter()
            self._frozen = None

    def until_midnight(self) -> float:
        """Seconds until the UTC day, and with it the day's budget, starts anew."""
        return DAY - self.now() % DAY
