"""What a reviewer sees: moves, names, blocks, renames, and Markdown for a pull request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aiomutex.plan import Review, check_running, markdown, new_findings, parse_desired, plan, plan_json, render

from .strategies import states

if TYPE_CHECKING:
    from aiomutex import MutexGroup
    from aiomutex.plan import Desired, Plan

NAMES: dict[int, Any] = {123: {"name": "Blue button", "state": "running"}, 456: {"name": "[b](x)", "state": "planning"}}


def swapped(group: MutexGroup) -> Plan:
    """Experiment 123 moves to slot 2, 456 moves to slot 1, 789 leaves and 9 joins."""
    slots = "[{percentage: 40, experiments: [456, 9]}, {percentage: 60, experiments: [123]}]"
    return plan(parse_desired(f"groups: [{{projectId: 1, key: checkout, slots: {slots}}}]"), [group])


def test_moves_are_shown_as_moves_and_experiments_with_their_names(group: MutexGroup) -> None:
    changes = swapped(group)
    assert render(changes) == (
        "~ checkout (project 1): update\n"
        "    experiment 123: slot 1 → slot 2\n"
        "    experiment 456: slot 2 → slot 1\n"
        "    slot 1 experiments: + 9\n"
        "    slot 2 experiments: - 789\n"
        "0 to create, 1 to update, 0 to archive; 1 member added, 1 removed, 2 moved"
    )
    named = Review(experiments=NAMES)
    assert "    experiment 123 'Blue button' (running): slot 1 → slot 2\n" in render(changes, named)
    assert plan_json(changes, named)["experiments"]["123"] == ["Blue button", "running"]
    assert plan_json(changes)["counts"] == changes_counts(updates=1, added=1, removed=1, moved=2)


def changes_counts(**counts: int) -> dict[str, int]:
    names = ("creates", "updates", "archives", "unarchives", "added", "removed", "moved", "errors")
    return dict.fromkeys(names, 0) | counts


def test_several_members_move_together(group: MutexGroup) -> None:
    slots = "[{percentage: 40, experiments: [456, 789, 123]}, {percentage: 60, experiments: [], individuals: [ada]}]"
    text = f"groups: [{{projectId: 1, key: checkout, slots: {slots}}}]"
    assert "    experiments 456, 789: slot 2 → slot 1\n" in render(plan(parse_desired(text), [group]))
    both = text.replace("experiments: [456, 789, 123]", "experiments: [456, 789, 123], individuals: []")
    assert "    individual ada: slot 1 → slot 2\n" in render(plan(parse_desired(both), [group]))
    hidden = render(plan(parse_desired(both), [group]), Review(show_individuals=False))
    assert "    individual (1): slot 1 → slot 2\n" in hidden


@given(state=states())
@settings(max_examples=50, deadline=None)
def test_the_counts_add_up(state: tuple[list[MutexGroup], Desired]) -> None:
    live, desired = state
    changes = plan(desired, live)
    counts = changes.counts
    joined = sum(len(each.added) for group in changes.groups for each in group.lists)
    new = [slot for group in changes.groups if group.new for slot in group.new.slots]
    created = sum(len(getattr(slot, name) or ()) for slot in new for name in ("experiments", "holdouts", "individuals"))
    moves = changes.moves.values()
    assert counts.added + sum(len(places) for _, places in moves) == joined + created
    left = sum(len(each.removed) for group in changes.groups for each in group.lists)
    gone = sum(group.members for group in changes.groups)
    assert counts.removed + sum(len(places) for places, _ in moves) == left + gone
    assert counts.moved == len(moves)


def test_what_blocks_a_plan_is_shown_with_the_option_that_lets_it_through(group: MutexGroup) -> None:
    head = "thresholds: {removals: 0.1}\n"
    text = head + "groups: [{projectId: 1, key: checkout, archived: true}, {projectId: 1, key: new}]"
    changes = plan(parse_desired(text), [group])
    review = Review(running=check_running(changes, NAMES))
    reasons = [
        "blocked by 1 error: no option lets them through; change the file",
        "blocked by 1 exceeded threshold: --force lets it through",
        "blocked by 2 running experiments: --allow-running lets it through",
    ]
    assert review.blocked(changes) == plan_json(changes, review)["blocked"] == reasons
    assert all(f"! {reason}\n" in render(changes, review) for reason in reasons)
    assert replace(review, allow_running=True).blocked(changes) == reasons[:2]
    assert Review().blocked(swapped(group)) == []


def test_groups_that_the_file_does_not_mention_are_counted(group: MutexGroup) -> None:
    others = [replace(group, id="8", key="b"), replace(group, id="9", key="c", deleted=True)]
    changes = plan(parse_desired("groups: [{projectId: 1, key: checkout}]"), [group, *others])
    assert (changes.unmentioned, changes.empty) == (1, True)
    assert render(changes) == "no changes; 1 live group is not in the file"


def renamed(live: list[MutexGroup], *, name: str = "Checkout", experiments: str = "[]", extra: str = "") -> str:
    slots = f"[{{percentage: 40, experiments: {experiments}}}, {{percentage: 60}}]"
    return render(
        plan(parse_desired(f"groups: [{{projectId: 1, key: till, name: {name}, slots: {slots}{extra}}}]"), live)
    )


def test_a_new_group_that_looks_like_one_that_is_left_out_is_noticed(group: MutexGroup) -> None:
    note = "    ? looks like checkout, which the file leaves out: a key cannot change, so both groups will exist\n"
    assert note in renamed([group])
    assert note in renamed([group], name="Till", experiments="[123, 456]")
    assert note in renamed([group], name="Till", extra=", bucketingSalt: abcd")
    assert note not in renamed([group], name="Till", experiments="[1, 2]")
    assert note not in renamed([replace(group, deleted=True)])
    assert note not in renamed([replace(group, project_id="2")])
    mentioned = (
        "groups: [{projectId: 1, key: checkout}, {projectId: 1, key: b, name: Checkout, slots: [{percentage: 100}]}]"
    )
    assert "looks like" not in render(plan(parse_desired(mentioned), [group]))


def test_markdown_folds_each_group_and_counts_individuals(group: MutexGroup) -> None:
    slots = "[{percentage: 40, individuals: [ada, eve@example.com]}, {percentage: 60, experiments: []}]"
    changes = plan(parse_desired(f"groups: [{{projectId: 1, key: checkout, slots: {slots}}}]"), [group])
    assert markdown(changes) == (
        "<!-- aiomutex-plan -->\n\n"
        "### Mutex groups: 0 to create, 1 to update, 0 to archive; 1 member added, 2 removed\n\n"
        "<details><summary><code>~ checkout (project 1): update</code></summary>\n\n"
        "```diff\n"
        "+ slot 1 individuals: + (1)\n"
        "- slot 2 experiments: - 456, 789\n"
        "```\n\n"
        "</details>\n"
    )
    assert "eve@example.com" in markdown(changes, Review())


MARKDOWN = st.text("`<>&@#|\n\r\x1b-*_ ab", min_size=1, max_size=40).filter(lambda text: text.strip() != "")


@given(name=MARKDOWN, key=st.text("`<>&@#|-*_ab", min_size=1, max_size=20))
def test_names_cannot_leave_their_place_in_markdown(name: str, key: str) -> None:
    group = {"projectId": 1, "key": key, "name": name, "slots": [{"percentage": 100, "experiments": [1]}]}
    import json  # noqa: PLC0415

    changes = plan(parse_desired(json.dumps({"groups": [group]}), format_="json"), [])
    text = markdown(changes, Review(experiments={1: {"name": name, "state": "running"}}))
    found = re.fullmatch(
        r"<!-- aiomutex-plan -->\n\n### Mutex groups: [^\n`<]*\n\n"
        r"<details><summary><code>([^<>\n]*)</code></summary>\n\n(`{3,})diff\n([^\n]*)\n\2\n\n</details>\n",
        text,
    )
    assert found is not None, text
    assert found[2] not in found[3]


def test_markdown_of_many_groups_fits_a_comment(group: MutexGroup) -> None:
    live = [replace(group, id=str(number), key=f"group-{number}", name="x" * 5000) for number in range(3000)]
    groups = "\n".join(f"- {{projectId: 1, key: group-{number}, name: y}}" for number in range(3000))
    desired = parse_desired(f"thresholds: {{updates: 0.1}}\ngroups:\n{groups}")
    text = markdown(plan(desired, live))
    assert 40_000 < len(text) < 65_000
    assert re.search(r"\n\n… and 2,9\d\d more groups, which do not fit here\.\n$", text)
    assert "! blocked by 1 exceeded threshold: --force lets it through" in text
    running = {number: {"state": "running"} for number in (123, 456, 789)}
    everything = plan(parse_desired("groups:\n" + groups.replace("name: y", "archived: true")), live)
    text = markdown(everything, Review(running=check_running(everything, running)))
    assert len(text) < 65_000
    assert "! blocked by 3 running experiments: --allow-running lets it through" in text


def test_findings_do_not_name_individuals_where_others_are_counted(group: MutexGroup) -> None:
    slots = "[{percentage: 40}, {percentage: 60, individuals: [ada]}]"  # in slot 1 already
    desired = parse_desired(f"groups: [{{projectId: 1, key: checkout, slots: {slots}}}]")
    changes = plan(desired, [group])
    review = Review(findings=new_findings(changes, desired, [group]))
    assert "? checkout: AM104 individual 'ada' is in slot 1 and again in slot 2\n" in render(changes, review)
    hidden = markdown(changes, replace(review, show_individuals=False))
    assert "# checkout: AM104 An individual in two slots gets the first one" in hidden
    assert "ada" not in hidden
