from __future__ import annotations

import json
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aiomutex import MutexGroup, Slot
from aiomutex.plan import (
    Desired,
    DesiredFileError,
    GroupPlan,
    Plan,
    after,
    desired_from,
    fingerprint,
    lint,
    parse_desired,
    plan,
    plan_json,
    remaining,
    render,
)

from .strategies import states


def desired(extra: str = "", *, key: str = "checkout", head: str = "") -> Desired:
    return parse_desired(f"{head}groups:\n- projectId: 1\n  key: {key}\n{extra}")


def only_group(changes: Plan) -> GroupPlan:
    (group_plan,) = changes.groups
    return group_plan


@given(state=states())
@settings(max_examples=50, deadline=None)
def test_after_a_plan_no_changes_remain(state: tuple[list[MutexGroup], Desired]) -> None:
    live, target = state
    changes = plan(target, live)
    again = plan(target, after(changes, live))
    assert again.changes == []
    assert again.errors == changes.errors


@given(state=states())
@settings(max_examples=50, deadline=None)
def test_what_is_fixed_at_creation_never_changes(state: tuple[list[MutexGroup], Desired]) -> None:
    live, target = state
    result = {group.id: group for group in after(plan(target, live), live)}
    for group in live:
        planned = result[group.id]
        assert [s.percentage for s in planned.slots] == [s.percentage for s in group.slots]
        assert [s.cohorts for s in planned.slots] == [s.cohorts for s in group.slots]
        for field in ("bucketing_salt", "bucketing_key", "evaluation_mode", "key", "project_id"):
            assert getattr(planned, field) == getattr(group, field)


@given(
    key=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6) | st.sampled_from(["café", "Å"]),
    forms=st.tuples(*[st.sampled_from(["NFC", "NFD"])] * 2),
)
def test_every_spelling_of_a_key_is_the_same_group(key: str, forms: tuple[Any, Any]) -> None:
    first, second = (normalize(form, key) for form in forms)
    group = {"projectId": 1, "key": first, "name": "A", "slots": [{"percentage": 100}]}
    target = parse_desired(json.dumps({"groups": [group]}), format_="json")
    created = plan(target, [])
    live = [replace(each, key=second) for each in after(created, [])]
    assert plan(target, live).empty
    assert not remaining(created, live).changes
    assert plan(desired_from(live), live).empty
    saved = plan(replace(target, groups=(replace(target.groups[0], name="B"),)), live)
    assert remaining(saved, live).counts.updates == 1
    if first != second:
        twice = json.dumps({"groups": [group, group | {"key": second}]})
        with pytest.raises(DesiredFileError, match="is defined twice"):
            parse_desired(twice, format_="json")
        assert sorted({finding.code for finding in lint(desired_from(live)) + lint(target)}) == ["AM105", "AM110"]


def test_what_the_file_does_not_mention_stays_as_it_is(group: MutexGroup) -> None:
    assert plan(desired(), [group]).empty
    assert plan(desired("  slots: [{percentage: 40}, {percentage: 60}]"), [group]).empty
    assert plan(parse_desired("groups: []"), [group]).empty


def test_mutable_differences_become_changes(group: MutexGroup) -> None:
    extra = (
        "  name: Till\n  description: new\n  slots: [{percentage: 40, experiments: [123, 9], holdouts: []}, "
        "{percentage: 60, experiments: [789, 456], individuals: [eve]}]"
    )
    changes = plan(desired(extra), [group])
    group_plan = only_group(changes)
    assert (group_plan.action, group_plan.group_id, group_plan.fingerprint) == ("update", "7", fingerprint(group))
    assert [(f.field, f.before, f.after) for f in group_plan.fields] == [
        ("name", "Checkout", "Till"),
        ("description", None, "new"),
    ]
    assert [(c.slot_index, c.field, c.added, c.removed) for c in group_plan.lists] == [
        (1, "experiments", [9], []),
        (1, "holdouts", [], [5]),
        (2, "individuals", ["eve"], []),
    ]
    assert group_plan.experiments == [9]
    assert (changes.counts.updates, changes.counts.added, changes.counts.removed) == (1, 2, 1)
    assert render(changes) == (
        "~ checkout (project 1): update\n"
        "    name: 'Checkout' → 'Till'\n"
        "    description: none → 'new'\n"
        "    slot 1 experiments: + 9\n"
        "    slot 1 holdouts: - 5\n"
        "    slot 2 individuals: + eve\n"
        "0 to create, 1 to update, 0 to archive; 2 members added, 1 removed"
    )


