from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from aiomutex import MutexGroup, Slot
from aiomutex.traffic import (
    Bucketing,
    Comparison,
    compare,
    read_users,
    sample_users,
    sampling_error,
    simulate,
    simulation,
    slot_of,
)

if TYPE_CHECKING:
    from pathlib import Path

USERS = [f"u{number}" for number in range(2_000)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "_BLOCK", 1_000)


def group(
    key: str, *slots: tuple[float, list[int]], deleted: bool | None = None, individuals: list[str] | None = None
) -> MutexGroup:
    slot_list = [
        Slot(index=n, percentage=p, experiments=e, individuals=(individuals or []) if n == 1 else [])
        for n, (p, e) in enumerate(slots, 1)
    ]
    return MutexGroup(id=key, key=key, bucketing_salt=f"salt {key}", slots=slot_list, deleted=deleted)


def experiments_of(groups: list[MutexGroup], user: str, experiments: set[int]) -> set[int]:
    """The experiments that a user can see, computed in the simplest way."""
    seen = set(experiments)
    for each in groups:
        slot = slot_of(each, user)
        seen -= {e for s in each.slots for e in s.experiments} - set(slot.experiments if slot else ())
    return seen


def test_the_counts_equal_those_of_one_user_at_a_time() -> None:
    groups = [
        group("a", (40, [1]), (35, [2]), (10, [1, 3, 4])),
        group("b", (50, [3, 4]), (50, [2]), individuals=["u1", "u2"]),
    ]
    result = simulate(groups, iter(USERS))
    seen = [experiments_of(groups, user, {1, 2, 3, 4}) for user in USERS]
    assert result.users == len(USERS)
    for counted, each in zip(result.groups, groups, strict=True):
        landed = [slot_of(each, user) for user in USERS]
        assert counted.slots == {s.index: sum(slot == s for slot in landed) for s in each.slots}
        assert counted.unallocated == landed.count(None)
    assert result.experiments == {e: sum(e in each for each in seen) for e in (1, 2, 3, 4)}
    pairs = {(o.first, o.second): o.users for o in result.overlaps}
    assert pairs == {
        (one, two): count
        for one in (1, 2, 3, 4)
        for two in range(one + 1, 5)
        if (count := sum(one in each and two in each for each in seen))
    }
    assert [o.users for o in result.overlaps] == sorted(pairs.values(), reverse=True)


def test_overlaps_can_be_left_out() -> None:
    assert simulate([group("a", (100, [1, 2]))], USERS, overlaps=0).overlaps == []


def test_archived_groups_are_ignored() -> None:
    assert simulate([group("a", (100, [1]), deleted=True)], USERS).groups == []


@pytest.mark.parametrize("forwards", [True, False])
def test_users_move_if_their_set_of_experiments_changes(forwards: bool) -> None:
    before = [group("a", (40, [1]), (60, [])), group("b", (50, [2]), (50, [3]))]
    after = [group("a", (40, [1]), (60, [2])), group("b", (50, [2]), (50, [3]), individuals=["u5"])]
    if not forwards:
        before, after = after, before
    result = compare(before, after, USERS)
    old = [experiments_of(before, user, {1, 2, 3}) for user in USERS]
    new = [experiments_of(after, user, {1, 2, 3}) for user in USERS]
    assert result.moved == sum(a != b for a, b in zip(old, new, strict=True))
    for move in result.experiments:
        assert move.before == sum(move.experiment in each for each in old)
        assert move.after == sum(move.experiment in each for each in new)
        assert move.gained == sum(move.experiment in b - a for a, b in zip(old, new, strict=True))
        assert move.lost == sum(move.experiment in a - b for a, b in zip(old, new, strict=True))
    assert {move.experiment for move in result.experiments} >= {2}


def test_joining_a_slot_takes_the_experiment_away_from_users_outside_it() -> None:
    result = compare([group("a", (40, []), (60, []))], [group("a", (40, [1]), (60, []))], USERS)
    assert 0.56 < result.moved / len(USERS) < 0.64
    assert result.experiments[0].before == len(USERS)


