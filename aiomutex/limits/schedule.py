"""The rules by which processes of one machine share a budget: a pure function over the budget's state and the time.

``lease.lua`` has the same rules. Here priorities also apply across processes: bulk work leases only what is due now, so
interactive calls of any process find the next send time free.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from aiomutex.limits.margin import Recovery
from aiomutex.limits.messages import HORIZON, Lease, LeaseRequest

BULK_HORIZON = 0.012
"""Seconds ahead that bulk work leases: about one send time, and what a process needs to wake up for it."""
_MIN_WAIT = 0.001
_BULK_TURN = 8  # while bulk work waits, at least every eighth send time is reserved for it
_MAX_AHEAD = 5.0  # later send times mean that the clock was set back


class BudgetState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the processes share. Times are in seconds of the machine's monotonic clock; 0 is never."""

    log: list[float] = []  # the latest send times granted to any process, in order, some in the future
    day: Annotated[int, msgspec.Meta(ge=0)] = 0
    used: Annotated[int, msgspec.Meta(ge=0)] = 0
    recovery: Recovery = Recovery()
    last_turn: float = 0.0
    reserved: list[float] = []  # send times of the log that only bulk work may take
    bulk_waits_until: float = 0.0  # until when to assume that bulk work waits
    interactive_run: int = 0  # send times granted to interactive calls in a row while bulk work waited
    paused: bool = False
    first_429_at: float = 0.0
    pause_began: float = 0.0
    pause_until: float = 0.0
    probe_until: float = 0.0
    failed_probes: int = 0
    suspected_day: int | None = None
    requested_wait: float = 0.0


def without_times(state: BudgetState) -> BudgetState:
    """Drop all times, which mean nothing on another clock. ``exchange`` then assumes a full window."""
    return BudgetState(day=state.day, used=state.used, recovery=msgspec.structs.replace(state.recovery, since=0.0))


def exchange(state: BudgetState, request: LeaseRequest, now: float, today: int) -> Lease:
    """Take the feedback of one process and grant it send times, which like ``now`` are on the monotonic clock."""
    if today > state.day:
        state.day, state.used = today, 0
    if request.day == state.day:
        state.used = max(state.used, request.used)
    was_empty = not state.log
    state.log.sort()
    if not state.log or state.log[-1] > now + _MAX_AHEAD:
        # The log may be incomplete: assume that the last window was full up to the latest time that any process may
        # have been granted. So nothing is granted for one window.
        state.log = [now + HORIZON] * request.max_permits
        state.reserved = []
    # A process with a smaller limit kept fewer times. The missing ones count as the oldest that is known.
    state.log[:0] = state.log[:1] * (request.max_permits - len(state.log))
    _take_feedback(state, request, now)
    if state.paused and state.suspected_day not in (None, state.day):
        state.suspected_day, state.pause_until, state.failed_probes = None, now, 0
    permits = state.recovery.permits(request.max_permits, now)
    granted, wait, is_probe = _grant(state, request, permits, now)
    # A process that wants more would ask again and again otherwise.
    least = 0.0 if len(granted) == request.wanted else _MIN_WAIT
    state.used += len(granted)
    state.log = state.log[-request.max_permits :]
    return Lease(
        wait=max(wait, least),
        was_empty=was_empty,
        day=state.day,
        used=state.used,
        recovery=msgspec.structs.replace(state.recovery, since=state.recovery.since - now),
        used_in_window=sum(now - request.window < sent <= now for sent in state.log),
        paused=state.paused,
        is_probe=is_probe,
        pause_left=max(0.0, state.pause_until - now),
        failed_probes=state.failed_probes,
        since_first_429=min(now - state.first_429_at, 1e6),
        suspected=state.paused and state.suspected_day is not None,
        requested_wait=state.requested_wait,
        send_times=sorted(granted),
    )