def test_immutable_differences_are_errors_and_the_group_gets_no_changes(group: MutexGroup) -> None:
    extra = (
        "  name: Till\n  evaluationMode: remote\n  bucketingKey: user_id\n  bucketingSalt: s\n"
        "  slots: [{percentage: 50, experiments: [1]}, {percentage: 50}]"
    )
    group_plan = only_group(plan(desired(extra), [group]))
    rule = "fixed at creation, and another group would reassign its users, unless it 'replaces' this one"
    assert group_plan.errors == [
        f"evaluationMode cannot change from local to remote: {rule}",
        f"bucketingKey cannot change from device_id to user_id: {rule}",
        f"bucketingSalt cannot change from abcd to s: {rule}",
        f"percentages cannot change from 40 / 60 to 50 / 50: {rule}",
    ]
    assert (group_plan.action, group_plan.fields, group_plan.lists) == ("none", [], [])
    slots = only_group(plan(desired("  slots: [{percentage: 100}]"), [group]))
    assert slots.errors == [f"number of slots cannot change from 2 to 1: {rule}"]
    assert "    ! number of slots cannot" in render(plan(desired("  slots: [{percentage: 100}]"), [group]))


def test_cohorts_are_shown_and_never_written(group: MutexGroup) -> None:
    changes = plan(desired("  slots: [{percentage: 40, cohorts: [c2]}, {percentage: 60}]"), [group])
    assert changes.empty
    assert "? slot 1 has cohorts c1, and c2 in the file; they are not written" in render(changes)
    assert plan(desired("  slots: [{percentage: 40, cohorts: [c1]}, {percentage: 60}]"), [group]).groups == []


def test_a_missing_group_is_created_if_the_file_has_its_name_and_valid_slots() -> None:
    group_plan = only_group(
        plan(desired("  name: New\n  slots: [{percentage: 60.0, experiments: [2, 1]}, {percentage: 40}]"), [])
    )
    assert (group_plan.action, group_plan.fingerprint, group_plan.experiments) == ("create", "absent", [1, 2])
    assert group_plan.new is not None
    assert (group_plan.new.project_id, group_plan.new.key, group_plan.new.slots[0].percentage) == (1, "checkout", 60)
    assert only_group(plan(desired(), [])).errors == [
        "does not exist; to create it, the file must have its name and slots"
    ]
    (error,) = only_group(plan(desired("  name: New\n  slots: [{percentage: 60}]"), [])).errors
    assert error.startswith("cannot be created: ")
    assert "100" in error
    assert plan(desired("  archived: true"), []).empty


def test_archiving_must_be_explicit_and_excludes_other_changes(group: MutexGroup) -> None:
    changes = plan(desired("  archived: true\n  name: Till"), [group])
    group_plan = only_group(changes)
    assert (group_plan.action, group_plan.fields, group_plan.members, group_plan.experiments) == (
        "archive",
        [],
        5,
        [123, 456, 789],
    )
    assert changes.counts.removed == 5
    assert changes.counts.archives == 1
    assert "- checkout (project 1): archive (5 members leave their slots permanently)" in render(changes)
    archived = replace(group, deleted=True)
    assert plan(desired("  archived: true\n  name: Till"), [archived]).empty
    assert only_group(plan(desired(), [archived])).errors == [
        "is archived; add 'archived: true' to keep it archived, or 'archived: false' to unarchive it"
    ]
    back = only_group(plan(desired("  archived: false\n  name: Till"), [archived]))
    assert (back.action, len(back.fields)) == ("unarchive", 1)
    assert "1 to unarchive" in render(plan(desired("  archived: false"), [archived]))


def test_a_live_group_precedes_an_archived_one_and_two_live_ones_are_an_error(group: MutexGroup) -> None:
    old = replace(group, id="6", deleted=True)
    assert only_group(plan(desired("  name: Till"), [old, group])).group_id == "7"
    assert "2 live groups" in only_group(plan(desired(), [group, replace(group, id="8")])).errors[0]


