from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aiomutex import InvalidRequestError, MutexGroup, Slot
from aiomutex.traffic import simulate, slot_share, traffic_share


def group(*slots: tuple[float, list[int]], deleted: bool | None = None) -> MutexGroup:
    slot_list = [Slot(index=n, percentage=p, experiments=e) for n, (p, e) in enumerate(slots, 1)]
    return MutexGroup(id="7", slots=slot_list, deleted=deleted)


def test_slots_of_one_group_add_up() -> None:
    assert slot_share(group((40, [1]), (35, [2]), (25, [1, 2])), 1) == 0.65


def test_an_experiment_outside_a_group_has_no_share_of_it_and_all_traffic() -> None:
    assert slot_share(group((100, [1])), 2) == 0
    assert traffic_share(2, [group((100, [1]))]) == 1


def test_shares_in_two_groups_multiply() -> None:
    assert traffic_share(1, [group((50, [1])), group((50, [1]), (50, []))]) == 0.25


def salted(bucketing_key: str, *slots: tuple[float, list[int]]) -> MutexGroup:
    return replace(group(*slots), bucketing_salt="abcd", bucketing_key=bucketing_key)


def test_shares_in_groups_with_one_salt_and_bucketing_key_intersect() -> None:
    first = salted("device_id", (30, [1]), (40, [2]), (30, [3]))
    second = salted("device_id", (30, [1]), (40, [2]), (20, [3]), (10, [1]))
    assert [traffic_share(each, [first, second]) for each in (1, 2, 3)] == [0.3, 0.4, 0.2]
    assert traffic_share(1, [first, second, group((50, [1]))]) == 0.15
    assert traffic_share(1, [first, salted("user_id", (50, [1]))]) == 0.15
    unsorted = replace(second, slots=second.slots[::-1])
    assert traffic_share(1, [first, unsorted], held_out=[50]) == 0.15


@given(st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 3))), min_size=1, max_size=6))
def test_shares_that_intersect_are_those_of_the_users(slots: list[tuple[int, list[int]]]) -> None:
    pair = [salted("device_id", *each) for each in (slots[:3], slots[::-1][:3])]
    users = [f"user-{number}" for number in range(2_000)]
    counted = simulate(pair, users).experiments
    for experiment, count in counted.items():
        assert traffic_share(experiment, pair) == pytest.approx(count / len(users), abs=0.05)


def test_a_holdout_multiplies_the_share() -> None:
    assert traffic_share(1, [group((50, [1]))], held_out=[5]) == 0.475


def test_an_archived_group_does_not_limit_traffic() -> None:
    assert traffic_share(1, [group((50, [1]), deleted=True)]) == 1


@pytest.mark.parametrize("percentage", [-1, 100.5])
def test_a_holdout_percentage_out_of_range_is_an_error(percentage: float) -> None:
    with pytest.raises(InvalidRequestError, match=r"held_out must be percentages from 0 to 100, not (-1|100.5) "):
        traffic_share(1, [], held_out=[percentage])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_decimal_percentages_add_up_without_rounding_errors(tenths: list[int]) -> None:
    assert slot_share(group(*((tenth / 10, [1]) for tenth in tenths)), 1) == sum(tenths) / 1000
