"""When to send again after a 429: rules over numbers, without a clock, event loop or socket.

A 429 pauses every caller of the limiter. After the pause one request, the probe, is sent, and only its response lets
the others follow. Probes that keep failing mean that the daily budget is exhausted, whatever our own count says.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiomutex.limits.messages import Lease

MAX_PAUSE = 300.0  # seconds; a longer Retry-After means the daily budget: callers get an error, not a silent wait
PROBE_TIMEOUT = 5.0  # seconds until a probe without a reported response is followed by another
_MAX_FAILED_PROBES = 4  # as many in a row, after 1, 2, 4 and 8 windows, mean that the daily budget is exhausted
_MIN_SUSPICION_WINDOWS = 15  # that these failures must span: short Retry-After values do not shorten the evidence
_SUSPECTED_PROBE_INTERVAL = 60.0  # seconds between probes while the daily budget is thought to be exhausted


class Pause:
    """The pause of a limiter after a 429."""

    # Only responses to permits granted later end the pause. Infinite without one: the usual case costs one comparison.
    ends_after: float
    until: float  # when the wait that the service asked for ends
    failed_probes: int  # in a row
    suspected_on: int | None  # the day, in days since 1970, whose budget the service seems to consider exhausted
    requested_wait: float | None  # the seconds of a Retry-After longer than ``MAX_PAUSE``

    def __init__(self) -> None:
        self.count = 0
        self._began = self._first_429_at = -math.inf
        self.end()

    @property
    def active(self) -> bool:
        """Whether a 429 arrived that no other response has followed yet."""
        return self.ends_after != math.inf

    @property
    def next_probe_at(self) -> float:
        """When the next probe may be sent."""
        return max(self.until, self._probe_deadline)

    def throttled(self, permit: float, retry_after: float | None, now: float, *, window: float, today: int) -> bool:
        """Record a 429; return False if the pause covers it already.

        The wait is ``retry_after``, or else ``window * 2**failed_probes`` plus up to a quarter of that; the doubling
        stops at 8 windows.
        """
        if permit <= self._began:
            # Without this the requests in flight when a limit is reached would add up to a long wait.
            return False
        if self.active:
            self.failed_probes += 1
        else:
            self.failed_probes, self._first_429_at = 0, now
            self.count += 1
        self._began = self.ends_after = now
        self._probe_deadline = -math.inf
        self.requested_wait = None
        if retry_after is not None and retry_after >= 0:
            # A wait of zero would make probes a busy loop.
            delay = max(retry_after, window / 10)
            if delay > MAX_PAUSE:
                self.requested_wait, self.suspected_on = delay, today
        else:
            delay = window * 2 ** min(self.failed_probes, _MAX_FAILED_PROBES - 1) * (1 + random.random() / 4)
        long_enough = now - self._first_429_at >= _MIN_SUSPICION_WINDOWS * window
        if self.failed_probes >= _MAX_FAILED_PROBES and long_enough:
            self.suspected_on = today
        if self.suspected_on is not None:
            delay = max(delay, _SUSPECTED_PROBE_INTERVAL)
        self.until = max(self.until, now + delay)
        return True

    def probe_sent(self, permit: float) -> None:
        """Hold the next probe until this one, granted at ``permit``, has a response or times out."""
        self._probe_deadline = permit + PROBE_TIMEOUT

    def probe_returned(self) -> None:
        """Allow another probe: the permit of the last one was returned unused."""
        self._probe_deadline = -math.inf

    def mirror(self, lease: Lease, asked_at: float, now: float) -> None:
        """Take over the pause that other processes share, as reported by an exchange that began at ``asked_at``."""
        if not self.active:
            self.count += 1
            self._began = now
            # Some event loops count in milliseconds; a permit granted within this one must be able to end the pause.
            self.ends_after = asked_at - 0.001
        self.until, self._first_429_at = now + lease.pause_left, now - lease.since_first_429
        self.failed_probes, self.requested_wait = lease.failed_probes, lease.requested_wait or None
        self.suspected_on = lease.day if lease.suspected else None

    def restart(self, now: float) -> None:
        """Forget earlier times, which belong to another clock or day; if there is a pause, allow a probe at once."""
        active, self._began = self.active, -math.inf
        self.end()
        if active:
            self._began = self.ends_after = self._first_429_at = now

    def end(self) -> None:
        """End the pause."""
        self.ends_after = math.inf
        self.until = self._probe_deadline = -math.inf
        self.failed_probes = 0
        self.suspected_on = self.requested_wait = None
