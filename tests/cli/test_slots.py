from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from aiomutex.emulator import Dialect

if TYPE_CHECKING:
    from command_line import Aiomutex

    from aiomutex.testing import MutexEmulator


def edits(path: Path, *lines: object) -> str:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return str(path)


def one(group: int | str, slot: int, **lists: list[object]) -> dict[str, object]:
    return {"group_id": str(group), "slot_index": slot, **lists}


def test_edit_writes_the_lists_that_are_given(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    done = aiomutex("slots", "edit", "1", "2", "--experiments", "5, 6", "--individuals", "")
    assert done.exit_code == 0, done.output
    assert service.requests[-1].json == {"experiments": [5, 6], "individuals": []}


def test_edit_with_verify_fails_if_the_slot_differs(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    assert "and verified it" in aiomutex("slots", "edit", "1", "2", "--experiments", "5", "--verify").stdout
    service.dialect = type(service.dialect)(slot_patch="merge")
    done = aiomutex("slots", "edit", "1", "2", "--experiments", "6", "--verify")
    assert done.exit_code == 1
    assert "should be [6] but is [5, 6]" in done.stderr


@pytest.mark.parametrize("words", [["1", "0", "--experiments", "5"], ["1", "1"], ["1", "1", "--experiments", "five"]])
def test_an_invalid_edit_exits_with_2_and_sends_nothing(
    words: list[str], service: MutexEmulator, aiomutex: Aiomutex
) -> None:
    assert aiomutex("slots", "edit", *words).exit_code == 2
    assert not service.requests


def test_bulk_applies_a_file_and_undo_reverts_it(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    before = [list(slot.experiments) for slot in service.groups["2"].slots]
    file = edits(tmp_path / "e.jsonl", *(one(2, slot, experiments=[slot]) for slot in (1, 2, 3)))
    done = aiomutex("slots", "bulk", file, "--journal", "run.db", "--verify")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("3 applied, 0 failed, 0 unknown, 0 done earlier")
    assert [slot.experiments for slot in service.groups["2"].slots] == [[1], [2], [3]]
    again = aiomutex("slots", "bulk", file, "--journal", "run.db", "--verify")
    assert again.stdout.startswith("0 applied, 0 failed, 0 unknown, 3 done earlier, 0 never tried; 0 requests")
    unchanged = aiomutex("slots", "bulk", file, "--skip-unchanged")
    # Once, or again for lines that come late.
    assert re.search(r"0 never tried, 3 unchanged; [1-3] requests?\n$", unchanged.stdout)
    assert unchanged.exit_code == 0
    undone = aiomutex("slots", "bulk", "--undo", "run.db")
    assert undone.stdout == "3 applied, 0 failed, 0 unknown, 0 done earlier, 0 never tried; 5 requests\n"
    assert [slot.experiments for slot in service.groups["2"].slots] == before


def test_undo_reports_and_skips_slots_that_changed_since(
    service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    file = edits(tmp_path / "e.jsonl", one(2, 1, experiments=[1]))
    aiomutex("slots", "bulk", file, "--journal", "run.db")
    service.groups["2"].slots[0].experiments = [77]
    done = aiomutex("slots", "bulk", "--undo", "run.db")
    assert done.exit_code == 1
    assert "group 2, slot 1: changed since: changed since the run" in done.stderr
    assert aiomutex("slots", "bulk", "--undo", "run.db", "--force").exit_code == 0
    assert service.groups["2"].slots[0].experiments == [201]


def test_a_failed_edit_is_reported_with_its_line_and_kept_in_a_file(
    service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    file = edits(tmp_path / "e.jsonl", one(1, 1, experiments=[5]), "\n", one(99, 1, experiments=[6]))
    done = aiomutex("slots", "bulk", file, "--failures", "failed.jsonl")
    assert done.exit_code == 1
    assert "line 3: failed: PATCH /api/1/mutexes/99/slots/1 answered 404" in done.stderr
    failed = (tmp_path / "failed.jsonl").read_text()
    reason = json.loads(failed).pop("reason")
    assert json.loads(failed) == {**one(99, 1, experiments=[6]), "reason": reason}
    assert reason.startswith("PATCH /api/1/mutexes/99/slots/1 answered 404")


def test_a_file_with_invalid_lines_is_rejected_as_a_whole(
    service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    file = edits(
        tmp_path / "e.jsonl",
        one(1, 1, experiments=[5]),
        one(1, 0, experiments=[5]),
        "no json\n",
        {**one(1, 1), "experimets": [1]},
        one(1, 2),
    )
    done = aiomutex("slots", "bulk", file)
    assert done.exit_code == 2
    for line, word in ((2, "slot_index"), (3, "JSON"), (4, "experimets"), (5, "empty")):
        assert f"line {line}: " in done.stderr
        assert word in done.stderr
    assert "invalid lines: 4 of 5; nothing was sent" in done.stderr
    assert not service.requests


def test_standard_input_is_sent_line_by_line(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    lines = json.dumps(one(1, 1, experiments=[5])) + "\nno json\n" + json.dumps(one(2, 1, experiments=[6])) + "\n"
    done = aiomutex("slots", "bulk", "-", stdin=lines)
    assert done.exit_code == 1
    assert done.stdout.startswith("2 applied, 1 failed")
    assert service.groups["2"].slots[0].experiments == [6]


def test_csv_distinguishes_an_unchanged_list_from_an_empty_one(
    service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    file = edits(
        tmp_path / "e.csv", "group_id,slot_index,experiments,individuals\n", "1,1,5;6,\n", '2,1,[],"ada; grace"\n'
    )
    assert aiomutex("slots", "bulk", file).exit_code == 0
    assert [request.json for request in service.requests] == [
        {"experiments": [5, 6]},
        {"experiments": [], "individuals": ["ada", "grace"]},
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("group_id,slots\n1,1\n", "slots"),
        ("slot_index,experiments\n1,1\n", "group_id"),
        ("group_id,slot_index,experiments\n1,x,5\n", "slot_index"),
        ("group_id,slot_index,experiments\n1,1,five\n", "five"),
        ("group_id,slot_index,experiments\n1,1,5,6\n", "cells"),
        (
            "group_id,slot_index,experiments,experiments\n1,1,5,6\n",
            "repeated columns in the header: experiments",
        ),
        ('group_id,slot_index,individuals\n1,1,"ada\n2,1,grace\n', "invalid CSV: unexpected end of data"),
    ],
)
def test_invalid_csv_is_rejected(
    text: str, word: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    done = aiomutex("slots", "bulk", edits(tmp_path / "e.csv", text))
    assert done.exit_code == 2
    assert word in done.stderr


def test_a_cell_may_be_as_long_as_a_line(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    users = [f"user-{number:06}" for number in range(20_000)]
    file = edits(tmp_path / "e.csv", "group_id,slot_index,individuals\n", f"1,1,{';'.join(users)}\n")
    assert aiomutex("slots", "bulk", file).exit_code == 0
    assert service.groups["1"].slots[0].individuals == users


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("e.csv", "group_id,slot_index,experiments\n1,1,5\n"),
        ("e.jsonl", '{"group_id": "1", "slot_index": 1, "experiments": [5]}\n'),
    ],
)
def test_a_byte_order_mark_is_ignored(
    name: str, text: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    file = edits(tmp_path / name, "\ufeff" + text)
    assert aiomutex("slots", "bulk", file).exit_code == 0
    format_ = name.partition(".")[2]
    assert aiomutex("slots", "bulk", "-", "--format", format_, stdin="\ufeff" + text).exit_code == 0
    written = [request.json for request in service.requests if request.method == "PATCH"]
    assert written == [{"experiments": [5]}] * 2


def test_an_offline_dry_run_sends_nothing(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    file = edits(tmp_path / "e.jsonl", one(1, 1, experiments=[5]))
    words = ("slots", "bulk", file, "--dry-run", "--offline")
    assert aiomutex(*words).stdout == "1 edit is valid. Nothing was sent.\n"
    assert json.loads(aiomutex(*words, "--json").stdout) == {"edits": 1}
    assert not service.requests


def test_a_dry_run_shows_what_would_change_and_names_lines(
    service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    lines = [one(1, 1, experiments=[5]), "\n", one(9, 1, experiments=[6]), one(1, 1, experiments=[7])]
    file = edits(tmp_path / "e.jsonl", *lines)
    done = aiomutex("slots", "bulk", file, "--dry-run", "--verify")
    assert done.exit_code == 1, "an edit would fail"
    counts, cost, *shown = done.stdout.splitlines()
    assert counts.startswith("3 edits: 1 slot would change, 0 unchanged, 1 impossible, 1 contradicting")
    assert cost.startswith("4 requests")
    assert shown == [
        "line 3: group 9 does not exist",
        "line 4: group 1, slot 1: an earlier edit writes other content",
        "group 1 (group-1), slot 1: experiments +7; experiments -101",
    ]
    assert {request.method for request in service.requests} == {"GET"}
    assert aiomutex("slots", "bulk", "-", "--dry-run", stdin=json.dumps(one(1, 1, experiments=[5]))).exit_code == 0


def test_a_dry_run_prints_json(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    file = edits(tmp_path / "e.jsonl", "\n", one(1, 1, experiments=[101]), one(1, 9, experiments=[6]))
    preview = json.loads(aiomutex("slots", "bulk", file, "--dry-run", "--json").stdout)
    assert preview["impossible"] == [{"line": 3, "reason": "group 1 has no slot 9"}]
    assert (preview["edits"], preview["unchanged"], preview["requests"]) == (2, 1, 1)


def test_a_dry_run_of_a_file_with_invalid_lines_sends_nothing(
    service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    file = edits(tmp_path / "e.jsonl", one(1, 1, experiments=[5]), "no json\n")
    assert aiomutex("slots", "bulk", file, "--dry-run").exit_code == 2
    assert not service.requests


def test_the_dry_run_of_an_undo_shows_what_it_would_change_and_writes_nothing(
    service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    file = edits(tmp_path / "e.jsonl", one(1, 1, experiments=[5]), one(2, 1, experiments=[5]))
    aiomutex("slots", "bulk", file, "--journal", "run.db")
    service.groups["2"].slots[0].experiments[:] = [9]
    service.clear_history()
    done = aiomutex("slots", "bulk", "--undo", "run.db", "--dry-run")
    assert done.exit_code == 1
    assert "group 1 (group-1), slot 1: experiments +101; experiments -5" in done.stdout
    assert "slot 1 of group 2: group 2, slot 1: changed since it was read" in done.stdout
    forced = json.loads(aiomutex("slots", "bulk", "--undo", "run.db", "--dry-run", "--force", "--json").stdout)
    assert (len(forced["differences"]), forced["impossible"]) == (2, [])
    assert not service.writes
    assert {request.method for request in service.requests} == {"GET"}
    assert aiomutex("slots", "bulk", "--undo", "run.db", "--force").exit_code == 0
    assert service.groups["2"].slots[0].experiments == [201]


def test_a_run_stops_after_its_canary(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    service.dialect = Dialect(slot_patch="merge")
    file = edits(tmp_path / "e.jsonl", *(one(1, 1 + n % 3, experiments=[n]) for n in range(1, 31)))
    done = aiomutex("slots", "bulk", file)
    assert done.exit_code == 1
    assert "the service adds to experiments instead of replacing the list" in done.stderr
    assert sum(service.writes.values()) == 1
    assert aiomutex("slots", "bulk", file, "--no-canary").exit_code == 0


@pytest.mark.parametrize("words", [("--undo", "run.db", "--dry-run", "--offline"), ("run.db", "--offline")])
def test_a_dry_run_never_turns_into_a_run(words: tuple[str, ...], service: MutexEmulator, aiomutex: Aiomutex) -> None:
    file = edits(Path("e.jsonl"), one(1, 1, experiments=[5]))
    aiomutex("slots", "bulk", file, "--journal", "run.db")
    sent = len(service.requests)
    done = aiomutex("slots", "bulk", *words)
    assert done.exit_code == 2
    assert "--offline" in done.stderr
    assert len(service.requests) == sent


def test_json_prints_the_summary(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    file = edits(tmp_path / "e.jsonl", one(1, 1, experiments=[5]))
    summary = json.loads(aiomutex("slots", "bulk", file, "--json").stdout)
    assert summary == {"counts": {"applied": 1}, "requests": 1, "stopped_by": None, "interrupted": False}


def test_an_exhausted_daily_budget_stops_the_run_and_says_how_to_resume(
    service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    file = edits(tmp_path / "e.jsonl", *(one(1, 1, experiments=[n]) for n in range(5)))
    done = aiomutex("slots", "bulk", file, "--journal", "run.db", "--used-today", "99997")
    assert done.exit_code == 1
    assert re.match("[0-2] applied", done.stdout), "a busy machine may miss the time of a permit, which is lost"
    assert "aiomutex: 100,000 of 100,000 requests used today" in done.stderr
    assert "To resume, run the same command again: run.db holds the progress." in done.stderr


def test_the_requests_of_a_run_over_midnight_are_all_counted(
    service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(time=lambda: time.time() + (86_400 if len(service.commits) > 20 else 0))
    monkeypatch.setattr("aiomutex.limits.daily_budget.time", clock)
    service.fail_next(1, status=503)
    file = edits(tmp_path / "e.jsonl", *(one(1 + n % 5, 1, experiments=[n]) for n in range(50)))
    done = aiomutex("slots", "bulk", file, "--used-today", "500", "--on-budget", "wait", "--no-canary")
    assert done.stdout == "50 applied, 0 failed, 0 unknown, 0 done earlier, 0 never tried; 51 requests\n"


def test_bulk_needs_a_file_or_undo(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    assert aiomutex("slots", "bulk").exit_code == 2


def test_ctrl_c_ends_a_run_cleanly_and_says_how_to_resume(service: MutexEmulator, tmp_path: Path) -> None:
    service.latency = 0.05
    file = edits(tmp_path / "e.jsonl", *(one(1 + n % 5, 1, experiments=[n]) for n in range(2000)))
    words = ["-m", "aiomutex", "slots", "bulk", file, "--journal", "run.db", "--concurrency", "4"]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(service.commits) < 20:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Stopping" in err
    assert "To resume, run the same command again: run.db holds the progress." in err
    assert "Traceback" not in err
    applied = int(out.split(" applied")[0].replace(",", ""))
    assert applied == len(service.commits), "every edit that was sent is reported"
