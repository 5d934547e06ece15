from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from aiomutex.plan import desired_from, dump_desired, parse_desired, plan

from .strategies import live_groups, states

if TYPE_CHECKING:
    from aiomutex import MutexGroup
    from aiomutex.plan import Desired

FORMATS = ["yaml", "toml", "json"]


@pytest.mark.parametrize("format_", FORMATS)
@given(live=live_groups())
@settings(max_examples=20)
def test_the_plan_of_a_pull_is_empty_and_a_second_pull_writes_the_same(format_: str, live: list[MutexGroup]) -> None:
    text = dump_desired(desired_from(live), format_, sort=True)
    read = parse_desired(text, format_=format_)
    assert plan(read, live).empty
    assert plan(read, live).groups == []
    assert dump_desired(desired_from(live[::-1], settings=read), format_, sort=True) == text
    assert dump_desired(read, format_) == text


@pytest.mark.parametrize("format_", FORMATS)
@given(state=states())
@settings(max_examples=20)
def test_whatever_is_written_reads_the_same(format_: str, state: tuple[list[MutexGroup], Desired]) -> None:
    live, desired = state
    if format_ == "toml":
        # TOML has no null.
        desired = replace(desired, groups=tuple(g for g in desired.groups if g.description is not None))
    read = parse_desired(dump_desired(desired, format_), format_=format_)
    assert replace(plan(read, live), file="") == plan(desired, live)


@pytest.mark.parametrize("format_", FORMATS)
def test_settings_without_groups_and_a_group_without_slots_can_be_written_too(format_: str, group: MutexGroup) -> None:
    alone = parse_desired("thresholds: {updates: 0.5}\nlint: {ignore: [AM105]}")
    assert replace(parse_desired(dump_desired(alone, format_), format_=format_), file=alone.file) == alone
    slotless = replace(group, slots=[])
    read = parse_desired(dump_desired(desired_from([slotless]), format_), format_=format_)
    assert plan(read, [slotless]).empty


def test_yaml_reads_well(group: MutexGroup) -> None:
    settings_ = parse_desired(
        "thresholds: {removals: 0.5}\nlint: {ignore: [AM105]}\n"
        "groups: [{projectId: 1, key: checkout, ignore: [AM104]}, {projectId: 1, key: old, ignore: [AM101]}]"
    )
    assert dump_desired(desired_from([group], settings=settings_)) == (
        "version: 1\n"
        "thresholds:\n"
        "  removals: 0.5\n"
        "lint:\n"
        '  ignore: ["AM105"]\n'
        "groups:\n"
        "  - projectId: 1\n"
        "    key: checkout\n"
        "    name: Checkout\n"
        "    description: null\n"
        "    evaluationMode: local\n"
        "    bucketingKey: device_id\n"
        "    bucketingSalt: abcd\n"
        '    ignore: ["AM104"]\n'
        "    slots:\n"
        "      - percentage: 40\n"
        "        experiments: [123]\n"
        "        holdouts: [5]\n"
        '        individuals: ["ada"]\n'
        '        cohorts: ["c1"]\n'
        "      - percentage: 60\n"
        "        experiments: [456, 789]\n"
        "        holdouts: []\n"
        "        individuals: []\n"
    )


def test_nameless_groups_are_left_out_and_a_live_twin_wins_over_an_archived_one(group: MutexGroup) -> None:
    archived = replace(group, id="6", name="Old", deleted=True)
    nameless = [replace(group, key=""), replace(group, project_id="")]
    (pulled,) = desired_from([archived, group, *nameless]).groups
    assert pulled.name == "Checkout"
    (pulled,) = desired_from([group, archived]).groups
    assert pulled.name == "Checkout"
