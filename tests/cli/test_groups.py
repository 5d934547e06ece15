from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from command_line import on_a_terminal
from rich.cells import cell_len

from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import Aiomutex


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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--project", "2"], ["2"]),
        (["--project", "2", "--project", "3"], ["2", "3"]),
        (["--experiment", "402"], ["4"]),
        (["--experiment", "402", "--experiment", "101"], ["1", "4"]),
        (["--archived"], ["5"]),
        (["--no-archived", "--limit", "2"], ["1", "2"]),
        (["--limit", "9"], ["1", "2", "3", "4", "5"]),
        (["--experiment", "402", "--archived"], []),
    ],
)
def test_list_filters(words: list[str], expected: list[str], service: MutexEmulator, aiomutex: Aiomutex) -> None:
    service.groups["2"].project_id, service.groups["3"].project_id = "2", "3"
    service.groups["5"].deleted = True
    done = aiomutex("groups", "list", "--json", "--page-size", "2", *words)
    assert [group["id"] for group in json.loads(done.stdout)] == expected
    if not expected:
        assert aiomutex("groups", "list", *words).stdout == "No mutex group matches.\n"


def test_list_reads_no_page_beyond_the_limit(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    aiomutex("groups", "list", "--limit", "2", "--page-size", "2")
    assert len(service.requests) == 1


def test_list_of_3_000_groups_needs_less_than_a_second_of_cpu(
    monkeypatch: pytest.MonkeyPatch, service: MutexEmulator
) -> None:
    with MutexEmulator(groups=3_000, limits=False) as emulator:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
        before = os.times()
        done = subprocess.run([sys.executable, "-m", "aiomutex", "groups", "list"], capture_output=True, check=True)
        after = os.times()
    assert done.stdout.count(b"\n") == 9_001
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1


ALL_TITLES = "ID KEY NAME MODE SLOT SHARE EXPERIMENTS HOLDOUTS INDIVIDUALS"


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (160, ALL_TITLES),
        (110, ALL_TITLES),
        (80, ALL_TITLES),
        (60, "ID KEY NAME SLOT SHARE EXPERIMENTS INDIVIDUALS"),
        (50, "ID KEY NAME SLOT SHARE EXPERIMENTS"),
        (40, "ID KEY SLOT SHARE EXPERIMENTS"),
        (30, "ID KEY SLOT SHARE"),
        (5, "ID SLOT SHARE"),
    ],
)
def test_a_narrow_terminal_shows_fewer_columns_and_no_broken_number(
    columns: int, titles: str, service: MutexEmulator
) -> None:
    group = service.groups["1"]
    group.slots[0].holdouts, group.slots[0].individuals = [7], ["ada"]
    group.name, group.slots[0].experiments = "Größe 中文 of the checkout page", [1234567, 2345678, 3456789]
    code, shown = on_a_terminal("groups", "list", columns=columns)
    assert code == 0
    lines = shown.splitlines()
    assert lines[0].split() == titles.split(), shown
    assert ("█" in shown) == (columns >= 110)
    assert len(lines) == 16
    if columns > 5:
        assert max(map(cell_len, lines)) <= columns
    for number in re.findall(r"\d{4,}", shown):
        assert number in {"1234567", "2345678", "3456789"}


def test_a_narrow_terminal_drops_empty_columns_first(service: MutexEmulator) -> None:
    _, shown = on_a_terminal("groups", "list", columns=80)
    assert shown.startswith("ID  KEY      NAME     MODE    SLOT  SHARE                        EXPERIMENTS\r\n")


def test_a_group_without_slots_is_listed(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    service.groups["3"].slots = []
    assert "\n3   group-3  Group 3  remote\n" in aiomutex("groups", "list").stdout


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
        (["--project", "1", "--name", "x"], "slots must hold 1 to 20 slots"),
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
    ([], "Expected `object`, got `array`"),
    ({"projectId": 1, "slots": SLOTS}, "missing required field `name`"),
    ({"projectId": 1, "name": "x", "slots": SLOTS, "evalutionMode": "local"}, "unknown field `evalutionMode`"),
    ({"projectId": "-1", "name": "x", "slots": SLOTS}, "project_id must be an integer from 0, or a string"),
    ({"projectId": 1, "name": 5, "slots": SLOTS}, "Expected `str`, got `int` - at `$.name`"),
    ({"projectId": 1, "name": "x", "key": None, "slots": SLOTS}, "Expected `str`, got `null` - at `$.key`"),
    ({"projectId": 1, "name": "x", "slots": 5}, "Expected `array`, got `int` - at `$.slots`"),
    ({"projectId": 1, "name": "x", "slots": [5]}, "Expected `object`, got `int` - at `$.slots[0]`"),
    ({"projectId": 1, "name": "x", "slots": [{}]}, "missing required field `percentage` - at `$.slots[0]`"),
    (
        {"projectId": 1, "name": "x", "slots": [{"percentage": "100"}]},
        "`int`, got `str` - at `$.slots[0].percentage`",
    ),
    (
        {"projectId": 1, "name": "x", "slots": [SLOTS[0] | {"experimets": [5]}]},
        "field `experimets` - at `$.slots[0]`",
    ),
    (
        {"projectId": 1, "name": "x", "slots": [SLOTS[0] | {"experiments": "5"}]},
        "at `$.slots[0].experiments`",
    ),
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
