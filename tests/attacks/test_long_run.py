"""Tens of thousands of calls with every outcome through one session: the process does not grow."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.soak import LEAK_THRESHOLDS, Sample, leaks, slope, soaked, warm
from benchmarks.vitals import Vitals

CALLS = 24_000

STILL = Vitals(
    memory=45.0,
    blocks=180_000,
    heap=9_000_000,
    objects=45_000,
    tasks=1,
    files=68,
    sockets=64,
    in_use=0,
    pooled=63,
    cpu=1.0,
)


def samples(*vitals: Vitals) -> list[Sample]:
    return [Sample(2_000 * number, each, {}) for number, each in enumerate(vitals, 1)]


@pytest.mark.deep
def test_calls_with_every_outcome_leave_no_memory_socket_or_task_behind() -> None:
    taken = soaked(CALLS)
    first, last = taken[4], taken[-1]
    for sample in (first, last):
        print(f"{sample.requests:,} requests: {sample.vitals}")
    print({kind: round(slope(warm(taken), kind), 4) for kind in LEAK_THRESHOLDS}, last.outcomes)
    assert leaks(taken) == []
    assert last.requests > CALLS
    assert last.vitals.memory - first.vitals.memory < 4
    # Each outcome that could leak occurred.
    for outcome in (
        "good",
        "cancelled",
        "NotFoundError",
        "ServerError",
        "ConnectionFailedError",
        "DeadlineExceededError",
    ):
        assert last.outcomes[outcome] > 2, last.outcomes


def test_a_process_that_does_not_grow_has_no_leaks() -> None:
    noisy = [
        msgspec.structs.replace(STILL, blocks=STILL.blocks + 300 * (-1) ** n, files=68 - n % 3, pooled=63 - n % 3)
        for n in range(20)
    ]
    assert leaks(samples(*noisy)) == []


@pytest.mark.parametrize(("kind", "kept"), [("blocks", 0.1), ("objects", 0.1), ("heap", 10.0)])
def test_an_object_or_a_short_body_kept_of_few_requests_is_a_leak(kind: str, kept: float) -> None:
    growing = [
        msgspec.structs.replace(STILL, **{kind: int(getattr(STILL, kind) + 2_000 * kept * n)}) for n in range(20)
    ]
    assert leaks(samples(*growing)) == [f"{kept:.3f} {kind} per request"]


@pytest.mark.parametrize(("kind", "name"), [("in_use", "connections in use"), ("tasks", "tasks"), ("files", "files")])
def test_one_connection_task_or_file_left_over_is_a_leak(kind: str, name: str) -> None:
    late = msgspec.structs.replace(STILL, **{kind: getattr(STILL, kind) + 1})
    assert leaks(samples(*[STILL] * 19, late)) == [f"1 {name} after 40,000 requests"]
