"""The rules of a pause, as numbers without a clock or event loop."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from aiomutex.limits.messages import Lease
from aiomutex.limits.pause import MAX_PAUSE, PROBE_TIMEOUT, Pause


def throttle(pause: Pause, permit: float, retry_after: float | None, now: float, today: int = 7) -> bool:
    return pause.throttled(permit, retry_after, now, window=1.0, today=today)


def paused_lease(**pause: float) -> Lease:
    fields: dict[str, object] = {
        "wait": 0.0,
        "next_free": 0.0,
        "was_empty": False,
        "day": 6,
        "used": 0,
        "recovery": {},
    }
    return msgspec.convert({**fields, "used_in_window": 0, "paused": True, "is_probe": False, **pause}, Lease)


def facts(pause: Pause) -> tuple[bool, float, int, float, int | None, float | None]:
    return pause.active, pause.until, pause.failed_probes, pause.next_probe_at, pause.suspected_on, pause.requested_wait


NO_PAUSE = (False, -math.inf, 0, -math.inf, None, None)


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Pause:
    monkeypatch.setattr(random, "random", lambda: 1.0)
    return Pause()


def test_without_a_429_there_is_no_pause(pause: Pause) -> None:
    assert facts(pause) == NO_PAUSE
    assert pause.ends_after == math.inf


def test_a_429_to_a_permit_from_before_the_pause_is_ignored(pause: Pause) -> None:
    assert throttle(pause, 10.0, 2.0, 11.0)
    assert not throttle(pause, 11.0, 50.0, 12.0)
    assert throttle(pause, 11.001, 50.0, 12.0)
    assert pause.failed_probes == 1


def test_the_wait_doubles_three_times_and_up_to_a_quarter_is_random(pause: Pause) -> None:
    waits: list[float] = []
    now = 0.0
    for _ in range(6):
        throttle(pause, now, None, now + 0.5)
        waits.append(pause.until - now - 0.5)
        now = pause.until
        if pause.suspected_on is not None:
            break
    assert waits[:4] == pytest.approx([1.25, 2.5, 5.0, 10.0])


def test_the_wait_doubles_no_further_after_more_failed_probes_in_less_time(pause: Pause) -> None:
    for number in range(6):
        throttle(pause, number, 1.0, number + 0.5)
    throttle(pause, 6.0, None, 6.5)
    assert facts(pause)[2:5:2] == (6, None)
    assert pause.until == 6.5 + 10.0


def test_four_failed_probes_over_fifteen_windows_mean_an_exhausted_daily_budget(pause: Pause) -> None:
    throttle(pause, 0.0, 1.0, 0.5)
    for number in range(1, 4):
        throttle(pause, number, 1.0, number + 0.5)
    assert facts(pause)[4] is None
    throttle(pause, 15.0, 1.0, 15.4)
    assert facts(pause)[2:5:2] == (4, None)
    throttle(pause, 15.45, 1.0, 15.5, today=8)
    assert facts(pause)[2:5:2] == (5, 8)
    assert pause.until == 75.5  # a probe a minute from now on


def test_only_a_retry_after_above_the_maximum_pause_means_an_exhausted_daily_budget(pause: Pause) -> None:
    throttle(pause, 0.0, MAX_PAUSE, 1.0)
    assert (pause.until, pause.suspected_on, pause.requested_wait) == (1.0 + MAX_PAUSE, None, None)
    throttle(pause, 2.0, MAX_PAUSE + 1, 3.0)
    assert (pause.until, pause.suspected_on, pause.requested_wait) == (4.0 + MAX_PAUSE, 7, MAX_PAUSE + 1)
    throttle(pause, 4.0, 1.0, 5.0)
    assert pause.requested_wait is None  # the last 429 asked for a short wait


def test_a_probe_holds_back_the_next_one_until_it_times_out(pause: Pause) -> None:
    throttle(pause, 0.0, 1.0, 1.0)
    assert pause.next_probe_at == 2.0
    pause.probe_sent(3.0)
    assert pause.next_probe_at == 3.0 + PROBE_TIMEOUT
    pause.probe_returned()
    assert pause.next_probe_at == 2.0


def test_a_failed_probe_holds_back_nothing(pause: Pause) -> None:
    throttle(pause, 0.0, 1.0, 1.0)
    pause.probe_sent(3.0)
    throttle(pause, 3.0, 0.5, 3.1)
    assert pause.next_probe_at == pytest.approx(3.6)


@pytest.mark.parametrize("retry_after", [1.0, 400.0])
def test_ending_a_pause_resets_everything(pause: Pause, retry_after: float) -> None:
    throttle(pause, 0.0, retry_after, 1.0)
    pause.probe_sent(2.0)
    throttle(pause, 2.0, retry_after, 3.0)
    pause.probe_sent(500.0)
    pause.end()
    assert facts(pause) == NO_PAUSE


def test_a_new_clock_allows_a_probe_at_once(pause: Pause) -> None:
    throttle(pause, 1e6, 400.0, 1e6)
    throttle(pause, 1e6 + 1, None, 1e6 + 2)
    pause.probe_sent(1e6 + 3)
    pause.restart(5.0)
    assert facts(pause) == (True, -math.inf, 0, -math.inf, None, None)
    assert pause.ends_after == 5.0
    assert not throttle(pause, 5.0, 1.0, 6.0)
    assert throttle(pause, 5.5, 1.0, 6.0)


def test_a_new_clock_starts_no_pause(pause: Pause) -> None:
    throttle(pause, 1e6, 1.0, 1e6)
    pause.end()
    pause.restart(5.0)
    assert facts(pause) == NO_PAUSE
    # Times of the old clock do not hide a 429 on the new one.
    assert throttle(pause, 1.0, 1.0, 5.5)


def test_a_shared_pause_is_mirrored(pause: Pause) -> None:
    first = paused_lease(pause_left=20.0, since_first_429=2.0, failed_probes=2, suspected=True, requested_wait=500.0)
    pause.mirror(first, asked_at=9.0, now=10.0)
    assert facts(pause) == (True, 30.0, 2, 30.0, 6, 500.0)
    assert pause.ends_after == 9.0 - 0.001  # permits of the same millisecond can end the pause
    assert not throttle(pause, 10.0, 1.0, 11.0)  # sent before the pause was known
    second = paused_lease(pause_left=28.0, since_first_429=4.0, failed_probes=3, suspected=False, requested_wait=0.0)
    pause.mirror(second, asked_at=11.0, now=12.0)
    assert facts(pause) == (True, 40.0, 3, 40.0, None, None)
    assert pause.ends_after == 9.0 - 0.001  # still the same pause
    throttle(pause, 10.5, 1.0, 23.0)  # the fourth in a row, 15 windows after the first 429
    assert (pause.failed_probes, pause.suspected_on) == (4, 7)
