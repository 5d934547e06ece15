from __future__ import annotations

import builtins
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from aiomutex import UNSET, ConfigurationError, InvalidRequestError
from aiomutex.plan import Desired, DesiredFileError, dump_desired, formats, load_desired, parse_desired

if TYPE_CHECKING:
    from pathlib import Path

YAML = """\
# Our experiments.
version: 1
thresholds: {removals: 0.3}
lint:
  ignore: [AM105]
groups:
  - projectId: 1
    key: checkout   # the shop
    name: on
    description: null
    evaluationMode: local
    bucketingKey: device_id
    bucketingSalt: "0123"
    ignore: [AM104]
    slots:
      - percentage: 40
        experiments: [123]
        individuals:
          - ada
      - percentage: 60
        cohorts: [c1]
  - {projectId: p2, key: gone, archived: true}
"""
JSON = """\
{"version": 1, "thresholds": {"removals": 0.3}, "lint": {"ignore": ["AM105"]}, "groups": [
  {"projectId": 1, "key": "checkout", "name": "on", "description": null, "evaluationMode": "local",
   "bucketingKey": "device_id", "bucketingSalt": "0123", "ignore": ["AM104"], "slots": [
    {"percentage": 40, "experiments": [123], "individuals": ["ada"]}, {"percentage": 60, "cohorts": ["c1"]}]},
\t{"projectId": "p2", "key": "gone", "archived": true}
]}
"""


