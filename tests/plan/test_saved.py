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
from aiomutex.plan.edit_order import edit_rounds
from aiomutex.plan.saved import is_saved_plan

from .strategies import fillings, moving, states, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiomutex import MutexGroup

WISH = parse_desired(
    "groups: [{projectId: 1, key: checkout, name: Till, slots: [{percentage: 40, experiments: [9]}, "
    "{percentage: 60, individuals: [eve]}]}, "
    "{projectId: 1, key: new, name: New, slots: [{percentage: 100, experiments: [3]}]}]"
)


def test_a_plan_survives_its_file_and_the_file_is_stable(group: MutexGroup, tmp_path: Path) -> None:
    made, file = plan(WISH, [group]), tmp_path / "changes.plan"
    save_plan(made, file)
    first = file.read_bytes()
    assert load_plan(file) == made
    assert is_saved_plan(file)
    save_plan(load_plan(file), file)
    assert file.read_bytes() == first


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "no saved plan: Object missing required field"),
        ("[" * 100_000, "no saved plan: "),
        ('{"aiomutexPlan": 9, "plan": {}}', "a plan of version 9; this program reads version 1"),
        ("\xff", "no saved plan: "),
    ],
)
def test_another_file_is_no_plan(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "changes.plan"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(DesiredFileError, match=told):
        load_plan(file)


def test_a_desired_state_in_json_is_no_saved_plan(tmp_path: Path) -> None:
    file = tmp_path / "groups.json"
    file.write_text('{"groups": []}')
    assert not is_saved_plan(file)


@given(state=states(), data=st.data())
@settings(max_examples=50)
def test_an_interrupted_apply_leaves_exactly_the_rest(
    state: tuple[list[MutexGroup], Desired], data: st.DataObject
) -> None:
    live, desired = state
    made = plan(desired, live)
    part = [
        replace(
            step,
            fields=[each for each in step.fields if data.draw(st.booleans())],
            lists=[each for each in step.lists if data.draw(st.booleans())],
        )
        for step in made.changes
        if step.new is None and (step.action == "update" or data.draw(st.booleans()))
    ]
    halfway = after(Plan(groups=part), live)
    rest = remaining(made, halfway)
    assert plan(desired, after(rest, halfway)).changes == []
    assert remaining(rest, after(rest, halfway)).changes == []
    assert rest.counts.added <= made.counts.added


@given(filling=fillings, data=st.data())
@example(filling=([[7], [8]], [[8], [7]]), data=None)
@settings(max_examples=50)
def test_an_apply_that_broke_off_between_two_edits_of_a_slot_goes_on(
    filling: tuple[list[list[int]], list[list[int]]], data: st.DataObject | None
) -> None:
    live, desired = moving(*filling)
    made = plan(desired, live)
    halfway = live[0]
    for again in range(2):
        # Broken off after some edits, and once more on the way of the rest.
        edits = [*chain.from_iterable(edit_rounds(remaining(made, [halfway]).changes))]
        for edit in edits[: 1 if data is None else data.draw(st.integers(0, len(edits)), label=f"run {again}")]:
            halfway = written(halfway, edit)
    for edit in chain.from_iterable(edit_rounds(remaining(made, [halfway]).changes)):
        halfway = written(halfway, edit)
    assert plan(desired, [halfway]).empty


def test_a_group_that_somebody_changed_is_refused(group: MutexGroup) -> None:
    made = plan(WISH, [group])
    for other in (
        replace(group, description="theirs"),
        replace(group, name="Theirs"),
        replace(group, deleted=True),
        replace(group, slots=[replace(group.slots[0], experiments=[123, 5]), group.slots[1]]),
        replace(group, slots=[replace(group.slots[0], cohorts=["c9"]), group.slots[1]]),
    ):
        with pytest.raises(StalePlanError, match=r"1 group changed .* checkout \(project 1\) differs"):
            remaining(made, [other])


def test_absent_is_a_state_too(group: MutexGroup) -> None:
    made = plan(WISH, [group])
    theirs = replace(group, id="8", key="new", slots=group.slots)
    with pytest.raises(
        StalePlanError, match=r"2 groups changed .* is gone; new \(project 1\) exists already"
    ) as caught:
        remaining(made, [theirs])
    assert pickle.loads(pickle.dumps(caught.value)).groups == caught.value.groups


def another_key(step: dict[str, Any]) -> None:
    step["key"] = "harmless"


def nothing_that_leaves(step: dict[str, Any]) -> None:
    step["lists"][0]["before"] = []


def nothing_that_leaves_any_more(step: dict[str, Any]) -> None:
    step["lists"][1]["before"] = step["lists"][1]["after"]


def another_old_name(step: dict[str, Any]) -> None:
    step["fields"][0]["before"] = "Till!"


def a_slot_that_is_not_there(step: dict[str, Any]) -> None:
    step["lists"][0]["slotIndex"] = 9


@pytest.mark.parametrize(
    "tamper",
    [another_key, nothing_that_leaves, nothing_that_leaves_any_more, another_old_name, a_slot_that_is_not_there],
)
def test_a_plan_that_does_not_tell_how_things_were_is_refused(
    tamper: Callable[[dict[str, Any]], None], group: MutexGroup, tmp_path: Path
) -> None:
    with pytest.raises(StalePlanError, match="differs"):
        remaining(tampered(tamper, group, tmp_path), [group])
    done = replace(group, slots=[group.slots[0], replace(group.slots[1], individuals=["eve"])])
    with pytest.raises(StalePlanError, match="differs"):
        remaining(tampered(tamper, group, tmp_path), [done])


def no_experiments(step: dict[str, Any]) -> None:
    step["experiments"] = []


@pytest.mark.parametrize("wish", [WISH, parse_desired("groups: [{projectId: 1, key: checkout, archived: true}]")])
def test_what_a_step_touches_is_looked_up_and_not_believed(wish: Desired, group: MutexGroup, tmp_path: Path) -> None:
    made = plan(wish, [group])
    assert all(step.experiments for step in made.changes)
    for place in range(len(made.groups)):
        assert remaining(tampered(no_experiments, group, tmp_path, wish, place), [group]) == made


def another_group_to_create(step: dict[str, Any]) -> None:
    step["new"]["key"] = "other"


def an_update_that_creates(step: dict[str, Any]) -> None:
    step["action"] = "update"


@pytest.mark.parametrize("tamper", [another_group_to_create, an_update_that_creates])
def test_a_plan_that_creates_what_it_does_not_tell_is_none(
    tamper: Callable[[dict[str, Any]], None], group: MutexGroup, tmp_path: Path
) -> None:
    with pytest.raises(DesiredFileError, match=r"no saved plan: .*creat"):
        tampered(tamper, group, tmp_path, place=1)


def tampered(
    tamper: Callable[[dict[str, Any]], None], group: MutexGroup, path: Path, wish: Desired = WISH, place: int = 0
) -> Plan:
    file = path / "changes.plan"
    save_plan(plan(wish, [group]), file)
    tree = json.loads(file.read_text())
    tamper(tree["plan"]["groups"][place])
    file.write_text(json.dumps(tree))
    return load_plan(file)


def test_what_was_created_as_planned_is_done(group: MutexGroup) -> None:
    made = plan(WISH, [group])
    then = after(made, [group])
    assert remaining(made, then).changes == []


def test_an_archived_group_may_be_hidden_afterwards(group: MutexGroup) -> None:
    made = plan(parse_desired("groups: [{projectId: 1, key: checkout, archived: true}]"), [group])
    assert remaining(made, []).changes == []
    assert remaining(made, [replace(group, deleted=True)]).changes == []
    assert remaining(made, [group]) == made
