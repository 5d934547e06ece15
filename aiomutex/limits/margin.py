"""How far below the service's limits to stay, and what may be given as a limit.

A request reaches the service later than its permit was given, by an amount that varies. A limiter that gives exactly
the service's rate is therefore refused now and then; the margin here is what makes refusals rare.
"""

from __future__ import annotations

from typing import NamedTuple

from aiomutex._util.checks import check_integer
from aiomutex.errors import ConfigurationError

__all__ = ["Margin"]

_FLOOR = 80
"""Per cent of the service's limit below which refusals lower the number of permits no further."""
_STEP = 2
"""Per cent of the service's limit that one refusal takes off."""


class Margin(NamedTuple):
    """So many permits in any window of so many seconds."""

    permits: int
    window: float
    least: int
    """Refusals lower ``permits`` to this at most."""
    step: int
    """How much one refusal lowers ``permits``."""

    @classmethod
    def below(cls, per_second: int, *, safe: bool = False) -> Margin:
        """Stay below ``per_second`` requests in any second: 97 % of them in 1.02 s, or (safe) 95 % in 1.03 s.

        The share of permits is rounded down, but one permit is always left: a limit of 1 becomes 1 in 1.02 s.
        """
        check_integer("per_second", per_second, least=1, error=ConfigurationError)
        share, window = (95, 1.03) if safe else (97, 1.02)
        permits = max(1, per_second * share // 100)
        least = min(permits, max(1, per_second * _FLOOR // 100))
        return cls(permits, window, least, max(1, per_second * _STEP // 100))

    def lowered(self) -> Margin:
        """The margin to keep after a refusal: a little wider, never without end."""
        return self._replace(permits=max(self.least, self.permits - self.step))

    @property
    def interval(self) -> float:
        """Seconds between two permits at the full rate."""
        return self.window / self.permits

    @property
    def half(self) -> int:
        """Permits that bulk work may take in half a window.

        One more than half of all, so that an evenly paced run, whose grants come now a little early and now a little
        late, is never held up by it.
        """
        return min(self.permits, (self.permits + 1) // 2 + 1)

    @property
    def spare(self) -> int:
        """Permits that a burst of bulk work leaves to interactive calls."""
        return self.permits // 10
