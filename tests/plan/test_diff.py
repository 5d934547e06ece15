from __future__ import annotations

from hypothesis import given, settings
from msgspec.structs import replace

from aiomutex import MutexGroup, Slot
from aiomutex.plan import Desired, GroupPlan, Plan, after, fingerprint, parse_desired, plan, plan_json, render

from .strategies import states


def wish(extra: str = "", *, key: str = "checkout", head: str = "") -> Desired:
    return parse_desired(f"{head}groups:\n- projectId: 1\n  key: {key}\n{extra}")


def only(made: Plan) -> GroupPlan:
    (step,) = made.groups
    return step


@given(state=states())
@settings(max_examples=50)
def test_after_a_plan_there_is_nothing_left_to_do(state: tuple[list[MutexGroup], Desired]) -> None:
    live, desired = state
    made = plan(desired, live)
    again = plan(desired, after(made, live))
    assert again.changes == []
    assert again.errors == made.errors


@given(state=states())
@settings(max_examples=50)
def test_what_is_fixed_at_creation_never_changes(state: tuple[list[MutexGroup], Desired]) -> None:
    live, desired = state
    then = {group.id: group for group in after(plan(desired, live), live)}
    for group in live:
        same = then[group.id]
        assert [s.percentage for s in same.slots] == [s.percentage for s in group.slots]
        assert [s.cohorts for s in same.slots] == [s.cohorts for s in group.slots]
        for field in ("bucketing_salt", "bucketing_key", "evaluation_mode", "key", "project_id"):
            assert getattr(same, field) == getattr(group, field)


def test_what_the_file_does_not_say_is_left_alone(group: MutexGroup) -> None:
    assert plan(wish(), [group]).empty
    assert plan(wish("  slots: [{percentage: 40}, {percentage: 60}]"), [group]).empty
    assert plan(parse_desired("groups: []"), [group]).empty


def test_mutable_differences_become_changes(group: MutexGroup) -> None:
    extra = (
        "  name: Till\n  description: new\n  slots: [{percentage: 40, experiments: [123, 9], holdouts: []}, "
        "{percentage: 60, experiments: [789, 456], individuals: [eve]}]"
    )
    made = plan(wish(extra), [group])
    step = only(made)
    assert (step.action, step.group_id, step.fingerprint) == ("update", "7", fingerprint(group))
    assert [(f.field, f.before, f.after) for f in step.fields] == [
        ("name", "Checkout", "Till"),
        ("description", None, "new"),
    ]
    assert [(c.slot_index, c.field, c.added, c.removed) for c in step.lists] == [
        (1, "experiments", [9], []),
        (1, "holdouts", [], [5]),
        (2, "individuals", ["eve"], []),
    ]
    assert step.experiments == [9]
    assert (made.counts.updates, made.counts.added, made.counts.removed) == (1, 2, 1)
    assert render(made) == (
        "~ checkout (project 1): update\n"
        "    name: 'Checkout' → 'Till'\n"
        "    description: none → 'new'\n"
        "    slot 1 experiments: + 9\n"
        "    slot 1 holdouts: - 5\n"
        "    slot 2 individuals: + eve\n"
        "0 to create, 1 to update, 0 to archive; 2 members join slots, 1 leave"
    )


def test_immutable_differences_are_errors_and_nothing_else_of_the_group_changes(group: MutexGroup) -> None:
    extra = (
        "  name: Till\n  evaluationMode: remote\n  bucketingKey: user_id\n  bucketingSalt: s\n"
        "  slots: [{percentage: 50, experiments: [1]}, {percentage: 50}]"
    )
    step = only(plan(wish(extra), [group]))
    rule = "fixed at creation, and replacing the group would reshuffle its users"
    assert step.errors == [
        f"evaluationMode: local live, remote in the file; {rule}",
        f"bucketingKey: device_id live, user_id in the file; {rule}",
        f"bucketingSalt: abcd live, s in the file; {rule}",
        f"percentages: 40 / 60 live, 50 / 50 in the file; {rule}",
    ]
    assert (step.action, step.fields, step.lists) == ("none", [], [])
    slots = only(plan(wish("  slots: [{percentage: 100}]"), [group]))
    assert slots.errors == [f"number of slots: 2 live, 1 in the file; {rule}"]
    assert "    ! number of slots" in render(plan(wish("  slots: [{percentage: 100}]"), [group]))


def test_cohorts_are_shown_and_never_written(group: MutexGroup) -> None:
    made = plan(wish("  slots: [{percentage: 40, cohorts: [c2]}, {percentage: 60}]"), [group])
    assert made.empty
    assert "? slot 1 cohorts are c1, the file says c2: not written" in render(made)
    assert plan(wish("  slots: [{percentage: 40, cohorts: [c1]}, {percentage: 60}]"), [group]).groups == []


