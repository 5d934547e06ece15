from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import aiomutex.plan
from aiomutex import MutexGroup, NotFoundError
from aiomutex.plan import RULES, Desired, Finding, after, dump_desired, lint, new_findings, parse_desired, plan

FULL = "slots: [{percentage: 100, experiments: [%s]}]"


def group(key: str = "a", extra: str = "", *, experiment: int = 1, project: int = 1) -> str:
    return f"- {{projectId: {project}, key: {key}, {FULL % experiment}{', ' if extra else ''}{extra}}}\n"


CASES = {
    "AM101": (
        "- {projectId: 1, key: a, slots: [{percentage: 40, experiments: [1]}]}",
        "the slots add up to 40 %, so 60 % of the users get no slot",
    ),
    "AM102": (
        "- {projectId: 1, key: a, slots: [{percentage: 0, experiments: [1]}, {percentage: 100, experiments: [2]}]}",
        "slot 1 has 0 %",
    ),
    "AM103": (
        group(extra="evaluationMode: local"),
        "evaluationMode is local and bucketingKey is amplitude_id (the default)",
    ),
    "AM104": (
        "- {projectId: 1, key: a, slots: [{percentage: 50, individuals: [x]}, {percentage: 50, individuals: [x]}]}",
        "individual 'x' is in slot 1 and again in slot 2",
    ),
    "AM105": (
        "- {projectId: 1, key: a, slots: [{percentage: 50, experiments: [1]}, {percentage: 50, experiments: []}]}",
        "slot 2 has no members",
    ),
    "AM106": (group("b") + group("a"), "experiment 1 is also in b"),
    "AM107": (group("A", project=2, experiment=2) + group("a"), "project 2 has a group with the key A"),
    "AM108": (group(experiment=77), "experiment 77 has local evaluation, but the group has remote evaluation"),
    "AM109": (
        "- {projectId: 1, key: a, slots: [{percentage: 100, experiments: [1], cohorts: [c]}]}",
        "slot 1 has cohorts",
    ),
    "AM110": (
        group("e\u0301"),
        "the key is not in Unicode normal form C",
    ),
    "AM111": (group(experiment=78), "experiment 78 does not exist, as far as the service says"),
    "AM112": (group(experiment=79), "experiment 79 is archived"),
    "AM113": (group(experiment=80), "experiment 80 is decided"),
    "AM114": (group(experiment=81), "experiment 81 ended on 2020-02-29"),
    "AM115": (group(experiment=82), "experiment 82 belongs to project 9, and the group to project 1"),
    "AM116": (group(experiment=83), "experiment 83 is in slot-1, and depends on slot-2 of the group"),
    "AM117": (group(experiment=84), "experiment 84 depends on 2 flags or groups (70, 80)"),
    "AM118": (
        group(extra="evaluationMode: local, bucketingKey: device_id", experiment=77),
        "1 experiment is evaluated locally",
    ),
    "AM119": (
        group("b", "bucketingSalt: s", experiment=2) + group("a", "bucketingSalt: s"),
        "the bucketing salt and key are those of b",
    ),
}
EXPERIMENTS: dict[int, Any] = {
    77: {"evaluationMode": "local", "projectId": 1, "endDate": None, "parentDependencies": None},
    78: NotFoundError("", status=404, method="GET", path="/"),
    79: {"archived": True, "decision": "rollout"},
    80: {"state": "Decision Made", "endDate": "2020-02-29"},
    81: {"state": "running", "endDate": "2020-02-29T10:00:00.000Z"},
    82: {"projectId": "9", "endDate": "2999-01-01"},
    83: {"parentDependencies": {"flags": {"7": ["slot-2"]}, "operator": "all"}},
    84: {"parentDependencies": {"flags": {"70": ["slot-1"], "80": ["on"]}, "operator": "all"}},
}


def live_groups(desired: Desired) -> list[MutexGroup]:
    """The groups of a file as live ones with the IDs 7, 8, …"""
    return [replace(each, id=str(number)) for number, each in enumerate(after(plan(desired, []), []), 7)]


def findings(text: str) -> list[Finding]:
    desired = parse_desired("groups:\n" + text.replace("key: a,", "key: a, name: A,"))
    return lint(desired, experiments=EXPERIMENTS, live=live_groups(desired) if "83" in text else None)


@pytest.mark.parametrize("code", RULES)
def test_each_rule_finds_its_case_gives_a_reason_and_can_be_disabled(code: str) -> None:
    text, message = CASES[code]
    key = "e\u0301" if code == "AM110" else "a"
    (finding,) = findings(text)
    assert (finding.code, finding.group, finding.message) == (code, key, message)
    assert finding.line == (3 if text.count("\n- ") else 2)
    assert (finding.severity, finding.reason) == RULES[code]
    assert str(finding) == f"{code} {finding.severity}: {key}: {message}. {finding.reason}"
    disabled_file = f"{text}\nlint: {{ignore: [{code}]}}"
    disabled_group = text.replace(f"key: {key},", f"key: {key}, ignore: [{code}],")
    for disabled in (disabled_file, disabled_group):
        assert findings(disabled) == []