def test_no_user_moves_without_a_change_or_without_users() -> None:
    groups = [group("a", (40, [1]), (60, [2]))]
    assert compare(groups, groups, USERS) == Comparison(users=len(USERS), moved=0, experiments=[])
    assert compare(groups, [], []).moved == 0


def test_users_are_read_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "users.txt"
    file.write_text("ada\n\n  eve \r\nJürgen", encoding="utf-8")
    assert list(read_users(file)) == ["ada", "eve", "Jürgen"]


def test_memory_does_not_grow_with_the_number_of_users() -> None:
    groups = [group("a", (40, [1]), (60, [2]))]

    def peak(count: int) -> int:
        tracemalloc.start()
        simulate(groups, (f"u{number}" for number in range(count)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1_000)
    assert peak(20_000) < 1.2 * peak(5_000)


def test_a_sample_is_random_and_its_error_is_as_expected() -> None:
    population = [f"u{number}" for number in range(20_000)]
    rule = group("a", (30, [1]), (70, []))
    true = simulate([rule], population).experiments[1] / len(population)
    misses = 0
    for seed in range(100):
        sample, size = sample_users(iter(population), 500, seed=seed)
        assert (len(set(sample)), size) == (500, 20_000)
        share = simulate([rule], sample).experiments[1] / 500
        misses += abs(share - true) > sampling_error(share, 500, size)
    assert 0 < misses < 15, "95 % of the samples are within the error"


def test_the_error_of_a_small_population_is_smaller() -> None:
    assert sampling_error(0.2, 100, 10**12) == pytest.approx(1.96 * 0.04)
    assert sampling_error(0.2, 100, 101) == pytest.approx(1.96 * 0.004)


def test_few_users_are_all_in_the_sample() -> None:
    assert sample_users(iter(USERS[:5]), 5) == (USERS[:5], 5)
    assert sample_users([], 5) == ([], 0)
    assert sampling_error(0.5, 5, 5) == sampling_error(0.5, 0, 0) == 0


def test_of_many_experiments_the_largest_overlaps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [group(f"g{n}", (n + 1, [n]), (99 - n, [1000 + n, 2000 + n])) for n in range(60)]
    exact = simulate(groups, USERS, overlaps=20).overlaps
    assert [each.users for each in exact] == sorted((each.users for each in exact), reverse=True)
    monkeypatch.setattr(simulation, "_MAX_EXPERIMENTS", 60)
    monkeypatch.setattr(simulation, "_MAX_PAIRS", 400)
    assert simulate(groups, USERS, overlaps=20).overlaps == exact


def test_3_000_groups_need_no_more_memory_than_their_blocks() -> None:
    groups = [group(f"g{n}", (34, [3 * n]), (33, [3 * n + 1]), (33, [3 * n + 2])) for n in range(3_000)]
    tracemalloc.start()
    result = simulate(groups, USERS[:300])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(result.overlaps) == 50
    assert most < 60 * 2**20


def test_a_comparison_reads_only_groups_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    related, other = group("b", (50, [1, 2]), (50, [])), group("c", (50, [3]), (50, []))
    before = [group("a", (40, []), (60, [])), related, other]
    after = [group("a", (40, [1]), (60, [])), related, other]
    seen: list[str] = []

    class Recording(Bucketing):
        def __init__(self, group: MutexGroup) -> None:
            seen.append(group.key)
            super().__init__(group)

    monkeypatch.setattr(simulation, "Bucketing", Recording)
    assert [move.experiment for move in compare(before, after, USERS).experiments] == [1]
    assert seen == ["b", "a", "b"]


def test_a_comparison_hashes_the_users_of_an_unchanged_split_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = Bucketing.positions

    def counted(self: Bucketing, values: list[str]) -> bytes:
        nonlocal calls
        calls += 1
        return real(self, values)

    monkeypatch.setattr(Bucketing, "positions", counted)
    before, after = group("a", (40, [2]), (60, [])), group("a", (40, [1, 2]), (60, []))
    result = compare([before], [after], USERS)
    assert calls == len(USERS) / 1_000, "one call for each block"
    assert result == compare([before], [group("a", (40, [1, 2]), (60, []))], USERS)
    compare([before], [group("a", (40, [2]), (60, []), individuals=["u5"])], USERS)
    assert calls == 4 * len(USERS) / 1_000
