"""How far a limiter stays below the service's limit.

Requests arrive later than their permits were granted, by a delay that varies. A limiter that grants exactly the
service's rate therefore gets a 429 now and then; the margin makes these rare.
"""

from __future__ import annotations

from typing import NamedTuple

from aiomutex._util.checks import check_integer
from aiomutex.errors import ConfigurationError

_FLOOR = 80  # per cent of the service's limit below which 429s narrow the margin no further
_STEP = 2  # per cent of the service's limit that one 429 takes off


class Margin(NamedTuple):
    """At most ``permits`` permits in any ``window`` seconds."""

    permits: int
    window: float
    min_permits: int  # 429s reduce ``permits`` no further than this
    step: int  # how much one 429 takes off ``permits``

    @classmethod
    def below(cls, per_second: int, *, safe: bool = False) -> Margin:
        """Return the margin below a limit, at least one permit: 97 % of it in 1.02 s, with ``safe`` 95 % in 1.03 s."""
        check_integer("per_second", per_second, least=1, error=ConfigurationError)
        share, window = (95, 1.03) if safe else (97, 1.02)
        permits = max(1, per_second * share // 100)
        min_permits = min(permits, max(1, per_second * _FLOOR // 100))
        return cls(permits, window, min_permits, max(1, per_second * _STEP // 100))

    @property
    def interval(self) -> float:
        """Seconds between two permits at the full rate."""
        return self.window / self.permits
