"""Seeds of the simulation. ``python -m tests.simulation`` runs more of them, and replays one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from .drawing import draw
from .running import command_of, run_scenario
from .scenario import Scenario

FOUND = sorted(Path(__file__).with_name("found").glob("*.json"))
"""Scenarios that broke a promise once."""
QUICK = range(200)
DEEP = range(200, 1_400)
AT_ONCE = 25


@pytest.fixture(autouse=True)
def nothing_arrives_late() -> None:
    """Here it does, on virtual time."""


def blocks(seeds: range) -> list[range]:
    return [range(start, min(start + AT_ONCE, seeds.stop)) for start in range(seeds.start, seeds.stop, AT_ONCE)]


def assert_holds(seeds: range) -> None:
    for seed in seeds:
        found = run_scenario(draw(seed)).violations
        assert not found, f"{found[0]}\nReplay it: {command_of(seed)}"


@pytest.mark.parametrize("seeds", blocks(QUICK), ids=str)
def test_every_promise_holds(seeds: range) -> None:
    assert_holds(seeds)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_once_holds(path: Path) -> None:
    assert not run_scenario(msgspec.json.decode(path.read_bytes(), type=Scenario)).violations


@pytest.mark.deep
@pytest.mark.parametrize("seeds", blocks(DEEP), ids=str)
def test_every_promise_holds_for_thousands_of_seeds(seeds: range) -> None:
    assert_holds(seeds)


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_a_seed_does_the_same_each_time(seed: int) -> None:
    first, second = (run_scenario(draw(seed), tracing=True) for _ in range(2))
    assert first.lines == second.lines
    assert len(first.lines) > 3
