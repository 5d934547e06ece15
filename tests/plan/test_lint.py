from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import aiomutex.plan
from aiomutex.plan import RULES, dump_desired, lint, parse_desired

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
        "- {projectId: 1, key: a, slots: [{percentage: 50, experiments: [1]}, {percentage: 50}]}",
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
}


@pytest.mark.parametrize("code", RULES)
def test_each_rule_finds_its_case_gives_a_reason_and_can_be_disabled(code: str) -> None:
    text, message = CASES[code]
    key = "e\u0301" if code == "AM110" else "a"
    (finding,) = lint(parse_desired("groups:\n" + text), experiments={77: {"evaluationMode": "local"}})
    assert (finding.code, finding.group, finding.message) == (code, key, message)
    assert finding.line == (3 if text.count("\n- ") else 2)
    assert finding.reason == RULES[code][1]
    assert str(finding) == f"{code} {finding.severity}: {key}: {message}. {finding.reason}"
    disabled_file = f"lint: {{ignore: [{code}]}}\ngroups:\n{text}"
    disabled_group = "groups:\n" + text.replace(f"key: {key},", f"key: {key}, ignore: [{code}],")
    for disabled in (disabled_file, disabled_group):
        assert lint(parse_desired(disabled), experiments={77: {"evaluationMode": "local"}}) == []


def test_every_rule_has_a_code_a_reason_and_a_case() -> None:
    assert tuple(RULES) == tuple(CASES)


def test_the_readme_has_all_rules_with_their_severity() -> None:
    text = Path(aiomutex.plan.__file__).with_name("README.md").read_text()
    assert re.findall(r"^\| (AM\d+) \| (\w+) \|", text, re.MULTILINE) == [
        (code, severity) for code, (severity, _) in RULES.items()
    ]


def test_archived_groups_are_not_checked() -> None:
    assert lint(parse_desired("groups:\n" + group("b") + group("a", "archived: true"))) == []


def test_an_experiment_may_be_in_several_slots_of_one_group() -> None:
    half = "{percentage: 50, experiments: [1]}"
    assert lint(parse_desired(f"groups: [{{projectId: 1, key: a, slots: [{half}, {half}]}}]")) == []


def test_local_experiments_may_join_local_groups_and_unknown_modes_are_not_checked() -> None:
    local = group(extra="evaluationMode: local, bucketingKey: device_id", experiment=77)
    assert lint(parse_desired("groups:\n" + local), experiments={77: {"evaluationMode": "local"}}) == []
    assert lint(parse_desired("groups:\n" + CASES["AM108"][0])) == []


def test_findings_are_in_the_order_of_the_file_with_and_without_lines() -> None:
    slots = [{"percentage": 50, "experiments": [1]}, {"percentage": 50}]
    groups = [{"projectId": 1, "key": key, "slots": slots} for key in ("z", "a", "b")]
    desired = parse_desired(json.dumps({"groups": groups}), format_="json")
    for each in (desired, parse_desired(dump_desired(desired))):
        assert [finding.group for finding in lint(each)] == ["z", "a", "a", "b", "b"]
