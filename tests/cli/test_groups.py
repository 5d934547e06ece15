from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import Aiomutex

    from aiomutex.testing import MutexEmulator


def test_list_shows_each_slot_with_a_bar_of_its_traffic(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    done = aiomutex("groups", "list")
    assert done.exit_code == 0
    assert "group-5" in done.stdout
    assert "34 %  ███████░░░░░░░░░░░░░" in done.stdout
    assert "\x1b" not in done.stdout, "no colours through a pipe"


def test_list_prints_json_with_the_field_names_of_the_service(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    groups = json.loads(aiomutex("groups", "list", "--json", "--page-size", "2").stdout)
    assert [group["key"] for group in groups] == [f"group-{n}" for n in range(1, 6)]
    assert groups[0]["slots"][0]["variantKey"] == "slot-1"


def test_list_says_when_there_are_no_groups(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    for key in list(service.groups):
        del service.groups[key]
    assert aiomutex("groups", "list").stdout == "There are no mutex groups.\n"


def test_markup_in_a_name_is_printed_literally(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    service.groups["1"].name = "[bold]x[/bold] :100: [/]"
    assert "[bold]x[/bold] :100: [/]" in aiomutex("groups", "get", "1").stdout


def test_a_missing_group_is_reported_in_one_line_and_exits_with_1(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    done = aiomutex("groups", "get", "99")
    assert done.exit_code == 1
    assert done.stderr.startswith("aiomutex: GET /api/1/mutexes/99 answered 404")
    assert "Traceback" not in done.stderr


def test_an_invalid_id_exits_with_2_and_sends_nothing(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    done = aiomutex("groups", "get", "../keys")
    assert done.exit_code == 2
    assert "group_id" in done.stderr
    assert not service.requests


def test_a_missing_key_is_reported_with_the_variable_to_set(
    service: MutexEmulator, aiomutex: Aiomutex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMPLITUDE_MANAGEMENT_API_KEY")
    done = aiomutex("groups", "list")
    assert done.exit_code == 2
    assert "AMPLITUDE_MANAGEMENT_API_KEY" in done.stderr


def test_create_from_options(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    done = aiomutex("groups", "create", "--project", "1", "--name", "New", "--slot", "40:1,2", "--slot", "60", "--json")
    assert done.exit_code == 0, done.output
    created = service.groups[json.loads(done.stdout)["id"]]
    assert [(slot.percentage, slot.experiments) for slot in created.slots] == [(40, [1, 2]), (60, [])]


def test_create_from_a_file(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    group = {"projectId": 1, "name": "New", "key": "new", "slots": [{"percentage": 100}]}
    (tmp_path / "group.json").write_text(json.dumps(group))
    done = aiomutex("groups", "create", "--from", "group.json")
    assert "with key new" in done.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--name", "x", "--slot", "100"], "--project"),
        (["--project", "1", "--slot", "100"], "--name"),
        (["--project", "1", "--name", "x"], "--slot"),
        (["--project", "1", "--name", "x", "--slot", "half"], "--slot"),
        (["--project", "1", "--name", "x", "--slot", "40", "--slot", "61"], "101"),
    ],
)
def test_an_invalid_create_exits_with_2_and_sends_nothing(
    words: list[str], named: str, service: MutexEmulator, aiomutex: Aiomutex
) -> None:
    done = aiomutex("groups", "create", *words)
    assert done.exit_code == 2
    assert named in done.stderr
    assert not service.requests


SLOTS: list[dict[str, Any]] = [{"percentage": 100}]
INVALID_GROUPS: list[tuple[Any, str]] = [
    ([], "the group must be an object, not [] (list)"),
    ({"projectId": 1, "slots": SLOTS}, "name is missing; the group must have projectId and name and slots"),
    ({"projectId": 1, "name": "x", "slots": SLOTS, "evalutionMode": "local"}, "unknown field 'evalutionMode'; the"),
    ({"projectId": "-1", "name": "x", "slots": SLOTS}, "project_id must be an integer from 0, or a string"),
    ({"projectId": 1, "name": 5, "slots": SLOTS}, "name must be a non-empty string, not 5 (int)"),
    ({"projectId": 1, "name": "x", "key": None, "slots": SLOTS}, "key must be a non-empty string, not None"),
    ({"projectId": 1, "name": "x", "slots": 5}, "slots must be a list of NewSlot, not 5 (int)"),
    ({"projectId": 1, "name": "x", "slots": [5]}, "slots[0] must be an object, not 5 (int)"),
    ({"projectId": 1, "name": "x", "slots": [{}]}, "percentage is missing; slots[0] must have percentage"),
    ({"projectId": 1, "name": "x", "slots": [{"percentage": "100"}]}, "slots[0].percentage must be an integer"),
    ({"projectId": 1, "name": "x", "slots": [SLOTS[0] | {"experiments": "5"}]}, "slots[0].experiments must be a"),
]


@pytest.mark.parametrize(("group", "message"), INVALID_GROUPS)
def test_an_invalid_file_of_a_group_is_reported_by_its_field(
    group: object, message: str, service: MutexEmulator, aiomutex: Aiomutex
) -> None:
    done = aiomutex("groups", "create", "--from", "-", stdin=json.dumps(group))
    assert done.exit_code == 2
    assert message in done.stderr
    assert not service.requests


def test_edit_sends_only_what_is_given(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    assert aiomutex("groups", "edit", "1", "--name", "Other").exit_code == 0
    assert service.requests[-1].json == {"name": "Other"}
    assert aiomutex("groups", "edit", "1", "--no-description").exit_code == 0
    assert service.requests[-1].json == {"description": None}
    assert aiomutex("groups", "edit", "1", "--description", "x", "--no-description").exit_code == 2


def test_archive_without_a_terminal_needs_yes(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    assert aiomutex("groups", "archive", "1").exit_code == 2
    assert not service.requests
    assert aiomutex("groups", "archive", "1", "--yes").exit_code == 0
    assert service.groups["1"].deleted
    assert aiomutex("groups", "archive", "1", "--undo").exit_code == 0
    assert not service.groups["1"].deleted
