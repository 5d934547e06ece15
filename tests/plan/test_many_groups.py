"""The commands on 1,000 groups with 3,000 experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import command_line
import pytest

from .experiments_listing import ExperimentPages
from .serving import serve_groups

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiomutex.emulator import MutexEmulator


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MutexEmulator]:
    yield from serve_groups(1000, monkeypatch, tmp_path)


@pytest.fixture
def experiments(emulator: MutexEmulator) -> ExperimentPages:
    numbers = {number for group in emulator.groups.values() for slot in group.slots for number in slot.experiments}
    assert len(numbers) == 3000
    return ExperimentPages(emulator, {number: {"state": "running", "evaluationMode": "local"} for number in numbers})


def test_checks_of_3000_experiments_cost_at_most_7_requests(
    emulator: MutexEmulator, experiments: ExperimentPages, tmp_path: Path
) -> None:
    file = tmp_path / "groups.json"
    assert command_line.run("pull", "groups.json").exit_code == 0
    found = command_line.run("lint", "groups.json", "--check-modes")
    assert found.output.count("AM108 error") == 3000
    assert len(experiments.paths) <= 7
    experiments.paths.clear()
    assert command_line.run("lint", "--live").output == found.output.replace("groups.json: 1,000 groups", "live groups")
    assert len(experiments.paths) <= 7
    experiments.paths.clear()
    file.write_text(file.read_text().replace('"name"', '"archived": true, "name"'))
    blocked = command_line.run("plan", "groups.json", "--check-running")
    assert (blocked.exit_code, blocked.output.count(" is running; ")) == (3, 3000)
    assert len(experiments.paths) <= 7
