from __future__ import annotations

import json

import pytest

from aiomutex import SlotEdit
from aiomutex.cli.edits_file import read_edits


def problems(text: str, format_: str) -> list[str]:
    items = list(read_edits(text.splitlines(keepends=True), format_))
    return [f"line {item.number}: {item.error}" for item in items if item.edit is None]


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"slot_index": "x"}, ("slot_index", "'x' (str)")),
        ({"slot_index": 0}, ("slot_index", "0 (int)")),
        ({"slot_index": 1.0}, ("slot_index", "1.0 (float)")),
        ({"group_id": [7]}, ("group_id", "[7] (list)")),
        ({"experiments": "5"}, ("experiments", "'5' (str)")),
        ({"experiments": [5, "6"]}, ("experiments[1]", "'6' (str)")),
        ({"individuals": [5]}, ("individuals[0]", "5 (int)")),
        ({"holdouts": None}, ("holdouts", "None")),
        ({"line": 5}, ("unknown field 'line'",)),
    ],
)
def test_an_invalid_field_is_reported_with_line_name_value_and_type(
    fields: dict[str, object], shown: tuple[str, ...]
) -> None:
    line = json.dumps({"group_id": "7", "slot_index": 1, "experiments": [1]} | fields)
    (problem,) = problems("\n" + line, "jsonl")
    assert problem.startswith("line 2: ")
    for part in shown:
        assert part in problem


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ("7,x,5", ("slot_index", "'x' (str)")),
        ("7,1,5;six", ("experiments[1]", "'six' (str)")),
        ("7,1,5;", ("experiments[1]", "'' (str)")),
        (",1,5", ("group_id", "'' (str)")),
        ("7,1," + "9" * 5000, ("experiments[0]", "(str)")),
        ("7,1,5,6", ("4 cells for 3 columns",)),
        ("7,1,", ("empty",)),
        ("7", ("slot_index is missing",)),
    ],
)
def test_an_invalid_cell_is_reported_with_line_name_value_and_type(row: str, shown: tuple[str, ...]) -> None:
    (problem,) = problems(f"group_id,slot_index,experiments\n{row}\n", "csv")
    assert problem.startswith("line 2: ")
    for part in shown:
        assert part in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[7, 1]", "line 1: an edit must be an object, not [7, 1] (list)"),
        ('{"slot_index": 1}', "line 1: group_id is missing; an edit must have group_id and slot_index"),
        ('{"group_id": "7"}', "line 1: slot_index is missing; an edit must have group_id and slot_index"),
        ('{"group_id": "7\udcff"}', "line 1: not valid UTF-8"),
    ],
)
def test_a_line_that_is_not_an_edit_is_reported(text: str, problem: str) -> None:
    assert problems(text, "jsonl") == [problem]


def test_a_valid_line_is_kept_as_it_is_for_the_file_of_failures() -> None:
    text = '{"group_id":"7","slot_index":1,"experiments":[1],"individuals":[]}'
    (line,) = read_edits([text], "jsonl")
    assert line.edit == SlotEdit("7", 1, experiments=[1], individuals=[])
    assert line.fields == json.loads(text)