def _take_feedback(state: BudgetState, request: LeaseRequest, now: float) -> None:
    feedback = request.feedback
    if feedback is None or feedback.permit <= state.pause_began:
        return  # a pause that began after the request was sent covers it already
    if feedback.kind == "throttled":
        if not state.paused:
            state.first_429_at = now
        state.paused, state.pause_began, state.probe_until = True, now, 0.0
        state.pause_until = max(state.pause_until, now + feedback.delay)
        state.failed_probes, state.requested_wait = feedback.failed_probes, feedback.requested_wait
        state.suspected_day = state.day if feedback.suspected else None
        lowest = min(state.recovery.permits(request.max_permits, now), feedback.recovery.lowest)
        state.recovery = Recovery(lowest, now + feedback.recovery.since, feedback.recovery.wait)
    elif state.paused:
        # Resume without a burst: act as if the last window had been used evenly.
        state.paused, state.pause_until = False, 0.0
        count = request.max_permits
        even = [now - request.window + (slot + 1) * request.window / count for slot in range(count)]
        state.log = [max(sent, slot) for sent, slot in zip(state.log[-count:], even, strict=True)]


def _grant(state: BudgetState, request: LeaseRequest, permits: int, now: float) -> tuple[list[float], float, bool]:
    """Grant send times; return them, when to ask again, and whether they are the probe of a pause."""
    wanted = max(0, min(request.wanted, request.per_day - state.used))
    if state.paused:
        if now < state.pause_until:
            return [], state.pause_until - now, False
        if now < state.probe_until:
            return [], min(state.probe_until - now, request.window / 4), False
        wanted = min(wanted, 1)
    interactive = min(request.interactive, wanted)
    granted: list[float] = []
    while len(granted) < interactive:
        at = _earliest(state.log, permits, request.window, now)
        if at > now + HORIZON:
            break
        state.log.append(at)
        if state.bulk_waits_until > now and state.interactive_run >= _BULK_TURN - 1:
            state.reserved.append(at)
            state.interactive_run = 0
        else:
            state.interactive_run += 1
            granted.append(at)
    all_interactive = len(granted) == interactive
    bulk_wanted = wanted - interactive if all_interactive else 0
    state.reserved = [at for at in state.reserved if at >= now]
    while bulk_wanted > 0 and state.reserved and state.reserved[0] <= now + BULK_HORIZON:
        granted.append(state.reserved.pop(0))
        bulk_wanted -= 1
    while bulk_wanted > 0 and (at := _earliest(state.log, permits, request.window, now)) <= now + BULK_HORIZON:
        state.log.append(at)
        granted.append(at)
        state.interactive_run = 0
        bulk_wanted -= 1
    next_free = _earliest(state.log, permits, request.window, now) - now
    if state.paused:
        if granted:
            state.probe_until = now + request.probe_timeout
        return granted, next_free - (HORIZON if interactive else BULK_HORIZON), bool(granted)
    if not all_interactive:
        return granted, next_free - HORIZON, False
    if bulk_wanted <= 0:
        return granted, 0.0, False
    # A process that wants more gets a time to come back. These times form a queue, so that all of them are served.
    state.last_turn = min(max(state.last_turn, now) + request.spacing, now + request.max_turn_wait)
    wait = max(state.last_turn - now, next_free - BULK_HORIZON)
    state.bulk_waits_until = max(state.bulk_waits_until, now + wait + request.window / 4)
    return granted, wait, False


def _earliest(log: list[float], permits: int, window: float, now: float) -> float:
    """When the next request may be sent: at most ``permits`` in any window, evenly once half a window is used."""
    at = max(now, log[-1], log[-permits] + window)
    half = log[-math.ceil(permits / 2)] + window
    if half > at:
        recent = [sent for sent in log[-permits:] if sent + window > at]
        spread = (recent[0] + window - at) / max(1, permits - len(recent))
        # Slightly faster than even after missed send times, but not so fast that requests pile up.
        at = max(at, log[-1] + max(spread, window / permits * 0.9))
    return at
