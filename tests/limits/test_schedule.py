"""The rules of the budget that processes of one machine share, with random processes and a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from limits_support import most_in_a_second

from aiomutex.limits.margin import Recovery
from aiomutex.limits.messages import HORIZON, Feedback, Lease, LeaseRequest
from aiomutex.limits.schedule import BudgetState, exchange, without_times

DAY = 20_780
WINDOW = 1.02


def request(wanted: int = 1, interactive: int = 0, *, permits: int = 97, **more: Any) -> LeaseRequest:
    fields: dict[str, Any] = {"per_day": 10**6, "uncertain": False, "day": 0, "used": 0, "spacing": WINDOW / permits}
    return LeaseRequest(max_permits=permits, window=WINDOW, wanted=wanted, interactive=interactive, **fields | more)


def idle_state(permits: int = 97, now: float = 100.0) -> BudgetState:
    """A budget that was last used long before ``now``."""
    return BudgetState(log=[now - 60.0] * permits, day=DAY)


def permits_of(lease: Lease) -> int:
    """The permits in a window at the time of the exchange."""
    return lease.recovery.permits(97, 0.0)


asks = st.tuples(
    st.floats(0.0, 0.3),  # seconds since the last exchange of any process
    st.integers(0, 20),  # wanted
    st.integers(0, 20),  # of these, interactive
    st.sampled_from([None, None, None, None, None, "throttled", "answered"]),
)


@given(st.integers(1, 97), st.lists(asks, max_size=60))
@example(1, [(0.0, 0, 0, "throttled"), (0.2686976252218013, 0, 0, None), (0.2311545662665602, 1, 0, None)])
def test_no_window_has_more_permits_than_allowed(permits: int, steps: list[tuple[float, int, int, str | None]]) -> None:
    state, now, granted = BudgetState(), 100.0, list[float]()
    for pause, wanted, interactive, kind in steps:
        now += pause
        feedback = None
        if kind == "throttled":
            feedback = Feedback(kind="throttled", permit=now, recovery=Recovery(permits), delay=0.5)
        elif kind == "answered":
            feedback = Feedback(kind="answered", permit=now)
        lease = exchange(state, request(wanted, min(interactive, wanted), permits=permits, feedback=feedback), now, DAY)
        assert all(now <= at <= now + 0.1 for at in lease.send_times)
        assert len(lease.send_times) <= wanted
        assert lease.wait >= 0
        # Without a wait, a process that got nothing would ask again and again.
        assert lease.send_times or not wanted or lease.wait >= 0.001
        granted += lease.send_times
        assert state.used == len(granted)
    assert most_in_a_second(granted, WINDOW - 1e-9) <= permits
    assert len(state.log) <= permits


def test_a_new_budget_grants_nothing_for_one_window() -> None:
    state = BudgetState()
    assert exchange(state, request(5), 100.0, DAY).send_times == []
    assert exchange(state, request(5), 100.0 + WINDOW + 0.05, DAY).send_times == []
    assert exchange(state, request(5), 100.0 + WINDOW + 0.1, DAY).send_times


def test_after_an_idle_window_half_a_window_is_granted_at_once() -> None:
    state = idle_state()
    granted = [at for _ in range(5) for at in exchange(state, request(20, 20), 100.0, DAY).send_times]
    assert granted[:49] == [100.0] * 49
    assert min(granted[49:]) > 100.0


@pytest.mark.parametrize("interactive", [0, 20], ids=["bulk", "interactive"])
@pytest.mark.parametrize("processes", [1, 3, 8, 40])
def test_any_number_of_processes_uses_nearly_all_permits(processes: int, interactive: int) -> None:
    state, granted = idle_state(), list[float]()
    due = [100.0 + index * 0.001 for index in range(processes)]
    while (now := min(due)) < 110.0:
        index = due.index(now)
        lease = exchange(state, request(20, interactive), now, DAY)
        granted += lease.send_times
        due[index] = now + max(lease.wait, 0.001)
    assert len(granted) >= 94 * 10
    assert most_in_a_second(granted, WINDOW - 1e-9) <= 97


def test_an_interactive_call_is_two_permits_away_during_bulk_work_of_other_processes() -> None:
    state, due, waits = idle_state(), [100.0 + index * 0.001 for index in range(8)], list[float]()
    next_call = 102.0
    while (now := min(due)) < 110.0:
        if now >= next_call:
            [at] = exchange(state, request(1, 1), now, DAY).send_times
            waits.append(at - now)
            next_call += 0.137
        index = due.index(now)
        due[index] = now + max(exchange(state, request(20), now, DAY).wait, 0.001)
    assert len(waits) > 50
    assert max(waits) < 0.012 + 2 * WINDOW / 97


def test_bulk_work_gets_an_eighth_and_not_much_more_while_interactive_calls_never_end() -> None:
    state, now, bulk, interactive = idle_state(), 100.0, 0, 0
    while now < 110.0:
        now += 0.005
        interactive += len(exchange(state, request(20, 20), now, DAY).send_times)
        bulk += len(exchange(state, request(20), now, DAY).send_times)
    assert interactive + bulk <= 97 * 11
    assert bulk == pytest.approx((interactive + bulk) / 8, abs=15)


def test_in_backlog_at_least_every_eighth_send_time_goes_to_bulk_work() -> None:
    now = 100.0
    state = BudgetState(log=[now - WINDOW + number * WINDOW / 97 for number in range(97)], day=DAY)
    granted: list[tuple[float, str]] = []
    while now < 103.0:
        now += 0.005
        granted += [(at, "i") for at in exchange(state, request(20, 20), now, DAY).send_times]
        granted += [(at, "b") for at in exchange(state, request(20), now, DAY).send_times]
    order = "".join(priority for _, priority in sorted(granted))
    assert len(order) > 250
    assert "b" in order[:20]
    assert max(map(len, order.strip("i").split("b"))) == 7


def test_send_times_reserved_for_bulk_work_that_ended_are_given_up() -> None:
    state, now = idle_state(), 100.0
    exchange(state, request(20), now, DAY)
    granted = 0
    for _ in range(2_000):
        now += 0.005
        granted += len(exchange(state, request(20, 20), now, DAY).send_times)
    assert granted >= 94 * 9


def test_the_day_is_counted_and_ends() -> None:
    state = idle_state()
    assert len(exchange(state, request(20, 20, per_day=5), 100.0, DAY).send_times) == 5
    lease = exchange(state, request(20, 20, per_day=5), 101.0, DAY)
    assert (lease.send_times, lease.used, lease.day) == ([], 5, DAY)
    lease = exchange(state, request(1, per_day=5), 102.0, DAY + 1)
    assert (len(lease.send_times), lease.used, lease.day) == (1, 1, DAY + 1)
    # A clock that was set back does not make the budget whole.
    assert exchange(state, request(0, per_day=5), 103.0, DAY).day == DAY + 1


def test_the_count_that_a_process_remembers_survives_the_loss_of_the_file() -> None:
    assert exchange(BudgetState(), request(0, day=DAY, used=70), 100.0, DAY).used == 70
    assert exchange(BudgetState(), request(0, day=DAY - 1, used=70), 100.0, DAY).used == 0


def paused_state() -> BudgetState:
    state = idle_state()
    feedback = Feedback(kind="throttled", permit=99.9, recovery=Recovery(95), delay=2.0)
    lease = exchange(state, request(20, 20, feedback=feedback), 100.0, DAY)
    assert (lease.paused, lease.send_times, lease.pause_left, permits_of(lease)) == (True, [], 2.0, 95)
    return state


@pytest.mark.parametrize("interactive", [0, 1])
def test_after_a_pause_a_process_waits_until_a_send_time_is_free_for_its_probe(interactive: int) -> None:
    state = BudgetState(log=[100.0] * 3, day=DAY)
    throttled = Feedback(kind="throttled", permit=100.0, recovery=Recovery(3), delay=0.1)
    exchange(state, request(permits=3, feedback=throttled), 100.1, DAY)
    lease = exchange(state, request(2, interactive, permits=3), 100.3, DAY)
    assert (lease.paused, lease.send_times) == (True, [])
    again = 100.3 + lease.wait
    assert 101.0 - HORIZON <= again <= 100.0 + WINDOW
    assert exchange(state, request(2, interactive, permits=3), again + 0.001, DAY).is_probe


def test_a_pause_lets_one_probe_through_and_ends_with_its_success() -> None:
    state = paused_state()
    assert exchange(state, request(20, 20), 101.9, DAY).send_times == []
    probe = exchange(state, request(20, 20), 102.1, DAY)
    assert (len(probe.send_times), probe.is_probe, probe.pause_left) == (1, True, 0.0)
    assert probe.since_first_429 == pytest.approx(2.1)
    second = exchange(state, request(20, 20), 103.0, DAY)
    assert second.send_times == []
    assert second.wait > 0
    # Without a response the next probe follows.
    assert exchange(state, request(20, 20), 108.0, DAY).is_probe
    lease = exchange(state, request(20, 20, feedback=Feedback(kind="answered", permit=108.0)), 108.1, DAY)
    assert not lease.paused
    # No burst: the last window counts as evenly used.
    assert 6 <= len(lease.send_times) <= 12


def test_a_late_429_does_not_extend_the_pause_and_another_one_does() -> None:
    state = paused_state()
    late = Feedback(kind="throttled", permit=99.95, recovery=Recovery(93), delay=60.0)
    assert exchange(state, request(0, feedback=late), 100.5, DAY).pause_left == 1.5
    later = Feedback(kind="throttled", permit=102.0, recovery=Recovery(93), delay=60.0, failed_probes=1)
    lease = exchange(state, request(0, feedback=later), 102.1, DAY)
    assert (lease.pause_left, lease.failed_probes, permits_of(lease)) == (60.0, 1, 93)


def test_a_suspected_exhaustion_ends_with_the_day() -> None:
    state = idle_state()
    feedback = Feedback(
        kind="throttled", permit=99.9, recovery=Recovery(95), delay=3600.0, suspected=True, requested_wait=3600.0
    )
    lease = exchange(state, request(1, feedback=feedback), 100.0, DAY)
    assert (lease.suspected, lease.requested_wait) == (True, 3600.0)
    next_day = exchange(state, request(1, 1), 200.0, DAY + 1)
    assert (next_day.suspected, next_day.is_probe, len(next_day.send_times)) == (False, True, 1)
    assert permits_of(next_day) == 96  # one more after the first minute without a 429


def test_the_permits_recover_one_by_one_and_are_kept_on_another_clock() -> None:
    state = paused_state()
    assert permits_of(exchange(state, request(1, feedback=Feedback(kind="answered", permit=102.0)), 102.1, DAY)) == 95
    lease = exchange(state, request(0), 160.0, DAY)
    assert (permits_of(lease), lease.recovery.since) == (96, -60.0)
    assert permits_of(exchange(state, request(0), 220.0, DAY)) == 97
    again = Feedback(kind="throttled", permit=223.0, recovery=Recovery(95, 2.0, 120.0), delay=2.0)
    assert permits_of(exchange(state, request(0, feedback=again), 223.0, DAY + 1)) == 95
    assert permits_of(exchange(state, request(0), 225.0 + 119.9, DAY + 1)) == 95
    state = without_times(state)
    assert [permits_of(exchange(state, request(0), now, DAY + 1)) for now in (3.0, 119.9, 120.0, 240.0)] == [
        95,
        95,
        96,
        97,
    ]


def test_on_another_clock_a_full_window_is_assumed_and_the_count_kept() -> None:
    state = paused_state()
    state.used = 40
    state = without_times(state)
    lease = exchange(state, request(5), 3.0, DAY)
    assert (lease.send_times, lease.used, lease.paused) == ([], 40, False)
    assert exchange(state, request(5), 3.0 + WINDOW + 0.1, DAY).send_times


def test_processes_with_different_limits_keep_the_smaller_one_each() -> None:
    state, now, granted = idle_state(), 100.0, list[float]()
    for step in range(600):
        now += 0.01
        permits = 10 if step % 2 else 97
        lease: Lease = exchange(state, request(20, permits=permits), now, DAY)
        granted += lease.send_times
    assert most_in_a_second(granted, WINDOW - 1e-9) <= 97