def test_an_absent_group_is_created_once_it_has_a_name_and_sound_slots() -> None:
    step = only(plan(wish("  name: New\n  slots: [{percentage: 60.0, experiments: [2, 1]}, {percentage: 40}]"), []))
    assert (step.action, step.fingerprint, step.experiments) == ("create", "absent", [1, 2])
    assert step.new is not None
    assert (step.new.project_id, step.new.key, step.new.slots[0].percentage) == (1, "checkout", 60)
    assert only(plan(wish(), [])).errors == ["does not exist, and a group to be created needs a name and slots"]
    (error,) = only(plan(wish("  name: New\n  slots: [{percentage: 60}]"), [])).errors
    assert error.startswith("cannot be created: ")
    assert "100" in error
    assert plan(wish("  archived: true"), []).empty


def test_archiving_needs_its_word_and_comes_alone(group: MutexGroup) -> None:
    made = plan(wish("  archived: true\n  name: Till"), [group])
    step = only(made)
    assert (step.action, step.fields, step.members, step.experiments) == ("archive", [], 5, [123, 456, 789])
    assert made.counts.removed == 0
    assert made.counts.archives == 1
    assert "- checkout (project 1): archive (5 members leave, for good)" in render(made)
    archived = replace(group, deleted=True)
    assert plan(wish("  archived: true\n  name: Till"), [archived]).empty
    assert only(plan(wish(), [archived])).errors == [
        "is archived; write 'archived: true' to leave it so, 'archived: false' to undo it"
    ]
    back = only(plan(wish("  archived: false\n  name: Till"), [archived]))
    assert (back.action, len(back.fields)) == ("unarchive", 1)
    assert "1 to take out of the archive" in render(plan(wish("  archived: false"), [archived]))


def test_a_live_group_is_meant_before_its_archived_twin_and_two_live_ones_are_an_error(group: MutexGroup) -> None:
    old = replace(group, id="6", deleted=True)
    assert only(plan(wish("  name: Till"), [old, group])).group_id == "7"
    assert "2 live groups" in only(plan(wish(), [group, replace(group, id="8")])).errors[0]


def test_thresholds_are_shares_of_what_the_file_names(group: MutexGroup) -> None:
    head = "thresholds: {removals: 0.3, updates: 0.5}\n"
    less = "  slots: [{percentage: 40, experiments: []}, {percentage: 60, experiments: [456]}]"
    made = plan(wish(less, head=head), [group])
    assert made.excesses == [
        "2 of 5 members leave their slots (40%), more than the threshold of 30%",
        "1 of 1 groups change (100%), more than the threshold of 50%",
    ]
    assert "! 2 of 5 members leave" in render(made)
    assert plan(wish(less, head="thresholds: {removals: 0.4, updates: 1}\n"), [group]).excesses == []
    assert plan(wish("  archived: true", head=head), [group]).excesses[0].startswith("5 of 5 members leave")


def test_the_json_form_has_all_of_it(group: MutexGroup) -> None:
    made = plan_json(plan(wish("  name: Till"), [group]))
    assert made["counts"]["updates"] == 1
    assert made["groups"][0]["fields"] == [{"field": "name", "before": "Checkout", "after": "Till"}]
    assert (made["errors"], made["excesses"], made["empty"]) == ([], [], False)


def test_long_lists_are_cut_and_empty_plans_say_so(group: MutexGroup) -> None:
    many = ", ".join(map(str, range(1, 31)))
    text = render(plan(wish(f"  slots: [{{percentage: 40, experiments: [{many}]}}, {{percentage: 60}}]"), [group]))
    assert "10, 11, 12 and 18 more" in text
    assert render(plan(wish(), [group])) == "nothing to do"
    fresh = render(plan(wish("  name: New\n  slots: [{percentage: 100, experiments: [1], individuals: [a]}]"), []))
    assert "    slot 1: 100 %, experiments 1, individuals a" in fresh


def test_fingerprints_ignore_order_and_see_everything_else(group: MutexGroup) -> None:
    turned = replace(group, slots=[replace(group.slots[1], experiments=[789, 456]), group.slots[0]])
    assert fingerprint(turned) == fingerprint(group)
    assert fingerprint(None) == "absent"
    others = [
        replace(group, description=""),
        replace(group, deleted=True),
        replace(group, slots=[group.slots[0], Slot(index=2, percentage=60, experiments=[456])]),
        replace(group, slots=[replace(group.slots[0], cohorts=[]), group.slots[1]]),
    ]
    assert len({fingerprint(each) for each in [group, *others]}) == 5