def test_what_is_not_known_of_an_experiment_is_not_checked() -> None:
    hostile: list[Any] = [{}, {"parentDependencies": 5}, {"parentDependencies": {"flags": [1]}}, {"endDate": "soon"}]
    hostile += [{"projectId": None, "decision": None, "evaluationMode": 3, "state": ["running"]}]
    for described in hostile:
        assert lint(parse_desired("groups:\n" + group()), experiments={1: described}) == []


def test_a_file_is_checked_together_with_the_live_groups() -> None:
    live = live_groups(parse_desired("groups:\n" + group("b", "name: B") + group("c", "name: C", experiment=2)))
    desired = parse_desired("groups:\n" + group("a", "name: A") + group("c", experiment=2))
    assert [(each.code, each.group, each.line, each.message) for each in lint(desired, live=live)] == [
        ("AM106", "b", 0, "experiment 1 is also in a")
    ]
    assert lint(desired) == []
    changes = plan(desired, live)
    assert [str(each) for each in new_findings(changes, desired, live)] == [
        str(each) for each in lint(desired, live=live)
    ]
    assert new_findings(plan(Desired(), live), Desired(), live) == []
    ignored = parse_desired("lint: {ignore: [AM106]}\ngroups:\n" + group("a", "name: A"))
    assert new_findings(plan(ignored, live), ignored, live) == []


def test_dependencies_are_compared_both_ways() -> None:
    live = live_groups(parse_desired("groups:\n" + group("a", "name: A") + group("b", "name: B", experiment=2)))
    flags: dict[int, dict[str, list[str]]] = {1: {}, 2: {"7": ["slot-1"], "8": ["slot-1"]}, 3: {"99": ["on"]}}
    experiments = {number: {"parentDependencies": {"flags": each}} for number, each in flags.items()}
    assert [each.message for each in lint(Desired(), experiments=experiments, live=live) if each.code == "AM116"] == [
        "experiment 1 is in slot-1, and depends on no slot of the group",
        "experiment 2 is in no slot, and depends on slot-1 of the group",
    ]
    archived = [replace(each, deleted=True) for each in live]
    assert lint(Desired(), experiments=experiments, live=archived) == []


def test_a_list_that_is_left_out_is_not_an_empty_slot() -> None:
    assert lint(parse_desired("groups: [{projectId: 1, key: a, slots: [{percentage: 100}]}]")) == []


def test_every_rule_has_a_code_a_reason_and_a_case() -> None:
    assert tuple(RULES) == tuple(CASES)


def test_the_readme_has_all_rules_with_their_severity() -> None:
    text = Path(aiomutex.plan.__file__).with_name("README.md").read_text()
    assert re.findall(r"^\| (AM\d+) \| (\w+) \|", text, re.MULTILINE) == [
        (code, severity) for code, (severity, _) in RULES.items()
    ]


def test_a_finding_about_a_slot_has_its_line() -> None:
    text = """\
- projectId: 1
  key: a
  slots:
  - {percentage: 0, experiments: [1]}
  - {percentage: 50, individuals: [x], cohorts: [c]}
  - {percentage: 40, individuals: [x]}
  - {percentage: 5, experiments: []}
  - {percentage: 5, experiments: [79]}
"""
    lines = {"AM102": 5, "AM109": 6, "AM104": 7, "AM105": 8, "AM112": 9}
    assert {finding.code: finding.line for finding in findings(text)} == lines


def test_archived_groups_are_not_checked() -> None:
    assert lint(parse_desired("groups:\n" + group("b") + group("a", "archived: true"))) == []


def test_shares_of_groups_with_one_salt_and_bucketing_key_do_not_multiply() -> None:
    same = "groups:\n" + group("a", "bucketingSalt: s") + group("b", "bucketingSalt: s")
    assert [finding.code for finding in lint(parse_desired(same))] == ["AM119"]
    other = "groups:\n" + group("a", "bucketingSalt: s") + group("b", "{bucketingSalt: s, bucketingKey: user_id}"[1:-1])
    assert [finding.code for finding in lint(parse_desired(other))] == ["AM106"]


def test_an_experiment_may_be_in_several_slots_of_one_group() -> None:
    half = "{percentage: 50, experiments: [1]}"
    assert lint(parse_desired(f"groups: [{{projectId: 1, key: a, slots: [{half}, {half}]}}]")) == []


def test_local_experiments_may_join_local_groups_and_unknown_modes_are_not_checked() -> None:
    local = group(extra="evaluationMode: local, bucketingKey: device_id", experiment=77)
    assert lint(parse_desired("lint: {ignore: [AM118]}\ngroups:\n" + local), experiments=EXPERIMENTS) == []
    assert lint(parse_desired("groups:\n" + CASES["AM108"][0])) == []


def test_findings_are_in_the_order_of_the_file_with_and_without_lines() -> None:
    slots: Any = [{"percentage": 50, "experiments": [1]}, {"percentage": 50, "experiments": []}]
    groups = [{"projectId": 1, "key": key, "slots": slots} for key in ("z", "a", "b")]
    desired = parse_desired(json.dumps({"groups": groups}), format_="json")
    for each in (desired, parse_desired(dump_desired(desired))):
        assert [finding.group for finding in lint(each)] == ["z", "a", "a", "b", "b"]
