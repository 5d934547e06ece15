from __future__ import annotations

import json
import pickle
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aiomutex.plan import (
    Desired,
    DesiredFileError,
    Plan,
    StalePlanError,
    after,
    load_plan,
    parse_desired,
    plan,
    remaining,
    save_plan,
)
from aiomutex.plan.changes import edit_rounds
from aiomutex.plan.saved import is_saved_plan

from .strategies import moves, moving, states, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiomutex import MutexGroup

DESIRED = parse_desired(
    "groups: [{projectId: 1, key: checkout, name: Till, slots: [{percentage: 40, experiments: [9]}, "
    "{percentage: 60, individuals: [eve]}]}, "
    "{projectId: 1, key: new, name: New, slots: [{percentage: 100, experiments: [3]}]}]"
)


def test_a_saved_plan_is_read_back_unchanged_and_the_file_is_stable(group: MutexGroup, tmp_path: Path) -> None:
    changes, file = plan(DESIRED, [group]), tmp_path / "changes.plan"
    save_plan(changes, file)
    first = file.read_bytes()
    assert load_plan(file) == changes
    assert is_saved_plan(file)
    save_plan(load_plan(file), file)
    assert file.read_bytes() == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "not a saved plan: Object missing required field"),
        ("[" * 100_000, "not a saved plan: "),
        ('{"aiomutexPlan": 9, "plan": {}}', "not a saved plan: Invalid enum value 9"),
        ("\xff", "not a saved plan: "),
    ],
)
def test_another_file_is_not_a_plan(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "changes.plan"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(DesiredFileError, match=message):
        load_plan(file)


def test_a_desired_state_in_json_is_not_a_saved_plan(tmp_path: Path) -> None:
    file = tmp_path / "groups.json"
    file.write_text('{"groups": []}')
    assert not is_saved_plan(file)


@given(state=states(), data=st.data())
@settings(max_examples=50, deadline=None)
def test_after_an_interrupted_apply_exactly_the_rest_remains(
    state: tuple[list[MutexGroup], Desired], data: st.DataObject
) -> None:
    live, desired = state
    changes = plan(desired, live)
    part = [
        replace(
            change,
            fields=[each for each in change.fields if data.draw(st.booleans())],
            lists=[each for each in change.lists if data.draw(st.booleans())],
        )
        for change in changes.changes
        if change.new is None and (change.action == "update" or data.draw(st.booleans()))
    ]
    current = after(Plan(groups=part), live)
    rest = remaining(changes, current)
    assert plan(desired, after(rest, current)).changes == []
    assert remaining(rest, after(rest, current)).changes == []
    # Of a move, the second half may remain: all places that its member joins.
    joined = sum(len(places) for _, places in changes.moves.values())
    assert rest.counts.added <= changes.counts.added + joined


@given(move=moves, data=st.data())
@example(move=([[7], [8]], [[8], [7]]), data=None)
@settings(max_examples=50, deadline=None)
def test_an_apply_interrupted_between_two_edits_of_a_slot_can_be_resumed(
    move: tuple[list[list[int]], list[list[int]]], data: st.DataObject | None
) -> None:
    live, desired = moving(*move)
    changes = plan(desired, live)
    current = live[0]
    for run in range(2):
        # Interrupted after some edits, and again when it was resumed.
        edits = [*chain.from_iterable(edit_rounds(remaining(changes, [current]).changes))]
        for edit in edits[: 1 if data is None else data.draw(st.integers(0, len(edits)), label=f"run {run}")]:
            current = written(current, edit)
    for edit in chain.from_iterable(edit_rounds(remaining(changes, [current]).changes)):
        current = written(current, edit)
    assert plan(desired, [current]).empty


def test_a_group_changed_by_someone_else_is_rejected(group: MutexGroup) -> None:
    changes = plan(DESIRED, [group])
    for other in (
        replace(group, description="theirs"),
        replace(group, name="Theirs"),
        replace(group, deleted=True),
        replace(group, slots=[replace(group.slots[0], experiments=[123, 5]), group.slots[1]]),
        replace(group, slots=[replace(group.slots[0], cohorts=["c9"]), group.slots[1]]),
    ):
        with pytest.raises(StalePlanError, match=r"1 group changed .* checkout \(project 1\) differs"):
            remaining(changes, [other])


def test_a_group_that_is_gone_or_already_exists_is_rejected(group: MutexGroup) -> None:
    changes = plan(DESIRED, [group])
    theirs = replace(group, id="8", key="new", slots=group.slots)
    with pytest.raises(
        StalePlanError, match=r"2 groups changed .* is gone; new \(project 1\) exists already"
    ) as caught:
        remaining(changes, [theirs])
    assert pickle.loads(pickle.dumps(caught.value)).groups == caught.value.groups


def change_key(change: dict[str, Any]) -> None:
    change["key"] = "harmless"


def empty_before(change: dict[str, Any]) -> None:
    change["lists"][0]["before"] = []


def empty_before_of_the_second_list(change: dict[str, Any]) -> None:
    change["lists"][1]["before"] = change["lists"][1]["after"]


def change_old_name(change: dict[str, Any]) -> None:
    change["fields"][0]["before"] = "Till!"


def name_missing_slot(change: dict[str, Any]) -> None:
    change["lists"][0]["slotIndex"] = 9


@pytest.mark.parametrize(
    "tamper",
    [change_key, empty_before, empty_before_of_the_second_list, change_old_name, name_missing_slot],
)
def test_a_plan_with_a_wrong_account_of_the_groups_is_rejected(
    tamper: Callable[[dict[str, Any]], None], group: MutexGroup, tmp_path: Path
) -> None:
    with pytest.raises(StalePlanError, match="differs"):
        remaining(tampered(tamper, group, tmp_path), [group])
    done = replace(group, slots=[group.slots[0], replace(group.slots[1], individuals=["eve"])])
    with pytest.raises(StalePlanError, match="differs"):
        remaining(tampered(tamper, group, tmp_path), [done])


def remove_experiments(change: dict[str, Any]) -> None:
    change["experiments"] = []


@pytest.mark.parametrize("desired", [DESIRED, parse_desired("groups: [{projectId: 1, key: checkout, archived: true}]")])
def test_affected_experiments_are_computed_and_not_read_from_the_file(
    desired: Desired, group: MutexGroup, tmp_path: Path
) -> None:
    changes = plan(desired, [group])
    assert all(change.experiments for change in changes.changes)
    for index in range(len(changes.groups)):
        assert remaining(tampered(remove_experiments, group, tmp_path, desired, index), [group]) == changes


def create_another_group(change: dict[str, Any]) -> None:
    change["new"]["key"] = "other"


def create_in_an_update(change: dict[str, Any]) -> None:
    change["action"] = "update"


@pytest.mark.parametrize("tamper", [create_another_group, create_in_an_update])
def test_a_plan_that_creates_another_group_than_it_shows_is_rejected(
    tamper: Callable[[dict[str, Any]], None], group: MutexGroup, tmp_path: Path
) -> None:
    with pytest.raises(DesiredFileError, match=r"not a saved plan: .*creat"):
        tampered(tamper, group, tmp_path, index=1)


def tampered(
    tamper: Callable[[dict[str, Any]], None], group: MutexGroup, path: Path, desired: Desired = DESIRED, index: int = 0
) -> Plan:
    file = path / "changes.plan"
    save_plan(plan(desired, [group]), file)
    tree = json.loads(file.read_text())
    tamper(tree["plan"]["groups"][index])
    file.write_text(json.dumps(tree))
    return load_plan(file)


def test_a_group_created_as_planned_needs_no_changes(group: MutexGroup) -> None:
    changes = plan(DESIRED, [group])
    created = after(changes, [group])
    assert remaining(changes, created).changes == []


def test_an_archived_group_may_disappear_from_the_listing(group: MutexGroup) -> None:
    changes = plan(parse_desired("groups: [{projectId: 1, key: checkout, archived: true}]"), [group])
    assert remaining(changes, []).changes == []
    assert remaining(changes, [replace(group, deleted=True)]).changes == []
    assert remaining(changes, [group]) == changes