def test_thresholds_are_shares_of_the_groups_in_the_file(group: MutexGroup) -> None:
    head = "thresholds: {removals: 0.3, updates: 0.5}\n"
    fewer = "  slots: [{percentage: 40, experiments: []}, {percentage: 60, experiments: [456]}]"
    changes = plan(desired(fewer, head=head), [group])
    assert changes.exceeded_thresholds == [
        "2 of 5 members leave their slots (40%), more than the threshold of 30%",
        "1 of 1 groups change (100%), more than the threshold of 50%",
    ]
    assert "! 2 of 5 members leave" in render(changes)
    assert plan(desired(fewer, head="thresholds: {removals: 0.4, updates: 1}\n"), [group]).exceeded_thresholds == []
    of_groups = "1 of 1 groups change (100%), more than the threshold of 50%"
    assert plan(desired("  archived: true", head=head), [group]).exceeded_thresholds == [
        "5 of 5 members leave their slots (100%), more than the threshold of 30%",
        of_groups,
    ]
    archived = [replace(group, deleted=True)]
    assert plan(desired("  archived: false", head=head), archived).exceeded_thresholds == [of_groups]


def test_a_plan_as_json(group: MutexGroup) -> None:
    changes = plan_json(plan(desired("  name: Till"), [group]))
    assert changes["counts"]["updates"] == 1
    assert changes["groups"][0]["fields"] == [{"field": "name", "before": "Checkout", "after": "Till"}]
    assert (changes["errors"], changes["exceededThresholds"], changes["empty"]) == ([], [], False)


def test_long_lists_are_shortened_and_empty_plans_have_no_changes(group: MutexGroup) -> None:
    many = ", ".join(map(str, range(1, 31)))
    text = render(plan(desired(f"  slots: [{{percentage: 40, experiments: [{many}]}}, {{percentage: 60}}]"), [group]))
    assert "10, 11, 12 and 18 more" in text
    assert render(plan(desired(), [group])) == "no changes"
    fresh = render(plan(desired("  name: New\n  slots: [{percentage: 100, experiments: [1], individuals: [a]}]"), []))
    assert "    slot 1: 100 %, experiments 1, individuals a" in fresh


def test_fingerprints_ignore_order_and_nothing_else(group: MutexGroup) -> None:
    reordered = replace(group, slots=[replace(group.slots[1], experiments=[789, 456]), group.slots[0]])
    assert fingerprint(reordered) == fingerprint(group)
    assert fingerprint(None) == "absent"
    others = [
        replace(group, description=""),
        replace(group, deleted=True),
        replace(group, slots=[group.slots[0], Slot(index=2, percentage=60, experiments=[456])]),
        replace(group, slots=[replace(group.slots[0], cohorts=[]), group.slots[1]]),
    ]
    assert len({fingerprint(each) for each in [group, *others]}) == 5


def test_an_experiment_that_changes_its_group_is_shown_as_a_move() -> None:
    slots: dict[str, list[list[int]]] = {"a": [[1, 2], [3]], "b": [[4], []], "c": [[5], [5, 6]]}
    live = [
        MutexGroup(
            id=key,
            project_id="1",
            key=key,
            slots=[Slot(index=index, percentage=50, experiments=held) for index, held in enumerate(slots[key], 1)],
        )
        for key in slots
    ]
    changes = plan(
        parse_desired(
            "groups:\n"
            "- {projectId: 1, key: a, slots: [{percentage: 50, experiments: [2]}, {percentage: 50}]}\n"
            "- {projectId: 1, key: b, slots: [{percentage: 50, experiments: [4, 1]}, {percentage: 50}]}\n"
            "- {projectId: 1, key: c, archived: true}\n"
            "- {projectId: 1, key: d, name: D, slots: [{percentage: 100, experiments: [5, 9]}]}\n"
        ),
        live,
    )
    assert render(changes) == (
        "~ a (project 1): update\n"
        "    experiment 1: slot 1 → b slot 1\n"
        "~ b (project 1): update\n"
        "    experiment 1: a slot 1 → slot 1\n"
        "- c (project 1): archive (1 member leaves its slot permanently)\n"
        "    experiment 5: slot 1 and slot 2 → d slot 1\n"
        "+ d (project 1): create\n"
        "    slot 1: 100 %, experiments 5, 9\n"
        "1 to create, 2 to update, 1 to archive; 1 member added, 1 removed, 2 moved"
    )
