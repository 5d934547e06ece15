from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomutex import ConfigurationError, MutexGroup, Slot
from aiomutex.traffic import Bucketing, slot_of
from benchmarks.oracle import Oracle

USERS = [f"user-{number}@example.com" for number in range(20_000)]


def group(split: list[float], salt: str = "abcd", individuals: dict[int, list[str]] | None = None) -> MutexGroup:
    listed = individuals or {}
    slots = [Slot(index=n, percentage=p, individuals=listed.get(n, [])) for n, p in enumerate(split, 1)]
    return MutexGroup(id="7", key="group", bucketing_key="device_id", bucketing_salt=salt, slots=slots)


@pytest.mark.parametrize(
    ("salt", "split"),
    [
        ("abcd", [50, 50]),
        ("nI33zio8", [1, 99]),
        ("Grüße 🎈", [40, 35, 25]),
        ("rest", [33, 33, 33]),
        ("a/b", [5] * 20),
    ],
)
def test_ids_land_in_the_same_slots_as_in_the_independent_engine(salt: str, split: list[float]) -> None:
    oracle, rule = Oracle(group(split, salt)), Bucketing(group(split, salt))
    indexes: list[int | None] = [*(slot.index for slot in rule.slots), None]
    ours = [indexes[position] for position in rule.positions(USERS)]
    assert ours == [oracle.slot(user) for user in USERS]
    assert len(set(ours)) == len(split) + (sum(split) < 100)


def test_the_distribution_value_of_a_user_is_what_the_boundaries_are_compared_with() -> None:
    rule = Bucketing(group([50, 50]))
    values = [rule.value(user) for user in USERS]
    assert bytes(value >= 21_474_837 for value in values) == rule.positions(USERS)
    assert 0 <= min(values) < 100_000
    assert 42_849_672 < max(values) <= 42_949_672


@pytest.mark.deep
@pytest.mark.parametrize("salt", ["abcd", "nI33zio8", "x"])
@pytest.mark.parametrize("split", [[50, 50], [95, 5], [40, 35, 25], [5] * 19])
def test_100_000_ids_land_in_the_same_slots_for_each_salt_and_split(salt: str, split: list[float]) -> None:
    users = [f"{number:x}-device" for number in range(100_000)]
    oracle, rule = Oracle(group(split, salt)), Bucketing(group(split, salt))
    indexes: list[int | None] = [*(slot.index for slot in rule.slots), None]
    assert [indexes[position] for position in rule.positions(users)] == [oracle.slot(user) for user in users]


@settings(max_examples=50)
@given(
    split=st.lists(st.integers(1, 30), min_size=1, max_size=20).filter(lambda split: sum(split) <= 100),
    salt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    users=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=20),
    listed=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 19)), max_size=6),
)
def test_any_group_and_any_id_match_the_engine(
    split: list[float], salt: str, users: list[str], listed: list[tuple[int, int]]
) -> None:
    # The engine parses a string that starts with "[" as a list of IDs, and does not bucket an empty string.
    users = [user for user in users if user and not user.startswith("[")]
    individuals: dict[int, list[str]] = {}
    for index, number in listed:
        # The engine treats "TRUE" and "true" as the same boolean.
        if number < len(users) and users[number].lower() not in ("true", "false"):
            individuals.setdefault(index, []).append(users[number])
    subject = group(split, salt, individuals)
    oracle, rule = Oracle(subject), Bucketing(subject)
    for user, position in zip(users, rule.positions(users), strict=True):
        slot = rule.slot(user)
        assert (slot.index if slot else None) == oracle.slot(user)
        assert slot == (rule.slots[position] if position < len(rule.slots) else None)


def slot_index_at(distribution: int, split: list[float], monkeypatch: pytest.MonkeyPatch) -> int | None:
    def fixed_hash(key: str, seed: int, signed: bool) -> int:
        return distribution * 100 + 99

    monkeypatch.setattr("mmh3.hash", fixed_hash)
    slot = slot_of(group(split), "anyone")
    return slot.index if slot else None


@pytest.mark.parametrize(
    ("split", "distribution", "expected"),
    [
        # Captured from the service: 1 % ends before 429,497.
        ([1, 99], 429_496, 1),
        ([1, 99], 429_497, 2),
        ([99, 1], 42_520_176, 1),
        ([99, 1], 42_520_177, 2),
        ([50, 50], 21_474_836, 1),
        ([50, 50], 21_474_837, 2),
        ([100], 42_949_672, 1),
        ([99], 42_949_672, None),
        ([33.3, 66.7], 14_302_241, 1),
        ([33.3, 66.7], 14_302_242, 2),
        ([60, 60], 42_949_672, 2),
    ],
)
def test_the_boundary_of_a_slot_is_rounded_up(
    split: list[float], distribution: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slot_index_at(distribution, split, monkeypatch) == expected


def test_an_individual_in_two_slots_lands_in_the_first() -> None:
    both = group([1, 49, 50], individuals={2: ["ada"], 3: ["ada", "eve"]})
    assert [slot.index for user in ("ada", "eve") if (slot := slot_of(both, user))] == [2, 3]


def test_a_slot_may_list_another_id_of_the_user() -> None:
    listed = group([99, 1], individuals={2: ["ada@example.com"]})
    slot = slot_of(listed, "device-1", ids=["ada@example.com"])
    assert slot is not None
    assert slot.index == 2


def test_slots_are_ordered_by_index_not_by_position_in_the_response() -> None:
    ordered = group([10, 90])
    reversed_slots = MutexGroup(id="7", bucketing_salt="abcd", slots=ordered.slots[::-1])
    assert [slot_of(reversed_slots, user) for user in USERS[:500]] == [slot_of(ordered, user) for user in USERS[:500]]


def test_an_empty_value_is_in_no_slot() -> None:
    assert slot_of(group([100]), "") is None
    assert Bucketing(group([100])).positions(["", "ada"]) == bytes([1, 0])


def test_a_group_without_a_salt_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="group group has no bucketingSalt"):
        Bucketing(group([100], salt=""))


def test_the_error_without_mmh3_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def import_without_mmh3(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "mmh3":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "mmh3", raising=False)
    monkeypatch.setattr(builtins, "__import__", import_without_mmh3)
    with pytest.raises(ConfigurationError, match=r"pip install 'aiomutex\[traffic\]'"):
        Bucketing(group([100]))


def test_the_repr_shows_the_group_and_its_number_of_slots() -> None:
    assert repr(Bucketing(group([50, 50]))) == "<Bucketing group · 2 slots>"
