from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomutex import InvalidRequestError, MutexGroup, Slot
from aiomutex.traffic import slot_share, traffic_share


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