@pytest.mark.parametrize(("format_", "text"), [("yaml", YAML), ("json", JSON)])
def test_both_formats_describe_the_same_desired_state(format_: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / f"groups.{format_}"
    file.write_text(text, encoding="utf-8")
    desired = load_desired(file)
    first, second = desired.groups
    assert (first.identity, first.name, first.bucketing_salt) == (("1", "checkout"), "on", "0123")
    assert first.description is None
    assert first.archived is UNSET
    assert first.ignore == ("AM104",)
    assert first.slots is not UNSET
    assert first.slots[0].experiments == (123,)
    assert first.slots[0].holdouts is UNSET
    assert first.slots[0].individuals == ("ada",)
    assert first.slots[1].cohorts == ("c1",)
    assert second.archived is True
    assert second.slots is UNSET
    assert desired.thresholds.removals == 0.3
    assert desired.ignore == ("AM105",)
    assert second.line == {"yaml": 22, "json": 0}[format_]


GROUP = "groups:\n- projectId: 1\n  key: a\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[]", 1, "the file must be a mapping with version, thresholds, lint, groups, not a list"),
        ("version: 2", 1, "version must be 1, the only version, not 2"),
        ("version: true", 1, "version must be 1, the only version, not true"),
        ("gruops: []", 1, "the file has an unknown field 'gruops'; did you mean 'groups'?"),
        ("groups: {}", 1, "groups must be a list with a mapping for each group, not a mapping"),
        ("groups:\n- key: a", 2, "groups[0] has no projectId; required: projectId and key"),
        ("thresholds: {removals: 30}", 1, "thresholds.removals must be a share from 0 to 1, such as 0.3, not 30"),
        (GROUP + "  experimets: [1]", 4, "groups[0] has an unknown field 'experimets'; known fields are projectId"),
        (GROUP + "  name: 12", 4, "groups[0].name must be a non-empty string (in quotes if it is a number), not 12"),
        (GROUP + "  name: ' '", 4, "groups[0].name must be a non-empty string (in quotes if it is a number), not ' '"),
        (GROUP + "  name:\n  - x", 4, "groups[0].name must be a non-empty string"),
        (GROUP + "  description: [1]", 4, "groups[0].description must be a string, or null for none, not a list"),
        (GROUP + "  evaluationMode: lokal", 4, "groups[0].evaluationMode must be local or remote, not 'lokal'"),
        (GROUP + "  archived: yes", 4, "groups[0].archived must be true or false, not 'yes'"),
        (GROUP + "  ignore: [AM999]", 4, "groups[0].ignore[0] must be a lint rule, AM101 to AM119, not 'AM999'"),
        (
            GROUP + "- projectId: '1'\n  key: a",
            4,
            "groups[1]: group a (project 1) is defined twice; the first is in line 2",
        ),
        ("groups:\n- projectId: 1\n  key: a b", 3, "groups[0].key must be a string without whitespace"),
        *(
            (
                f"groups:\n- projectId: {bad}\n  key: a",
                2,
                "groups[0].projectId must be the project's ID, an integer from 0",
            )
            for bad in ("1.5", "-1", "'-1'", "'01'", "' 1'", "''", "'a b'")
        ),
        (GROUP + "  slots: []", 4, "groups[0].slots must have 1 to 20 slots, not 0"),
        (GROUP + "  slots: [{}]", 4, "groups[0].slots[0] has no percentage; required: percentage"),
        (
            GROUP + "  slots: [{percentage: 40}, {percentage: 61}]",
            4,
            "groups[0].slots must have percentages that add up to at most 100, not 101 (40 + 61)",
        ),
        (GROUP + "  slots: [{percentage: '40'}]", 4, "slots[0].percentage must be a number from 1 to 100, not '40'"),
        (
            GROUP + "  slots: [{percentage: 1e999}]",
            4,
            "slots[0].percentage must be a number from 1 to 100, not '1e999'",
        ),
        (GROUP + "  slots: [{percentage: 1.0e999}]", 4, "slots[0].percentage must be a number from 1 to 100, not inf"),
        (GROUP + "  slots:\n  - percentage: true", 5, "slots[0].percentage must be a number from 1 to 100, not true"),
        (
            GROUP + "  slots:\n  - percentage: 9\n    experiments: [x]",
            6,
            "groups[0].slots[0].experiments[0] must be an integer ID, not 'x'",
        ),
        (
            GROUP + "  slots: [{percentage: 9, individuals: [1]}]",
            4,
            "individuals[0] must be a user or device ID, a string (in quotes if it is a number), not 1",
        ),
        (GROUP + "  slots: [{percentage: 9, cohorts: [1.5]}]", 4, "cohorts[0] must be a cohort's ID"),
        (GROUP + "  slots: [{percentage: 9, holdouts: 5}]", 4, "holdouts must be a list ([] for an empty one), not 5"),
        (GROUP + "  slots: [{percentage: 9, holdouts: [5, 5]}]", 4, "holdouts[1] is 5, which is already in the list"),
        (GROUP + "  key: b", 4, "'key' is defined twice; the first is in line 3"),
        ("groups: [\n", 2, "invalid YAML: "),
        ("groups: []\n---\ngroups: []", 2, "a second YAML document starts here"),
        ("a: &x []\nb: *x", 1, "anchors and aliases (&x) are not supported"),
        (
            "groups: !!python/object:os.system []",
            1,
            "YAML tags (tag:yaml.org,2002:python/object:os.system) are not supported",
        ),
        ("groups: !!str x", 1, "YAML tags"),
        ("<<: {a: b}", 1, "merge keys"),
        ("[a]: b", 1, "the key of a mapping must be a string"),
        ("a\x00b", 0, "invalid YAML: "),
        ("x: " + "[" * 1_000_000, 1, "values are nested more than 12 deep"),
        ("- " * 500_000, 1, "values are nested more than 12 deep"),
        ("{a: " * 200_000, 1, "values are nested more than 12 deep"),
    ],
)
def test_a_problem_in_yaml_is_reported_with_its_line_and_what_is_valid(text: str, line: int, message: str) -> None:
    with pytest.raises(DesiredFileError) as caught:
        parse_desired(text, file="groups.yaml")
    assert message in str(caught.value)
    assert caught.value.problems[0].line == line
    assert str(caught.value).startswith(f"groups.yaml:{line}: " if line else "groups.yaml: ")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[" * 1_000_000, 0, "nested more than 12 deep"),
        ("[" * 13 + "]" * 13, 0, "nested more than 12 deep"),
        ('{"groups": [{"key": 1,\n "key": 2}]}', 0, "groups[0].key is defined twice"),
        ('{"groups": [{"key": "a", "projectId": 1}, {"key": "a", "projectId": 1}]}', 0, "the first is in groups[0]"),
        ('{"groups": [{"key": "a", "projectId": 1, "name": 3}]}', 0, "groups[0].name must be a non-empty string"),
        ('{"a" 1}', 1, "invalid JSON: Expecting ':' delimiter (column 6)"),
        ('{"a": 1 2}', 1, "invalid JSON: Expecting ',' delimiter"),
        ("{1: 2}", 1, "invalid JSON: Expecting property name enclosed in double quotes"),
        ("[1] 2", 1, "invalid JSON: Extra data"),
        ("\n\n // x", 3, "invalid JSON: Expecting value"),
        ('["\\q"]', 1, "invalid JSON: Invalid \\escape"),
        ("[", 1, "invalid JSON: Expecting value"),
        ("[NaN]", 0, "invalid JSON: NaN is not a JSON number"),
        ("[" + "9" * 5_000 + "]", 0, "invalid JSON: Exceeds the limit"),
        ('{"version": 1e0}', 0, "version must be 1, the only version, not 1.0"),
        ('{"groups": [[]]}', 0, "groups[0] must be a mapping with"),
    ],
)
def test_a_problem_in_json_is_reported_with_its_path_or_line(text: str, line: int, message: str) -> None:
    with pytest.raises(DesiredFileError) as caught:
        parse_desired(text, format_="json")
    assert message in str(caught.value)
    assert caught.value.problems[0].line == line


