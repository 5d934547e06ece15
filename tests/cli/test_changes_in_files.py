"""Files for ``slots bulk`` hold relative and guarded edits too, in both formats."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from aiomutex import SlotChange, SlotEdit
from aiomutex.cli.edits_file import read_edits

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import Aiomutex

    from aiomutex.cli.edits_file import Line
    from aiomutex.testing import MutexEmulator

JSONL = """\
{"group_id": "1", "slot_index": 1, "add_experiments": [9, 10], "remove_experiments": [101]}
{"group_key": "group-2", "slot_index": 1, "experiments": [5], "expected": {"experiments": [201]}}
{"group_key": "group-3", "slot_index": 2, "add_individuals": ["ada"], "remove_holdouts": [7]}
"""
CSV = """\
group_key,slot_index,experiments,add_experiments,remove_experiments,add_individuals,remove_holdouts,expected_experiments
group-1,1,,9;10,101,,,
group-2,1,5,,,,,201
group-3,2,,,,ada,7,
"""
FILES = [("e.jsonl", JSONL), ("e.csv", CSV)]
STALE = "group 2, slot 1: changed since it was read, so it was not written: experiments should be [201] but is [77]"


def experiments(service: MutexEmulator) -> list[list[int]]:
    return [service.groups[group].slots[0].experiments for group in "12"]


def line_of(text: str, format_: str = "jsonl") -> Line:
    (line,) = read_edits(text.splitlines(keepends=True), format_)
    return line


@pytest.mark.parametrize(("name", "text"), FILES)
def test_changes_are_previewed_applied_resumed_and_undone(
    name: str, text: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    service.groups["3"].slots[1].holdouts = [7, 8]
    (tmp_path / name).write_text(text)
    preview = aiomutex("slots", "bulk", name, "--dry-run").stdout.splitlines()
    assert preview[0].startswith("3 edits: 3 slots would change, 0 unchanged, 0 impossible")
    assert preview[2:] == [
        "group 1 (group-1), slot 1: experiments +9, 10; experiments -101",
        "group 2 (group-2), slot 1: experiments +5; experiments -201",
        "group 3 (group-3), slot 2: individuals +ada; holdouts -7",
    ]
    words = ("slots", "bulk", name, "--journal", "run.db", "--verify")
    assert aiomutex(*words).stdout.startswith("3 applied, 0 failed")
    assert experiments(service) == [[9, 10], [5]]
    assert (service.groups["3"].slots[1].holdouts, service.groups["3"].slots[1].individuals) == ([8], ["ada"])
    assert aiomutex(*words).stdout.startswith("0 applied, 0 failed, 0 unknown, 3 done earlier")
    assert aiomutex("slots", "bulk", "--undo", "run.db").stdout.startswith("3 applied, 0 failed")
    assert experiments(service) == [[101], [201]]
    assert (service.groups["3"].slots[1].holdouts, service.groups["3"].slots[1].individuals) == ([7, 8], [])


@pytest.mark.parametrize(("name", "text"), FILES)
def test_a_stale_slot_is_left_alone_and_its_edit_can_be_run_again(
    name: str, text: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    service.groups["2"].slots[0].experiments = [77]
    line = 3 if name == "e.csv" else 2
    preview = aiomutex("slots", "bulk", name, "--dry-run", "--json")
    assert json.loads(preview.stdout)["impossible"] == [{"line": line, "reason": STALE}]
    done = aiomutex("slots", "bulk", name, "--failures", "failed.jsonl")
    assert (done.exit_code, done.stderr) == (1, f"line {line}: failed: {STALE}\n")
    assert experiments(service) == [[9, 10], [77]]
    assert json.loads((tmp_path / "failed.jsonl").read_text()) == {
        "group_key": "group-2", "slot_index": 1, "experiments": [5], "expected": {"experiments": [201]},
        "reason": STALE,
    }  # fmt: skip
    service.groups["2"].slots[0].experiments = [201]
    assert aiomutex("slots", "bulk", "failed.jsonl").stdout.startswith("1 applied")
    assert experiments(service) == [[9, 10], [5]]


def test_failed_changes_can_be_run_again(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(JSONL.partition("\n")[0])
    service.fail_next(1, status=400, method="PATCH")
    assert aiomutex("slots", "bulk", "e.jsonl", "--failures", "failed.jsonl").exit_code == 1
    assert experiments(service) == [[101], [201]]
    assert aiomutex("slots", "bulk", "failed.jsonl").stdout.startswith("1 applied")
    assert experiments(service) == [[9, 10], [201]]


def test_each_line_keeps_its_number_among_empty_and_invalid_ones(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    lines = ["", "no json", '{"group_id": 1, "slot_index": 1, "add_experiments": [9]}', ""]
    lines += [f'{{"group_id": {90 + number}, "slot_index": 1, "add_experiments": [9]}}' for number in range(9)]
    done = aiomutex("slots", "bulk", "-", stdin="\n".join(lines))
    assert done.stdout.startswith("1 applied, 10 failed")
    for number in range(9):
        assert f"line {5 + number}: failed: GET /api/1/mutexes/{90 + number} answered 404" in done.stderr


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"experiments": [1], "add_experiments": [2]},
            "an edit replaces whole lists or adds and removes items; it has both experiments and add_experiments. Use",
        ),
        ({"remove_holdouts": [2], "individuals": []}, "it has both individuals and remove_holdouts"),
        ({"add_holdouts": [2], "expected": {"holdouts": []}}, "it has both expected and add_holdouts"),
        ({"add_experiments": "5"}, "add_experiments must be a list of integer IDs, not '5' (str)"),
        ({"add_experiments": [1, "x"]}, "add_experiments[1] must be an integer from 0, not 'x' (str)"),
        ({"add_experiments": None}, "add_experiments must be a list of integer IDs, not None"),
        ({"add_experiments": [1], "remove_experiments": [1]}, "add_experiments and remove_experiments both contain"),
        ({"add_experiment": [1]}, "unknown field 'add_experiment'; an edit has group_id, "),
        ({"experiments": [1], "expected": 5}, "(experiments, holdouts, individuals), not 5 (int)"),
        (
            {"experiments": [1], "expected": {"experiments": ["x"]}},
            "expected.experiments[0] must be an integer from 0, not 'x' (str)",
        ),
        ({"expected": {"experiments": [1]}}, "the edit is empty"),
    ],
)
def test_an_invalid_change_is_reported_by_its_field(fields: dict[str, Any], problem: str) -> None:
    text = json.dumps({"group_id": "7", "slot_index": 1} | fields)
    bad = line_of("\n" + text)
    assert (bad.number, bad.fields, bad.edit) == (2, json.loads(text), None)
    assert problem in bad.error


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("5,6,,", "it has both experiments and add_experiments. Use a line for each"),
        (",6;six,,", "add_experiments[1] must be an integer from 0, not 'six' (str)"),
        ("5,,x,", "expected.experiments[0] must be an integer from 0, not 'x' (str)"),
        (",6,,ada", "it has both expected and add_experiments"),
    ],
)
def test_an_invalid_cell_of_a_change_is_reported_by_its_field(row: str, problem: str) -> None:
    header = "group_id,slot_index,experiments,add_experiments,expected_experiments,expected_individuals\n"
    bad = line_of(f"{header}7,1,{row}\n", "csv")
    assert (bad.number, bad.edit) == (2, None)
    assert problem in bad.error


def test_an_empty_cell_is_not_given_and_brackets_are_an_empty_list() -> None:
    text = "group_id,slot_index,holdouts,add_individuals,expected_holdouts,expected_individuals\n7,1,[],,[],"
    line = line_of(text, "csv")
    assert isinstance(line.edit, SlotEdit)
    assert line.fields == {"group_id": "7", "slot_index": 1, "holdouts": [], "expected": {"holdouts": []}}
    line = line_of("group_id,slot_index,holdouts,add_individuals\n7,1,,ada; bob", "csv")
    assert line.edit == SlotChange("7", 1, add_individuals=["ada", "bob"])


@pytest.mark.parametrize("words", [("--undo", "run.db", "--verify"), ("--undo", "run.db", "--failures", "f.jsonl")])
def test_an_option_for_a_file_is_refused_beside_undo(
    words: tuple[str, ...], service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    (tmp_path / "run.db").touch()
    done = aiomutex("slots", "bulk", *words)
    assert done.exit_code == 2
    assert f"{words[2]} needs a FILE; it cannot be combined with --undo" in done.stderr
    (tmp_path / "e.jsonl").write_text(JSONL)
    assert "--force needs --undo" in aiomutex("slots", "bulk", "e.jsonl", "--force").stderr
    assert not service.requests
