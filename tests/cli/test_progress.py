"""The progress of a run: a live bar on a terminal, lines through a pipe."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from command_line import on_a_terminal

from aiomutex import LocalRateLimiter
from aiomutex.cli.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex.testing import MutexEmulator


UNTIL = datetime(2030, 1, 2, tzinfo=UTC)


def edits(path: Path, count: int) -> str:
    lines = ({"group_id": str(1 + n % 5), "slot_index": 1, "experiments": [n]} for n in range(count))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_terminal_shows_a_bar_that_ends_complete(service: MutexEmulator, tmp_path: Path) -> None:
    code, shown = on_a_terminal("slots", "bulk", edits(tmp_path / "e.jsonl", 30))
    assert code == 0, shown
    assert "30/30" in shown
    assert re.search(r"\d+/s · [\d,]+ left today", shown)
    assert "30 applied, 0 failed" in shown


def test_a_bar_counts_failures_and_shows_their_errors(service: MutexEmulator, tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text('{"group_id": "99", "slot_index": 1, "experiments": [1]}\n' * 2)
    code, shown = on_a_terminal("slots", "bulk", str(file))
    assert code == 1, shown
    assert "2 failed" in shown
    assert "answered 404" in shown


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]
    monkeypatch.setattr("aiomutex.cli.run.time.monotonic", lambda: clock[0])
    return clock


def test_a_pipe_gets_a_line_every_five_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("edits", 1_200).watch(LocalRateLimiter())
    for number in range(1_100):
        clock[0] += 1 / 64  # exact in binary
        run.count("failed" if number == 3 else "done earlier" if number < 3 else "applied")
    run.refresh()
    lines = capsys.readouterr().err.splitlines()
    facts = "100,000 left today · 3 done earlier · 1 failed"
    assert lines == [
        f"{count - 1} of 1,200 edits · {(count - 3) * 64 / count:.0f}/s · {facts}" for count in (320, 640, 960)
    ]


def test_a_wait_is_shown_although_nothing_advances(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    state = SimpleNamespace(per_day=100, used_today=1, paused_for=0.0)
    limiter: Any = SimpleNamespace(state=lambda: state)
    stream: Any = SimpleNamespace(waiting_until=None)
    run = Run("edits", None).watch(limiter)
    run.stream = stream
    for state.paused_for, stream.waiting_until in ((0.0, None), (90.0, UNTIL), (0.0, UNTIL)):
        for _ in range(2):
            clock[0] += 4
            run.refresh()
    assert capsys.readouterr().err.splitlines() == [
        "0 edits · 0/s · 99 left today · paused for 90 s",
        "0 edits · 0/s · 99 left today · waiting for the daily budget until 2030-01-02 00:00 UTC",
    ]


def test_a_line_is_printed_unwrapped_and_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    text = "line 1: 'x:100:y' [bold]is[/] no [/] :smile: " + "wide " * 100
    Run("edits", None).print_line(text + "\x1b[2J")
    assert capsys.readouterr().err == text + "\\x1b[2J\n"
