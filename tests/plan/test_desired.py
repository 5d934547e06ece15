from __future__ import annotations

import builtins
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from aiomutex import UNSET, ConfigurationError
from aiomutex.plan import DesiredFileError, formats, load_desired, parse_desired

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
TOML = """\
# Our experiments.
version = 1
thresholds = {removals = 0.3}
[lint]
ignore = ["AM105"]

[[groups]]
projectId = 1
key = "checkout"
name = "on"
evaluationMode = "local"
bucketingKey = "device_id"
bucketingSalt = "0123"
ignore = ["AM104"]
  [[groups.slots]]
  percentage = 40
  experiments = [123]
  individuals = ["ada"]
  [[groups.slots]]
  percentage = 60
  cohorts = ["c1"]

[[groups]]
projectId = "p2"
key = "gone"
archived = true
"""
JSON = """\
{"version": 1, "thresholds": {"removals": 0.3}, "lint": {"ignore": ["AM105"]}, "groups": [
  {"projectId": 1, "key": "checkout", "name": "on", "description": null, "evaluationMode": "local",
   "bucketingKey": "device_id", "bucketingSalt": "0123", "ignore": ["AM104"], "slots": [
    {"percentage": 40, "experiments": [123], "individuals": ["ada"]}, {"percentage": 60, "cohorts": ["c1"]}]},
\t{"projectId": "p2", "key": "gone", "archived": true}
]}
"""


@pytest.mark.parametrize(("format_", "text"), [("yaml", YAML), ("toml", TOML), ("json", JSON)])
def test_three_formats_say_the_same(format_: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / f"groups.{format_}"
    file.write_text(text, encoding="utf-8")
    desired = load_desired(file)
    first, second = desired.groups
    assert (first.identity, first.name, first.bucketing_salt) == (("1", "checkout"), "on", "0123")
    assert first.description is (UNSET if format_ == "toml" else None)
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
    assert second.line == {"yaml": 22, "toml": 23, "json": 5}[format_]


GROUP = "groups:\n- projectId: 1\n  key: a\n"


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("[]", 1, "the file is a list; it must be a mapping with version, thresholds, lint, groups"),
        ("version: 2", 1, "version is 2; it must be 1"),
        ("gruops: []", 1, "the file has an unknown field 'gruops'; did you mean 'groups'?"),
        ("groups: {}", 1, "groups is a mapping; it must be a list with a mapping for each group"),
        ("groups:\n- key: a", 2, "groups[0] has no projectId; it needs projectId and key"),
        ("thresholds: {removals: 30}", 1, "thresholds.removals is 30; it must be a share from 0 to 1"),
        (GROUP + "  experimets: [1]", 4, "groups[0] has an unknown field 'experimets'; known are projectId"),
        (GROUP + "  name: 12", 4, "groups[0].name is 12; it must be a text that is not empty; put it in quotes"),
        (GROUP + "  name: ' '", 4, "groups[0].name is ' '; it must be a text that is not empty"),
        (GROUP + "  description: [1]", 4, "groups[0].description is a list; it must be a text, or null"),
        (GROUP + "  evaluationMode: lokal", 4, "groups[0].evaluationMode is 'lokal'; it must be local or remote"),
        (GROUP + "  archived: yes", 4, "groups[0].archived is 'yes'; it must be true or false"),
        (GROUP + "  ignore: [AM999]", 4, "groups[0].ignore[0] is 'AM999'; it must be the code of a lint rule, AM101"),
        (
            GROUP + "- projectId: '1'\n  key: a",
            4,
            "group a (project 1) stands here a second time; it was first in line 2",
        ),
        ("groups:\n- projectId: 1\n  key: a b", 3, "groups[0].key is 'a b'; it must be a text without white space"),
        ("groups:\n- projectId: 1.5\n  key: a", 2, "groups[0].projectId is 1.5; it must be the project's id"),
        (GROUP + "  slots: []", 4, "groups[0].slots has 0 slots; a group has 1 to 20"),
        (GROUP + "  slots: [{}]", 4, "groups[0].slots[0] has no percentage; it needs percentage"),
        (GROUP + "  slots: [{percentage: 40}, {percentage: 61}]", 4, "groups[0].slots add up to 101 % (40 + 61)"),
        (GROUP + "  slots: [{percentage: '40'}]", 4, "slots[0].percentage is '40'; it must be a number from 1 to 100"),
        (GROUP + "  slots:\n  - percentage: true", 5, "slots[0].percentage is true; it must be a number from 1 to 100"),
        (
            GROUP + "  slots:\n  - percentage: 9\n    experiments: [x]",
            6,
            "groups[0].slots[0].experiments[0] is 'x'; it must be an id, which is a whole number",
        ),
        (
            GROUP + "  slots: [{percentage: 9, individuals: [1]}]",
            4,
            "individuals[0] is 1; it must be a user or device id",
        ),
        (GROUP + "  slots: [{percentage: 9, holdouts: 5}]", 4, "holdouts is 5; it must be a list; [] removes every"),
        (
            GROUP + "  slots: [{percentage: 9, holdouts: [5, 5]}]",
            4,
            "holdouts[1] is 5, which stands in the list already",
        ),
        (GROUP + "  key: b", 4, "'key' stands here a second time; it was first given in line 3"),
        ("groups: [\n", 2, "no YAML: "),
        ("groups: []\n---\ngroups: []", 2, "a second YAML document starts here"),
        ("a: &x []\nb: *x", 1, "anchors and aliases (&x) are not read"),
        (
            "groups: !!python/object:os.system []",
            1,
            "YAML tags (tag:yaml.org,2002:python/object:os.system) are not read",
        ),
        ("groups: !!str x", 1, "YAML tags"),
        ("<<: {a: b}", 1, "merge keys"),
        ("[a]: b", 1, "the key of a mapping must be a text"),
        ("a\x00b", 0, "no YAML: "),
        ("x: " + "[" * 1_000_000, 1, "values are nested more than 12 deep"),
        ("- " * 500_000, 1, "values are nested more than 12 deep"),
        ("{a: " * 200_000, 1, "values are nested more than 12 deep"),
    ],
)
def test_a_problem_is_told_with_its_line_and_the_right_form(text: str, line: int, told: str) -> None:
    with pytest.raises(DesiredFileError) as caught:
        parse_desired(text, file="groups.yaml")
    assert told in str(caught.value)
    assert caught.value.problems[0].line == line
    assert str(caught.value).startswith(f"groups.yaml:{line}: " if line else "groups.yaml: ")


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("[" * 1_000_000, 1, "nested more than 12 deep"),
        ('{"a": 1,\n "a": 2}', 2, "'a' stands here a second time; it was first given in line 1"),
        ('{"a" 1}', 1, "':' must stand here, not '1'"),
        ('{"a": 1 2}', 1, "',' or '}' must stand here, not '2'"),
        ("{1: 2}", 1, "a key in double quotes must stand here"),
        ("[1,]", 1, "a value must stand here, not ']'"),
        ("[1] 2", 1, "the end of the file must stand here, not '2'"),
        ("\n\n // x", 3, "there is something here that JSON does not know"),
        ('["\\q"]', 1, "a text has a bad escape"),
        ("[", 1, "a value must stand here, not 'the end of the file'"),
        ("[12345678901234567890123]", 1, "something here that JSON does not know"),
        ('{"version": 1e0}', 1, "something here that JSON does not know"),
    ],
)
def test_json_problems_have_lines_too(text: str, line: int, told: str) -> None:
    with pytest.raises(DesiredFileError) as caught:
        parse_desired(text, format_="json")
    assert told in str(caught.value)
    assert caught.value.problems[0].line == line


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a = \n", 1, "no TOML: Invalid value"),
        ("a = [\n", 2, "no TOML: "),
        ("a = " + "[" * 100_000, 1, "nested more than 12 deep"),
        ("a = [\n" + "[\n" * 50_000, 0, "nested more than 12 deep"),
        (
            "[[groups]]\nprojectId = 1\nkey = 'a'\n[[groups]]\nprojectId = 1\nkey = 'b'\nname = 3",
            7,
            "groups[1].name is 3",
        ),
        (
            "[[groups]]\nkey = 'a'\nprojectId = 1\n[[groups.slots]]\npercentage = 1\n[[groups.slots]]\npercentage = ''",
            7,
            "groups[0].slots[1].percentage is ''",
        ),
        ("[[groups]]\nkey = 'a'\nprojectId = 1\nname = 2020-01-01", 4, "dates and times have no place"),
    ],
)
def test_toml_problems_have_lines_as_well_as_can_be(text: str, line: int, told: str) -> None:
    with pytest.raises(DesiredFileError) as caught:
        parse_desired(text, format_="toml")
    assert told in str(caught.value)
    assert caught.value.problems[0].line in {line, 0 if line > 1 and "no TOML" in told else line}


