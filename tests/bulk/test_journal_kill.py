"""Runs and undos in separate processes that are killed with SIGKILL."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from bulk_support import HERE, EmulatorProcess, Process, after, edits_for
from journaled_run import CONCURRENCY

from aiomutex.bulk.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 400
SLOTS = [{"percentage": 30, "experiments": [n], "holdouts": [n + 1], "individuals": [f"user-{n}"]} for n in (1, 11, 21)]
GROUPS = [{"id": n, "name": f"G{n}", "key": f"g{n}", "slots": SLOTS} for n in range(1, 31)]


def killed_run(emulator: EmulatorProcess, arguments: list[object], at: int) -> bool:
    """Start a run and kill it after ``at`` writes; return whether it was still running."""
    with Process(HERE / "journaled_run.py", *arguments) as run:
        run.line()
        while emulator.ask("count") < at and run.process.poll() is None:
            time.sleep(0.002)
        return run.kill() != 0


@pytest.mark.parametrize(("kills", "seed"), [(2, 1), pytest.param(10, 2, marks=pytest.mark.deep)])
def test_a_run_killed_repeatedly_completes_and_its_undo_killed_repeatedly_restores_everything(
    tmp_path: Path, kills: int, seed: int
) -> None:
    rng = random.Random(seed)
    journal = tmp_path / "run.db"
    edits = edits_for(COUNT, groups=30, start=100_000)
    expected = after(edits)
    with EmulatorProcess(groups=GROUPS, limits=False, latency="2ms±2ms") as emulator:
        before = emulator.ask("slots")
        killed = 0
        for moment in sorted(rng.sample(range(1, COUNT - 20), kills)):
            killed += killed_run(emulator, [emulator.url, journal, COUNT], moment)
        assert killed >= kills - 1
        with Process(HERE / "journaled_run.py", emulator.url, journal, COUNT) as last:
            last.line()
            reported = last.line()
            assert reported["applied"] + reported["skipped"] == reported["total"] == COUNT
        slots = emulator.ask("slots")
        for (group, slot), lists in expected.items():
            assert slots[f"{group}/{slot}"][0] == lists["experiments"]
        writes = Counter(tuple(body["experiments"]) for _, _, body in emulator.ask("commits"))
        assert set(writes) == {tuple(edit.experiments) for edit in edits}  # type: ignore[arg-type]
        assert sum(writes.values()) - COUNT <= killed * CONCURRENCY
        assert max(writes.values()) <= 1 + killed
        with Journal(journal) as kept:
            for record in kept.written_slots():
                assert list(record.before) == before[f"{record.group_id}/{record.slot_index}"]

        # The undo is killed, too.
        done = emulator.ask("count")
        for moment in sorted(rng.sample(range(done + 1, done + len(expected) - 5), max(2, kills // 4))):
            killed_run(emulator, ["undo", emulator.url, journal], moment)
        with Process(HERE / "journaled_run.py", "undo", emulator.url, journal) as last:
            last.line()
            reported = last.line()
            assert reported["applied"] + reported["skipped"] == reported["total"] == len(expected)
        assert emulator.ask("slots") == before


def test_two_processes_cannot_share_a_journal(tmp_path: Path) -> None:
    with (
        EmulatorProcess(groups=GROUPS, limits=False, latency="150ms") as emulator,
        Process(HERE / "journaled_run.py", emulator.url, tmp_path / "run.db", COUNT) as first,
    ):
        first.line()
        while not emulator.ask("count"):
            time.sleep(0.01)
        with Process(HERE / "journaled_run.py", emulator.url, tmp_path / "run.db", COUNT) as second:
            second.line()
            assert "in use by another process" in second.line()["error"]
        with Process(HERE / "journaled_run.py", "undo", emulator.url, tmp_path / "run.db") as third:
            third.line()
            assert "in use by another process" in third.line()["error"]
        assert first.process.poll() is None
