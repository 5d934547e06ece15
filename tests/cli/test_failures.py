"""The failures file holds the last run only and can be run again."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from aiomutex.cli.root import root

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import Aiomutex

    from aiomutex.testing import MutexEmulator

GOOD = '{"group_id":"1","slot_index":1,"experiments":[5]}\n'
LOST = '{"group_id":"99","slot_index":1,"experiments":[6]}\n'


def test_a_run_that_does_not_start_keeps_earlier_failures(
    service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    (tmp_path / "e.jsonl").write_text(GOOD)
    (tmp_path / "failed.jsonl").write_text(LOST)
    (tmp_path / "no.db").write_text("not a journal")
    done = aiomutex("slots", "bulk", "e.jsonl", "--failures", "failed.jsonl", "--journal", "no.db")
    assert done.exit_code == 2
    assert (tmp_path / "failed.jsonl").read_text() == LOST
    assert aiomutex("slots", "bulk", "e.jsonl", "--journal", "run.db").exit_code == 0
    (tmp_path / "other.jsonl").write_text(LOST)
    done = aiomutex("slots", "bulk", "other.jsonl", "--failures", "failed.jsonl", "--journal", "run.db")
    assert done.exit_code == 2
    assert "belongs to a different input" in done.stderr
    assert (tmp_path / "failed.jsonl").read_text() == LOST


def without_reasons(text: str) -> str:
    """The lines of a file of failures, each of which has a reason, without it."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(line.pop("reason") for line in lines)
    return "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)


@pytest.mark.parametrize(("text", "left"), [(GOOD, ""), (LOST, LOST), (LOST + LOST, LOST + LOST)])
def test_after_a_run_the_file_holds_only_its_failures(
    text: str, left: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    (tmp_path / "e.jsonl").write_text(text)
    (tmp_path / "failed.jsonl").write_text("from an earlier run\n" * 10)
    aiomutex("slots", "bulk", "e.jsonl", "--failures", "failed.jsonl")
    assert without_reasons((tmp_path / "failed.jsonl").read_text()) == left


def test_failed_edits_can_be_run_again(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(GOOD)
    service.fail_next(1, status=400)
    assert aiomutex("slots", "bulk", "e.jsonl", "--failures", "failed.jsonl").exit_code == 1
    assert without_reasons((tmp_path / "failed.jsonl").read_text()) == GOOD
    assert aiomutex("slots", "bulk", "failed.jsonl", "--failures", "again.jsonl").exit_code == 0
    assert (tmp_path / "again.jsonl").read_text() == ""
    assert service.groups["1"].slots[0].experiments == [5]


UNKNOWN_FIELD = '{"group_id":"1","slot_index":1,"experimets":[5]}' + "\n"
NOT_UTF_8 = '{"group_id":"1","slot_index":"1","holdouts":"\udcff"}' + "\n"
INVALID_LINES = [
    ("jsonl", UNKNOWN_FIELD, UNKNOWN_FIELD),
    ("jsonl", "{'no json'\n", '{"text":"{\'no json\'"}\n'),
    ("jsonl", '["\udcff"]\n', '{"text":"[\\"\udcff\\"]"}\n'),
    ("csv", "group_id,slot_index,experiments\n1,x,5\n", '{"group_id":"1","slot_index":"x","experiments":"5"}\n'),
    ("csv", 'group_id,slot_index\n1,1,"a\nb"\n', '{"text":"[\\"1\\", \\"1\\", \\"a\\\\nb\\"]"}\n'),
    ("csv", "group_id,slot_index,holdouts\n1,1,\udcff\n", NOT_UTF_8),
    ("csv", "group_id,slots\n1,1\n", ""),
]


@pytest.mark.parametrize(("format_", "text", "left"), INVALID_LINES)
def test_an_invalid_line_from_a_pipe_is_kept_and_must_be_corrected(
    format_: str, text: str, left: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    data = text.encode("utf-8", "surrogateescape")
    words = ("slots", "bulk", "-", "--format", format_, "--failures", "failed.jsonl")
    done = CliRunner().invoke(root, words, input=data)
    assert done.stdout.startswith("0 applied, 1 failed")
    kept = (tmp_path / "failed.jsonl").read_text("utf-8", "surrogateescape")
    assert without_reasons(kept) == left
    if left:
        again = aiomutex("slots", "bulk", "failed.jsonl")
        assert again.exit_code == 2
        assert "invalid lines: 1 of 1" in again.stderr


def test_failures_may_go_to_a_device(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(LOST)
    done = aiomutex("slots", "bulk", "e.jsonl", "--failures", os.devnull)
    assert done.stdout.startswith("0 applied, 1 failed")