@pytest.mark.parametrize("text", ["x: " + "[" * 1_000_000, "- " * 500_000, "{a: " * 200_000])
def test_without_libyaml_hostile_nesting_ends_as_soon(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    with pytest.raises(DesiredFileError, match="nested more than 12 deep"):
        parse_desired(text)
    assert parse_desired("groups: [{projectId: 1, key: 'on'}]").groups[0].key == "on"


def test_too_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_NODES", 100)
    for format_ in ("yaml", "json"):
        with pytest.raises(DesiredFileError, match="split the file"):
            parse_desired("[" + "1, " * 100 + "1]", format_=format_)


def test_every_problem_is_told_at_once_and_the_list_ends() -> None:
    text = "groups:\n" + "- projectId: 1\n" * 30
    with pytest.raises(DesiredFileError) as caught:
        parse_desired(text, file="groups.yaml")
    assert len(caught.value.problems) == 30
    assert str(caught.value).splitlines()[-1] == "groups.yaml: and 10 problems more"
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_plain_words_stay_texts_and_only_numbers_are_numbers() -> None:
    text = "groups: [{projectId: 0x1F, key: no, name: 1e3, bucketingKey: '12', bucketingSalt: 12:30}]"
    (group,) = parse_desired(text).groups
    assert (group.project_id, group.key, group.name) == ("0x1F", "no", "1e3")
    assert (group.bucketing_key, group.bucketing_salt) == ("12", "12:30")


def test_a_file_of_another_kind_or_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DesiredFileError, match=r"the name must end in one of \.yaml, \.yml, \.toml, \.json"):
        load_desired(tmp_path / "groups.txt")
    with pytest.raises(DesiredFileError, match="at most 16,777,216 are read"):
        parse_desired(b" " * (16 * 1024 * 1024 + 1))
    with pytest.raises(DesiredFileError, match="<text>:2: the file is not UTF-8 text"):
        parse_desired(b"a: 1\nb: \xff")


def test_an_empty_file_is_no_desired_state() -> None:
    with pytest.raises(DesiredFileError, match="the file is null"):
        parse_desired("# nothing here\n")


def test_without_pyyaml_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "yaml", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"pip install 'aiomutex\[plan\]'"):
        parse_desired("groups: []")
    assert parse_desired("groups = []", format_="toml").groups == ()
