"""Groups can be named by their keys wherever they can be by their IDs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import Aiomutex

    from aiomutex.testing import MutexEmulator


@pytest.fixture(autouse=True)
def keys(service: MutexEmulator) -> None:
    service.groups["2"].key = "caf\u00e9"


@pytest.mark.parametrize("key", ["caf\u00e9", "cafe\u0301"])
def test_commands_take_a_key(key: str, service: MutexEmulator, aiomutex: Aiomutex) -> None:
    assert json.loads(aiomutex("groups", "get", key, "--json").stdout)["id"] == "2"
    assert aiomutex("groups", "edit", key, "--name", "New").exit_code == 0
    assert service.groups["2"].name == "New"
    assert aiomutex("slots", "edit", key, "1", "--experiments", "9").stdout == f"Edited slot 1 of group {key}.\n"
    assert service.groups["2"].slots[0].experiments == [9]
    assert aiomutex("groups", "archive", key, "--yes").exit_code == 0
    assert service.groups["2"].deleted


@pytest.mark.parametrize("key", ["caf\u00e9", "cafe\u0301"])
def test_a_key_that_the_service_has_in_another_spelling_is_found(
    key: str, service: MutexEmulator, aiomutex: Aiomutex
) -> None:
    service.groups["2"].key = "cafe\u0301"
    assert json.loads(aiomutex("groups", "get", key, "--json").stdout)["id"] == "2"


@pytest.mark.parametrize("archived", [True, False])
def test_a_key_of_two_groups_is_that_of_the_live_one_or_an_error(
    archived: bool, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    service.groups["3"].key, service.groups["3"].deleted = "cafe\u0301", archived
    (tmp_path / "e.jsonl").write_text('{"group_key": "caf\u00e9", "slot_index": 1, "experiments": [5]}\n', "utf-8")
    for words in (["groups", "get", "caf\u00e9"], ["slots", "bulk", "e.jsonl"]):
        done = aiomutex(*words)
        assert done.exit_code == (0 if archived else 1)
        assert ("several groups have the key caf\u00e9" in done.stderr) is not archived
    assert [commit.group_id for commit in service.commits] == ["2"] * archived


def test_an_unknown_key_is_an_error(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    done = aiomutex("slots", "edit", "nope", "1", "--experiments", "9")
    assert (done.exit_code, done.stderr) == (1, "aiomutex: there is no group with the key nope\n")


@pytest.mark.parametrize("name", ["e.jsonl", "e.csv"])
def test_a_bulk_file_takes_keys_and_reads_one_listing(
    name: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    rows = [("cafe\u0301", 1), ("nope", 1), ("caf\u00e9", 2), ("group-3", 3)]
    text = "".join(f'{{"group_key": "{key}", "slot_index": {slot}, "experiments": [5]}}\n' for key, slot in rows)
    if name == "e.csv":
        text = "group_key,slot_index,experiments\n" + "".join(f"{key},{slot},5\n" for key, slot in rows)
    (tmp_path / name).write_text(text, encoding="utf-8")
    shown = aiomutex("slots", "bulk", name, "--dry-run")
    assert shown.exit_code == 2
    assert "there is no group with the key nope" in shown.stderr
    service.requests.clear()
    done = aiomutex("slots", "bulk", name, "--journal", "run.db", "--failures", "failed.jsonl")
    assert done.exit_code == 1
    assert done.stdout.startswith("3 applied, 1 failed")
    assert f"line {3 if name == 'e.csv' else 2}: failed: there is no group with the key nope" in done.stderr
    assert json.loads((tmp_path / "failed.jsonl").read_text()) == {
        "group_key": "nope", "slot_index": 1, "experiments": [5], "reason": "there is no group with the key nope",
    }  # fmt: skip
    assert [request.path for request in service.requests].count("/api/1/mutexes") == 1
    assert [slot.experiments for slot in service.groups["2"].slots] == [[5], [5], [203]]
    again = aiomutex("slots", "bulk", name, "--journal", "run.db")
    assert again.stdout.startswith("0 applied, 1 failed, 0 unknown, 3 done earlier")


@pytest.mark.parametrize("fields", ['"group_id": "7", "group_key": "a"', '"group_key": ""', '"group_key": 7'])
def test_an_edit_names_its_group_once(fields: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(f'{{{fields}, "slot_index": 1, "experiments": []}}\n')
    done = aiomutex("slots", "bulk", "e.jsonl")
    assert done.exit_code == 2
    assert done.stderr.startswith("line 1: group_key must be a non-empty string, and the only name of the group\n")


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("e.csv", b"group_id;slot_index;experiments\n1;1;5\n", "line 1: the columns are separated by ';'; separate"),
        (
            "e.csv",
            b"group_id\tslot_index\n1\t1\n",
            "line 1: the columns are separated by '\\t'; separate them by commas",
        ),
        ("e.csv", "group_id,slot_index\n".encode("utf-16"), "line 1: the file is in UTF-16; save it as UTF-8"),
        ("e.jsonl", '{"group_id": 1}\n'.encode("utf-16"), "line 1: the file is in UTF-16; save it as UTF-8"),
    ],
)
def test_a_file_in_another_format_is_named(
    name: str, data: bytes, problem: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    done = aiomutex("slots", "bulk", name)
    assert done.exit_code == 2
    assert done.stderr.startswith(problem)


@pytest.mark.parametrize("name", ["e.jsonl", "e.csv"])
def test_an_empty_file_is_nothing_to_do(name: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    done = aiomutex("slots", "bulk", name)
    assert (done.exit_code, done.stderr) == (0, f"{name} has no edits.\n")
