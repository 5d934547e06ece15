"""What a worker sends to a shared budget, and what it gets. All durations are in seconds."""

from __future__ import annotations

from typing import Literal

import msgspec

from aiomutex.limits.margin import Recovery
from aiomutex.limits.pause import PROBE_TIMEOUT

HORIZON = 0.1  # seconds ahead that send times are leased; another worker's pause may come too late for these
OLDEST_VERSION = 6


class Feedback(msgspec.Struct, kw_only=True):
    """What a worker reports about a response."""

    kind: Literal["throttled", "answered"]
    permit: float  # when the request's permit was granted, on the server's clock
    recovery: Recovery = Recovery()  # how many permits a window has after this 429; relative to the exchange
    delay: float = 0.0
    failed_probes: int = 0
    suspected: bool = False
    requested_wait: float = 0.0


class LeaseRequest(msgspec.Struct, kw_only=True):
    """A worker's report and what it wants."""

    max_permits: int
    window: float
    per_day: int
    wanted: int
    interactive: int  # of the wanted; budgets in Redis do not distinguish them
    uncertain: bool  # the last exchange failed, so permits may have been granted that the log does not show
    day: int
    used: int
    spacing: float  # time between two exchanges of workers that want more
    unreported: int = 0  # permits used without Redis since the last exchange
    fallback_grace: float = 0.0  # how long workers that continue without Redis may need to notice that it is back
    feedback: Feedback | None = None
    latency: float = 0.0  # how long an exchange may take: no send time is granted sooner
    horizon: float = HORIZON
    probe_timeout: float = PROBE_TIMEOUT
    max_turn_wait: float = 2.0  # the longest time that a worker among many waits for its next exchange
    oldest_version: int = OLDEST_VERSION


class Lease(msgspec.Struct, kw_only=True):
    """The state of the shared budget, and the granted send times."""

    now: str = "0"  # the Redis server's time in microseconds since 1970
    wait: float  # when to ask again
    next_free: float = 0.0  # when the next send time is free; only Redis says so
    was_empty: bool  # nothing was known for sure of earlier send times
    day: int
    used: int
    recovery: Recovery  # its time is relative to the exchange
    used_in_window: int
    paused: bool
    is_probe: bool
    pause_left: float
    failed_probes: int
    since_first_429: float
    suspected: bool
    requested_wait: float
    send_times: list[float] = []  # the granted send times, on the event loop's clock
