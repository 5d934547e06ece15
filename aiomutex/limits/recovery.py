"""How the rate recovers after 429s: a rule over numbers, the same for every limiter, without a clock or event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

if TYPE_CHECKING:
    from aiomutex.limits.margin import Margin

FIRST_RAISE_WAIT = 60.0  # seconds without a 429 that raise the rate by one permit in a window
_MAX_RAISE_WAIT = 86_400.0
_TRIAL = 600.0  # seconds after a raise in which a 429 means that the raise was too early


class Recovery(msgspec.Struct, frozen=True):
    """The permits in a window, which a 429 lowers by one step and quiet time raises again, one by one.

    With ``full`` permits in a window before the first 429, there are at any time
    ``min(full, lowest + floor((now - since) / wait))``. The wait is a minute at first. A 429 within ten minutes of a
    raise doubles it, up to a day. Once the full rate has held for ten minutes, it is a minute again.
    """

    lowest: Annotated[int, msgspec.Meta(ge=1)] = 10**9
    """The permits in a window right after the last 429; above any limit before the first one."""
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
