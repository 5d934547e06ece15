"""The limiter for several processes on one machine: they lease scheduled send times from a budget in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiomutex.limits.leasing import LeasingLimiter
from aiomutex.limits.machine_budget import MachineBudget

if TYPE_CHECKING:
    import os

    from aiomutex.limits.interface import Priority

__all__ = ["MachineRateLimiter"]

_MEAN_LEASE = 1.0
"""Send times that an exchange brings on average to bulk work: few, because exchanges cost little here, and what bulk
work does not hold is free for interactive calls of any process."""


class MachineRateLimiter(LeasingLimiter[MachineBudget]):
    """At most ``per_second`` requests in any second and ``per_day`` on a UTC day, for all processes that use ``path``.

    Pass the service's limits; the margin below them is that of ``LocalRateLimiter``. The file keeps the day's count
    between runs. After an idle window up to half a window's permits are granted at once; the others are evenly spaced.
    Interactive calls of any process go ahead of bulk work of any other, which gets at least every eighth permit.

    A new file, and the first use after a boot, wait one window, because nobody knows what was sent just before. The
    file must be on a local disk. A process that is killed or stopped loses the few permits it holds; if it is stopped
    while it holds the file's lock, others get ``LimiterUnavailableError`` after half a second.

    Args:
        path: The file; created if absent. Its directory must exist. Processes that use one API key share one file.
        per_second: Requests the service allows per second.
        per_day: Requests the service allows per UTC day.
        safe: Keep the wider margin, for networks whose delay varies by more than about 20 ms.
        used_today: Requests already sent today, if the file's count is wrong. The first permit replaces that count.

    Raises:
        ConfigurationError: An argument is invalid.

    Example:
        >>> from aiomutex.limits.machine import MachineRateLimiter
        >>> limiter = MachineRateLimiter("budget.db")
        >>> limiter
        <MachineRateLimiter 'budget.db' · 0 of 97 permits used in 1.02 s · 0 of 100,000 today · 0 waiting>
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        per_second: int = 100,
        per_day: int = 100_000,
        safe: bool = False,
        used_today: int | None = None,
    ) -> None:
        budget = MachineBudget(path, used_today)
        super().__init__(per_second, per_day, safe=safe, budget=budget, mean_lease=_MEAN_LEASE)
        self._path = str(path)

    def __repr__(self) -> str:
        return f"<MachineRateLimiter {self._path!r} · {self._describe()}>"

    def _on_join(self, priority: Priority, now: float) -> None:
        if not priority and len(self._waiters.interactive) == 1:
            # The next exchange may be far off, as that of bulk work among many processes.
            self._next_exchange = self._not_before
        super()._on_join(priority, now)
