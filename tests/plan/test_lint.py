from __future__ import annotations

import pytest

from aiomutex.plan import RULES, lint, parse_desired

FULL = "slots: [{percentage: 100, experiments: [%s]}]"


def group(key: str = "a", extra: str = "", *, experiment: int = 1, project: int = 1) -> str:
    return f"- {{projectId: {project}, key: {key}, {FULL % experiment}{', ' if extra else ''}{extra}}}\n"


CASES = {
    "AM101": (
        "- {projectId: 1, key: a, slots: [{percentage: 40, experiments: [1]}]}",
        "the slots add up to 40 %, so 60 % of the users are in no slot",
    ),
    "AM102": (
        "- {projectId: 1, key: a, slots: [{percentage: 0, experiments: [1]}, {percentage: 100, experiments: [2]}]}",
        "slot 1 has 0 %",
    ),
    "AM103": (
        group(extra="evaluationMode: local"),
        "evaluationMode is local and bucketingKey is amplitude_id by default",
    ),
    "AM104": (
        "- {projectId: 1, key: a, slots: [{percentage: 50, individuals: [x]}, {percentage: 50, individuals: [x]}]}",
        "individual 'x' is listed in slot 2 and in slot 1 before it",
    ),
    "AM105": (
        "- {projectId: 1, key: a, slots: [{percentage: 50, experiments: [1]}, {percentage: 50}]}",
        "slot 2 has no members",
    ),
    "AM106": (group("b") + group("a"), "experiment 1 is in b too"),
    "AM107": (group("A", project=2, experiment=2) + group("a"), "there is A in project 2 too"),
    "AM108": (group(experiment=77), "experiment 77 is local, the group is remote"),
    "AM109": (
        "- {projectId: 1, key: a, slots: [{percentage: 100, experiments: [1], cohorts: [c]}]}",
        "slot 1 lists cohorts",
    ),
}


@pytest.mark.parametrize("code", RULES)
def test_each_rule_finds_its_case_says_why_and_can_be_silenced(code: str) -> None:
    text, told = CASES[code]
    (finding,) = lint(parse_desired("groups:\n" + text), modes={77: "local"})
    assert (finding.code, finding.group, finding.text) == (code, "a", told)
    assert finding.line == (3 if text.count("\n- ") else 2)
    assert finding.why == RULES[code][1]
    assert str(finding) == f"{code} {finding.severity}: a: {told}. {finding.why}"
    silenced_file = f"lint: {{ignore: [{code}]}}\ngroups:\n{text}"
    silenced_group = "groups:\n" + text.replace("key: a,", f"key: a, ignore: [{code}],")
    for silenced in (silenced_file, silenced_group):
        assert lint(parse_desired(silenced), modes={77: "local"}) == []


def test_every_rule_has_a_code_a_reason_and_a_case() -> None:
    assert tuple(RULES) == tuple(CASES)


def test_archived_groups_are_not_looked_at() -> None:
    assert lint(parse_desired("groups:\n" + group("b") + group("a", "archived: true"))) == []


def test_several_slots_of_one_group_are_a_way_to_add_traffic() -> None:
    half = "{percentage: 50, experiments: [1]}"
    assert lint(parse_desired(f"groups: [{{projectId: 1, key: a, slots: [{half}, {half}]}}]")) == []


def test_local_experiments_may_join_local_groups_and_unknown_modes_say_nothing() -> None:
    local = group(extra="evaluationMode: local, bucketingKey: device_id", experiment=77)
    assert lint(parse_desired("groups:\n" + local), modes={77: "local"}) == []
    assert lint(parse_desired("groups:\n" + CASES["AM108"][0])) == []
