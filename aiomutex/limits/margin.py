"""How far a limiter stays below the service's limit, and how the rate recovers after 429s.

Requests arrive later than their permits were granted, by a delay that varies. A limiter that grants exactly the
service's rate therefore gets a 429 now and then; the margin makes these rare. Rules over numbers, without a clock.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from aiomutex._util.checks import check_integer
from aiomutex.errors import ConfigurationError

_FLOOR = 80  # per cent of the service's limit below which 429s narrow the margin no further
_STEP = 2  # per cent of the service's limit that one 429 takes off
FIRST_RAISE_WAIT = 60.0  # seconds without a 429 that raise the rate by one permit in a window
_MAX_RAISE_WAIT = 86_400.0
_TRIAL = 600.0  # seconds after a raise in which a 429 means that the raise was too early


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


class Recovery(msgspec.Struct, frozen=True):
    """The permits in a window, which a 429 lowers by one step and quiet time raises again, one by one.

    With ``full`` permits in a window before the first 429, there are at any time
    ``min(full, lowest + floor((now - since) / wait))``. The wait is a minute at first. A 429 within ten minutes of a
    raise doubles it, up to a day. Once the full rate has held for ten minutes, it is a minute again.
    """

    lowest: Annotated[int, msgspec.Meta(ge=1)] = 10**9  # right after the last 429; above any limit before the first
    since: float = 0.0  # when the pause of the last 429 ended
    wait: Annotated[float, msgspec.Meta(gt=0)] = FIRST_RAISE_WAIT  # seconds before each raise

    def permits(self, full: int, now: float) -> int:
        """The permits in a window at ``now``."""
        return full if self.lowest >= full else min(full, self.lowest + max(0, int((now - self.since) // self.wait)))

    def throttled(self, full: Margin, now: float, resumes_at: float, *, lower: bool) -> Recovery:
        """Return the recovery after a 429 whose pause ends at ``resumes_at``; ``lower`` takes a step off."""
        permits, wait = self.permits(full.permits, now), self.wait
        raises = max(0, permits - self.lowest)
        if now < self.since + raises * wait + _TRIAL:
            wait = min(2 * wait, _MAX_RAISE_WAIT) if raises else wait
        elif permits == full.permits:
            wait = FIRST_RAISE_WAIT
        return Recovery(max(full.min_permits, permits - full.step) if lower else permits, resumes_at, wait)
