from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given, settings
from msgspec import UNSET
from msgspec.structs import replace

from aiomutex.plan import (
    Desired,
    DesiredGroup,
    DesiredSlot,
    Thresholds,
    desired_from,
    dump_desired,
    parse_desired,
    plan,
)
from aiomutex.plan.dump import same_content

from .strategies import live_groups, states

if TYPE_CHECKING:
    from aiomutex import MutexGroup

FORMATS = ["yaml", "json"]


@pytest.mark.parametrize("format_", FORMATS)
@given(live=live_groups())
@settings(max_examples=20, deadline=None)
def test_a_pulled_file_has_no_changes_and_a_second_pull_writes_the_same(format_: str, live: list[MutexGroup]) -> None:
    text = dump_desired(desired_from(live), format_)
    read = parse_desired(text, format_=format_)
    assert plan(read, live).empty
    assert plan(read, live).groups == []
    assert dump_desired(desired_from(live[::-1], settings=read), format_) == text
    assert dump_desired(read, format_) == text


@pytest.mark.parametrize("format_", FORMATS)
@given(state=states())
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read_back_unchanged(format_: str, state: tuple[list[MutexGroup], Desired]) -> None:
    live, desired = state
    read = parse_desired(dump_desired(desired, format_), format_=format_)
    assert plan(read, live) == plan(desired, live)


@pytest.mark.parametrize("format_", FORMATS)
def test_settings_without_groups_and_a_group_without_slots_can_be_written(format_: str, group: MutexGroup) -> None:
    settings_ = parse_desired("thresholds: {updates: 0.5}\nlint: {ignore: [AM105]}")
    assert parse_desired(dump_desired(settings_, format_), format_=format_) == settings_
    slotless = replace(group, slots=[])
    read = parse_desired(dump_desired(desired_from([slotless]), format_), format_=format_)
    assert plan(read, [slotless]).empty


def test_the_yaml_of_a_pull(group: MutexGroup) -> None:
    settings_ = parse_desired(
        "thresholds: {removals: 0.5}\nlint: {ignore: [AM105]}\n"
        "groups: [{projectId: 1, key: checkout, ignore: [AM104]}, {projectId: 1, key: old, ignore: [AM101]}]"
    )
    assert (
        dump_desired(desired_from([group], settings=settings_))
        == """\
version: 1
thresholds:
  removals: 0.5
lint:
  ignore:
  - AM105
groups:
- projectId: 1
  key: checkout
  name: Checkout
  description: null
  evaluationMode: local
  bucketingKey: device_id
  bucketingSalt: abcd
  ignore:
  - AM104
  slots:
  - percentage: 40
    experiments:
    - 123
    holdouts:
    - 5
    individuals:
    - ada
    cohorts:
    - c1
  - percentage: 60
    experiments:
    - 456
    - 789
    holdouts: []
    individuals: []
"""
    )


LOOK_LIKE_SOMETHING_ELSE = [
    "no",
    "on",
    "089",
    "0x1F",
    "12:30",
    "1_000",
    "2026-01-01",
    "1.5e3",
    "1.e3",
    "~",
    "=",
    "<<",
    "null",
]


def test_yaml_quotes_strings_that_any_yaml_version_reads_as_something_else(group: MutexGroup) -> None:
    slot = replace(group.slots[0], individuals=LOOK_LIKE_SOMETHING_ELSE)
    text = dump_desired(desired_from([replace(group, slots=[slot])]))
    (pulled,) = parse_desired(text).groups
    assert pulled.slots is not UNSET
    assert set(slot.individuals) == set(pulled.slots[0].individuals or ())
    assert set(slot.individuals) == set(yaml.safe_load(text)["groups"][0]["slots"][0]["individuals"])


def test_the_order_of_groups_and_members_does_not_matter() -> None:
    groups = ["{projectId: 1, key: a, slots: [{percentage: 100, experiments: [%s]}]}", "{projectId: 1, key: b}"]
    one = parse_desired(f"groups: [{groups[0] % '1, 2'}, {groups[1]}]")
    assert same_content(one, parse_desired(f"groups: [{groups[1]}, {groups[0] % '2, 1'}]"))
    assert not same_content(one, parse_desired(f"groups: [{groups[1]}, {groups[0] % '2, 3'}]"))


@pytest.mark.parametrize("format_", FORMATS)
def test_small_and_fractional_numbers_are_read_back_unchanged(format_: str) -> None:
    for share in (0.00001, 1e-300, 1 / 3):
        desired = Desired(thresholds=Thresholds(removals=share))
        assert same_content(parse_desired(dump_desired(desired, format_), format_=format_), desired)


@pytest.mark.parametrize("format_", FORMATS)
def test_invisible_characters_are_escaped_and_letters_are_not(format_: str, group: MutexGroup) -> None:
    assert "Jürgen 🎈" in dump_desired(desired_from([replace(group, name="Jürgen 🎈")]), format_)
    for invisible in ("\u202e", "\x1b", "\x9b", "\u2028", "\ufeff"):
        live = replace(group, name=f"a{invisible}b")
        text = dump_desired(desired_from([live]), format_)
        assert text.replace("\n", "").isprintable()
        assert plan(parse_desired(text, format_=format_), [live]).empty


def test_groups_without_key_or_project_are_left_out_and_live_groups_precede_archived_ones(group: MutexGroup) -> None:
    archived = replace(group, id="6", name="Old", deleted=True)
    unnamed = [replace(group, key=""), replace(group, project_id="")]
    (pulled,) = desired_from([archived, group, *unnamed]).groups
    assert pulled.name == "Checkout"
    (pulled,) = desired_from([group, archived]).groups
    assert pulled.name == "Checkout"


def test_slots_that_share_a_list_are_written_without_aliases() -> None:
    slot = DesiredSlot(percentage=50, experiments=(1, 2))
    desired = Desired(groups=(DesiredGroup(project_id="1", key="a", slots=(slot, slot), ignore=("AM105",)),))
    assert same_content(parse_desired(dump_desired(desired)), desired)