@pytest.mark.parametrize("text", ["x: " + "[" * 1_000_000, "- " * 500_000, "{a: " * 200_000])
def test_without_libyaml_deep_nesting_is_rejected_as_early(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    with pytest.raises(DesiredFileError, match="nested more than 12 deep"):
        parse_desired(text)
    assert parse_desired("groups: [{projectId: 1, key: 'on'}]").groups[0].key == "on"
    with pytest.raises(DesiredFileError, match="half of a surrogate pair"):
        parse_desired('"\\ud800"')


def test_a_file_with_too_many_values_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_NODES", 100)
    for format_ in ("yaml", "json"):
        with pytest.raises(DesiredFileError, match="more than 100 values; split it"):
            parse_desired("[" + "1, " * 100 + "1]", format_=format_)


@pytest.mark.parametrize(
    ("problems", "last"), [(20, "groups.yaml:21: groups[19] has no key"), (30, "groups.yaml: and 10 more problems")]
)
def test_all_problems_are_reported_at_once_up_to_a_limit(problems: int, last: str) -> None:
    text = "groups:\n" + "- projectId: 1\n" * problems
    with pytest.raises(DesiredFileError) as caught:
        parse_desired(text, file="groups.yaml")
    assert len(caught.value.problems) == problems
    assert str(caught.value).splitlines()[-1].startswith(last)
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


@pytest.mark.parametrize("format_", ["yaml", "json"])
def test_the_depth_is_limited_alike_in_both_formats(format_: str) -> None:
    for depth, problem in ((12, "must be"), (13, "nested more than 12 deep")):
        with pytest.raises(DesiredFileError, match=problem):
            parse_desired("[" * depth + "]" * depth, format_=format_)


def test_plain_words_stay_strings_and_only_numbers_are_numbers() -> None:
    text = "groups: [{projectId: 0x1F, key: no, name: 1e3, bucketingKey: '12', bucketingSalt: 12:30}]"
    (group,) = parse_desired(text).groups
    assert (group.project_id, group.key, group.name) == ("0x1F", "no", "1e3")
    assert (group.bucketing_key, group.bucketing_salt) == ("12", "12:30")


def test_a_file_of_another_type_or_size_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DesiredFileError, match=r"the name must end in one of \.yaml, \.yml, \.json"):
        load_desired(tmp_path / "groups.toml")
    for parse in (lambda: parse_desired("", format_="toml"), lambda: dump_desired(Desired(), "toml")):
        with pytest.raises(InvalidRequestError, match=r"format_ must be 'yaml' or 'json', not 'toml' \(str\)"):
            parse()
    with pytest.raises(DesiredFileError, match=r"^<string>: the file has .* more than the maximum of 16,777,216"):
        parse_desired(b" " * (16 * 1024 * 1024 + 1))
    with pytest.raises(DesiredFileError, match="<string>:2: the file is not valid UTF-8"):
        parse_desired(b"a: 1\nb: \xff")


def test_an_empty_file_is_not_a_desired_state() -> None:
    for text in ("", "# nothing here\n"):
        with pytest.raises(DesiredFileError, match=r"the file must be a mapping with .*, not null"):
            parse_desired(text)


def test_without_pyyaml_json_works_and_yaml_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "yaml", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    for use in (lambda: parse_desired("groups: []"), lambda: dump_desired(Desired(), "yaml")):
        with pytest.raises(ConfigurationError, match=r"pip install 'aiomutex\[cli\]'"):
            use()
    assert parse_desired(dump_desired(Desired(), "json"), format_="json").groups == ()
